//! The broker inside the process: what `gozon up` uses unless told otherwise.
//!
//! It keeps nothing on disk, so [`Broker::publish`] returns only when the consumer has
//! acknowledged every batch, that is, committed it to its own database. Until then the outbox
//! has it; after a crash it is published again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use gozon_contract::{Delivery, RandomSource, Topic};
use tokio::sync::{Notify, broadcast};

use super::{Broker, BrokerError, Subscriber};
use crate::Batch;

/// How many broadcast batches a listener may be behind before it misses some.
const BROADCAST_BUFFER: usize = 1024;

/// The broker inside the process. Clones are the same broker.
#[derive(Clone)]
pub struct Memory {
    queues: Arc<HashMap<&'static str, Arc<Queue>>>,
    broadcasts: Arc<HashMap<&'static str, broadcast::Sender<Batch>>>,
    trouble: Trouble,
    random: RandomSource,
}

/// The faults that tests ask for.
#[derive(Clone, Copy, Default)]
struct Trouble {
    /// Every batch arrives twice.
    duplicate: bool,
    /// Batches arrive in any order.
    shuffle: bool,
}

#[derive(Default)]
struct Queue {
    items: Mutex<VecDeque<Item>>,
    arrived: Notify,
}

struct Item {
    batch: Batch,
    receipt: Arc<Receipt>,
}

/// Counts the acknowledgements that a publisher waits for.
struct Receipt {
    missing: AtomicUsize,
    complete: Notify,
}

impl Memory {
    /// A broker with these topics.
    pub fn new(topics: &[Topic], random: RandomSource) -> Self {
        let named = |delivery| {
            topics.iter().filter(move |topic| topic.delivery == delivery).map(|topic| topic.name)
        };
        let queues = named(Delivery::Competing).map(|name| (name, Arc::default())).collect();
        let broadcasts = named(Delivery::Broadcast)
            .map(|name| (name, broadcast::Sender::new(BROADCAST_BUFFER)))
            .collect();
        Self {
            queues: Arc::new(queues),
            broadcasts: Arc::new(broadcasts),
            trouble: Trouble::default(),
            random,
        }
    }

    /// `memory:`, or with faults for tests: `memory:?duplicate`, `memory:?shuffle`,
    /// `memory:?duplicate&shuffle`.
    pub(super) fn from_url(
        url: &str,
        topics: &[Topic],
        random: RandomSource,
    ) -> Result<Self, BrokerError> {
        let mut memory = Self::new(topics, random);
        let options = match url.strip_prefix("memory:").unwrap_or_default() {
            "" => return Ok(memory),
            rest => rest
                .strip_prefix('?')
                .ok_or_else(|| BrokerError::InvalidUrl(format!("memory: takes no {rest:?}")))?,
        };
        for option in options.split('&') {
            match option {
                "duplicate" => memory.trouble.duplicate = true,
                "shuffle" => memory.trouble.shuffle = true,
                _ => return Err(BrokerError::InvalidUrl(format!("memory: knows no {option:?}"))),
            }
        }
        Ok(memory)
    }

    fn copies(&self) -> usize {
        if self.trouble.duplicate { 2 } else { 1 }
    }

    fn enqueue(&self, queue: &Queue, batch: &Batch, receipt: &Arc<Receipt>) {
        let mut items = queue.lock();
        for _ in 0..self.copies() {
            let item = Item { batch: batch.clone(), receipt: Arc::clone(receipt) };
            if self.trouble.shuffle {
                let places = items.len() as u64 + 1;
                let place = usize::try_from(self.random.next_u64() % places).unwrap_or(0);
                items.insert(place, item);
            } else {
                items.push_back(item);
            }
        }
        drop(items);
        queue.arrived.notify_one();
    }
}

#[async_trait]
impl Broker for Memory {
    async fn publish(&self, batches: &[Batch]) -> Result<(), BrokerError> {
        let receipt = Arc::new(Receipt { missing: AtomicUsize::new(1), complete: Notify::new() });
        let published = Published { queues: &self.queues, receipt: Arc::clone(&receipt) };
        let mut unknown = Vec::new();
        for batch in batches {
            if let Some(queue) = self.queues.get(batch.topic.as_str()) {
                receipt.missing.fetch_add(self.copies(), Ordering::AcqRel);
                self.enqueue(queue, batch, &receipt);
            } else if let Some(listeners) = self.broadcasts.get(batch.topic.as_str()) {
                for _ in 0..self.copies() {
                    // An error only says that nobody is listening.
                    let _ = listeners.send(batch.clone());
                }
            } else {
                unknown.push(batch.id.clone());
            }
        }
        receipt.acknowledge();
        receipt.wait().await;
        drop(published);
        if unknown.is_empty() {
            return Ok(());
        }
        Err(BrokerError::Rejected { ids: unknown, reason: "no such topic".to_owned() })
    }

