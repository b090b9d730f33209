//! Reliable messaging between services that each own a database: a transactional outbox, a relay,
//! a choice of brokers, and a transactional inbox. It knows no orders and no payments.
//!
//! ```text
//! one transaction: business rows + outbox row ── commit ──► Relay ──► Broker ──► Inbox:
//! one transaction: inbox mark + business rows + outbox row ── commit, then ack
//! ```
//!
//! Both transactions are made by the [`Runner`], from what a [`UseCase`] decides.
//!
//! Delivery is at least once everywhere. The effect is exactly once, because the inbox mark and
//! what the use case writes are one commit, and because use cases guard their own effect as well.

mod backlog;
mod batch;
pub mod broker;
mod context;
pub mod dead_letters;
mod event;
mod inbox;
mod outbox;
mod pending;
mod relay;
mod retention;
mod runner;
mod sql;

pub use backlog::BacklogMetrics;
pub use batch::{BATCH_CONTENT_TYPE, Batch, MAX_BATCH_BYTES, MAX_BATCH_EVENTS, Outgoing};
pub use broker::{Broker, BrokerError, Subscriber};
pub use context::Context;
pub use dead_letters::{DeadLetter, DeadLetters, Origin};
pub use event::{CONTENT_TYPE, Event, InvalidEvent, Message, Received};
pub use inbox::Inbox;
pub use outbox::{Added, HandOver, Outbox};
pub(crate) use pending::Pending;
pub use relay::Relay;
pub use retention::{Expiring, Retention};
pub use runner::{
    AfterCommit, Decision, Done, Failure, Guard, Job, Mode, Outcome, Runner, UseCase,
};
pub use sql::MIGRATIONS;
