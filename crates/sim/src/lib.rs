//! The simulator: gateways, orders and payments, two instances each, their real SQL, a broker and
//! clients, all on one thread and on simulated time. A seed decides everything: what clients do, when
//! a task gets a processor, how long a statement takes, and which faults come when. The same seed is
//! the same run.
//!
//! ```text
//! seed ─► Plan: clients, delays, faults ─► run: Fleet + Database faults + Broker + Clients
//!                                            └─► Checks: the clients' notes, the audit, live sockets
//! a failure ─► shrink: which faults does it need? ─► SEED=… make simulate, with a log
//! ```
//!
//! It exists only with the feature `simulate`, which `make simulate` asks for.
#![cfg(feature = "simulate")]

mod broker;
mod checks;
mod client;
mod control;
mod dice;
mod fleet;
mod http;
mod log;
mod mutations;
mod notes;
mod plan;
mod processor;
mod run;
mod shrink;
mod socket;
mod storage;
mod world;

pub use log::SOMETIMES;
pub use mutations::MUTATIONS;
pub use plan::{Fault, Kind, Plan};
pub use run::{Outcome, Simulator};
pub use shrink::shrink;
