//! What a service with a database needs beside REST: group-committed writes, idempotency keys, upkeep
//! and the order in which its loops stop.

mod health;
mod idempotency;
mod problem;
mod tasks;
mod upkeep;
mod writer;

pub use health::{attached, service_health};
pub use idempotency::{EXPIRING, IdempotencyKey, MIGRATIONS};
pub use problem::store_problem;
pub use tasks::{Stage, Tasks};
pub use upkeep::upkeep;
pub use writer::{Decided, UseCase, Writer};
