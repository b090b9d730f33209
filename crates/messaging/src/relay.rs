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

use gozon_contract::{Clock, RandomSource, Timestamp};
use gozon_store::{Db, Error, Result};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Broker, BrokerError, DeadLetter, Origin,
    outbox::{Handed, LEASE},
    sql::{
        self,
        outbox::{Claimed, OutboxRow},
    },
};

/// The most messages published in one go.
const BATCH: usize = 1000;
/// How often the table is swept.
const SWEEP: Duration = Duration::from_secs(1);
/// What a pass over the table found need not be looked at again; but for this long, since a
/// transaction may commit late. A pass that takes longer begins anew.
const LATE_COMMIT: Duration = Duration::from_secs(10);
/// Every so many passes look at the whole table all the same.
const WHOLE_TABLE: u32 = 60;
/// How long published rows may stay in the table, so that many are deleted together. In this time
/// a crash sends them once more, and no longer.
const LINGER: Duration = Duration::from_millis(100);
/// How many instants published rows are deleted of in one transaction. A backlog has one each, and
/// PostgreSQL prepares a statement for each number of them.
const TOGETHER: usize = 4;
/// How long a broker may take to answer. They have limits of their own; this one is for what
/// nobody thought of, since a relay that waits for ever is a shop that stands still.
const ANSWER: Duration = Duration::from_secs(20);
/// How long a relay that is to stop may take to send what it has.
const STOPPING: Duration = Duration::from_secs(5);
/// How often a message that the broker rejects, being able to take others, is tried.
const ATTEMPTS: i64 = 10;

/// Publishes what the outbox of one database holds. Several processes may run one each.
pub struct Relay {
    db: Db,
    broker: Arc<dyn Broker>,
    clock: Clock,
    random: RandomSource,
    service: &'static str,
    handed: Handed,
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
    answer: Duration,
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
    /// A relay for the outbox of `service` in `db`.
    pub fn new(
        service: &'static str,
        db: Db,
        broker: Arc<dyn Broker>,
        handed: Handed,
        clock: Clock,
        random: RandomSource,
    ) -> Self {
        Self {
            db,
            broker,
            clock,
            random,
            service,
            handed,
            published: Vec::new(),
            clear_at: Instant::now(),
            next_sweep: Instant::now(),
            sweeping: None,
            pass: None,
            passes: 0,
            low_water: Arc::new(AtomicI64::new(0)),
            failures: 0,
            answer: ANSWER,
        }
    }

    /// The relay, giving up on a broker that has not answered within `limit`: 20 s unless set.
    #[must_use]
    pub fn answer_within(self, limit: Duration) -> Self {
        Self { answer: limit, ..self }
    }

    /// No row that is still to be sent became available before this instant (microseconds since
    /// the epoch), as far as the sweeps have seen.
    pub fn low_water(&self) -> Arc<AtomicI64> {
        Arc::clone(&self.low_water)
    }

    /// Relays until `stop`, and then finishes what is under way and sends what was already handed
    /// over, for at most 5 s.
    pub async fn run(mut self, stop: CancellationToken) {
        let service = self.service;
        let late = async {
            stop.cancelled().await;
            sleep(STOPPING).await;
        };
        tokio::select! {
            () = self.relay_until(&stop) => {}
            () = late => tracing::warn!(service, "stopping; the outbox keeps what is unsent"),
        }
    }

