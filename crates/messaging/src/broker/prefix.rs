//! Topics under a common prefix, so that several shops can share one broker:
//! `kafka://host:9092?prefix=north.` has a topic `north.payment.requested`.

use std::sync::Arc;

use async_trait::async_trait;
use gozon_contract::Topic;

use super::{Broker, BrokerError, Subscriber};
use crate::Batch;

/// The most characters of a prefix. Names are bounded by the brokers: 249 on Kafka, 255 on RabbitMQ.
const MAX_PREFIX_LENGTH: usize = 100;

/// A broker on which every topic's name has a prefix that nobody else sees.
pub(super) struct Prefixed {
    pub broker: Arc<dyn Broker>,
    pub prefix: String,
    /// The topics as this process calls them.
    pub topics: &'static [Topic],
    /// The same, as the broker calls them.
    pub names: &'static [Topic],
}

/// Takes `prefix=…` out of a broker's URL, if it is there.
pub(super) fn split(url: &str) -> Result<(String, Option<String>), BrokerError> {
    let Some((address, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), None));
    };
    let (prefixes, others): (Vec<_>, Vec<_>) =
        query.split('&').partition(|option| option.starts_with("prefix="));
    let query = if others.is_empty() { String::new() } else { format!("?{}", others.join("&")) };
    let prefix = prefixes.first().map(|option| option["prefix=".len()..].to_owned());
    let plain = |prefix: &String| {
        (1..=MAX_PREFIX_LENGTH).contains(&prefix.len())
            && prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    if prefixes.len() > 1 || !prefix.as_ref().is_none_or(plain) {
        let reason = "prefix takes 1 to 100 letters, digits and . _ -";
        return Err(BrokerError::InvalidUrl(reason.to_owned()));
    }
    Ok((format!("{address}{query}"), prefix))
}

/// The topics under the names that they have on the broker. They are needed for as long as the
/// process lives, as those without a prefix are, which are constants.
pub(super) fn topics(prefix: &str, topics: &[Topic]) -> &'static [Topic] {
    let names = topics.iter().map(|topic| {
        let name: &'static str = Box::leak(format!("{prefix}{}", topic.name).into_boxed_str());
        Topic { name, ..*topic }
    });
    names.collect::<Vec<_>>().leak()
}

#[async_trait]
impl Broker for Prefixed {
    async fn publish(&self, batches: &[Batch]) -> Result<(), BrokerError> {
        let named = |batch: &Batch| {
            let topic = format!("{}{}", self.prefix, batch.topic);
            Batch { topic, ..batch.clone() }
        };
        self.broker.publish(&batches.iter().map(named).collect::<Vec<_>>()).await
    }

    async fn subscribe(&self, topic: Topic) -> Result<Box<dyn Subscriber>, BrokerError> {
        let place = self.topics.iter().position(|known| *known == topic);
        let Some(place) = place else {
            return Err(BrokerError::Away(format!("no topic is called {}", topic.name)));
        };
        let subscriber = self.broker.subscribe(self.names[place]).await?;
        Ok(Box::new(Unprefixed { subscriber, topic }))
    }

    async fn ping(&self) -> Result<(), BrokerError> {
        self.broker.ping().await
    }
}

/// Gives what is received the topic's own name.
struct Unprefixed {
    subscriber: Box<dyn Subscriber>,
    topic: Topic,
}

#[async_trait]
impl Subscriber for Unprefixed {
    async fn receive(&mut self, max_bytes: usize) -> Result<Vec<Batch>, BrokerError> {
        let mut batches = self.subscriber.receive(max_bytes).await?;
        for batch in &mut batches {
            self.topic.name.clone_into(&mut batch.topic);
        }
        Ok(batches)
    }

    async fn ack(&mut self) -> Result<(), BrokerError> {
        self.subscriber.ack().await
    }

    async fn nack(&mut self) -> Result<(), BrokerError> {
        self.subscriber.nack().await
    }
}

#[cfg(test)]
mod tests {
    use gozon_contract::{PAYMENT_REQUESTED, RandomSource};

    use super::*;
    use crate::broker::connect;

    #[test]
    fn the_prefix_is_taken_out_of_the_url() {
        let split = |url| split(url).unwrap();
        let some = |prefix: &str| Some(prefix.to_owned());
        assert_eq!(split("kafka://a:1,b:2"), ("kafka://a:1,b:2".to_owned(), None));
        assert_eq!(split("kafka://a:1?prefix=n."), ("kafka://a:1".to_owned(), some("n.")));
        assert_eq!(
            split("amqp://a/%2f?heartbeat=5&prefix=n."),
            ("amqp://a/%2f?heartbeat=5".to_owned(), some("n."))
        );
        assert_eq!(split("memory:?shuffle"), ("memory:?shuffle".to_owned(), None));
    }

    #[test]
    fn a_prefix_that_is_no_name_is_refused() {
        for url in ["kafka://a?prefix=", "kafka://a?prefix=a/b", "kafka://a?prefix=a&prefix=b"] {
            assert!(matches!(split(url), Err(BrokerError::InvalidUrl(_))), "{url}");
        }
    }

    #[tokio::test]
    async fn nobody_sees_the_prefix() {
        let random = RandomSource::seeded(1);
        let broker = connect("memory:?prefix=north.", &[PAYMENT_REQUESTED], &random).unwrap();
        let mut subscriber = broker.subscribe(PAYMENT_REQUESTED).await.unwrap();
        let sent = Batch {
            id: "1".to_owned(),
            topic: PAYMENT_REQUESTED.name.to_owned(),
            body: b"{}".as_slice().into(),
        };
        let batch = [sent.clone()];
        let (published, received) = tokio::join!(broker.publish(&batch), async {
            let received = subscriber.receive(10).await;
            subscriber.ack().await.unwrap();
            received
        });
        published.unwrap();
        assert_eq!(received.unwrap(), [sent]);
    }
}
