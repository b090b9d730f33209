//! The transactional inbox: what a message does and the memory that it was done are one commit,
//! and only then does the broker hear of it.
//!
//! A whole batch is one transaction. If that fails for the data's sake, each half of it gets one of
//! its own, and so on; a message that fails all by itself is kept in the inbox for [later
//! attempts](retry), with growing waits, until it is set aside as a dead letter. So one bad message
//! never holds up the rest, and the broker never has to redeliver for us.

mod retry;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use gozon_contract::{Clock, RandomSource, Timestamp, Topic};
use gozon_store::{Db, Error, Retry, Statement, Tx};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    Added, Broker, BrokerError, DeadLetter, InvalidEvent, Message, Origin, Outbox, Subscriber,
    sql::{self, inbox::PendingRow},
};

/// The most messages dealt with in one transaction.
const BATCH: usize = 1000;
/// How many batches in a row are dealt with carefully, once one met a conflict. One would do, but
/// where two instances want the same rows, or a broker repeats itself, more are likely to follow.
const WARY: u32 = 16;

/// What a service does with the messages of one topic.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Decides what follows from a batch of messages, reading in `tx` what it has to know.
    ///
    /// Most likely nobody is in the way and none of the messages was ever dealt with. So the first
    /// attempt is not `careful`: `tx` [locks nothing](Db::at_once), and the handler need not look for
    /// repeats. But what it wants to be written must be a [conflict](Error::Conflict) should that be
    /// wrong. Then nothing of it is kept, and a careful attempt follows.
    async fn handle(
        &self,
        tx: &mut Tx,
        messages: &[Message],
        careful: bool,
    ) -> Result<Decision, HandleError>;

    /// Messages that [`Handler::handle`] wants to be sent are committed and on their way to the
    /// broker. For whoever in this process would rather know now: nothing may depend on it, since a
    /// crash comes before it as well as after it.
    fn committed(&self, _sent: &mut dyn Iterator<Item = &Message>) {}
}

/// What follows from messages; all of it is one transaction.
#[derive(Debug, Default)]
pub struct Decision {
    /// What is to be written.
    pub statements: Vec<Statement>,
    /// What is to be sent.
    pub messages: Vec<Message>,
}