    async fn subscribe(&self, topic: Topic) -> Result<Box<dyn Subscriber>, BrokerError> {
        if let Some(queue) = self.queues.get(topic.name) {
            return Ok(Box::new(Competing { queue: Arc::clone(queue), held: Vec::new() }));
        }
        if let Some(listeners) = self.broadcasts.get(topic.name) {
            return Ok(Box::new(Listener(listeners.subscribe())));
        }
        Err(BrokerError::Away(format!("no topic is called {}", topic.name)))
    }

    async fn ping(&self) -> Result<(), BrokerError> {
        Ok(())
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Item>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Receipt {
    fn acknowledge(&self) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.complete.notify_one();
        }
    }

    /// There is one publisher to a receipt, and `notify_one` keeps its permit if it comes first.
    async fn wait(&self) {
        while self.missing.load(Ordering::Acquire) > 0 {
            self.complete.notified().await;
        }
    }
}

/// What one call published. A publisher that does not wait for the end takes back what nobody has
/// received yet: it will publish it again, and a queue without a consumer must not grow for ever.
struct Published<'a> {
    queues: &'a HashMap<&'static str, Arc<Queue>>,
    receipt: Arc<Receipt>,
}

impl Drop for Published<'_> {
    fn drop(&mut self) {
        if self.receipt.missing.load(Ordering::Acquire) == 0 {
            return;
        }
        for queue in self.queues.values() {
            queue.lock().retain(|item| !Arc::ptr_eq(&item.receipt, &self.receipt));
        }
    }
}

/// One of the competing consumers of a queue.
struct Competing {
    queue: Arc<Queue>,
    held: Vec<Item>,
}

impl Competing {
    fn give_back(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let mut items = self.queue.lock();
        for item in self.held.drain(..).rev() {
            items.push_front(item);
        }
        drop(items);
        self.queue.arrived.notify_one();
    }
}

#[async_trait]
impl Subscriber for Competing {
    async fn receive(&mut self, max_bytes: usize) -> Result<Vec<Batch>, BrokerError> {
        loop {
            {
                let mut items = self.queue.lock();
                let mut bytes = 0;
                while bytes < max_bytes
                    && let Some(item) = items.pop_front()
                {
                    bytes += item.batch.body.len();
                    self.held.push(item);
                }
                if !items.is_empty() {
                    self.queue.arrived.notify_one();
                }
            }
            if !self.held.is_empty() {
                return Ok(self.held.iter().map(|item| item.batch.clone()).collect());
            }
            self.queue.arrived.notified().await;
        }
    }

    async fn ack(&mut self) -> Result<(), BrokerError> {
        for item in self.held.drain(..) {
            item.receipt.acknowledge();
        }
        Ok(())
    }

    async fn nack(&mut self) -> Result<(), BrokerError> {
        self.give_back();
        Ok(())
    }
}

impl Drop for Competing {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// A listener of a broadcast topic. What it missed by being slow is gone: state heals, not events.
struct Listener(broadcast::Receiver<Batch>);

#[async_trait]
impl Subscriber for Listener {
    async fn receive(&mut self, max_bytes: usize) -> Result<Vec<Batch>, BrokerError> {
        let (mut batches, mut bytes) = (Vec::new(), 0);
        loop {
            match self.0.recv().await {
                Ok(batch) => {
                    bytes += batch.body.len();
                    batches.push(batch);
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    return Err(BrokerError::Away(format!("missed {missed} batches")));
                }
                Err(broadcast::error::RecvError::Closed) => {
                    return Err(BrokerError::Away("closed".to_owned()));
                }
            }
            if bytes >= max_bytes || self.0.is_empty() {
                return Ok(batches);
            }
        }
    }

    async fn ack(&mut self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn nack(&mut self) -> Result<(), BrokerError> {
        Ok(())
    }
}