    async fn relay_until(&mut self, stop: &CancellationToken) {
        loop {
            let batch = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                batch = self.next_batch() => batch,
            };
            self.relay(batch).await;
        }
        while !self.handed.0.is_empty() || !self.published.is_empty() {
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
                tracing::warn!(service = self.service, %error, "can't read the outbox");
                return self.back_off().await;
            }
        };
        let clear = self.published.len() >= BATCH || self.clear_at <= Instant::now();
        let delete = if clear { std::mem::take(&mut self.published) } else { Vec::new() };
        let (sent, deleted) = tokio::join!(self.publish(batch), delete_all(&self.db, &delete));
        let failed = sent.is_err() || deleted.is_err();
        if let Err(error) = deleted {
            // They would only be sent once more, but there is no need to.
            tracing::warn!(service = self.service, %error, "can't clear the outbox");
            self.published.extend(delete);
        }
        match sent {
            Ok(sent) => {
                if self.published.is_empty() {
                    self.clear_at = Instant::now() + LINGER;
                }
                self.published.extend(sent);
            }
            Err(error) => tracing::warn!(service = self.service, %error, "can't publish"),
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
        let Self { clock, handed, sweeping, .. } = self;
        tokio::select! {
            biased;
            (pass, claimed) = finished(sweeping) => self.swept(pass, claimed),
            rows = handed.next(BATCH, || clock.now()) => Ok(rows),
            () = sleep_until(self.clear_at), if linger => Ok(Vec::new()),
            () = sleep_until(self.next_sweep), if sweeping.is_none() => Ok(Vec::new()),
        }
    }

    /// Starts to take over rows whose lease is over.
    fn sweep(&mut self) {
        // Should this fail, what is handed over gets its turn before the next attempt.
        self.next_sweep = Instant::now() + SWEEP;
        let now = self.clock.now();
        let whole = self.passes.is_multiple_of(WHOLE_TABLE);
        let start = if whole { 0 } else { self.low_water.load(Ordering::Relaxed) };
        let anew = Pass { began: now, place: Timestamp::from_micros(start) };
        let pass = self.pass.take().unwrap_or(anew);
        let db = self.db.clone();
        let task = tokio::spawn(async move {
            let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
            let mut tx = db.begin().await?;
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
        let mut seen = pass.began.minus(LATE_COMMIT);
        if rows.len() == BATCH {
            self.next_sweep = Instant::now();
            seen = seen.min(reached);
            if self.clock.now().since(pass.began) < LATE_COMMIT {
                self.pass = Some(Pass { place: reached, ..pass });
            }
        }
        self.low_water.fetch_max(seen.micros(), Ordering::Relaxed);
        if self.pass.is_none() {
            self.passes = self.passes.wrapping_add(1);
        }
        if !rows.is_empty() {
            tracing::info!(service = self.service, rows = rows.len(), "took over from the outbox");
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
        let messages: Vec<_> = batch.iter().map(|row| row.message.clone()).collect();
        let answer = timeout(self.answer, self.broker.publish(&messages)).await;
        match answer.unwrap_or_else(|_| Err(BrokerError::Away("it does not answer".to_owned()))) {
            Ok(()) => {}
            Err(BrokerError::Rejected { ids, reason }) => {
                let (refused, sent): (Vec<_>, Vec<_>) =
                    batch.into_iter().partition(|row| ids.contains(&row.message.id));
                for row in refused {
                    if let Err(error) = self.set_aside(&row, &reason).await {
                        tracing::warn!(id = row.message.id, %error, "can't postpone a message");
                    }
                }
                batch = sent;
            }
            Err(away) => return Err(away),
        }
        let now = self.clock.now();
        metrics::counter!("gozon_outbox_published_total", "service" => self.service)
            .increment(batch.len() as u64);
        metrics::histogram!("gozon_publish_seconds", "service" => self.service)
            .record(started.elapsed().as_secs_f64());
        let waited = metrics::histogram!("gozon_outbox_wait_seconds", "service" => self.service);
        for row in &batch {
            waited.record(now.since(row.created_at).as_secs_f64());
        }
        Ok(batch)
    }

    /// A message that the broker won't take is tried again later, and becomes a dead letter in
    /// the end; the others go on.
    async fn set_aside(&self, row: &OutboxRow, reason: &str) -> Result<()> {
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        let attempts = row.attempts + 1;
        if attempts < ATTEMPTS {
            let wait = Duration::from_millis(100 << row.attempts.min(9));
            sql::outbox::postpone(&mut tx, row, now.plus(self.random.jitter(wait))).await?;
        } else if tx.run_all(sql::outbox::delete(std::slice::from_ref(row))).await? == [1] {
            let letter = DeadLetter {
                origin: Origin::Outbox,
                message: row.message.clone(),
                received_at: row.created_at,
                attempts,
                died_at: now,
                error: format!("the broker rejects it: {reason}").replace('\0', "\u{fffd}"),
            };
            sql::dead_letters::insert(&mut tx, &letter).await?;
            metrics::counter!("gozon_dead_letters_total", "service" => self.service).increment(1);
            tracing::error!(id = row.message.id, reason, "a message became a dead letter");
        }
        tx.commit().await
    }

    async fn back_off(&mut self) {
        self.failures += 1;
        let wait = Duration::from_millis(50 << self.failures.min(4)).min(Duration::from_secs(1));
        sleep(self.random.jitter(wait)).await;
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
    // However many there are: a statement has only so many parameters on SQLite.
    for rows in rows.chunks(BATCH) {
        let mut deletes = sql::outbox::delete(rows);
        while !deletes.is_empty() {
            let together = deletes.split_off(deletes.len().saturating_sub(TOGETHER));
            db.at_once().await?.commit_with(together).await?;
        }
    }
    Ok(())
}
