//! Forgetting what need not be remembered any longer, a little at a time.

use std::time::Duration;

use gozon_store::Result;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{Context, sql};

/// The most rows deleted in one transaction.
const MAX_DELETED: i64 = 1000;
/// The rest between two batches while there is more to delete: the business comes first.
const BATCH_PAUSE: Duration = Duration::from_millis(50);
/// How often to look when there is nothing to delete.
const IDLE_INTERVAL: Duration = Duration::from_mins(1);

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
    context: Context,
    expiring: Vec<Expiring>,
}

impl Retention {
    /// How long inbox marks are kept unless told otherwise.
    pub const INBOX: Duration = Duration::from_hours(7 * 24);

    /// A loop that deletes what is `expiring` in the database of a service.
    pub fn new(context: Context, expiring: Vec<Expiring>) -> Self {
        Self { context, expiring }
    }

    /// Deletes until `stop`, but not at once: a process that starts right after the database's time
    /// has jumped goes by the wrong time until those that knew the right one have corrected it.
    pub async fn run(self, stop: CancellationToken) {
        let mut wait = IDLE_INTERVAL;
        loop {
            gozon_seam::select! {
                () = stop.cancelled() => return,
                () = sleep(self.context.random.jitter(wait)) => {}
            }
            wait = match self.step().await {
                Ok(true) => BATCH_PAUSE,
                Ok(false) => IDLE_INTERVAL,
                Err(error) => {
                    tracing::debug!(service = self.context.service, %error, "can't delete expired rows");
                    IDLE_INTERVAL
                }
            };
        }
    }

    /// Deletes one batch of each table; whether there may be more.
    ///
    /// # Errors
    /// As the database says.
    pub async fn step(&self) -> Result<bool> {
        let mut more = false;
        for expiring in &self.expiring {
            let before = self.context.clock.now().minus(expiring.keep);
            let mut tx = self.context.db.begin().await?;
            let deleted =
                tx.query(expiring.delete).bind(before.micros()).bind(MAX_DELETED).execute().await?;
            tx.commit().await?;
            let labels = [("service", self.context.service), ("table", expiring.table)];
            metrics::counter!("gozon_expired_rows_total", &labels).increment(deleted);
            more |= deleted == MAX_DELETED.unsigned_abs();
        }
        Ok(more)
    }
}
