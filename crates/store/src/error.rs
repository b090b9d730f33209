//! What can go wrong with a database, sorted by whose fault it is and what the caller can do.
//!
//! | kind | whose fault | what to do |
//! |---|---|---|
//! | [`Error::Conflict`] | another transaction's, which was faster | run the same transaction again |
//! | [`Error::Locked`] | another transaction's, which holds a lock | leave these rows for later |
//! | [`Error::Unavailable`] | the environment's: server, network, disk, rights, tables, a SQLite file that is locked | wait until it is mended |
//! | [`Error::Other`] | the data's | give up on this input |
//!
//! The data's faults are a short list, and everything unknown is the environment's: an input that is
//! given up on by mistake is lost, while one that waits by mistake is seen and mended.

use std::{sync::Arc, time::Duration};

use gozon_contract::RandomSource;

/// The result of a database call.
pub type Result<T> = std::result::Result<T, Error>;

/// A database error, sorted by what to do about it. Clones share the cause.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The database can't do its work now: it can't be reached, is starting, is full or read-only,
    /// refuses us, or its tables are not what this program expects. Whether a commit that was under
    /// way took effect is not known. Try again later.
    #[error("the database is away: {0}{hint}", hint = hint(.0))]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// Another transaction was in the way (serialization failure, deadlock, a unique key taken in
    /// the meantime). Nothing was done; the same transaction may well succeed if run again.
    #[error("another transaction was in the way: {0}")]
    Conflict(String),
    /// Somebody holds a lock on a row or table for longer than the server lets us wait. Nothing was
    /// done.
    #[error("a row or table is locked: {0}")]
    Locked(String),
    /// The data is wrong: it breaks a constraint or can't be stored. Nothing was done.
    #[error("database: {0}")]
    Other(#[source] Arc<sqlx::Error>),
}

impl Error {
    /// A conflict that the caller found, such as a row count that is not the expected one.
    pub fn conflict(what: &str) -> Self {
        Self::Conflict(what.to_owned())
    }

    /// Whether it is the environment's fault, so that waiting is all that helps.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Whether another program holds the whole file of a SQLite database locked.
    pub(crate) fn is_locked_file(&self) -> bool {
        self.is_from_sqlite(SQLITE_BUSY)
    }

    /// Whether the file of a SQLite database holds something else. A process that starts need not wait
    /// for it.
    pub fn is_another_kind_of_file(&self) -> bool {
        self.is_from_sqlite(SQLITE_NOTADB)
    }

    fn is_from_sqlite(&self, code: u32) -> bool {
        let Self::Unavailable(error) = self else { return false };
        let said = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        said.is_some_and(|said| said.parse() == Ok(code))
    }

    /// Whether what the server had prepared for its connections is no longer valid: tables were
    /// changed under a running process, or a transaction pooler mixed up its connections.
    pub(crate) fn invalidates_prepared(&self) -> bool {
        match self {
            Self::Conflict(_) | Self::Locked(_) => false,
            Self::Unavailable(error) | Self::Other(error) => match &**error {
                sqlx::Error::Database(said) => {
                    let code = said.code().unwrap_or_default();
                    matches!(&*code, "0A000" | "26000" | "42P05" | "42804" | "42883" | "42703")
                }
                sqlx::Error::ColumnDecode { .. } => true,
                _ => false,
            },
        }
    }
}

