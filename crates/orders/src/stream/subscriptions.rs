//! The live clients of this instance, by user. Notifying a user costs what that user's clients
//! cost, however many others there are, connected or not.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
};

use gozon_api::live::Frame;
use gozon_contract::{ORDER_CHANGED, Order, Timestamp, TraceParent, UserId};
use gozon_messaging::{Message, Received};
use gozon_seam::mutation;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::StreamLimits;

/// The most updates that may wait for a client before it is closed.
const SEND_QUEUE_UPDATES: usize = 4096;
/// Number of parts with a lock each.
const SHARDS: usize = 64;
/// Free places in a client's queue from which on a result settled here is pushed right after its
/// commit. A batch of one user's could fill the queue; those that come by the broadcast let the
/// clients send in between.
const DIRECT_PUSH_FREE: usize = SEND_QUEUE_UPDATES - 64;
/// Number of pushed ids to keep until their broadcast comes back. Beyond that clients get a frame
/// twice, and pass over the version that they had.
const MAX_PUSHED_IDS: usize = 10_000;
/// The most clients that read from the database at once, for a snapshot or to catch up.
const MAX_READS: usize = 4;

/// What is queued for a client.
#[derive(Clone, Debug)]
pub(crate) enum Queued {
    /// An order as it is now.
    Frame(Arc<Frame>),
    /// Changes since this instant may have been missed: read them.
    CatchUp(Timestamp),
}

impl Queued {
    /// Whether it is a new order, and nothing more.
    pub(crate) fn is_new_order(&self) -> bool {
        matches!(self, Self::Frame(frame) if frame.order.version == 1)
    }
}

/// The frame of the order in an `order.changed` message.
fn read_frame(message: &Message, as_of: Timestamp) -> Option<Frame> {
    let event = Received::<Order>::read(message)
        .inspect_err(|error| tracing::warn!(id = message.id, %error, "can't read a broadcast"))
        .ok()?;
    Some(Frame::new(event.data, event.traceparent, as_of))
}

/// The live clients of this instance. Clones are the same.
#[derive(Clone)]
pub(crate) struct Subscriptions(Arc<Inner>);

struct Inner {
    limits: StreamLimits,
    shards: Vec<Mutex<BTreeMap<UserId, Vec<Queue>>>>,
    next_id: AtomicU64,
    count: AtomicUsize,
    /// The ids of events that were pushed after their commit and did not come back from the
    /// broker yet. An order changes once, and so an id stands for one version.
    pushed: Mutex<HashSet<String>>,
    /// All that was published before this instant has arrived, in microseconds.
    complete_until: AtomicI64,
    reads: Semaphore,
}

/// Where updates for a client go in.
struct Queue {
    id: u64,
    updates: mpsc::Sender<Queued>,
    /// Cancelled when the client can't keep up.
    overflow: CancellationToken,
}

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The instance has as many as it takes.
    Instance,
    /// The user has as many as one may have.
    User,
}

/// A client's subscription; it ends when this is dropped.
pub(crate) struct Subscription {
    subscriptions: Subscriptions,
    user: UserId,
    id: u64,
    /// What the client gets.
    pub updates: mpsc::Receiver<Queued>,
    /// Cancelled when the client can't keep up.
    pub overflow: CancellationToken,
}

impl Subscriptions {
    /// None yet.
    pub fn new(limits: StreamLimits) -> Self {
        Self(Arc::new(Inner {
            limits,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            next_id: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            pushed: Mutex::default(),
            complete_until: AtomicI64::new(0),
            reads: Semaphore::new(MAX_READS),
        }))
    }

    /// How many clients there are.
    pub fn count(&self) -> usize {
        self.0.count.load(Ordering::Relaxed)
    }

    /// Permits to read from the database.
    pub fn reads(&self) -> &Semaphore {
        &self.0.reads
    }

