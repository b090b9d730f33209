//! The relay: from the outbox to the broker.
//!
//! What its own process commits is handed to it in memory and goes out at once; the table is only
//! swept, once a second, for rows whose writer did not get them out before their lease was over,
//! because it crashed or the broker was away. No transaction is open while a batch is published.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use gozon_contract::Timestamp;
use gozon_seam::mutation;
use gozon_store::{Db, Error, Result};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    BrokerError, Context, DeadLetter, Message, Origin,
    outbox::{HandOver, LEASE, new_batch_id},
    sql::{
        self,
        outbox::{Claimed, OutboxRow, row_of},
    },
};

/// About how many bytes are published in one go.
const MAX_PUBLISH_BYTES: usize = 1024 * 1024;
/// The most rows that one sweep takes over.
const MAX_CLAIMED: usize = 64;
/// How often the table is swept.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// What a pass over the table has seen is not looked at again, except for this long, since a
/// transaction may commit late. A pass that takes longer begins anew.
const LATE_COMMIT_MARGIN: Duration = Duration::from_secs(10);
/// One of so many passes looks at the whole table all the same.
const PASSES_PER_FULL_SCAN: u32 = 60;
/// How long published rows may stay in the table, so that many are deleted together. In this time
/// a crash sends them once more.
const DELETE_DELAY: Duration = Duration::from_millis(100);
/// So many published rows are deleted without waiting.
const MAX_UNDELETED: usize = 100;
/// The most statements in one transaction that deletes, one for each instant. A backlog has many
/// instants, and PostgreSQL prepares a statement for each number of them.
const MAX_DELETE_STATEMENTS: usize = 4;
/// How long a broker may take to answer. Each has time-outs of its own; this one is for the case
/// that they fail, since a relay that waits for ever stops the shop.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a relay that is to stop may take to send what it has.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a message that the broker rejects, being able to take others, is tried.
const MAX_ATTEMPTS: i64 = 10;

/// Publishes what the outbox of one database holds. Several processes may run one each.
pub struct Relay {
    context: Context,
    hand_over: HandOver,
    /// Published, but still in the table.
    published: Vec<OutboxRow>,
    /// When they are to be deleted, however few they are.
    clear_at: Instant,
    next_sweep: Instant,
    sweeping: Option<Sweeping>,
    /// The pass that the next sweep goes on with.
    pass: Option<Pass>,
    passes: u32,
    low_water: Arc<AtomicI64>,
    failures: u32,
    publish_timeout: Duration,
}

/// A sweep under way. It has a task of its own: while an old snapshot is held open, it has to step
/// over each row that was deleted since, and what is handed over should not wait for that.
struct Sweeping {
    pass: Pass,
    task: JoinHandle<Result<Claimed>>,
}

/// Sweeps that each go on where the one before had to stop. To begin at the start each time would be
/// to step over all the rows that it has just moved away.
#[derive(Clone, Copy)]
struct Pass {
    began: Timestamp,
    place: Timestamp,
}

impl Relay {
    /// A relay for the outbox of a service.
    pub fn new(context: Context, hand_over: HandOver) -> Self {
        Self {
            context,
            hand_over,
            published: Vec::new(),
            clear_at: Instant::now(),
            next_sweep: Instant::now(),
            sweeping: None,
            pass: None,
            passes: 0,
            low_water: Arc::new(AtomicI64::new(0)),
            failures: 0,
            publish_timeout: PUBLISH_TIMEOUT,
        }
    }

    /// The relay, giving up on a broker that has not answered within `limit`: 20 s unless set.
    #[must_use]
    pub fn answer_within(self, limit: Duration) -> Self {
        Self { publish_timeout: limit, ..self }
    }

    /// No row that is still to be sent became available before this instant (microseconds since
    /// the epoch), as far as the sweeps have seen.
    pub fn low_water(&self) -> Arc<AtomicI64> {
        Arc::clone(&self.low_water)
    }

    /// Relays until `stop`, and then finishes what is under way and sends what was already handed
    /// over, for at most 5 s.
    pub async fn run(mut self, stop: CancellationToken) {
        let service = self.context.service;
        let late = async {
            stop.cancelled().await;
            sleep(STOP_TIMEOUT).await;
        };
        gozon_seam::select! {
            () = self.relay_until(&stop) => {}
            () = late => tracing::warn!(service, "stopping; the outbox keeps what is unsent"),
        }
    }

    async fn relay_until(&mut self, stop: &CancellationToken) {
        loop {
            let batch = gozon_seam::select! {
                biased;
                () = stop.cancelled() => break,
                batch = self.next_batch() => batch,
            };
            self.relay(batch).await;
        }
        while !self.hand_over.is_empty() || !self.published.is_empty() {
            self.step().await;
        }
    }

