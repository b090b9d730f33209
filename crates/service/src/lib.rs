//! What a service with a database needs beside REST: group commit, idempotency keys, supervised loops,
//! and the wiring of all of it.

mod group_commit;
mod health;
mod idempotency;
mod problem;
mod tasks;
mod timing;
mod wiring;

pub use group_commit::GroupCommit;
pub use health::{attached, service_health};
pub use idempotency::{EXPIRING, KeyedRequest, MIGRATIONS, find_answer};
pub use problem::store_problem;
pub use tasks::{Stage, Tasks};
pub use timing::database_timing;
pub use wiring::Wiring;
