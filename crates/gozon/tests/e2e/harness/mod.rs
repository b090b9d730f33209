//! A real shop to test: the binary's processes on free ports, databases of its own, and clients.

mod client;
mod live;
mod load;
mod messages;
mod postgres;
mod process;
mod servers;
mod shop;
pub mod truth;

pub use client::{Door, Reply, User, send};
pub use live::{Incoming, Live, Seen, Watcher};
pub use load::{at_once, eventually, soaking};
pub use messages::{alone, broker_of, payment_requested, payment_settled};
pub use postgres::Postgres;
pub use process::{Process, gozon};
pub use servers::Servers;
pub use shop::{Combo, Plan, Shop};
pub use truth::Truth;
