//! The transactional outbox: messages become durable in the transaction that they report.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use gozon_contract::{Clock, RandomSource, Timestamp};
use gozon_store::Statement;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    Batch, Outgoing,
    sql::{self, outbox::OutboxRow},
};

/// How long the process that wrote a row has it to itself. After a crash the rows that it left behind
/// are taken over this much later.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
/// Leases end at multiples of this, in microseconds, so that rows that were written at about the
/// same time are claimed and deleted together.
const LEASE_GRID_MICROS: i64 = 100_000;
/// How many bytes of committed batches may wait for the relay in memory. What does not fit is not
/// lost: it is in the outbox, and the sweep finds it when its lease is over.
const HAND_OVER_BYTES: usize = 4 * 1024 * 1024;

/// The writing end of the outbox of one database. Clones write to the same relay.
#[derive(Clone, Debug)]
pub struct Outbox {
    clock: Clock,
    random: RandomSource,
    relay: mpsc::UnboundedSender<Vec<OutboxRow>>,
    /// Bytes handed over that the relay has not taken yet.
    waiting_bytes: Arc<AtomicUsize>,
}

/// The relay's end of an [`Outbox`].
#[derive(Debug)]
pub struct HandOver {
    rows: mpsc::UnboundedReceiver<Vec<OutboxRow>>,
    waiting_bytes: Arc<AtomicUsize>,
}

/// Batches that are in the outbox once a transaction with their [statement](Added::statement) is
/// committed. Say so with [`Added::committed`] and the relay sends them at once, from memory, without
/// reading the table.
#[must_use = "call committed() after the commit, so that the relay need not wait for the lease"]
#[derive(Debug)]
pub struct Added {
    rows: Vec<OutboxRow>,
    outbox: Outbox,
}

impl Outbox {
    /// An outbox and the end that its [`Relay`](crate::Relay) reads from.
    pub fn new(clock: Clock, random: RandomSource) -> (Self, HandOver) {
        let (relay, rows) = mpsc::unbounded_channel();
        let waiting_bytes = Arc::<AtomicUsize>::default();
        let hand_over = HandOver { rows, waiting_bytes: Arc::clone(&waiting_bytes) };
        (Self { clock, random, relay, waiting_bytes }, hand_over)
    }

    /// Events on their way into the outbox, a row for each batch of them.
    pub fn add(&self, outgoing: Outgoing) -> Added {
        let created_at = self.clock.now();
        let lease_ends = created_at.plus(LEASE).micros();
        let grid = LEASE_GRID_MICROS;
        let available_at = Timestamp::from_micros(lease_ends - lease_ends.rem_euclid(grid) + grid);
        let row = |pack: crate::batch::Pack| {
            let events = i64::try_from(pack.events).unwrap_or(i64::MAX);
            let topic = pack.topic.clone();
            let batch = Batch { id: self.new_id(), topic, body: pack.into_body().into() };
            OutboxRow { available_at, created_at, attempts: 0, events, batch }
        };
        Added { rows: outgoing.packs.into_iter().map(row).collect(), outbox: self.clone() }
    }

    fn new_id(&self) -> String {
        new_batch_id(&self.random)
    }
}

/// A new delivery id.
pub(crate) fn new_batch_id(random: &RandomSource) -> String {
    let bits = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
    Uuid::from_u128(bits).simple().to_string()
}

impl Added {
    /// What puts them there, unless there are none.
    pub fn statement(&self) -> Option<Statement> {
        (!self.rows.is_empty()).then(|| sql::outbox::insert(&self.rows))
    }

    /// The transaction is committed: hands the batches to the relay.
    pub fn committed(self) {
        if self.rows.is_empty() {
            return;
        }
        let bytes = size_of(&self.rows);
        let waiting = &self.outbox.waiting_bytes;
        if waiting.load(Relaxed) > HAND_OVER_BYTES {
            tracing::debug!("the relay is behind; the sweep will find these batches");
            return;
        }
        waiting.fetch_add(bytes, Relaxed);
        if self.outbox.relay.send(self.rows).is_err() {
            waiting.fetch_sub(bytes, Relaxed);
        }
    }
}

fn size_of(rows: &[OutboxRow]) -> usize {
    rows.iter().map(|row| row.batch.body.len()).sum()
}

impl HandOver {
    /// The next committed batches: all that wait, up to about `max_bytes`. Those whose lease is
    /// nearly over are left to the sweep, which may already have them. Cancel-safe.
    pub(crate) async fn next(
        &mut self,
        max_bytes: usize,
        now: impl Fn() -> Timestamp,
    ) -> Vec<OutboxRow> {
        let Some(mut rows) = self.rows.recv().await else {
            return std::future::pending().await;
        };
        let mut bytes = size_of(&rows);
        while bytes < max_bytes
            && let Ok(more) = self.rows.try_recv()
        {
            bytes += size_of(&more);
            rows.extend(more);
        }
        self.waiting_bytes.fetch_sub(bytes, Relaxed);
        let late = now().plus(LEASE / 3);
        rows.retain(|row| row.available_at > late);
        rows
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}
