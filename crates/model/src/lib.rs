//! A model of how an order is placed, paid for and settled, small enough that every state it can get
//! into is looked at. For tests only; the product does not use it.
//!
//! The [`State`] has the tables of both services, the broker's two queues, and two instances of each
//! service, of which each can have a batch that it has published and a message that it works on. An
//! [`Action`] is what one of them does in one step: one commit, one publish, one acknowledgement. What
//! a transaction does is one step, since the database makes it one: that is shown by the tests that run
//! every order of statements on PostgreSQL (`interleavings` in `orders`, `payments` and `messaging`).
//!
//! [`Shop`] says what is placed and which faults may happen, and does what the protocol says. With a
//! [`Trap`] it does one thing as other systems do it. The properties that must always hold are in
//! [`properties`]; a state in which nothing can happen any more must have everything settled, and no
//! run may go on for ever ([`search`]).

mod action;
pub mod properties;
pub mod search;
mod shop;
mod state;
mod trap;

pub use action::{Action, End};
pub use shop::Shop;
pub use state::{Faults, Instance, Message, Phase, Service, State, Status, Work};
pub use trap::Trap;
