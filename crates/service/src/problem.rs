//! Database errors as a client sees them.

use gozon_http::Problem;
use gozon_store::Error;

/// 503 where a later attempt may well succeed, 500 where the fault is ours. The cause is logged.
pub fn store_problem(error: Error) -> Problem {
    match error {
        Error::Unavailable(cause) => {
            tracing::warn!(%cause, "the database is away");
            Problem::unavailable("the database can't be reached right now; try again")
        }
        Error::Conflict(cause) => {
            tracing::warn!(cause, "gave up after conflicts");
            Problem::unavailable("too much is happening at once; try again")
        }
        Error::Locked(cause) => {
            tracing::warn!(cause, "gave up waiting for a lock");
            Problem::unavailable("somebody else holds a lock on this; try again")
        }
        Error::Other(_) => Problem::internal(&error),
    }
}
