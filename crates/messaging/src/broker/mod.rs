//! The brokers: one file, one feature and one match arm each.

use std::sync::Arc;

use async_trait::async_trait;
use gozon_contract::{RandomSource, Topic};

use crate::Batch;

#[cfg(feature = "kafka")]
mod kafka;
mod memory;
#[cfg(any(feature = "kafka", feature = "rabbitmq"))]
mod parameters;
#[cfg(any(feature = "kafka", feature = "rabbitmq"))]
mod pem;
mod prefix;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(any(feature = "kafka", feature = "rabbitmq"))]
mod refusals;

pub use memory::Memory;

use prefix::Prefixed;
#[cfg(any(feature = "kafka", feature = "rabbitmq"))]
use refusals::Refusals;

/// Carries messages between processes, at least once.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Publishes batches. When it returns `Ok`, every event is safe: it will be delivered even if
    /// this process, the broker or a consumer crashes now.
    ///
    /// # Errors
    /// [`BrokerError::Away`]: any part may have arrived or not; publish it all again.
    /// [`BrokerError::Rejected`]: all but those named are safe.
    async fn publish(&self, batches: &[Batch]) -> Result<(), BrokerError>;

    /// Attaches a consumer to a topic: one of the competing ones, or a listener of its own where
    /// the topic is broadcast, hearing everything published after this returns.
    ///
    /// # Errors
    /// The broker is away.
    async fn subscribe(&self, topic: Topic) -> Result<Box<dyn Subscriber>, BrokerError>;

    /// Asks the broker for a sign of life.
    ///
    /// # Errors
    /// The broker is away.
    async fn ping(&self) -> Result<(), BrokerError>;
}

/// The receiving end of a topic. Dropped without [`Subscriber::ack`], it gives back what it held.
#[async_trait]
pub trait Subscriber: Send {
    /// Waits for a batch and takes those that are there, until they have `max_bytes` together.
    /// Cancel-safe. What was received before must be acknowledged or given back first.
    ///
    /// # Errors
    /// The broker is gone; attach anew.
    async fn receive(&mut self, max_bytes: usize) -> Result<Vec<Batch>, BrokerError>;

    /// What the last [`Subscriber::receive`] returned is dealt with for good.
    ///
    /// # Errors
    /// The broker is gone; it will deliver that again.
    async fn ack(&mut self) -> Result<(), BrokerError>;

    /// What the last [`Subscriber::receive`] returned comes again, here or elsewhere.
    ///
    /// # Errors
    /// The broker is gone; it will deliver that again anyway.
    async fn nack(&mut self) -> Result<(), BrokerError>;
}

/// Why a broker did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// It can't be reached, or did not answer in time.
    #[error("the broker is away: {0}")]
    Away(String),
    /// It is there, but set up so that nothing works; the text says what to do. Waiting alone does
    /// not help.
    #[error("the broker refuses: {0}")]
    Misconfigured(String),
    /// It is there, but won't take these batches.
    #[error("the broker rejects {}: {reason}", ids.join(", "))]
    Rejected {
        /// The ids of the batches.
        ids: Vec<String>,
        /// What the broker says.
        reason: String,
    },
    /// The URL names no broker that this program knows.
    #[error(
        "{0}; a broker URL looks like memory:, amqp://user:password@host:5672/%2f or kafka://host:9092,host:9092"
    )]
    InvalidUrl(String),
}

/// The broker at `url`, with `topics` declared on it as soon as it is there. It need not be there
/// yet: nothing is contacted before it is used. With `?prefix=north.` at its end, the topics are
/// `north.…` on the broker, so that several shops can share it.
///
/// # Errors
/// [`BrokerError::InvalidUrl`].
pub fn connect(
    url: &str,
    topics: &'static [Topic],
    random: &RandomSource,
) -> Result<Arc<dyn Broker>, BrokerError> {
    let (url, prefix) = prefix::split(url)?;
    let Some(prefix) = prefix else {
        return open(&url, topics, random);
    };
    let names = prefix::topics(&prefix, topics);
    let broker = open(&url, names, random)?;
    Ok(Arc::new(Prefixed { broker, prefix, topics, names }))
}

fn open(
    url: &str,
    topics: &'static [Topic],
    random: &RandomSource,
) -> Result<Arc<dyn Broker>, BrokerError> {
    let scheme = url.split_once(':').map_or(url, |(scheme, _)| scheme);
    match scheme {
        "memory" => Ok(Arc::new(Memory::from_url(url, topics, random.clone())?)),
        #[cfg(feature = "rabbitmq")]
        "amqp" | "amqps" => Ok(Refusals::of(Arc::new(rabbitmq::RabbitMq::from_url(url, topics)?))),
        #[cfg(feature = "kafka")]
        "kafka" => Ok(Refusals::of(Arc::new(kafka::Kafka::from_url(url, topics)?))),
        other => Err(BrokerError::InvalidUrl(format!("no broker is called {other:?}"))),
    }
}
