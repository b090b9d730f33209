//! Reliable messaging between services that each own a database: a transactional outbox, a relay,
//! a choice of brokers, and a transactional inbox. It knows no orders and no payments.
//!
//! ```text
//! one transaction: business rows + Outbox::add ── commit ──► Relay ──► Broker ──► Inbox:
//! one transaction: inbox mark + Handler's rows + Outbox::add ── commit, then ack
//! ```
//!
//! Handlers and whoever writes to the outbox hand over statements, and the whole transaction goes to
//! the database at once.
//!
//! Delivery is at least once everywhere. The effect is exactly once, because the inbox mark and
//! what the handler does are one commit, and because handlers guard their own effect as well.

pub mod broker;
pub mod dead_letters;
mod envelope;
mod inbox;
mod outbox;
mod relay;
mod retention;
mod sql;
mod waiting;

pub use broker::{Broker, BrokerError, Subscriber};
pub use dead_letters::{DeadLetter, DeadLetters, Origin};
pub use envelope::{CONTENT_TYPE, Event, InvalidEvent, Message};
pub use inbox::{Decision, HandleError, Handler, Inbox};
pub use outbox::{Added, Handed, Outbox};
pub use relay::Relay;
pub use retention::{Expiring, Retention};
pub use sql::MIGRATIONS;
pub use waiting::Waiting;
