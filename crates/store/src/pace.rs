//! Spacing out transactions.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::Db;

/// What comes in a batch of this many or fewer is not held back.
const FEW: usize = 3;

/// Spaces out the transactions of a loop that deals with whatever has come in since its last one.
///
/// A transaction costs the server, the driver and whoever is told of its outcome as much for one
/// row as for a dozen. At half the peak rate, a loop that never waits spends nearly all of the
/// machine on batches of a handful, and everything queues for the processors; so do the loops behind
/// it, which get their batches from this one. So once work comes in faster than one by one,
/// transactions begin a few milliseconds apart, and each takes more along. At the peak a transaction
/// takes longer than that anyway, and a request by itself is not held back.
/// PostgreSQL's `commit_delay` with `commit_siblings` is the like for its log.
#[derive(Debug)]
pub struct Pace {
    gap: Duration,
    next: Instant,
}

impl Pace {
    /// For transactions in `db`.
    pub fn of(db: &Db) -> Self {
        Self { gap: db.gap(), next: Instant::now() }
    }

    /// Waits until the next transaction may begin. Cancel-safe.
    pub async fn wait(&self) {
        sleep_until(self.next).await;
    }

    /// A transaction begins with a batch of `size`.
    pub fn begin(&mut self, size: usize) {
        self.next = Instant::now() + if size > FEW { self.gap } else { Duration::ZERO };
    }
}
