//! Reliable messaging between services that each own a database: a transactional outbox, a relay,
//! a choice of brokers, and a transactional inbox. It knows no orders and no payments.
//!
//! ```text
//! one transaction: business rows + Outbox::add ── commit ──► Relay ──► Broker ──► Inbox:
//! one transaction: inbox mark + Handler's rows + Outbox::add ── commit, then ack
//! ```
//!
//! Delivery is at least once everywhere. The effect is exactly once, because the inbox mark and
//! what the handler does are one commit, and because handlers guard their own effect as well.

pub mod broker;
mod envelope;
mod inbox;
mod outbox;
mod relay;
mod sql;
mod trace;

pub use broker::{Broker, BrokerError, Subscriber};
pub use envelope::{CONTENT_TYPE, Event, InvalidEvent, Message};
pub use inbox::{HandleError, Handler, Inbox};
pub use outbox::{Added, Handed, Outbox};
pub use relay::Relay;
pub use sql::MIGRATIONS;
pub use trace::{InvalidTraceParent, TraceParent};