    /// The last instant until which everything that was published is known to have arrived.
    pub fn complete_until(&self) -> Timestamp {
        Timestamp::from_micros(self.0.complete_until.load(Ordering::Acquire))
    }

    /// Everything that was published before `until` has arrived, and is queued.
    pub fn set_complete_until(&self, until: Timestamp) {
        self.0.complete_until.store(until.micros(), Ordering::Release);
    }

    fn shard(&self, user: UserId) -> MutexGuard<'_, BTreeMap<UserId, Vec<Queue>>> {
        // The last bits of a UUID are random.
        let index = usize::try_from(user.uuid().as_u128() % SHARDS as u128).unwrap_or(0);
        self.0.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes a client to its user's orders: from now on it gets every change.
    pub fn subscribe(&self, user: UserId) -> Result<Subscription, Full> {
        let mut shard = self.shard(user);
        if shard.get(&user).map_or(0, Vec::len) >= self.0.limits.sockets_per_user {
            return Err(Full::User);
        }
        let limit = self.0.limits.sockets;
        let place = |count| (count < limit).then_some(count + 1);
        if self.0.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place).is_err() {
            return Err(Full::Instance);
        }
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, updates) = mpsc::channel(SEND_QUEUE_UPDATES);
        let overflow = CancellationToken::new();
        let queue = Queue { id, updates: sender, overflow: overflow.clone() };
        shard.entry(user).or_insert_with(|| Vec::with_capacity(1)).push(queue);
        metrics::gauge!("gozon_stream_sockets").increment(1.0);
        Ok(Subscription { subscriptions: self.clone(), user, id, updates, overflow })
    }

    /// Whether a user has a client here, and none with fewer free places in its queue than that.
    fn has_room(&self, user: UserId, free: usize) -> bool {
        let has_room = |queues: &Vec<Queue>| queues.iter().all(|q| q.updates.capacity() >= free);
        self.shard(user).get(&user).is_some_and(has_room)
    }

    /// Queues an update for every client of a user. One whose queue is full is closed; nobody waits
    /// for it.
    fn notify(&self, user: UserId, update: &Queued) {
        if mutation!("everybody gets every frame") {
            return self.notify_all(update);
        }
        if let Some(queues) = self.shard(user).get_mut(&user) {
            if mutation!("one socket per user") {
                let newest = queues.len().saturating_sub(1);
                return queue_for_each(&mut queues[newest..], update);
            }
            queue_for_each(queues, update);
        }
    }

    /// Queues an update for every client of every user.
    pub fn notify_all(&self, update: &Queued) {
        for shard in &self.0.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.values_mut().for_each(|queues| queue_for_each(queues, update));
        }
    }

    /// An order was placed through this instance: its user's clients here see it NEW. It costs no
    /// durable row, so other instances' clients first see it when it is settled.
    pub fn placed(&self, order: &Order, trace: TraceParent) {
        if self.has_room(order.user_id, 0) {
            let as_of = self.complete_until();
            let frame = Frame::new(order.clone(), Some(trace), as_of);
            self.notify(order.user_id, &Queued::Frame(Arc::new(frame)));
        }
    }

    /// This instance settled an order: its user's clients here need not wait for the broadcast.
    pub fn settled_here(&self, order: &Order, trace: Option<TraceParent>) {
        if !self.has_room(order.user_id, DIRECT_PUSH_FREE) {
            return;
        }
        let frame = Frame::new(order.clone(), trace, self.complete_until());
        self.notify(order.user_id, &Queued::Frame(Arc::new(frame)));
        let mut pushed = self.pushed();
        if pushed.len() >= MAX_PUSHED_IDS {
            pushed.clear();
        }
        pushed.insert(format!("{}:{}", order.id, ORDER_CHANGED.name));
    }

    /// An order was settled, here or elsewhere.
    pub fn heard(&self, changed: &Message) {
        if self.pushed().remove(&changed.id) {
            return;
        }
        let Ok(user) = changed.key.parse() else { return };
        if self.has_room(user, 0)
            && let Some(frame) = read_frame(changed, self.complete_until())
        {
            self.notify(user, &Queued::Frame(Arc::new(frame)));
        }
    }

    fn pushed(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.pushed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn queue_for_each(queues: &mut [Queue], update: &Queued) {
    for queue in queues {
        if queue.updates.try_send(update.clone()).is_err() {
            queue.overflow.cancel();
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut shard = self.subscriptions.shard(self.user);
        if let Some(queues) = shard.get_mut(&self.user) {
            queues.retain(|queue| queue.id != self.id);
            if queues.is_empty() {
                shard.remove(&self.user);
            }
        }
        drop(shard);
        self.subscriptions.0.count.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("gozon_stream_sockets").decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use gozon_contract::{Description, Money, ORDERS_SOURCE, OrderStatus};
    use gozon_messaging::Event;

    use super::*;

    const USER: &str = "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e";

    fn one() -> (Subscriptions, Subscription) {
        let all = Subscriptions::new(StreamLimits::default());
        let client = all.subscribe(USER.parse().unwrap()).unwrap();
        (all, client)
    }

    fn order(n: u32) -> Order {
        let at = Timestamp::from_micros(1);
        Order {
            id: format!("019aa3d9-a47b-774c-8000-{n:012}").parse().unwrap(),
            user_id: USER.parse().unwrap(),
            amount: Money::try_from(1).unwrap(),
            description: Description::try_from("a kettle".to_owned()).unwrap(),
            status: OrderStatus::Finished,
            cancel_reason: None,
            version: 2,
            created_at: at,
            updated_at: at,
        }
    }

    fn changed(order: &Order) -> Message {
        let event = Event {
            topic: ORDER_CHANGED.name,
            source: ORDERS_SOURCE,
            subject: order.id,
            partition_key: order.user_id,
            time: order.updated_at,
            traceparent: None,
            data: order,
        };
        event.to_message()
    }

    fn received(client: &mut Subscription) -> usize {
        std::iter::from_fn(|| client.updates.try_recv().ok()).count()
    }

    #[test]
    fn a_result_settled_here_is_pushed_once_before_its_broadcast() {
        let (all, mut client) = one();
        all.settled_here(&order(1), None);
        assert_eq!(received(&mut client), 1);
        all.heard(&changed(&order(1)));
        assert_eq!(received(&mut client), 0);
        // A repeat after that was sent on purpose.
        all.heard(&changed(&order(1)));
        assert_eq!(received(&mut client), 1);
    }

    #[test]
    fn a_result_of_another_instance_is_pushed() {
        let (all, mut client) = one();
        all.heard(&changed(&order(1)));
        assert_eq!(received(&mut client), 1);
    }

    #[test]
    fn a_client_that_came_after_the_commit_gets_the_broadcast() {
        let (all, client) = one();
        drop(client);
        all.settled_here(&order(1), None);
        let mut late = all.subscribe(USER.parse().unwrap()).unwrap();
        all.heard(&changed(&order(1)));
        assert_eq!(received(&mut late), 1);
    }

    #[test]
    fn a_large_batch_closes_no_client() {
        let (all, mut client) = one();
        let batch: Vec<_> = (0..3_000).map(order).collect();
        for order in &batch {
            all.settled_here(order, None);
        }
        let mut heard = received(&mut client);
        assert!(heard > 0 && heard < SEND_QUEUE_UPDATES / 2, "{heard} at once");
        for order in &batch {
            all.heard(&changed(order));
            heard += received(&mut client);
        }
        assert_eq!(heard, batch.len());
        assert!(!client.overflow.is_cancelled());
    }

    #[test]
    fn the_memory_of_pushed_ids_is_bounded() {
        let (all, mut client) = one();
        for n in 0..30_000 {
            all.settled_here(&order(n), None);
            received(&mut client);
        }
        assert!(all.pushed().len() <= MAX_PUSHED_IDS);
    }
}
