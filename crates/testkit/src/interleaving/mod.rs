//! Several processes and one PostgreSQL, in every order of their statements.
//!
//! The processes run their real code. Between each of them and the server stands a gate that knows
//! enough of the protocol to hold one statement at a time. So the product needs no hooks for it, and
//! a test can change the text of a statement on its way, to see that a fault in it is found.
//!
//! Whether a statement that was let through waits for a lock is known from the server itself
//! (`pg_isolation_test_session_is_blocked`), as in PostgreSQL's own isolation tests. A process that
//! waits is not stepped; another one is, until the lock is free. If all wait, that is a deadlock.

mod explore;
mod gate;
mod wire;

pub use explore::{Explored, Failure, Interleaving, Process, Story};
pub use gate::Rewrite;
