//! The broker of the simulation: queues that outlive every process, confirms, acknowledgements, and
//! all that can go wrong with them. It promises what RabbitMQ does: what was confirmed is delivered
//! at least once.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use gozon_contract::{Delivery, Topic};
use gozon_messaging::{Batch, Broker, BrokerError, Subscriber};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    dice::Dice,
    log,
    plan::{Kind, QUEUES},
    run::with_world,
};

/// A consumer takes so many messages at once, at most.
const PREFETCH: usize = 8;

/// The broker. Clones are the same.
#[derive(Clone)]
pub(crate) struct SimulatedBroker(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    dice: Dice,
    queues: BTreeMap<&'static str, VecDeque<Item>>,
    listeners: BTreeMap<u64, Listener>,
    /// What consumers hold, by consumer.
    held: BTreeMap<u64, (&'static str, Vec<Item>)>,
    next_consumer: u64,
    next_item: u64,
    /// Grows with each restart; a connection from before is broken.
    generation: u64,
    is_down: bool,
}

#[derive(Clone)]
struct Item {
    id: u64,
    batch: Batch,
    due: Instant,
    /// Whether it outlives a restart. What is confirmed does.
    is_safe: bool,
    delivered: u32,
}

#[derive(Default)]
struct Listener {
    batches: VecDeque<Batch>,
    /// Whether its queue is still bound.
    is_bound: bool,
}

/// What becomes of a batch that is published.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Publication {
    Fine,
    Lost,
    Unconfirmed,
    Rejected,
}

