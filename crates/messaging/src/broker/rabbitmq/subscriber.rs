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

use super::{link::Open, packing::unpack, topology, within};
use crate::{BrokerError, Message, Subscriber};

/// How many messages the server sends ahead of their acknowledgement. Under load each holds many
/// events.
const PREFETCH: u16 = 200;
/// How long handing an answer to the connection may take.
const ANSWER: Duration = Duration::from_secs(5);
/// A batch that was given back is offered again right here, so that an outage of our database
/// makes no traffic and uses up no redeliveries. Every so many times in a row it really goes back,
/// for another instance whose database is well.
const OFFERS: u32 = 10;

/// A consumer, attached. Dropping its channel gives back all that is not acknowledged.
pub(super) struct Consuming {
    topic: Topic,
    open: Open,
    consumer: Consumer,
    /// Arrived, in the order of their tags; those in `held` come before them.
    waiting: VecDeque<Unpacked>,
    /// What the last `receive` returned. A delivery is acknowledged as a whole, and so it is
    /// handed out as a whole.
    held: Vec<Unpacked>,
    given_back: u32,
}

/// A delivery's tag and what was in it.
type Unpacked = (DeliveryTag, Vec<Message>);

impl Consuming {
    /// Declares what `topic` needs and starts to consume it.
    pub(super) async fn attach(open: Open, topic: Topic) -> Result<Self, BrokerError> {
        let queue = topology::declare_consumed(&open.channel, topic).await?;
        open.channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
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
        let messages = unpack(self.topic, &delivery.properties, delivery.data);
        self.waiting.push_back((delivery.delivery_tag, messages));
        Ok(())
    }
}

#[async_trait]
impl Subscriber for Consuming {
    async fn receive(&mut self, most: usize) -> Result<Vec<Message>, BrokerError> {
        if self.waiting.is_empty() {
            let next = self.consumer.next().await;
            self.take(next)?;
        }
        let mut count = 0;
        loop {
            // The first is handed out whatever is in it.
            while let Some((_, messages)) = self.waiting.front()
                && (self.held.is_empty() || count + messages.len() <= most)
            {
                count += messages.len();
                self.held.extend(self.waiting.pop_front());
            }
            if !self.waiting.is_empty() || count >= most {
                break;
            }
            let Some(next) = self.consumer.next().now_or_never() else { break };
            self.take(next)?;
        }
        Ok(self.held.iter().flat_map(|(_, messages)| messages.iter().cloned()).collect())
    }

    async fn ack(&mut self) -> Result<(), BrokerError> {
        self.given_back = 0;
        let Some((last, _)) = self.held.last() else { return Ok(()) };
        let options = BasicAckOptions { multiple: true };
        let ack = async { Ok(self.open.channel.basic_ack(*last, options).await?) };
        within(ANSWER, "acknowledging", ack).await?;
        self.held.clear();
        Ok(())
    }

    async fn nack(&mut self) -> Result<(), BrokerError> {
        let Some((last, _)) = self.held.last() else { return Ok(()) };
        self.given_back += 1;
        if self.given_back.is_multiple_of(OFFERS) {
            let options = BasicNackOptions { multiple: true, requeue: true };
            let nack = async { Ok(self.open.channel.basic_nack(*last, options).await?) };
            within(ANSWER, "giving back", nack).await?;
            self.held.clear();
        }
        for returned in self.held.drain(..).rev() {
            self.waiting.push_front(returned);
        }
        Ok(())
    }
}
