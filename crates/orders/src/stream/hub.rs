//! Which sockets this instance has, by user. Telling a user costs what that user's sockets cost,
//! however many others there are, connected or not.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use axum::extract::ws::Utf8Bytes;
use gozon_contract::{Order, OrderId, Timestamp, UserId};
use gozon_messaging::TraceParent;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::StreamLimits;

/// How many frames may wait for a client before it is cut off.
const QUEUE: usize = 1024;
const SHARDS: usize = 64;

/// What a socket is told.
#[derive(Clone, Debug)]
pub(crate) enum Note {
    /// An order as it is now.
    Frame(Frame),
    /// Changes since this instant may have been missed: read them.
    CatchUp(Timestamp),
}

/// An `order` frame, ready to be sent to any number of sockets.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub order: OrderId,
    pub version: i64,
    pub text: Utf8Bytes,
}

/// The JSON of an `order` frame; `O` is an order, or one that is JSON already.
#[derive(Serialize)]
pub(crate) struct OrderFrame<'a, O> {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub order: &'a O,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
}

impl Frame {
    /// A frame of `order`, given also as `json`.
    pub fn new(
        order: OrderId,
        version: i64,
        json: &impl Serialize,
        traceparent: Option<TraceParent>,
    ) -> Self {
        let frame = OrderFrame { kind: "order", order: json, traceparent };
        let text = serde_json::to_string(&frame).unwrap_or_default().into();
        Self { order, version, text }
    }
}

/// The sockets of this instance. Clones are the same hub.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Inner>);

struct Inner {
    limits: StreamLimits,
    shards: Vec<Mutex<HashMap<UserId, Vec<Sink>>>>,
    hasher: RandomState,
    next_id: AtomicU64,
    sockets: AtomicUsize,
}

struct Sink {
    id: u64,
    notes: mpsc::Sender<Note>,
    /// Cancelled when the client can't keep up.
    overflow: CancellationToken,
}

/// Why a socket is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The instance has as many as it takes.
    Instance,
    /// The user has as many as one may have.
    User,
}

/// A registered socket; dropped, it is no longer.
pub(crate) struct Seat {
    hub: Hub,
    user: UserId,
    id: u64,
    /// What the socket is told.
    pub notes: mpsc::Receiver<Note>,
    /// Cancelled when it can't keep up.
    pub overflow: CancellationToken,
}

impl Hub {
    /// A hub without sockets.
    pub fn new(limits: StreamLimits) -> Self {
        Self(Arc::new(Inner {
            limits,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            next_id: AtomicU64::new(0),
            sockets: AtomicUsize::new(0),
        }))
    }

    /// What sockets may cost.
    pub fn limits(&self) -> &StreamLimits {
        &self.0.limits
    }

    /// How many sockets there are.
    pub fn sockets(&self) -> usize {
        self.0.sockets.load(Ordering::Relaxed)
    }

    fn shard(&self, user: UserId) -> MutexGuard<'_, HashMap<UserId, Vec<Sink>>> {
        let hash = self.0.hasher.hash_one(user);
        let index = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        self.0.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a socket of a user: from now on it is told of every change.
    pub fn join(&self, user: UserId) -> Result<Seat, Full> {
        let mut shard = self.shard(user);
        if shard.get(&user).map_or(0, Vec::len) >= self.0.limits.sockets_per_user {
            return Err(Full::User);
        }
        let limit = self.0.limits.sockets;
        let place = |count| (count < limit).then_some(count + 1);
        if self.0.sockets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place).is_err() {
            return Err(Full::Instance);
        }
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, notes) = mpsc::channel(QUEUE);
        let overflow = CancellationToken::new();
        let sink = Sink { id, notes: sender, overflow: overflow.clone() };
        shard.entry(user).or_default().push(sink);
        metrics::gauge!("gozon_stream_sockets").increment(1.0);
        Ok(Seat { hub: self.clone(), user, id, notes, overflow })
    }

    /// Whether a user has a socket here.
    pub fn has(&self, user: UserId) -> bool {
        self.shard(user).contains_key(&user)
    }

    /// Tells every socket of a user. One that has no room left is cut off; nobody waits for it.
    pub fn tell(&self, user: UserId, note: &Note) {
        if let Some(sinks) = self.shard(user).get_mut(&user) {
            tell_each(sinks, note);
        }
    }

    /// Tells every socket of every user.
    pub fn tell_all(&self, note: &Note) {
        for shard in &self.0.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.values_mut().for_each(|sinks| tell_each(sinks, note));
        }
    }

    /// An order was placed through this instance: its user's sockets here see it NEW. It costs no
    /// durable row, so other instances' sockets first see it when it is settled.
    pub fn placed(&self, order: &Order, trace: TraceParent) {
        if self.has(order.user_id) {
            let frame = Frame::new(order.id, order.version, order, Some(trace));
            self.tell(order.user_id, &Note::Frame(frame));
        }
    }
}

fn tell_each(sinks: &mut [Sink], note: &Note) {
    for sink in sinks {
        if sink.notes.try_send(note.clone()).is_err() {
            sink.overflow.cancel();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut shard = self.hub.shard(self.user);
        if let Some(sinks) = shard.get_mut(&self.user) {
            sinks.retain(|sink| sink.id != self.id);
            if sinks.is_empty() {
                shard.remove(&self.user);
            }
        }
        drop(shard);
        self.hub.0.sockets.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("gozon_stream_sockets").decrement(1.0);
    }
}
