//! RabbitMQ, 3.10 to 4.x: a quorum queue for each competing topic, a fanout exchange for each
//! broadcast one.
//!
//! A batch is a message, sent as it stands in the outbox.
//!
//! Publishing and consuming have a connection each, because RabbitMQ stops reading from one that
//! publishes while it is short of memory, and acknowledgements must go on. Nothing waits without
//! a limit: what fails or takes too long is answered with [`BrokerError::Away`], its connection is
//! dropped, and the next call opens another and declares everything again.

use std::{
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use gozon_contract::{Delivery, Topic};
use lapin::{
    BasicProperties, Confirmation, ErrorKind,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};

use self::{
    link::{Link, Open},
    subscriber::Consuming,
};
use super::{Broker, BrokerError, Subscriber};
use crate::Batch;

mod link;
mod subscriber;
mod topology;

/// How long a batch may take until all of it is confirmed, connecting and declaring included.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long attaching a consumer may take.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a sign of life may take.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// What the server closes the channel for, by default since RabbitMQ 4.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// Codes with which the server refuses (<https://www.rabbitmq.com/amqp-0-9-1-reference#constants>).
const ACCESS_REFUSED: u16 = 403;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;
/// Survives a restart of the server.
const PERSISTENT: u8 = 2;

/// A RabbitMQ server or cluster.
pub(super) struct RabbitMq {
    publishing: Link,
    consuming: Link,
    /// Channels in confirm mode, everything declared, that no batch is using. A batch has one to
    /// itself, so that a message that comes back can only be one of its own.
    idle: Mutex<Vec<Open>>,
    topics: &'static [Topic],
}

impl RabbitMq {
    /// The server at `amqp://…` or `amqps://…`, not contacted yet.
    pub(super) fn from_url(url: &str, topics: &'static [Topic]) -> Result<Self, BrokerError> {
        let address = link::parse(url)?;
        Ok(Self {
            publishing: Link::new(address.clone(), "gozon, publishing"),
            consuming: Link::new(address, "gozon, consuming"),
            idle: Mutex::default(),
            topics,
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Open>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn publish_all(&self, batches: &[(&Batch, Delivery)]) -> Result<(), BrokerError> {
        let unused = self.idle().pop();
        let open = match unused {
            Some(open) if open.works() => open,
            _ => self.open_for_publishing().await?,
        };
        let outcome = confirmed(&open, batches).await;
        if outcome.is_ok() {
            self.idle().push(open);
        }
        outcome
    }

    async fn open_for_publishing(&self) -> Result<Open, BrokerError> {
        let open = self.publishing.open().await?;
        for topic in self.topics {
            topology::declare(&open.channel, *topic).await?;
        }
        open.channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(open)
    }

    /// Why the server would not take a batch.
    fn refusal(&self, batch: &Batch) -> Result<Delivery, &'static str> {
        let Some(topic) = self.topics.iter().find(|topic| topic.name == batch.topic) else {
            return Err("no such topic");
        };
        if batch.body.len() > MAX_BODY_BYTES {
            return Err("it is larger than 16 MiB");
        }
        Ok(topic.delivery)
    }
}

#[async_trait]
impl Broker for RabbitMq {
    async fn publish(&self, batches: &[Batch]) -> Result<(), BrokerError> {
        let mut accepted = Vec::with_capacity(batches.len());
        let (mut refused, mut reason) = (Vec::new(), "");
        for batch in batches {
            match self.refusal(batch) {
                Ok(delivery) => accepted.push((batch, delivery)),
                Err(why) => {
                    refused.push(batch.id.clone());
                    reason = why;
                }
            }
        }
        if !accepted.is_empty() {
            self.publishing.check()?;
            let publishing = self.publish_all(&accepted);
            let published = within(PUBLISH_TIMEOUT, "publishing", publishing).await;
            if published.is_err() {
                self.publishing.hang_up();
                self.idle().clear();
            }
            published?;
        }
        if refused.is_empty() {
            return Ok(());
        }
        Err(BrokerError::Rejected { ids: refused, reason: reason.to_owned() })
    }

    async fn subscribe(&self, topic: Topic) -> Result<Box<dyn Subscriber>, BrokerError> {
        let attaching = async { Consuming::attach(self.consuming.open().await?, topic).await };
        let attached = within(SUBSCRIBE_TIMEOUT, "attaching", attaching).await;
        if attached.is_err() {
            self.consuming.hang_up();
        }
        Ok(Box::new(attached?))
    }

    async fn ping(&self) -> Result<(), BrokerError> {
        self.publishing.check()?;
        // Declares everything, so that what the server refuses shows.
        let answer = within(PING_TIMEOUT, "a sign of life", self.open_for_publishing()).await;
        if answer.is_err() {
            self.publishing.hang_up();
        }
        answer.map(drop)
    }
}

/// Sends all batches, and then waits for the confirmation of each.
async fn confirmed(open: &Open, batches: &[(&Batch, Delivery)]) -> Result<(), BrokerError> {
    let sending = batches.iter().map(|(batch, delivery)| {
        let topic = batch.topic.as_str();
        let (exchange, mandatory) = match delivery {
            // The default exchange, where a queue's name is its key.
            Delivery::Competing => ("", true),
            // It is no loss if nobody listens.
            Delivery::Broadcast => (topic, false),
        };
        let mut properties = BasicProperties::default()
            .with_content_type(batch.content_type().into())
            .with_delivery_mode(PERSISTENT)
            .with_message_id(batch.id.as_str().into())
            .with_type(topic.into());
        if let Some(key) = batch.key_of_one() {
            // The release before reads the key of an event that is alone from here.
            properties = properties.with_correlation_id(key.as_str().into());
        }
        let options = BasicPublishOptions { mandatory, ..Default::default() };
        open.channel.basic_publish(exchange.into(), topic.into(), options, &batch.body, properties)
    });
    for confirmation in try_join_all(sending).await? {
        match confirmation.await? {
            Confirmation::Ack(None) => {}
            // The queue was deleted. The channel goes, and the next one declares it again.
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                return Err(BrokerError::Away(format!("no queue: {}", returned.reply_text)));
            }
            Confirmation::Nack(None) | Confirmation::NotRequested => {
                return Err(BrokerError::Away("it did not store a message".to_owned()));
            }
        }
    }
    Ok(())
}

impl From<lapin::Error> for BrokerError {
    fn from(error: lapin::Error) -> Self {
        if let ErrorKind::ProtocolError(said) = error.kind()
            && let Some(advice) = advice(said.get_id(), said.get_message().as_str())
        {
            return Self::Misconfigured(format!("{}; {advice}", said.get_message()));
        }
        Self::Away(error.to_string())
    }
}

/// What an operator has to do about an error of the server, if that is known.
fn advice(code: u16, message: &str) -> Option<&'static str> {
    Some(match code {
        ACCESS_REFUSED if message.contains("Login was refused") => {
            "check the user and the password of the broker URL"
        }
        ACCESS_REFUSED => {
            "let the user configure, write and read: \
             rabbitmqctl set_permissions --vhost VHOST USER '.*' '.*' '.*'"
        }
        NOT_ALLOWED if message.contains("not found") => {
            "make the virtual host with rabbitmqctl add_vhost VHOST, or name another one at the end \
             of the broker URL: amqp://host/VHOST, where %2f is the default one"
        }
        NOT_ALLOWED if message.contains("vhost") => {
            "let the user in: rabbitmqctl set_permissions --vhost VHOST USER '.*' '.*' '.*'"
        }
        PRECONDITION_FAILED if message.contains("inequivalent arg") => {
            "something else has made a queue or an exchange of this name: delete it if it is not \
             needed, or use other names with prefix=NAME as a parameter of the broker URL"
        }
        _ => return None,
    })
}

/// Ends what takes longer than `limit`: a client library may wait for ever for a server that went
/// away at the wrong moment.
async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T, BrokerError>>,
) -> Result<T, BrokerError> {
    let late = || BrokerError::Away(format!("{what} took longer than {limit:?}"));
    tokio::time::timeout(limit, work).await.map_err(|_| late())?
}
