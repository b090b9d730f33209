//! Which sockets this instance has, by user. Telling a user costs what that user's sockets cost,
//! however many others there are, connected or not.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use axum::extract::ws::Utf8Bytes;
use gozon_contract::{ORDER_CHANGED, Order, OrderId, Timestamp, TraceParent, UserId};
use gozon_messaging::{Message, Received};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::StreamLimits;

/// How many frames may wait for a client before it is cut off.
const QUEUE: usize = 4096;
const SHARDS: usize = 64;
/// With so much room left a socket is told of an order by whoever settled it. A batch of one user's
/// could fill the queue; those that hear it from the broker let the sockets send in between.
const AMPLE: usize = QUEUE - 64;
/// Of how many orders it is remembered that the sockets know of them before the broadcast. Beyond
/// that they hear it twice, and look at the version.
const TOLD: usize = 10_000;

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

    /// The frame of the order that an `order.changed` message tells of.
    fn of(message: &Message) -> Option<Self> {
        /// The little that is read of it; the rest goes to the sockets as it came.
        #[derive(Deserialize)]
        struct Head {
            id: OrderId,
            version: i64,
        }
        let event = Received::<Box<RawValue>>::read(message)
            .inspect_err(|error| tracing::warn!(id = message.id, %error, "can't read a broadcast"))
            .ok()?;
        let head: Head = serde_json::from_str(event.data.get()).ok()?;
        Some(Self::new(head.id, head.version, &event.data, event.traceparent))
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
    /// The ids of events that were told here and not heard from the broker yet. An order changes
    /// once, and so an id stands for one version.
    told: Mutex<HashSet<String>>,
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
            told: Mutex::default(),
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

    /// Whether a user has a socket here, and none with less room than that.
    fn has_room(&self, user: UserId, room: usize) -> bool {
        let has_room = |sinks: &Vec<Sink>| sinks.iter().all(|sink| sink.notes.capacity() >= room);
        self.shard(user).get(&user).is_some_and(has_room)
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
        if self.has_room(order.user_id, 0) {
            let frame = Frame::new(order.id, order.version, order, Some(trace));
            self.tell(order.user_id, &Note::Frame(frame));
        }
    }

    /// This instance settled an order: its user's sockets here need not wait for the broadcast.
    pub fn settled_here(&self, order: &Order, trace: Option<TraceParent>) {
        if !self.has_room(order.user_id, AMPLE) {
            return;
        }
        let frame = Frame::new(order.id, order.version, order, trace);
        self.tell(order.user_id, &Note::Frame(frame));
        let mut told = self.told();
        if told.len() >= TOLD {
            told.clear();
        }
        told.insert(format!("{}:{}", order.id, ORDER_CHANGED.name));
    }

    /// An order was settled, here or elsewhere.
    pub fn heard(&self, changed: &Message) {
        if self.told().remove(&changed.id) {
            return;
        }
        let Ok(user) = changed.key.parse() else { return };
        if self.has_room(user, 0)
            && let Some(frame) = Frame::of(changed)
        {
            self.tell(user, &Note::Frame(frame));
        }
    }

    fn told(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use gozon_contract::{Money, ORDERS_SOURCE, OrderStatus};
    use gozon_messaging::Event;

    use super::*;

    const USER: &str = "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e";

    fn hub() -> (Hub, Seat) {
        let hub = Hub::new(StreamLimits::default());
        let seat = hub.join(USER.parse().unwrap()).unwrap();
        (hub, seat)
    }

    fn order(n: u32) -> Order {
        let id = format!("019aa3d9-a47b-774c-8000-{n:012}");
        Order {
            id: id.parse().unwrap(),
            user_id: USER.parse().unwrap(),
            amount: Money::try_from(1).unwrap(),
            description: "A pin".to_owned().try_into().unwrap(),
            status: OrderStatus::Finished,
            cancel_reason: None,
            version: 2,
            created_at: Timestamp::from_micros(1),
            updated_at: Timestamp::from_micros(1),
        }
    }

    fn changed(n: u32) -> Message {
        let (topic, source, data) = (ORDER_CHANGED.name, ORDERS_SOURCE, order(n));
        let (subject, partition_key, time) = (data.id, data.user_id, data.updated_at);
        Event { topic, source, subject, partition_key, time, traceparent: None, data }.to_message()
    }

    fn told(seat: &mut Seat) -> usize {
        std::iter::from_fn(|| seat.notes.try_recv().ok()).count()
    }

    #[test]
    fn what_is_settled_here_is_told_once_and_before_the_broadcast() {
        let (hub, mut seat) = hub();
        hub.settled_here(&order(1), None);
        assert_eq!(told(&mut seat), 1);
        hub.heard(&changed(1));
        assert_eq!(told(&mut seat), 0);
        // What is said again after that comes from somebody who had reason to.
        hub.heard(&changed(1));
        assert_eq!(told(&mut seat), 1);
    }

    #[test]
    fn what_another_instance_settled_is_told() {
        let (hub, mut seat) = hub();
        hub.heard(&changed(1));
        assert_eq!(told(&mut seat), 1);
    }

    #[test]
    fn who_comes_after_the_commit_hears_the_broadcast_if_nobody_was_there_to_be_told() {
        let (hub, seat) = hub();
        drop(seat);
        hub.settled_here(&order(1), None);
        let mut late = hub.join(USER.parse().unwrap()).unwrap();
        hub.heard(&changed(1));
        assert_eq!(told(&mut late), 1);
    }

    #[test]
    fn a_large_batch_cuts_no_socket_off() {
        let (hub, mut seat) = hub();
        let batch: Vec<_> = (0..3_000).map(changed).collect();
        for n in 0..3_000 {
            hub.settled_here(&order(n), None);
        }
        let mut heard = told(&mut seat);
        assert!(heard > 0 && heard < QUEUE / 2, "{heard} at once");
        for message in &batch {
            hub.heard(message);
            heard += told(&mut seat);
        }
        assert_eq!(heard, batch.len());
        assert!(!seat.overflow.is_cancelled());
    }

    #[test]
    fn the_memory_of_what_was_told_is_bounded() {
        let (hub, mut seat) = hub();
        for n in 0..30_000 {
            hub.settled_here(&order(n), None);
            told(&mut seat);
        }
        assert!(hub.told().len() <= TOLD);
    }
}