/// Why messages could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// The database's answer.
    #[error(transparent)]
    Store(#[from] Error),
    /// A message can't be read; another attempt would not change that.
    #[error(transparent)]
    Invalid(#[from] InvalidEvent),
    /// A message can't be dealt with now.
    #[error("{0}")]
    Failed(String),
}

/// Receives one topic for one service and has its messages dealt with.
pub struct Inbox {
    service: &'static str,
    topic: Topic,
    db: Db,
    broker: Arc<dyn Broker>,
    outbox: Outbox,
    handler: Arc<dyn Handler>,
    clock: Clock,
    random: RandomSource,
    attached: Arc<AtomicBool>,
    /// How many more batches are dealt with carefully.
    wary: AtomicU32,
}

impl Inbox {
    /// An inbox of `service` in `db` for `topic`, sending through `outbox`.
    #[allow(clippy::too_many_arguments, reason = "each is a different thing")]
    pub fn new(
        service: &'static str,
        topic: Topic,
        db: Db,
        broker: Arc<dyn Broker>,
        outbox: Outbox,
        handler: Arc<dyn Handler>,
        clock: Clock,
        random: RandomSource,
    ) -> Self {
        let attached = Arc::default();
        let wary = AtomicU32::new(0);
        Self { service, topic, db, broker, outbox, handler, clock, random, attached, wary }
    }

    /// Whether the consumer is attached to the broker, for readiness.
    pub fn attached(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.attached)
    }

    /// Receives and retries until `stop`; a batch under way is finished.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.receive_until(&stop), self.retry_until(&stop));
    }

    async fn receive_until(&self, stop: &CancellationToken) {
        let mut failures = 0;
        while !stop.is_cancelled() {
            let attach = self.broker.subscribe(self.topic);
            let subscriber = tokio::select! {
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
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(self.random.jitter(wait)) => {}
            }
        }
    }

    async fn consume(
        &self,
        subscriber: &mut dyn Subscriber,
        stop: &CancellationToken,
    ) -> Result<(), BrokerError> {
        loop {
            let batch = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                batch = subscriber.receive(BATCH) => batch?,
            };
            self.step(subscriber, batch).await?;
        }
    }

    /// Deals with one received batch and acknowledges it; or, when the database is away, gives it
    /// back to the broker and waits a little.
    ///
    /// # Errors
    /// The broker is gone; it will deliver the batch again.
    pub async fn step(
        &self,
        subscriber: &mut dyn Subscriber,
        batch: Vec<Message>,
    ) -> Result<(), BrokerError> {
        let started = Instant::now();
        let size = batch.len();
        let batch: Vec<_> = batch.into_iter().map(Message::storable).collect();
        match self.deal_with(&batch).await {
            Ok(new) => {
                subscriber.ack().await?;
                let labels = [("service", self.service), ("topic", self.topic.name)];
                metrics::counter!("gozon_inbox_received_total", &labels).increment(size as u64);
                metrics::counter!("gozon_inbox_repeats_total", &labels)
                    .increment((size - new) as u64);
                metrics::histogram!("gozon_handle_seconds", &labels)
                    .record(started.elapsed().as_secs_f64());
                Ok(())
            }
            Err(error) => {
                tracing::warn!(topic = self.topic.name, %error, "giving a batch back");
                subscriber.nack().await?;
                sleep(self.random.jitter(Duration::from_millis(300))).await;
                Ok(())
            }
        }
    }

    /// How many of the batch were new. An error means that not all of it is settled: the database
    /// is away.
    async fn deal_with(&self, batch: &[Message]) -> gozon_store::Result<usize> {
        let mut new = 0;
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            match (self.attempt(part).await, part) {
                (Ok(fresh), _) => new += fresh,
                (Err(HandleError::Store(error)), _) if error.is_unavailable() => return Err(error),
                (Err(error), [message]) => new += self.keep(message, &error).await?,
                (Err(error), _) => {
                    tracing::debug!(topic = self.topic.name, %error, "halving a batch");
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
            }
        }
        Ok(new)
    }

    /// Deals with messages in one transaction, again while others are in its way.
    async fn attempt(&self, batch: &[Message]) -> Result<usize, HandleError> {
        let mut retry = Retry::new(&self.random);
        let mut result =
            if self.is_wary() { self.carefully(batch).await } else { self.at_once(batch).await };
        while let Err(HandleError::Store(error)) = &result
            && retry.again(error).await
        {
            self.wary.store(WARY, Ordering::Relaxed);
            result = self.carefully(batch).await;
        }
        result
    }

    fn is_wary(&self) -> bool {
        let one_less = |batches: u32| batches.checked_sub(1);
        self.wary.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }

    /// Repeats are rare, after a crash or when the broker was away, and so is somebody else who
    /// wants the same rows. So the work is decided first, as if there were neither, and all of it is
    /// written together with the marks. A mark that is there already is a conflict, and none of it is
    /// kept. The marks come first here too, or two consumers of one message could wait for each
    /// other.
    async fn at_once(&self, batch: &[Message]) -> Result<usize, HandleError> {
        let mut tx = self.db.at_once().await?;
        let (statements, added) = self.work(&mut tx, batch, false).await?;
        let mut all = vec![sql::inbox::mark_all(batch, self.clock.now())];
        all.extend(statements);
        tx.commit_with(all).await?;
        self.committed(added);
        Ok(batch.len())
    }

    /// Looks for repeats first, and keeps locked what is decided upon. How many messages were none.
    async fn carefully(&self, batch: &[Message]) -> Result<usize, HandleError> {
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        let mut new = sql::inbox::mark(&mut tx, batch, now).await?;
        if new.is_empty() {
            return Ok(0);
        }
        let fresh: Vec<_> =
            batch.iter().filter(|message| new.remove(&message.id)).cloned().collect();
        let (statements, added) = self.work(&mut tx, &fresh, true).await?;
        tx.commit_with(statements).await?;
        self.committed(added);
        Ok(fresh.len())
    }

    /// Tells of what is committed. Whatever becomes of that, the relay gets it.
    fn committed(&self, added: Added) {
        let tell = || self.handler.committed(&mut added.messages());
        if catch_unwind(AssertUnwindSafe(tell)).is_err() {
            tracing::error!(topic = self.topic.name, "a handler panicked after the commit");
        }
        added.committed();
    }

    /// What follows from messages, with what goes into the outbox. A panic is a failure of that
    /// message, not the end of the consumer.
    async fn work(
        &self,
        tx: &mut Tx,
        messages: &[Message],
        careful: bool,
    ) -> Result<(Vec<Statement>, Added), HandleError> {
        let decided = AssertUnwindSafe(self.handler.handle(tx, messages, careful))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(HandleError::Failed("the handler panicked".to_owned())));
        let Decision { mut statements, messages } = decided?;
        let added = self.outbox.add(messages);
        statements.extend(added.statement());
        Ok((statements, added))
    }

    /// Keeps a message that failed for later, or sets it aside if it can't be read at all. How many
    /// were new: none if another process has dealt with it meanwhile.
    async fn keep(&self, message: &Message, error: &HandleError) -> gozon_store::Result<usize> {
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        let new = sql::inbox::mark(&mut tx, std::slice::from_ref(message), now).await?.len();
        if new > 0 {
            tracing::warn!(id = message.id, %error, "a message failed");
            let row = PendingRow {
                message: message.clone(),
                received_at: now,
                attempts: 1,
                error: storable(error),
            };
            if matches!(error, HandleError::Invalid(_)) {
                self.give_up(&mut tx, row, now).await?;
            } else {
                sql::inbox::keep(&mut tx, &row, now.plus(self.wait_after(1))).await?;
            }
        }
        tx.commit().await?;
        Ok(new)
    }

    async fn give_up(
        &self,
        tx: &mut Tx,
        row: PendingRow,
        now: Timestamp,
    ) -> gozon_store::Result<()> {
        let PendingRow { message, received_at, attempts, error } = row;
        let labels = [("service", self.service), ("topic", self.topic.name)];
        metrics::counter!("gozon_dead_letters_total", &labels).increment(1);
        tracing::error!(id = message.id, error, "a message became a dead letter");
        let letter = DeadLetter {
            origin: Origin::Inbox,
            message,
            received_at,
            attempts,
            died_at: now,
            error,
        };
        sql::dead_letters::insert(tx, &letter).await
    }
}

/// What went wrong, as a text that PostgreSQL can store.
fn storable(error: &HandleError) -> String {
    error.to_string().replace('\0', "\u{fffd}")
}
