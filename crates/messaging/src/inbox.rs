//! The transactional inbox: what a delivery brings about and the mark that it was dealt with are one
//! commit, and the broker is acknowledged only after it.
//!
//! All deliveries at hand are one transaction. A delivery that can't be done as a whole is taken into
//! the inbox: its mark and all its events, in one transaction. Each event is then dealt with by
//! itself, with growing waits, until it is done or becomes a dead letter ([`Pending`]). So one bad
//! event never holds up the rest, and the broker never has to redeliver for us.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use gozon_contract::{Timestamp, Topic};
use gozon_seam::mutation;
use gozon_store::{Error, Reader, Retry, Statement};
use serde::de::DeserializeOwned;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Batch, BrokerError, Context, Done, Failure, Guard, Job, Message, Pending, Received, Runner,
    Subscriber, UseCase,
    sql::{self, pending::PendingRow},
};

/// About how many bytes of deliveries are dealt with in one transaction.
const MAX_RECEIVED_BYTES: usize = 512 * 1024;
/// How long to wait before a batch that was given back is received again.
const NACK_PAUSE: Duration = Duration::from_millis(300);

/// Receives one topic for one service and has its events dealt with.
pub struct Inbox<U: UseCase<Reply = ()>> {
    context: Context,
    topic: Topic,
    runner: Runner<U, DeliveryId>,
    pending: Pending<U>,
    attached: Arc<AtomicBool>,
    /// Wakes the retries when a delivery was taken into the inbox.
    taken_in: Notify,
}

/// The guard of a delivery: its id.
pub(crate) struct DeliveryId(String);

#[async_trait]
impl Guard for DeliveryId {
    type Reply = ();
    type Key = String;

    fn key(&self) -> Option<String> {
        Some(self.0.clone())
    }

    async fn find(
        reader: &mut Reader,
        guards: &[&Self],
    ) -> gozon_store::Result<Vec<Option<Done<()>>>> {
        let ids: Vec<&str> = guards.iter().map(|guard| guard.0.as_str()).collect();
        let marked = sql::inbox::marked(reader, &ids).await?;
        let done = || Done { replies: Vec::new(), repeated: true };
        Ok(ids.iter().map(|id| marked.contains(*id).then(done)).collect())
    }

    fn mark(done: &[(&Self, &[()])], now: Timestamp) -> Vec<Statement> {
        let ids: Vec<&str> = done.iter().map(|(guard, _)| guard.0.as_str()).collect();
        vec![sql::inbox::mark(&ids, now)]
    }
}

