//! Later attempts at messages whose handler failed.

use std::time::Duration;

use gozon_store::Retry;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{HandleError, Inbox, storable};
use crate::sql::{self, inbox::PendingRow};

/// How often a message is tried before it is set aside. With the waits between, about a minute.
const ATTEMPTS: i64 = 8;
/// The wait after the first failed attempt; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// How often the messages that wait for another attempt are looked at.
const POLL: Duration = Duration::from_millis(500);
/// How long a process has a message to itself for another attempt.
const LEASE: Duration = Duration::from_secs(30);
/// The most messages taken over at once.
const BATCH: i64 = 100;

impl Inbox {
    pub(super) async fn retry_until(&self, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(POLL) => {}
            }
            if let Err(error) = self.retry_step().await {
                tracing::debug!(topic = self.topic.name, %error, "can't look for retries");
            }
        }
    }

    /// Makes another attempt at each message for which one is due; how many there were.
    ///
    /// # Errors
    /// The database is away.
    pub async fn retry_step(&self) -> gozon_store::Result<usize> {
        let now = self.clock.now();
        let mut tx = self.db.read().await?;
        if !sql::inbox::is_due(&mut tx, self.topic.name, now).await? {
            return Ok(0);
        }
        drop(tx);
        let mut tx = self.db.begin().await?;
        let due = sql::inbox::claim(&mut tx, self.topic.name, now, now.plus(LEASE), BATCH).await?;
        tx.commit().await?;
        let count = due.len();
        for row in due {
            self.try_again(row).await?;
        }
        Ok(count)
    }

    async fn try_again(&self, row: PendingRow) -> gozon_store::Result<()> {
        let mut retry = Retry::new(&self.random);
        loop {
            match self.once_more(&row).await {
                Ok(()) => return Ok(()),
                Err(HandleError::Store(error)) if error.is_unavailable() => return Err(error),
                Err(HandleError::Store(error)) if retry.again(&error).await => {}
                Err(error) => return self.postpone(row, &error).await,
            }
        }
    }

    async fn once_more(&self, row: &PendingRow) -> Result<(), HandleError> {
        let mut tx = self.db.begin().await?;
        if !sql::inbox::delete(&mut tx, row).await? {
            return Ok(());
        }
        let (statements, added) =
            self.work(&mut tx, std::slice::from_ref(&row.message), true).await?;
        tx.commit_with(statements).await?;
        self.committed(added);
        tracing::info!(id = row.message.id, "a later attempt succeeded");
        Ok(())
    }

    /// Writes down a failed attempt: another one later, or a dead letter.
    async fn postpone(&self, row: PendingRow, error: &HandleError) -> gozon_store::Result<()> {
        let now = self.clock.now();
        let attempts = row.attempts + 1;
        let text = storable(error);
        let mut tx = self.db.begin().await?;
        if attempts < ATTEMPTS && !matches!(error, HandleError::Invalid(_)) {
            let next = now.plus(self.wait_after(attempts));
            sql::inbox::postpone(&mut tx, &row, &text, next).await?;
        } else if sql::inbox::delete(&mut tx, &row).await? {
            self.give_up(&mut tx, PendingRow { attempts, error: text, ..row }, now).await?;
        }
        tx.commit().await
    }

    /// How long to wait after so many failed attempts.
    pub(super) fn wait_after(&self, attempts: i64) -> Duration {
        self.random.jitter(FIRST_WAIT * (1 << (attempts - 1).clamp(0, 8)))
    }
}
