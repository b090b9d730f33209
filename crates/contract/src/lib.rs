//! What the services agree on: ids, money, orders, the events that travel between them, and the
//! trace that they are part of.
//!
//! Everything here is a plain value that can't be wrong once it is made: parse at the edge, then
//! pass these types around. The only global things a program needs, time and randomness, come in
//! through [`Clock`] and [`RandomSource`], so that tests own both.

mod account;
mod clock;
mod event;
mod id;
mod money;
mod order;
mod trace;

pub use account::{Account, Entry, EntryKind};
pub use clock::{Clock, RandomSource, Timestamp};
pub use event::{
    Delivery, ORDER_CHANGED, ORDERS_SOURCE, Outcome, PAYMENT_REQUESTED, PAYMENT_SETTLED,
    PAYMENTS_SOURCE, PaymentRequested, PaymentSettled, Topic,
};
pub use id::{InvalidId, OrderId, UserId};
pub use money::{Balance, InvalidAmount, Money};
pub use order::{
    CancelReason, Description, InvalidDescription, Order, OrderStatus, UnknownReason, UnknownStatus,
};
pub use trace::{InvalidTraceParent, TraceParent};
