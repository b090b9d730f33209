//! The transactional outbox: messages become durable in the transaction that they speak of.

use std::{collections::HashSet, time::Duration};

use gozon_contract::{Clock, Timestamp};
use gozon_store::Statement;
use tokio::sync::mpsc;

use crate::{
    Message,
    sql::{self, outbox::OutboxRow},
};

/// How long the process that wrote a row has it to itself. After a crash the rows it left behind
/// are taken over this much later.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// Leases end at multiples of this, so that rows that were written at about the same time are
/// claimed and deleted together.
const TICK: i64 = 100_000;

/// How many committed batches may wait for the relay in memory. What does not fit is no loss: it
/// is in the outbox, and the sweep finds it when its lease is over.
const HAND_OVER: usize = 1024;

/// The writing end of the outbox of one database. Clones write to the same relay.
#[derive(Clone, Debug)]
pub struct Outbox {
    clock: Clock,
    relay: mpsc::Sender<Vec<OutboxRow>>,
}

/// The relay's end of an [`Outbox`].
#[derive(Debug)]
pub struct Handed(pub(crate) mpsc::Receiver<Vec<OutboxRow>>);

/// Messages that are in the outbox once a transaction with their [statement](Added::statement) is
/// committed. Say so with [`Added::committed`] and the relay sends them at once, from memory, without
/// reading the table.
#[must_use = "call committed() after the commit, so that the relay need not wait for the lease"]
#[derive(Debug)]
pub struct Added {
    rows: Vec<OutboxRow>,
    relay: mpsc::Sender<Vec<OutboxRow>>,
}

impl Outbox {
    /// An outbox and the end that its [`Relay`](crate::Relay) reads from.
    pub fn new(clock: Clock) -> (Self, Handed) {
        let (relay, handed) = mpsc::channel(HAND_OVER);
        (Self { clock, relay }, Handed(handed))
    }

    /// Messages on their way into the outbox: what is to be done about them
    /// [in the transaction](Added::statement), and [after it](Added::committed).
    pub fn add(&self, messages: Vec<Message>) -> Added {
        let created_at = self.clock.now();
        let lease_ends = created_at.plus(LEASE).micros();
        let available_at = Timestamp::from_micros(lease_ends - lease_ends.rem_euclid(TICK) + TICK);
        let row = |message| OutboxRow { available_at, created_at, attempts: 0, message };
        let rows = each_once(messages).into_iter().map(row).collect();
        Added { rows, relay: self.relay.clone() }
    }
}

/// Messages without those that repeat one before them. An order that is asked about twice in one
/// batch is answered twice, with the same event.
fn each_once(mut messages: Vec<Message>) -> Vec<Message> {
    let mut ids = HashSet::with_capacity(messages.len());
    let repeated: Vec<_> = messages.iter().map(|message| !ids.insert(&*message.id)).collect();
    let mut repeated = repeated.into_iter();
    messages.retain(|_| repeated.next() != Some(true));
    messages
}

impl Added {
    /// What puts them there, unless there are none.
    pub fn statement(&self) -> Option<Statement> {
        (!self.rows.is_empty()).then(|| sql::outbox::insert(&self.rows))
    }

    /// What was put there.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.rows.iter().map(|row| &row.message)
    }

    /// The transaction is committed: hands the messages to the relay.
    pub fn committed(self) {
        if !self.rows.is_empty() && self.relay.try_send(self.rows).is_err() {
            tracing::debug!("the relay is behind; the sweep will find these messages");
        }
    }
}

impl Handed {
    /// The next committed messages: all that wait, up to about `most`. Those whose lease is nearly
    /// over are left to the sweep, which may already have them.
    pub(crate) async fn next(
        &mut self,
        most: usize,
        now: impl Fn() -> Timestamp,
    ) -> Vec<OutboxRow> {
        let Some(mut rows) = self.0.recv().await else {
            return std::future::pending().await;
        };
        while rows.len() < most
            && let Ok(more) = self.0.try_recv()
        {
            rows.extend(more);
        }
        let late = now().plus(LEASE / 3);
        rows.retain(|row| row.available_at > late);
        rows
    }
}
