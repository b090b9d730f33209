//! Forgetting what need not be remembered any longer, a little at a time.

use std::time::Duration;

use gozon_contract::{Clock, RandomSource};
use gozon_store::{Db, Result};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::sql;

/// The most rows deleted in one transaction.
const BATCH: i64 = 1000;
/// The rest between two batches while there is more to delete: the business comes first.
const PAUSE: Duration = Duration::from_millis(50);
/// How often to look when there is nothing to delete.
const LOOK: Duration = Duration::from_mins(1);

/// Rows of one table that lose their use with age.
#[derive(Clone, Copy, Debug)]
pub struct Expiring {
    /// The table, for logs and metrics.
    pub table: &'static str,
    /// How long a row is kept.
    pub keep: Duration,
    /// The statement that deletes up to `$2` rows from before `$1` (microseconds since the epoch),
    /// the oldest first. It finds them by an index and passes over locked ones.
    pub delete: &'static str,
}

impl Expiring {
    /// What the inbox remembers of the messages it has dealt with, kept for `keep`: longer than any
    /// broker takes to deliver a message again. A repeat that comes even later meets the handler's
    /// own guard.
    pub const fn inbox(keep: Duration) -> Self {
        Self { table: "inbox", keep, delete: sql::inbox::FORGET }
    }
}

/// Deletes expired rows of one database. Any number of processes may run one each.
pub struct Retention {
    service: &'static str,
    db: Db,
    expiring: Vec<Expiring>,
    clock: Clock,
    random: RandomSource,
}

impl Retention {
    /// How long inbox marks are kept unless told otherwise.
    pub const INBOX: Duration = Duration::from_hours(7 * 24);

    /// A loop that deletes what is `expiring` in the database of `service`.
    pub fn new(
        service: &'static str,
        db: Db,
        expiring: Vec<Expiring>,
        clock: Clock,
        random: RandomSource,
    ) -> Self {
        Self { service, db, expiring, clock, random }
    }

    /// Deletes until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let wait = match self.step().await {
                Ok(true) => PAUSE,
                Ok(false) => LOOK,
                Err(error) => {
                    tracing::debug!(service = self.service, %error, "can't delete expired rows");
                    LOOK
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(self.random.jitter(wait)) => {}
            }
        }
    }

    /// Deletes one batch of each table; whether there may be more.
    ///
    /// # Errors
    /// As the database says.
    pub async fn step(&self) -> Result<bool> {
        let mut more = false;
        for expiring in &self.expiring {
            let before = self.clock.now().minus(expiring.keep);
            let mut tx = self.db.begin().await?;
            let deleted =
                tx.query(expiring.delete).bind(before.micros()).bind(BATCH).execute().await?;
            tx.commit().await?;
            let labels = [("service", self.service), ("table", expiring.table)];
            metrics::counter!("gozon_expired_rows_total", &labels).increment(deleted);
            more |= deleted == BATCH.unsigned_abs();
        }
        Ok(more)
    }
}