impl<T, U> Inbox<U>
where
    T: DeserializeOwned + Send + Sync + 'static,
    U: UseCase<Command = Received<T>, Reply = ()>,
{
    /// An inbox for `topic`.
    pub fn new(context: Context, topic: Topic, use_case: U) -> Self {
        let use_case = Arc::new(use_case);
        let runner = Runner::new(context.clone(), Arc::clone(&use_case));
        let pending = Pending::new(context.clone(), topic, use_case);
        Self { context, topic, runner, pending, attached: Arc::default(), taken_in: Notify::new() }
    }

    /// Whether the consumer is attached to the broker, for readiness.
    pub fn attached(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.attached)
    }

    /// Receives and retries until `stop`; a batch under way is finished.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.receive_until(&stop), self.pending.run(&self.taken_in, &stop));
    }

    /// Makes the attempts at pending events that are due; how many there were.
    ///
    /// # Errors
    /// The database is away.
    pub async fn retry_step(&self) -> gozon_store::Result<usize> {
        self.pending.step().await
    }

    async fn receive_until(&self, stop: &CancellationToken) {
        let mut failures = 0;
        while !stop.is_cancelled() {
            let attach = self.context.broker.subscribe(self.topic);
            let subscriber = gozon_seam::select! {
                () = stop.cancelled() => return,
                attached = attach => attached,
            };
            match subscriber {
                Ok(mut subscriber) => {
                    self.attached.store(true, Ordering::Relaxed);
                    failures = 0;
                    if let Err(error) = self.consume(subscriber.as_mut(), stop).await {
                        tracing::warn!(topic = self.topic.name, %error, "lost the broker");
                    }
                    self.attached.store(false, Ordering::Relaxed);
                }
                Err(error) => tracing::warn!(topic = self.topic.name, %error, "can't attach"),
            }
            failures += 1;
            let wait = Duration::from_millis(50 << failures.min(4));
            gozon_seam::select! {
                () = stop.cancelled() => return,
                () = sleep(self.context.random.jitter(wait)) => {}
            }
        }
    }

    async fn consume(
        &self,
        subscriber: &mut dyn Subscriber,
        stop: &CancellationToken,
    ) -> Result<(), BrokerError> {
        loop {
            let batches = gozon_seam::select! {
                () = stop.cancelled() => return Ok(()),
                batches = subscriber.receive(MAX_RECEIVED_BYTES) => batches?,
            };
            self.step(subscriber, batches).await?;
        }
    }

    /// Deals with received batches and acknowledges them; or, when the database is away, gives them
    /// back to the broker and waits a little.
    ///
    /// # Errors
    /// The broker is gone; it will deliver the batches again.
    pub async fn step(
        &self,
        subscriber: &mut dyn Subscriber,
        batches: Vec<Batch>,
    ) -> Result<(), BrokerError> {
        let started = Instant::now();
        if mutation!("ack before commit") {
            subscriber.ack().await?;
        }
        match self.deal_with(batches).await {
            Ok(()) => {
                subscriber.ack().await?;
                metrics::histogram!("gozon_handle_seconds", &self.labels())
                    .record(started.elapsed().as_secs_f64());
            }
            Err(error) => {
                tracing::warn!(topic = self.topic.name, %error, "giving a batch back");
                if mutation!("ack after an error") {
                    return subscriber.ack().await;
                }
                subscriber.nack().await?;
                sleep(self.context.random.jitter(NACK_PAUSE)).await;
            }
        }
        Ok(())
    }

    fn labels(&self) -> [(&'static str, &'static str); 2] {
        [("service", self.context.service), ("topic", self.topic.name)]
    }

    /// Deals with batches. An error means that not all of them are settled: the database is away.
    async fn deal_with(&self, batches: Vec<Batch>) -> Result<(), Error> {
        let (mut jobs, mut of_jobs, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for batch in batches {
            let batch = storable(batch);
            match batch.read::<T>() {
                Ok(commands) => {
                    jobs.push(Job { guard: DeliveryId(batch.id.clone()), commands });
                    of_jobs.push(batch);
                }
                Err(invalid) => failed.push((batch, Failure::Invalid(invalid))),
            }
        }
        let outcomes = if jobs.is_empty() { Vec::new() } else { self.runner.run(&jobs).await };
        let mut repeats = 0;
        for ((batch, job), outcome) in of_jobs.into_iter().zip(&jobs).zip(outcomes) {
            match outcome {
                Ok(done) if done.repeated => repeats += job.commands.len(),
                Ok(_) => {}
                Err(Failure::Store(error)) if error.is_unavailable() => return Err(error),
                Err(failure) => failed.push((batch, failure)),
            }
        }
        let mut events: usize = jobs.iter().map(|job| job.commands.len()).sum();
        for (batch, failure) in failed {
            events += self.take_in(&batch, &failure).await?;
        }
        metrics::counter!("gozon_inbox_received_total", &self.labels()).increment(events as u64);
        metrics::counter!("gozon_inbox_repeats_total", &self.labels()).increment(repeats as u64);
        Ok(())
    }

    /// The textbook inbox: the delivery's mark and its events, in one transaction; how many events
    /// there are. One that another process has dealt with meanwhile is left alone.
    async fn take_in(&self, batch: &Batch, failure: &Failure) -> gozon_store::Result<usize> {
        tracing::warn!(id = batch.id, %failure, "a delivery can't be done as a whole");
        let now = self.context.clock.now();
        let error = storable_text(failure);
        let mut ids = HashSet::new();
        let row = |(n, message): (usize, Message)| {
            let mut message = message.storable();
            if !ids.insert(message.id.clone()) {
                message.id = format!("{}/{n}", batch.id);
            }
            PendingRow { message, received_at: now, attempts: 0, error: error.clone() }
        };
        let rows: Vec<_> = batch.split().into_iter().enumerate().map(row).collect();
        let mut retry = Retry::new(&self.context.random);
        loop {
            let mut work = self.context.db.locking().await?;
            if !sql::inbox::marked(work.reader(), &[&batch.id]).await?.is_empty() {
                return Ok(0);
            }
            let mut writes =
                vec![sql::inbox::mark(&[&batch.id], now), sql::pending::keep(&rows, now)];
            if mutation!("mark without keeping the events") {
                writes.truncate(1);
            }
            match work.commit(writes).await {
                Ok(()) => break,
                Err(error) if retry.again(&error).await => {}
                Err(error) => return Err(error),
            }
        }
        self.taken_in.notify_one();
        Ok(rows.len())
    }
}

/// The batch with an id that the database can store.
fn storable(batch: Batch) -> Batch {
    let (key, topic) = (String::new(), String::new());
    let body = Arc::clone(&batch.body);
    let id = Message { id: batch.id, topic, key, body }.storable().id;
    Batch { id, ..batch }
}

/// What went wrong, as a text that PostgreSQL can store.
pub(crate) fn storable_text(failure: &Failure) -> String {
    failure.to_string().replace('\0', "\u{fffd}")
}
