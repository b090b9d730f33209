//! Checks on live data what must always hold, across both databases:
//!
//! 1. Σ deposits − Σ paid payments = Σ balances, and no balance is below 0.
//! 2. An account's balance is its last entry's `balance_after` and the sum of its entries, whose
//!    `seq` has no gap.
//! 3. An order has at most one payment, of its own user and amount; a paid one has exactly one
//!    entry, a declined one none.
//! 4. FINISHED means paid, CANCELLED means declined for the same reason, and the other way round.
//! 5. An order that is NEW is explained: its request or its result is on the way, or it is young. A
//!    message that waits for too long is stuck, which is a warning.
//!
//! # Constant memory
//!
//! Everything is streamed in the order of its key and merged on the way, so that memory does not
//! grow with the data; where no index gives that order, the database sorts on its own disk. Only
//! the first few findings of each check are kept, the others are counted.
//!
//! # A running system
//!
//! There is no instant that both databases share. Each is read in one snapshot, orders before
//! payments: all that an order says of its payment was in payments earlier, so the later snapshot
//! has it. The other way round there are differences that mean nothing (a payment whose order is
//! younger than the first snapshot, a message that moved on in between), so what looks wrong across
//! the two is read again from both databases, and only what is still wrong then is reported.
//!
//! Messages that a broker holds can't be looked up by id. The age limit of NEW orders stands in
//! for them: it should be longer than the broker's backlog.

mod case;
mod cursor;
mod judge;
mod ledger;
mod recheck;
mod report;
mod sql;
mod walk;
mod why;

use std::time::Duration;

use gozon_store::Db;
use serde::Serialize;

pub use judge::Clocks;
pub use report::{Check, Finding, Kind, MAX_LOST, Report, Sums};
pub use why::{Entry, Order, OrderReport, Payment, Place, Verdict, Waiting, why};

/// How to audit.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// An order may be NEW without a message to explain it, or its payment without its result, for
    /// this long.
    pub new_age_limit: Duration,
    /// A message may wait in an outbox or inbox for this long, until it is stuck.
    pub message_age_limit: Duration,
    /// How many findings of each check are kept; all are counted.
    pub max_findings: usize,
    /// How long to wait before the first second look, so that what was just between two places has
    /// arrived.
    pub pause: Duration,
    /// Whether to count all rows first, so that progress has an end to be measured against.
    pub count_first: bool,
}

/// How far the audit is, in rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many were read.
    pub rows: u64,
    /// How many there were at the start; 0 if that was not counted.
    pub of: u64,
}

/// One of the two databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The orders service's.
    Orders,
    /// The payments service's.
    Payments,
}

impl Side {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Payments => "payments",
        }
    }
}

/// A database that could not be read to the end.
#[derive(Debug, thiserror::Error)]
#[error("the {} database can't be read", side.as_str())]
pub struct AuditError {
    /// Which one.
    pub side: Side,
    /// Why.
    #[source]
    pub source: gozon_store::Error,
}

impl Side {
    pub(crate) fn failed(self) -> impl Fn(gozon_store::Error) -> AuditError + Copy {
        move |source| AuditError { side: self, source }
    }
}

/// Audits both databases, of which each must allow at least three connections. Writes nothing.
///
/// # Errors
/// A database can't be reached, or does not have our tables.
pub async fn audit(
    orders: &Db,
    payments: &Db,
    clocks: &Clocks,
    options: &Options,
    progress: impl FnMut(Progress) + Send,
) -> Result<Report, AuditError> {
    walk::walk(orders, payments, clocks, options, progress).await
}
