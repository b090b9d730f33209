//! What can go wrong with a database, sorted by what the caller can do about it.

use std::time::Duration;

use gozon_contract::RandomSource;

/// The result of a database call.
pub type Result<T> = std::result::Result<T, Error>;

/// A database error, sorted by what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database can't be reached, is starting or is shutting down. Whether a commit that was
    /// under way took effect is not known. Try again later.
    #[error("the database is away: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// Another transaction was in the way (serialization failure, deadlock, a unique key taken in
    /// the meantime). Nothing was done; the same transaction may well succeed if run again.
    #[error("another transaction was in the way: {0}")]
    Conflict(String),
    /// Anything else: the statement or its data is wrong. Nothing was done.
    #[error("database: {0}")]
    Other(#[source] sqlx::Error),
}

impl Error {
    /// A conflict that the caller saw for itself, such as a row count that is not the expected one.
    pub fn conflict(what: &str) -> Self {
        Self::Conflict(what.to_owned())
    }

    /// Whether the database is away.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => Self::Unavailable(error),
            sqlx::Error::Database(said) => {
                let code = said.code().unwrap_or_default();
                if is_conflict(&code) || said.is_unique_violation() {
                    Self::Conflict(said.to_string())
                } else if is_away(&code) {
                    Self::Unavailable(error)
                } else {
                    Self::Other(error)
                }
            }
            _ => Self::Other(error),
        }
    }
}

/// PostgreSQL's `serialization_failure`, `deadlock_detected` and `lock_not_available`, and
/// `division_by_zero`, which is how a statement there says that it did not change as many rows as
/// [expected](crate::Statement::expecting); SQLite's `BUSY`, `LOCKED` and `PROTOCOL`.
fn is_conflict(code: &str) -> bool {
    matches!(code, "40001" | "40P01" | "55P03" | "22012")
        || matches!(sqlite_primary(code), Some(5 | 6 | 15))
}

/// PostgreSQL's classes 08 (connection), 53 (resources), 57P (shutdown, start-up, crash), 58 (its
/// system, and how some poolers say that the server is gone), a commit of which it is not known
/// whether it took effect (40003), a statement or transaction that took longer than its server
/// allows (57014, 25P03, 25P04), and read-only replicas left over from a fail-over (25006); SQLite's
/// `NOMEM`, `IOERR`, `FULL` and `CANTOPEN`.
fn is_away(code: &str) -> bool {
    let class = |class| code.len() == 5 && code.starts_with(class);
    class("08")
        || class("53")
        || class("57P")
        || class("58")
        || matches!(code, "40003" | "57014" | "25P03" | "25P04" | "25006")
        || matches!(sqlite_primary(code), Some(7 | 10 | 13 | 14))
}

/// SQLite's primary result code: the low byte of the extended one. PostgreSQL's codes all have
/// five characters, SQLite's fewer.
fn sqlite_primary(code: &str) -> Option<u32> {
    (code.len() < 5).then(|| code.parse::<u32>().ok()).flatten().map(|code| code & 0xff)
}

/// Counts the attempts of one transaction and waits a little, with jitter, between them.
#[derive(Debug)]
pub struct Retry<'a> {
    random: &'a RandomSource,
    attempt: u32,
}

impl<'a> Retry<'a> {
    /// How often a transaction that keeps meeting conflicts is run, in all.
    const ATTEMPTS: u32 = 10;

    /// No attempt made yet.
    pub fn new(random: &'a RandomSource) -> Self {
        Self { random, attempt: 0 }
    }

    /// Whether to run the transaction again after `error`: yes after a [`Error::Conflict`], ten
    /// times in all. Sleeps before it says yes: 1 ms at first, doubling to 100 ms, half of it
    /// random.
    pub async fn again(&mut self, error: &Error) -> bool {
        self.attempt += 1;
        if !matches!(error, Error::Conflict(_)) || self.attempt >= Self::ATTEMPTS {
            return false;
        }
        let wait = Duration::from_millis(1 << self.attempt.min(7)).min(Duration::from_millis(100));
        tokio::time::sleep(self.random.jitter(wait)).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_both_databases_are_told_apart() {
        for conflict in ["40001", "40P01", "55P03", "22012", "5", "6", "261", "517", "262"] {
            assert!(is_conflict(conflict) && !is_away(conflict), "{conflict}");
        }
        for away in [
            "08006", "40003", "58000", "53100", "57P01", "57P03", "57014", "25006", "10", "522",
            "13", "14",
        ] {
            assert!(is_away(away) && !is_conflict(away), "{away}");
        }
        for other in ["23505", "42P01", "22021", "2067", "1", "", "00005"] {
            assert!(!is_away(other) && !is_conflict(other), "{other}");
        }
    }
}