/// What to do about an error whose text does not say it.
fn hint(error: &sqlx::Error) -> &'static str {
    let sqlx::Error::Database(said) = error else { return "" };
    let pooler = match &*said.code().unwrap_or_default() {
        // invalid_sql_statement_name, duplicate_prepared_statement.
        "26000" | "42P05" => true,
        // protocol_violation: PgBouncer takes few settings at the start.
        "08P01" => said.message().contains("unsupported startup parameter"),
        _ => false,
    };
    if pooler {
        "; is it behind a transaction pooler? Then add pooler=transaction to its URL's parameters"
    } else {
        ""
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let fault = match &error {
            sqlx::Error::Database(said) if said.is_unique_violation() => Fault::Conflict,
            sqlx::Error::Database(said) => fault_of(&said.code().unwrap_or_default()),
            // A value that this program can't make sense of, or that the database can't hold.
            sqlx::Error::Decode(_) | sqlx::Error::Encode(_) | sqlx::Error::RowNotFound => {
                Fault::Data
            }
            _ => Fault::Environment,
        };
        match fault {
            Fault::Conflict => Self::Conflict(error.to_string()),
            Fault::Lock => Self::Locked(error.to_string()),
            Fault::Data => Self::Other(Arc::new(error)),
            Fault::Environment => Self::Unavailable(Arc::new(error)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Conflict,
    Lock,
    Data,
    Environment,
}

/// Sorts the codes of both databases: PostgreSQL's have five characters
/// (<https://www.postgresql.org/docs/current/errcodes-appendix.html>), SQLite's are shorter numbers
/// (<https://www.sqlite.org/rescode.html>).
fn fault_of(code: &str) -> Fault {
    if code.len() == 5 {
        return match code {
            // serialization_failure, deadlock_detected, and division_by_zero: how a statement says
            // that it did not change as many rows as it was expected to.
            "40001" | "40P01" | "22012" => Fault::Conflict,
            // lock_not_available: `lock_timeout` has passed.
            "55P03" => Fault::Lock,
            // untranslatable_character: the database's encoding can't hold our texts.
            "22P05" => Fault::Environment,
            // data_exception, integrity_constraint_violation, with_check_option_violation.
            _ if ["22", "23", "44"].iter().any(|class| code.starts_with(class)) => Fault::Data,
            _ => Fault::Environment,
        };
    }
    let Ok(code) = code.parse::<u32>() else { return Fault::Environment };
    // The low byte of SQLite's extended code is its primary one.
    match (code, code & 0xff) {
        // BUSY: another program holds the whole file locked, for longer than we wait.
        (SQLITE_BUSY, _) => Fault::Environment,
        // The other kinds of BUSY (a snapshot that is old, a log that is recovered), LOCKED, PROTOCOL.
        (_, 5 | 6 | 15) => Fault::Conflict,
        // TOOBIG, CONSTRAINT, MISMATCH, RANGE.
        (_, 18 | 19 | 20 | 25) => Fault::Data,
        _ => Fault::Environment,
    }
}

/// SQLite's code for a file that is locked.
const SQLITE_BUSY: u32 = 5;
/// And for one that is no database.
const SQLITE_NOTADB: u32 = 26;

/// Counts the attempts of one transaction and waits a little, with jitter, between them.
#[derive(Debug)]
pub struct Retry<'a> {
    random: &'a RandomSource,
    attempt: u32,
}

impl<'a> Retry<'a> {
    /// How often a transaction that keeps meeting conflicts is run, in all.
    const MAX_ATTEMPTS: u32 = 10;

    /// No attempt made yet.
    pub fn new(random: &'a RandomSource) -> Self {
        Self { random, attempt: 0 }
    }

    /// Whether to run the transaction again after `error`: yes after a [`Error::Conflict`], ten
    /// times in all. Sleeps before it says yes: 1 ms at first, doubling to 100 ms, half of it
    /// random.
    pub async fn again(&mut self, error: &Error) -> bool {
        self.attempt += 1;
        if !matches!(error, Error::Conflict(_)) || self.attempt >= Self::MAX_ATTEMPTS {
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
    fn codes_are_sorted_by_whose_fault_they_are() {
        for (fault, codes) in [
            (Fault::Conflict, &["40001", "40P01", "22012", "6", "261", "517", "262"][..]),
            (Fault::Lock, &["55P03"]),
            (Fault::Data, &["22003", "22021", "23502", "23505", "23514", "19", "275", "18", "20"]),
            (
                Fault::Environment,
                &[
                    // Connection, resources, shutdown, system.
                    "08006", "53100", "53300", "57P01", "57P03", "58000", "XX000",
                    // A commit of unknown outcome, time-outs, a read-only server.
                    "40003", "57014", "25P03", "25P04", "25006", "25P02",
                    // No entry, no such database, not accepting connections.
                    "28000", "28P01", "3D000", "55000",
                    // Changed tables and rights, plans and statements that a pooler lost.
                    "0A000", "26000", "42P05", "42P01", "42703", "42804", "42501", "22P05",
                    // SQLite: BUSY, ERROR (no such table), IOERR, FULL, CANTOPEN, READONLY, CORRUPT.
                    "5", "1", "10", "522", "13", "14", "8", "1032", "11", "",
                ],
            ),
        ] {
            for code in codes {
                assert_eq!(fault_of(code), fault, "{code}");
            }
        }
    }
}
