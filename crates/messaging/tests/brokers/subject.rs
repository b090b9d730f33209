//! The brokers under test, how they differ, and what the cases need to talk to one.

use std::{collections::HashSet, env, future::Future, ops::Range, sync::Arc, time::Duration};

use gozon_contract::{Delivery, RandomSource, Topic};
use gozon_messaging::{
    Batch, Broker, Message, Subscriber,
    broker::{Memory, connect},
};
use tokio::{sync::RwLock, task::JoinHandle, time::timeout};

/// Tests that kill a server have all of them to themselves.
pub static SERVERS: RwLock<()> = RwLock::const_new(());

/// A broker under test.
pub struct Subject {
    /// `None` if it is inside the process.
    pub server: Option<Server>,
    pub traits: Traits,
}

/// The server of a broker.
pub struct Server {
    /// What `scripts/services` calls it.
    pub name: &'static str,
    /// The environment variable that holds its URL.
    pub variable: &'static str,
}

/// How brokers may differ.
pub struct Traits {
    /// Keeps a message that no consumer has taken yet, so that publishing need not wait for one.
    pub stores: bool,
    /// How many consumers may compete while the messages of a key still arrive in order.
    pub consumers_in_order: usize,
    /// An attached consumer is told when the server goes away; others wait for its return.
    pub notices_loss: bool,
}

pub const MEMORY: Subject = Subject {
    server: None,
    traits: Traits { stores: false, consumers_in_order: 1, notices_loss: false },
};

#[cfg(feature = "rabbitmq")]
pub const RABBITMQ: Subject = Subject {
    server: Some(Server { name: "rabbitmq", variable: "GOZON_TEST_AMQP_URL" }),
    traits: Traits { stores: true, consumers_in_order: 1, notices_loss: true },
};

#[cfg(feature = "kafka")]
pub const KAFKA: Subject = Subject {
    server: Some(Server { name: "kafka", variable: "GOZON_TEST_KAFKA_URL" }),
    traits: Traits { stores: true, consumers_in_order: 2, notices_loss: false },
};

impl Subject {
    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("a broker with a server")
    }
}

impl Server {
    pub fn url(&self) -> String {
        env::var(self.variable).unwrap_or_else(|_| {
            panic!(
                "{} is not set; run the tests with `scripts/services run -- cargo test` or `make test`",
                self.variable
            )
        })
    }

    /// The URL, with another `host:port`.
    pub fn url_at(&self, authority: &str) -> String {
        let url = self.url();
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let (place, path) = rest.split_once('/').map_or((rest, None), |(a, b)| (a, Some(b)));
        let user = place.rsplit_once('@').map(|(user, _)| format!("{user}@")).unwrap_or_default();
        let path = path.map(|path| format!("/{path}")).unwrap_or_default();
        format!("{scheme}://{user}{authority}{path}")
    }
}

/// A broker with topics that no other test uses.
pub struct Rig {
    pub broker: Arc<dyn Broker>,
    pub queue: Topic,
    pub broadcast: Topic,
    topics: &'static [Topic],
    url: Option<String>,
}

impl Rig {
    /// Its topics are in use already: a queue's first moment, while several declare it at once, is
    /// when RabbitMQ 3.10 may drop a connection.
    pub async fn new(subject: &Subject) -> Self {
        let rig = Self::at(subject.server.as_ref().map(Server::url));
        in_time(rig.broker.publish(&[batch(rig.broadcast, "first", 0..1)])).await.unwrap();
        rig
    }

    /// The broker at a URL; the one in memory without.
    pub fn at(url: Option<String>) -> Self {
        let unique = RandomSource::system().next_u64();
        let topic = |kind: &str, delivery| Topic {
            name: Box::leak(format!("test.{kind}.{unique:016x}").into_boxed_str()),
            delivery,
        };
        let queue = topic("queue", Delivery::Competing);
        let broadcast = topic("broadcast", Delivery::Broadcast);
        let topics: &'static [Topic] = Box::leak(Box::new([queue, broadcast]));
        let broker = match &url {
            Some(url) => connect(url, topics, &RandomSource::system()).unwrap(),
            None => Arc::new(Memory::new(topics, RandomSource::system())),
        };
        Self { broker, queue, broadcast, topics, url }
    }

    /// The broker as another process has it.
    pub fn elsewhere(&self) -> Arc<dyn Broker> {
        match &self.url {
            Some(url) => connect(url, self.topics, &RandomSource::system()).unwrap(),
            None => Arc::clone(&self.broker),
        }
    }

    /// `count` events for the queue, ten to a batch and ten to a key; `what` makes their ids.
    pub fn batches(&self, what: &str, count: usize) -> Vec<Batch> {
        let ten = |n: usize| batch(self.queue, what, n * 10..(n + 1) * 10);
        (0..count / 10).map(ten).collect()
    }

    /// Publishes in the background: a broker may wait for the consumer.
    pub fn publish(&self, batches: Vec<Batch>) -> JoinHandle<()> {
        let broker = Arc::clone(&self.broker);
        tokio::spawn(async move { in_time(broker.publish(&batches)).await.unwrap() })
    }

    pub async fn subscribe(&self, topic: Topic) -> Box<dyn Subscriber> {
        in_time(self.broker.subscribe(topic)).await.unwrap()
    }
}

/// Some events for a topic in one batch; `what` and their number make their ids.
pub fn batch(topic: Topic, what: &str, numbers: Range<usize>) -> Batch {
    let id = format!("{what}-{}..{}", numbers.start, numbers.end);
    let events: Vec<_> = numbers.map(|n| event(what, n, "")).collect();
    let body = match &events[..] {
        [one] => one.clone(),
        all => format!("[{}]", all.join(",")),
    };
    Batch { id, topic: topic.name.to_owned(), body: body.into_bytes().into() }
}

/// An event, as far as a broker may look.
pub fn event(what: &str, n: usize, filler: &str) -> String {
    format!(r#"{{"id":"{what}-{n}","partitionkey":"key-{}","data":"{filler}"}}"#, n % 10)
}

/// The events of batches, in order.
pub fn events(batches: &[Batch]) -> Vec<Message> {
    batches.iter().flat_map(Batch::split).collect()
}

/// The ids of the events of batches. A broker may deliver events together that were not published
/// together, or the other way round.
pub fn ids(batches: &[Batch]) -> HashSet<String> {
    events(batches).into_iter().map(|event| event.id).collect()
}

/// Receives and acknowledges until all events of `wanted` were there; everything that was, in
/// order.
pub async fn receive(subscriber: &mut dyn Subscriber, wanted: &[Batch]) -> Vec<Batch> {
    receive_events(subscriber, ids(wanted)).await
}

/// The same, until the events with these ids were there.
pub async fn receive_events(
    subscriber: &mut dyn Subscriber,
    mut missing: HashSet<String>,
) -> Vec<Batch> {
    let mut all = Vec::new();
    while !missing.is_empty() {
        let received = in_time(subscriber.receive(MANY_BYTES)).await.unwrap();
        assert!(!received.is_empty());
        let arrived = ids(&received);
        missing.retain(|id| !arrived.contains(id));
        all.extend(received);
        in_time(subscriber.ack()).await.unwrap();
    }
    all
}

/// More than a test sends.
pub const MANY_BYTES: usize = 64 * 1024 * 1024;

/// So that a broker that hangs fails the test instead of hanging it.
pub async fn in_time<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(90), work).await.expect("no answer in 90 s")
}
