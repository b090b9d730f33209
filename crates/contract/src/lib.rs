//! What the services agree on: ids, money, orders and the events that travel between them.
//!
//! Everything here is a plain value that can't be wrong once it is made: parse at the edge, then
//! pass these types around. The only global things a program needs, time and randomness, come in
//! through [`Clock`] and [`Dice`], so that tests own both.

mod clock;
mod event;
mod id;
mod money;
mod order;

pub use clock::{Clock, Dice, Timestamp};
pub use event::{
    Delivery, ORDER_CHANGED, ORDERS_SOURCE, Outcome, PAYMENT_REQUESTED, PAYMENT_SETTLED,
    PAYMENTS_SOURCE, PaymentRequested, PaymentSettled, Topic,
};
pub use id::{InvalidId, OrderId, UserId};
pub use money::{Balance, InvalidAmount, Money};
pub use order::{
    CancelReason, Description, InvalidDescription, Order, OrderStatus, UnknownReason, UnknownStatus,
};