    /// Publishes one batch, and at the same time takes earlier ones out of the table.
    pub async fn step(&mut self) {
        let batch = self.next_batch().await;
        self.relay(batch).await;
    }

    async fn relay(&mut self, batch: Result<Vec<OutboxRow>>) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                tracing::warn!(service = self.context.service, %error, "can't read the outbox");
                return self.back_off().await;
            }
        };
        let clear = self.published.len() >= MAX_UNDELETED || self.clear_at <= Instant::now();
        let delete = if clear { std::mem::take(&mut self.published) } else { Vec::new() };
        if mutation!("delete before publishing") {
            let _ = delete_all(&self.context.db, &batch).await;
        }
        let (sent, deleted) =
            tokio::join!(self.publish(batch), delete_all(&self.context.db, &delete));
        let failed = sent.is_err() || deleted.is_err();
        if let Err(error) = deleted {
            // They would only be sent once more, but there is no need to.
            tracing::warn!(service = self.context.service, %error, "can't clear the outbox");
            self.published.extend(delete);
        }
        match sent {
            Ok(sent) => {
                if self.published.is_empty() {
                    self.clear_at = Instant::now() + DELETE_DELAY;
                }
                self.published.extend(sent);
            }
            Err(error) => tracing::warn!(service = self.context.service, %error, "can't publish"),
        }
        if failed {
            self.back_off().await;
        } else {
            self.failures = 0;
        }
    }

    /// What to publish next; empty when there is nothing and published rows are to be deleted.
    async fn next_batch(&mut self) -> Result<Vec<OutboxRow>> {
        let linger = !self.published.is_empty();
        if self.sweeping.is_none() && self.next_sweep <= Instant::now() {
            self.sweep();
        }
        let Self { context, hand_over, sweeping, .. } = self;
        gozon_seam::select! {
            biased;
            (pass, claimed) = finished(sweeping) => self.swept(pass, claimed),
            rows = hand_over.next(MAX_PUBLISH_BYTES, || context.clock.now()) => Ok(rows),
            () = sleep_until(self.clear_at), if linger => Ok(Vec::new()),
            () = sleep_until(self.next_sweep), if sweeping.is_none() => Ok(Vec::new()),
        }
    }

    /// Starts to take over rows whose lease is over.
    fn sweep(&mut self) {
        // Should this fail, what is handed over gets its turn before the next attempt.
        self.next_sweep = Instant::now() + SWEEP_INTERVAL;
        let now = self.context.clock.now();
        let whole = self.passes.is_multiple_of(PASSES_PER_FULL_SCAN)
            && !mutation!("a cursor that passes late commits");
        let start = if whole { 0 } else { self.low_water.load(Ordering::Relaxed) };
        let anew = Pass { began: now, place: Timestamp::from_micros(start) };
        let pass = self.pass.take().unwrap_or(anew);
        let db = self.context.db.clone();
        let task = gozon_seam::spawn(async move {
            let mut reader = db.read().await?;
            if mutation!("nobody takes over") {
                return Ok(Claimed { rows: Vec::new(), reached: pass.place });
            }
            if !sql::outbox::is_due(&mut reader, pass.place, now).await? {
                return Ok(Claimed { rows: Vec::new(), reached: pass.place });
            }
            drop(reader);
            let limit = i64::try_from(MAX_CLAIMED).unwrap_or(i64::MAX);
            let mut tx = db.begin().await?;
            sql::outbox::adopt(&mut tx, now, limit).await?;
            sql::outbox::recall(&mut tx, now, limit).await?;
            let claimed =
                sql::outbox::claim(&mut tx, pass.place, now, now.plus(LEASE), limit).await?;
            tx.commit().await?;
            Ok(claimed)
        });
        self.sweeping = Some(Sweeping { pass, task });
    }

    /// What a sweep came to. A full batch means that there may be more: the next one comes at once.
    fn swept(&mut self, pass: Pass, claimed: Result<Claimed>) -> Result<Vec<OutboxRow>> {
        let Claimed { rows, reached } = claimed?;
        let mut seen = pass.began.minus(LATE_COMMIT_MARGIN);
        if mutation!("a cursor that passes late commits") {
            seen = pass.began.plus(LEASE);
        }
        if rows.len() == MAX_CLAIMED {
            self.next_sweep = Instant::now();
            seen = seen.min(reached);
            if self.context.clock.now().since(pass.began) < LATE_COMMIT_MARGIN {
                self.pass = Some(Pass { place: reached, ..pass });
            }
        }
        self.low_water.fetch_max(seen.micros(), Ordering::Relaxed);
        if self.pass.is_none() {
            self.passes = self.passes.wrapping_add(1);
        }
        if !rows.is_empty() {
            tracing::info!(
                service = self.context.service,
                rows = rows.len(),
                "took over from the outbox"
            );
        }
        Ok(rows)
    }

    /// Publishes a batch; which rows the broker has now.
    async fn publish(
        &self,
        mut batch: Vec<OutboxRow>,
    ) -> std::result::Result<Vec<OutboxRow>, BrokerError> {
        if batch.is_empty() {
            return Ok(batch);
        }
        let started = Instant::now();
        let batches: Vec<_> = batch.iter().map(|row| row.batch.clone()).collect();
        let answer = timeout(self.publish_timeout, self.context.broker.publish(&batches)).await;
        match answer.unwrap_or_else(|_| Err(BrokerError::Away("it does not answer".to_owned()))) {
            Ok(()) => {}
            Err(BrokerError::Rejected { ids, reason }) => {
                let (refused, sent): (Vec<_>, Vec<_>) = batch.into_iter().partition(|row| {
                    ids.contains(&row.batch.id) && !mutation!("what the broker rejects is dropped")
                });
                for row in refused {
                    if let Err(error) = self.set_aside(&row, &reason).await {
                        tracing::warn!(id = row.batch.id, %error, "can't postpone a batch");
                    }
                }
                batch = sent;
            }
            Err(_) if mutation!("publish without confirms") => {}
            Err(away) => return Err(away),
        }
        let now = self.context.clock.now();
        metrics::counter!("gozon_outbox_published_total", "service" => self.context.service)
            .increment(batch.iter().map(|row| row.events.unsigned_abs()).sum());
        metrics::histogram!("gozon_publish_seconds", "service" => self.context.service)
            .record(started.elapsed().as_secs_f64());
        let waited =
            metrics::histogram!("gozon_outbox_wait_seconds", "service" => self.context.service);
        for row in &batch {
            waited.record(now.since(row.created_at).as_secs_f64());
        }
        Ok(batch)
    }

    /// A batch that the broker won't take is split, until the event at fault is alone; that one is
    /// tried again later, and becomes a dead letter in the end. The others go on.
    async fn set_aside(&self, row: &OutboxRow, reason: &str) -> Result<()> {
        let now = self.context.clock.now();
        let mut tx = self.context.db.begin().await?;
        let attempts = row.attempts + 1;
        if row.events > 1 {
            let split = |message: &Message| {
                row_of(message, new_batch_id(&self.context.random), row.created_at, now)
            };
            let rows: Vec<_> = row.batch.split().iter().map(split).collect();
            if tx.run_all(sql::outbox::delete(std::slice::from_ref(row))).await? == [1] {
                tx.run_all(vec![sql::outbox::insert(&rows)]).await?;
            }
        } else if attempts < MAX_ATTEMPTS {
            let wait = Duration::from_millis(100 << row.attempts.min(9));
            sql::outbox::postpone(&mut tx, row, now.plus(self.context.random.jitter(wait))).await?;
        } else if tx.run_all(sql::outbox::delete(std::slice::from_ref(row))).await? == [1] {
            for message in row.batch.split() {
                let id = message.id.clone();
                let letter = DeadLetter {
                    origin: Origin::Outbox,
                    message,
                    received_at: row.created_at,
                    attempts,
                    died_at: now,
                    error: format!("the broker rejects it: {reason}").replace('\0', "\u{fffd}"),
                };
                sql::dead_letters::insert(&mut tx, &letter).await?;
                let labels = [("service", self.context.service)];
                metrics::counter!("gozon_dead_letters_total", &labels).increment(1);
                tracing::error!(id, reason, "a message became a dead letter");
            }
        }
        tx.commit().await
    }

    async fn back_off(&mut self) {
        self.failures += 1;
        let wait = Duration::from_millis(50 << self.failures.min(4)).min(Duration::from_secs(1));
        sleep(self.context.random.jitter(wait)).await;
    }
}

/// The end of a sweep, once there is one under way.
async fn finished(sweeping: &mut Option<Sweeping>) -> (Pass, Result<Claimed>) {
    let Some(Sweeping { pass, task }) = sweeping else { return std::future::pending().await };
    let claimed =
        task.await.unwrap_or_else(|gone| Err(Error::conflict(&format!("the sweep: {gone}"))));
    let pass = *pass;
    *sweeping = None;
    (pass, claimed)
}

async fn delete_all(db: &Db, rows: &[OutboxRow]) -> Result<()> {
    let mut deletes = sql::outbox::delete(rows);
    while !deletes.is_empty() {
        let rest = deletes.split_off(deletes.len().min(MAX_DELETE_STATEMENTS));
        db.optimistic().await?.commit(deletes).await?;
        deletes = rest;
    }
    Ok(())
}

#[cfg(test)]
mod interleavings;