impl SimulatedBroker {
    pub fn new(seed: u64) -> Self {
        let state = State {
            dice: Dice::new(seed, 5),
            queues: QUEUES.into_iter().map(|name| (name, VecDeque::new())).collect(),
            listeners: BTreeMap::new(),
            held: BTreeMap::new(),
            next_consumer: 0,
            next_item: 0,
            generation: 0,
            is_down: false,
        };
        Self(Arc::new(Inner { state: Mutex::new(state), changed: Notify::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Breaks every connection and loses what is not confirmed; until [`SimulatedBroker::start`].
    pub fn stop(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.is_down = true;
        let held = std::mem::take(&mut state.held);
        for (queue, items) in held.into_values() {
            state.give_back(queue, items);
        }
        let mut lost = 0;
        for queue in state.queues.values_mut() {
            let before = queue.len();
            queue.retain(|item| item.is_safe);
            lost += before - queue.len();
        }
        state.listeners.clear();
        drop(state);
        if lost > 0 {
            log::sometimes("the broker lost what was not confirmed");
        }
        self.0.changed.notify_waiters();
    }

    /// Whether it holds what is not confirmed.
    pub fn is_unsafe(&self) -> bool {
        self.state().queues.values().flatten().any(|item| !item.is_safe)
    }

    /// It is there again.
    pub fn start(&self) {
        self.state().is_down = false;
        self.0.changed.notify_waiters();
    }

    /// Loses a queue, and what it holds; whether it held anything.
    pub fn lose_queue(&self, name: &'static str) -> bool {
        let mut state = self.state();
        let lost = state.queues.insert(name, VecDeque::new()).unwrap_or_default();
        if !lost.is_empty() {
            log::sometimes("a queue was lost");
        }
        !lost.is_empty()
    }

    /// Unbinds every listener: it stays connected, and gets nothing any more.
    pub fn lose_listeners(&self) {
        self.state().listeners.values_mut().for_each(|listener| listener.is_bound = false);
    }

    /// Puts a message that is none of ours into a queue.
    pub fn inject(&self, queue: &'static str, id: &str, body: &str) {
        let batch = Batch {
            id: id.to_owned(),
            topic: queue.to_owned(),
            body: body.as_bytes().to_vec().into(),
        };
        self.state().enqueue(queue, batch, Duration::ZERO, true);
        self.0.changed.notify_waiters();
    }

    /// Number of messages in queues and at consumers, those that come late included.
    pub fn waiting(&self) -> usize {
        let state = self.state();
        let queued: usize = state.queues.values().map(VecDeque::len).sum();
        queued + state.held.values().map(|(_, items)| items.len()).sum::<usize>()
    }

    fn check(&self, generation: u64) -> Result<(), BrokerError> {
        let state = self.state();
        if state.is_down || state.generation != generation {
            return Err(BrokerError::Away("the connection broke".to_owned()));
        }
        Ok(())
    }

    async fn pause(&self) {
        let wait = {
            let dice = &mut self.state().dice;
            if dice.chance(700) { 0 } else { dice.between(1, 3) }
        };
        if wait > 0 {
            sleep(Duration::from_millis(wait)).await;
        }
    }
}

impl State {
    fn enqueue(&mut self, queue: &'static str, batch: Batch, late: Duration, is_safe: bool) -> u64 {
        self.next_item += 1;
        let id = self.next_item;
        let item = Item { id, batch, due: Instant::now() + late, is_safe, delivered: 0 };
        self.queues.entry(queue).or_default().push_back(item);
        id
    }

    fn give_back(&mut self, queue: &'static str, items: Vec<Item>) {
        let waiting = self.queues.entry(queue).or_default();
        for item in items.into_iter().rev() {
            waiting.push_front(item);
        }
    }

    /// How late a message comes, and how late once more.
    fn fate() -> (Duration, Option<Duration>) {
        with_world(|world| {
            let late = world.find(|kind, dice| match kind {
                Kind::Delay(often) if dice.chance(often) => Some(dice.millis(1, 3_000)),
                _ => None,
            });
            let again = world.find(|kind, dice| match kind {
                Kind::Duplicate(often) if dice.chance(often) => Some(dice.millis(0, 12_000)),
                _ => None,
            });
            if late.is_some() {
                log::sometimes("a message was overtaken");
            }
            if again.is_some() {
                log::sometimes("a message arrived twice");
            }
            (late.unwrap_or_default(), again)
        })
    }
}

fn publication() -> Publication {
    let fate = with_world(|world| {
        world.find(|kind, dice| match kind {
            Kind::PublishLost(often) if dice.chance(often) => Some(Publication::Lost),
            Kind::ConfirmLost(often) if dice.chance(often) => Some(Publication::Unconfirmed),
            Kind::Reject(often) if dice.chance(often) => Some(Publication::Rejected),
            _ => None,
        })
    });
    match fate {
        Some(Publication::Lost) => log::sometimes("a published message was lost"),
        Some(Publication::Unconfirmed) => log::sometimes("a confirm was lost"),
        Some(Publication::Rejected) => log::sometimes("the broker rejected a batch"),
        _ => {}
    }
    fate.unwrap_or(Publication::Fine)
}

fn queue_of(topic: &str) -> Option<&'static str> {
    QUEUES.into_iter().find(|name| *name == topic)
}

#[async_trait]
impl Broker for SimulatedBroker {
    async fn publish(&self, batches: &[Batch]) -> Result<(), BrokerError> {
        self.pause().await;
        let generation = self.state().generation;
        self.check(generation)?;
        let (mut unconfirmed, mut rejected, mut unsafe_items) = (false, Vec::new(), Vec::new());
        for batch in batches {
            let Some(queue) = queue_of(&batch.topic) else {
                for listener in self.state().listeners.values_mut() {
                    if listener.is_bound {
                        listener.batches.push_back(batch.clone());
                    }
                }
                continue;
            };
            let fate = publication();
            if fate == Publication::Rejected {
                rejected.push(batch.id.clone());
                continue;
            }
            unconfirmed |= fate != Publication::Fine;
            if fate != Publication::Lost {
                let mut state = self.state();
                let (late, again) = State::fate();
                unsafe_items.push(state.enqueue(queue, batch.clone(), late, false));
                if let Some(again) = again {
                    state.enqueue(queue, batch.clone(), late + again, true);
                }
            }
        }
        self.0.changed.notify_waiters();
        self.pause().await;
        if unconfirmed {
            // Either the connection breaks, or there is never an answer.
            if self.state().dice.chance(500) {
                std::future::pending::<()>().await;
            }
            return Err(BrokerError::Away("no confirm".to_owned()));
        }
        self.check(generation)?;
        let mut state = self.state();
        let State { queues, held, .. } = &mut *state;
        let held = held.values_mut().flat_map(|(_, items)| items);
        for item in queues.values_mut().flatten().chain(held) {
            item.is_safe |= unsafe_items.contains(&item.id);
        }
        drop(state);
        if rejected.is_empty() {
            return Ok(());
        }
        Err(BrokerError::Rejected { ids: rejected, reason: "simulated".to_owned() })
    }

    async fn subscribe(&self, topic: Topic) -> Result<Box<dyn Subscriber>, BrokerError> {
        self.pause().await;
        let mut state = self.state();
        if state.is_down {
            return Err(BrokerError::Away("it is down".to_owned()));
        }
        state.next_consumer += 1;
        let (id, generation) = (state.next_consumer, state.generation);
        let queue = queue_of(topic.name);
        if let (Delivery::Competing, Some(queue)) = (topic.delivery, queue) {
            state.held.insert(id, (queue, Vec::new()));
        } else {
            let listener = Listener { is_bound: true, ..Listener::default() };
            state.listeners.insert(id, listener);
        }
        drop(state);
        Ok(Box::new(Consumer { broker: self.clone(), id, generation, queue }))
    }

    async fn ping(&self) -> Result<(), BrokerError> {
        let generation = self.state().generation;
        self.check(generation)
    }
}

struct Consumer {
    broker: SimulatedBroker,
    id: u64,
    generation: u64,
    /// `None` for a listener.
    queue: Option<&'static str>,
}

impl Consumer {
    /// What can be had now; otherwise when to look again.
    fn take(&self, max_bytes: usize) -> Result<(Vec<Batch>, Option<Instant>), BrokerError> {
        self.broker.check(self.generation)?;
        let mut guard = self.broker.state();
        let state = &mut *guard;
        let Some(queue) = self.queue else {
            let Some(listener) = state.listeners.get_mut(&self.id) else {
                return Err(BrokerError::Away("the queue is gone".to_owned()));
            };
            return Ok((listener.batches.drain(..).collect(), None));
        };
        let (now, mut taken, mut bytes) = (Instant::now(), Vec::new(), 0);
        let waiting = state.queues.entry(queue).or_default();
        let most = usize::try_from(state.dice.between(1, PREFETCH as u64)).unwrap_or(1);
        let mut at = 0;
        while at < waiting.len() && taken.len() < most && bytes < max_bytes {
            if waiting[at].due <= now
                && let Some(mut item) = waiting.remove(at)
            {
                item.delivered += 1;
                bytes += item.batch.body.len();
                taken.push(item);
            } else {
                at += 1;
            }
        }
        let next = waiting.iter().map(|item| item.due).min();
        let batches = taken.iter().map(|item| item.batch.clone()).collect();
        if let Some((_, held)) = state.held.get_mut(&self.id) {
            held.extend(taken);
        }
        Ok((batches, next))
    }

    fn end(&self, again: bool) {
        let mut state = self.broker.state();
        let Some((queue, held)) = state.held.get_mut(&self.id) else { return };
        let (queue, items) = (*queue, std::mem::take(held));
        if again {
            state.give_back(queue, items);
        } else {
            for item in items {
                // What was dealt with may come once more, much later.
                if let (_, Some(later)) = State::fate() {
                    state.enqueue(queue, item.batch, later, true);
                }
            }
        }
        drop(state);
        self.broker.0.changed.notify_waiters();
    }

    fn is_cut_off(&self) -> bool {
        self.queue.is_some()
            && with_world(|world| {
                world.find(|kind, dice| match kind {
                    Kind::Redeliver(often) if dice.chance(often) => Some(()),
                    _ => None,
                })
            })
            .is_some()
    }
}

#[async_trait]
impl Subscriber for Consumer {
    async fn receive(&mut self, max_bytes: usize) -> Result<Vec<Batch>, BrokerError> {
        loop {
            let broker = self.broker.clone();
            let mut changed = std::pin::pin!(broker.0.changed.notified());
            changed.as_mut().enable();
            let (batches, next) = self.take(max_bytes)?;
            if !batches.is_empty() {
                return Ok(batches);
            }
            let due = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = due => {}
            }
        }
    }

    async fn ack(&mut self) -> Result<(), BrokerError> {
        self.broker.pause().await;
        self.broker.check(self.generation)?;
        if self.is_cut_off() {
            return Err(BrokerError::Away("the channel was closed".to_owned()));
        }
        self.end(false);
        Ok(())
    }

    async fn nack(&mut self) -> Result<(), BrokerError> {
        self.broker.check(self.generation)?;
        self.end(true);
        Ok(())
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.end(true);
        let mut state = self.broker.state();
        state.held.remove(&self.id);
        state.listeners.remove(&self.id);
    }
}
