//! A consumer of a RabbitMQ queue, shared or a listener's own.

use std::{collections::VecDeque, time::Duration};

use async_trait::async_trait;
use futures_util::{FutureExt as _, StreamExt as _};
use gozon_contract::Topic;
use lapin::{
    Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::{DeliveryTag, FieldTable},
};

use super::{link::Open, topology, within};
use crate::{Batch, BrokerError, Subscriber, batch::MAX_BATCH_BYTES};

/// The most bytes of messages that the server sends ahead of their acknowledgement,
const PREFETCH_BYTES: usize = 12 * 1024 * 1024;
/// and how many messages that is: RabbitMQ counts only those. Under load each holds a hundred events,
/// 40 KB of them as a rule and never more than a batch may have.
const PREFETCH_MESSAGES: u16 = 48;
const _: () = assert!(PREFETCH_MESSAGES as usize * MAX_BATCH_BYTES <= PREFETCH_BYTES);
/// How long handing an answer to the connection may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A batch that was given back is offered again right here, so that an outage of our database
/// makes no traffic and uses up no redeliveries. Every so many times in a row it really goes back,
/// for another instance whose database is well.
const LOCAL_OFFERS: u32 = 10;

/// A consumer, attached. Dropping its channel gives back all that is not acknowledged.
pub(super) struct Consuming {
    topic: Topic,
    open: Open,
    consumer: Consumer,
    /// Arrived, in the order of their tags; those in `held` come before them.
    waiting: VecDeque<Tagged>,
    /// What the last `receive` returned.
    held: Vec<Tagged>,
    given_back: u32,
}

/// A delivery's tag and what was in it.
type Tagged = (DeliveryTag, Batch);

impl Consuming {
    /// Declares what `topic` needs and starts to consume it.
    pub(super) async fn attach(open: Open, topic: Topic) -> Result<Self, BrokerError> {
        let queue = topology::declare_consumed(&open.channel, topic).await?;
        open.channel.basic_qos(PREFETCH_MESSAGES, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let consumer = open
            .channel
            .basic_consume(queue.into(), "".into(), options, FieldTable::default())
            .await?;
        let (waiting, held) = (VecDeque::new(), Vec::new());
        Ok(Self { topic, open, consumer, waiting, held, given_back: 0 })
    }

    fn take(&mut self, next: Option<lapin::Result<Delivery>>) -> Result<(), BrokerError> {
        let delivery =
            next.ok_or_else(|| BrokerError::Away("the queue or its channel is gone".to_owned()))??;
        let (topic, body) = (self.topic.name, delivery.data.into());
        let batch = match delivery.properties.message_id() {
            Some(id) => Batch { id: id.to_string(), topic: topic.to_owned(), body },
            None => Batch::unnamed(topic, body),
        };
        self.waiting.push_back((delivery.delivery_tag, batch));
        Ok(())
    }
}

#[async_trait]
impl Subscriber for Consuming {
    async fn receive(&mut self, max_bytes: usize) -> Result<Vec<Batch>, BrokerError> {
        if self.waiting.is_empty() {
            let next = self.consumer.next().await;
            self.take(next)?;
        }
        while let Some(next) = self.consumer.next().now_or_never() {
            self.take(next)?;
        }
        let mut bytes = 0;
        while bytes < max_bytes
            && let Some(next) = self.waiting.pop_front()
        {
            bytes += next.1.body.len();
            self.held.push(next);
        }
        Ok(self.held.iter().map(|(_, batch)| batch.clone()).collect())
    }

    async fn ack(&mut self) -> Result<(), BrokerError> {
        self.given_back = 0;
        let Some((last, _)) = self.held.last() else { return Ok(()) };
        let options = BasicAckOptions { multiple: true };
        let ack = async { Ok(self.open.channel.basic_ack(*last, options).await?) };
        within(ANSWER_TIMEOUT, "acknowledging", ack).await?;
        self.held.clear();
        Ok(())
    }

    async fn nack(&mut self) -> Result<(), BrokerError> {
        let Some((last, _)) = self.held.last() else { return Ok(()) };
        self.given_back += 1;
        if self.given_back.is_multiple_of(LOCAL_OFFERS) {
            let options = BasicNackOptions { multiple: true, requeue: true };
            let nack = async { Ok(self.open.channel.basic_nack(*last, options).await?) };
            within(ANSWER_TIMEOUT, "giving back", nack).await?;
            self.held.clear();
        }
        for returned in self.held.drain(..).rev() {
            self.waiting.push_front(returned);
        }
        Ok(())
    }
}
