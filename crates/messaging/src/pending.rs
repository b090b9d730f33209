//! Later attempts at received events, each by itself.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use gozon_contract::{Timestamp, Topic};
use gozon_seam::mutation;
use gozon_store::{Reader, Statement};
use serde::de::DeserializeOwned;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    Context, DeadLetter, Done, Failure, Guard, Job, Origin, Outcome, Received, Runner, UseCase,
    inbox::storable_text,
    sql::{self, pending::PendingRow},
};

/// How often an event is tried before it becomes a dead letter. With the waits between, that takes
/// about a minute.
const MAX_ATTEMPTS: i64 = 8;
/// The wait after the first failed attempt; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The wait after an attempt that failed for a reason that says nothing about the event.
const CIRCUMSTANCE_WAIT: Duration = Duration::from_secs(1);
/// How often to look for attempts that are due.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How long a process has an event to itself for another attempt.
const LEASE: Duration = Duration::from_secs(30);
/// The most events taken over at once.
const MAX_CLAIMED: i64 = 100;

/// The events of one topic that wait for another attempt.
pub(crate) struct Pending<U: UseCase<Reply = ()>> {
    context: Context,
    topic: Topic,
    runner: Runner<U, PendingRow>,
}

/// The guard of an attempt: the row of the event, which is deleted by it.
#[async_trait]
impl Guard for PendingRow {
    type Reply = ();
    type Key = String;

    fn key(&self) -> Option<String> {
        Some(self.message.id.clone())
    }

    async fn find(
        reader: &mut Reader,
        guards: &[&Self],
    ) -> gozon_store::Result<Vec<Option<Done<()>>>> {
        let attempts = sql::pending::attempts(reader, guards).await?;
        let finished = |row: &&Self| attempts.get(&row.message.id) != Some(&row.attempts);
        let done = || Done { replies: Vec::new(), repeated: true };
        Ok(guards.iter().map(|row| finished(row).then(done)).collect())
    }

    fn mark(done: &[(&Self, &[()])], _: Timestamp) -> Vec<Statement> {
        let rows: Vec<&Self> = done.iter().map(|(row, _)| *row).collect();
        vec![sql::pending::delete(&rows)]
    }
}

impl<T, U> Pending<U>
where
    T: DeserializeOwned + Send + Sync + 'static,
    U: UseCase<Command = Received<T>, Reply = ()>,
{
    pub(crate) fn new(context: Context, topic: Topic, use_case: Arc<U>) -> Self {
        Self { runner: Runner::new(context.clone(), use_case), context, topic }
    }

    /// Makes attempts until `stop`, at once whenever `taken_in` says that there are new events.
    pub(crate) async fn run(&self, taken_in: &Notify, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            match self.step().await {
                // There may be more.
                Ok(count) if count == usize::try_from(MAX_CLAIMED).unwrap_or(0) => continue,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(topic = self.topic.name, %error, "can't look for retries");
                }
            }
            gozon_seam::select! {
                () = stop.cancelled() => return,
                () = taken_in.notified() => {}
                () = sleep(POLL_INTERVAL) => {}
            }
        }
    }

    /// Makes another attempt at each event for which one is due; how many there were.
    pub(crate) async fn step(&self) -> gozon_store::Result<usize> {
        let now = self.context.clock.now();
        let mut reader = self.context.db.read().await?;
        if !sql::pending::is_due(&mut reader, self.topic.name, now).await? {
            return Ok(0);
        }
        drop(reader);
        let mut tx = self.context.db.begin().await?;
        let until = now.plus(LEASE);
        sql::pending::recall(&mut tx, self.topic.name, now, MAX_CLAIMED).await?;
        let due = sql::pending::claim(&mut tx, self.topic.name, now, until, MAX_CLAIMED).await?;
        tx.commit().await?;
        let count = due.len();
        let mut jobs = Vec::with_capacity(count);
        for row in due {
            match Received::<T>::read(&row.message) {
                Ok(event) => jobs.push(Job { guard: row, commands: vec![event] }),
                Err(invalid) => self.failed(row, &Failure::Invalid(invalid)).await?,
            }
        }
        if jobs.is_empty() {
            return Ok(count);
        }
        let outcomes = self.runner.run(&jobs).await;
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            self.finish(job.guard, outcome).await?;
        }
        Ok(count)
    }

    async fn finish(&self, row: PendingRow, outcome: Outcome<()>) -> gozon_store::Result<()> {
        match outcome {
            Ok(_) => tracing::info!(id = row.message.id, "a later attempt succeeded"),
            Err(Failure::Store(error)) if error.is_unavailable() => return Err(error),
            Err(failure) => self.failed(row, &failure).await?,
        }
        Ok(())
    }

    /// Writes down a failed attempt: another one later, or a dead letter.
    async fn failed(&self, row: PendingRow, failure: &Failure) -> gozon_store::Result<()> {
        let now = self.context.clock.now();
        let error = storable_text(failure);
        let mut tx = self.context.db.begin().await?;
        if failure.is_circumstance() && !mutation!("locks spend attempts") {
            let next = now.plus(self.context.random.jitter(CIRCUMSTANCE_WAIT));
            sql::pending::postpone(&mut tx, &row, 0, &error, next).await?;
            return tx.commit().await;
        }
        let attempts = row.attempts + 1;
        tracing::warn!(id = row.message.id, attempts, error, "an event failed");
        if attempts < MAX_ATTEMPTS {
            let next = now.plus(self.wait_after(attempts));
            sql::pending::postpone(&mut tx, &row, 1, &error, next).await?;
            return tx.commit().await;
        }
        let delete = sql::pending::delete(&[&row]);
        let PendingRow { message, received_at, .. } = row;
        let origin = Origin::Inbox;
        let letter = DeadLetter { origin, message, received_at, attempts, died_at: now, error };
        // In the order of `DeadLetters::retry`, so that the two never wait for each other in a circle.
        sql::dead_letters::insert(&mut tx, &letter).await?;
        match tx.run_all(vec![delete]).await {
            Ok(_) => {}
            // Another process has finished the attempt.
            Err(gozon_store::Error::Conflict(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        tx.commit().await?;
        let labels = [("service", self.context.service), ("topic", self.topic.name)];
        metrics::counter!("gozon_dead_letters_total", &labels).increment(1);
        tracing::error!(
            id = letter.message.id,
            error = letter.error,
            "a message became a dead letter"
        );
        Ok(())
    }

    /// How long to wait after so many failed attempts.
    fn wait_after(&self, attempts: i64) -> Duration {
        self.context.random.jitter(FIRST_WAIT * (1 << (attempts - 1).clamp(0, 8)))
    }
}
