//! Kafka, 2.4 and newer.
//!
//! A batch is published by one idempotent producer that waits for all in-sync replicas. Competing
//! consumers of a topic are a group; only what is acknowledged is ever committed, and what is given
//! back is sought back to: leaving it uncommitted would not bring it again, because the next commit
//! would step over it. A listener of a broadcast topic belongs to no group: it reads every
//! partition from its end.
//!
//! librdkafka finds lost brokers again by itself and goes on where it was. What it can't mend
//! shows as [`BrokerError::Away`], and attaching anew begins at what was acknowledged last.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use gozon_contract::{Delivery, Topic};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::AdminClient,
    config::RDKafkaLogLevel,
    consumer::{Consumer as _, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
    metadata::MetadataTopic,
    producer::{FutureProducer, Producer as _},
};
use tokio::sync::Mutex;

use self::{
    client::{Events, Quiet, Refusal, away, blocking, failed, in_time},
    publish::deliver,
    subscriber::Attached,
    url::KafkaUrl,
};
use super::{Broker, BrokerError, Subscriber};
use crate::Batch;

mod client;
mod publish;
mod subscriber;
mod topics;
mod url;

/// Partitions of a topic with competing consumers, and so the most instances that share its work.
/// A batch is a request to each partition that it has a key for, and a request is what costs Kafka.
const PARTITIONS: i32 = 3;
/// How long the producer tries to deliver a message before it says that it can't.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a publish takes at the most, with waiting for room in the producer's buffer.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for what the cluster knows about its topics, or for making one.
const METADATA_TIMEOUT: Duration = Duration::from_secs(8);
/// How long to wait for a sign of life.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// A Kafka cluster.
pub struct Kafka {
    url: KafkaUrl,
    topics: &'static [Topic],
    /// Whether the topics are known to exist.
    declared: AtomicBool,
    producer: Mutex<Option<Arc<Producer>>>,
    refusal: Refusal,
}

type Admin = Quiet<AdminClient<Events>>;
type Producer = Quiet<FutureProducer<Events>>;
type Consumer = Quiet<StreamConsumer<Events>>;

impl Kafka {
    /// The cluster at `kafka://…`, not contacted yet.
    pub(super) fn from_url(url: &str, topics: &'static [Topic]) -> Result<Self, BrokerError> {
        Ok(Self {
            url: url::parse(url)?,
            topics,
            declared: AtomicBool::new(false),
            producer: Mutex::default(),
            refusal: Refusal::default(),
        })
    }

    /// What every client of the cluster needs.
    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set_log_level(RDKafkaLogLevel::Info)
            .set("bootstrap.servers", &self.url.servers)
            .set("client.id", "gozon")
            // Topics are made with the partitions that they need, not by mistake.
            .set("allow.auto.create.topics", "false")
            // Seen soon: partitions added by hand.
            .set("topic.metadata.refresh.interval.ms", "30000")
            // Back soon after an outage; the default grows to 10 s.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "500")
            .set("socket.connection.setup.timeout.ms", "5000")
            .set("socket.timeout.ms", "10000")
            .set("log.connection.close", "false");
        for (key, value) in &self.url.security {
            config.set(*key, value);
        }
        config
    }

    async fn producer(&self) -> Result<Arc<Producer>, BrokerError> {
        let mut slot = self.producer.lock().await;
        if let Some(producer) = slot.as_ref() {
            return Ok(Arc::clone(producer));
        }
        let mut config = self.config();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", DELIVERY_TIMEOUT.as_millis().to_string())
            .set("request.timeout.ms", "5000")
            // A batch comes all at once; this is for how long it takes to put it into the buffer.
            // What is there goes out in one request to each partition.
            .set("linger.ms", "1")
            .set("compression.type", "lz4")
            // As Java clients partition, so that other producers agree with us.
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.kbytes", "16384");
        let producer = Arc::new(Producer::new(config, &self.refusal).await?);
        *slot = Some(Arc::clone(&producer));
        Ok(producer)
    }

    /// A producer that met a fatal error (its messages are out of sequence, for example) stays
    /// unusable; the next publish makes a new one. The error, if there is one.
    async fn replace_if_broken(&self, producer: &Arc<Producer>) -> Option<BrokerError> {
        let (code, reason) = producer.client().fatal_error()?;
        tracing::warn!(reason, "the producer met a fatal error; starting a new one");
        let mut slot = self.producer.lock().await;
        if slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, producer)) {
            *slot = None;
        }
        Some(failed(KafkaError::MessageProduction(code)))
    }

    async fn declare(&self) -> Result<(), BrokerError> {
        let producer = self.producer().await?;
        let admin = Admin::new(self.config(), &self.refusal);
        let partitions = self.url.partitions.unwrap_or(PARTITIONS);
        topics::declare(&producer, admin, self.topics, partitions).await?;
        self.declared.store(true, Ordering::Release);
        Ok(())
    }

    async fn ensure_declared(&self) -> Result<(), BrokerError> {
        if self.declared.load(Ordering::Acquire) { Ok(()) } else { self.declare().await }
    }

    async fn consumer(
        &self,
        topic: Topic,
        config: &[(&str, &str)],
    ) -> Result<Consumer, BrokerError> {
        let mut all = self.config();
        all.set("group.id", format!("gozon.{}", topic.name))
            // Being received is not being dealt with: see `Attached::ack`.
            .set("enable.auto.offset.store", "false")
            .set("fetch.min.bytes", "1")
            .set("fetch.wait.max.ms", "100")
            // What is read ahead is bounded; when there is room again, read on at once.
            .set("queued.max.messages.kbytes", "4096")
            .set("fetch.max.bytes", "2097152")
            .set("fetch.queue.backoff.ms", "20")
            .set("fetch.error.backoff.ms", "100");
        for (key, value) in config {
            all.set(*key, *value);
        }
        Consumer::new(all, &self.refusal).await
    }

    /// Joins the group of the topic's competing consumers.
    async fn join(&self, topic: Topic) -> Result<Consumer, BrokerError> {
        let consumer = self
            .consumer(
                topic,
                &[
                    ("auto.offset.reset", "earliest"),
                    // Commits what was acknowledged, and nothing else.
                    ("enable.auto.commit", "true"),
                    ("auto.commit.interval.ms", "200"),
                    // A rebalance lets everybody go on with what stays theirs.
                    ("partition.assignment.strategy", "cooperative-sticky"),
                    // What a killed instance had goes to the others this much later.
                    ("session.timeout.ms", "6000"),
                    ("heartbeat.interval.ms", "1500"),
                    // And what an instance had that is alive but stuck.
                    ("max.poll.interval.ms", "60000"),
                ],
            )
            .await?;
        consumer.subscribe(&[topic.name]).map_err(away)?;
        Ok(consumer)
    }

    /// Listens to every partition from its end, as it is now.
    async fn listen(&self, topic: Topic) -> Result<Attached, BrokerError> {
        let config = [("auto.offset.reset", "latest"), ("enable.auto.commit", "false")];
        let consumer = self.consumer(topic, &config).await?;
        let (consumer, partitions) = blocking(move || {
            let known = consumer.fetch_metadata(Some(topic.name), METADATA_TIMEOUT)?;
            let mut ends = TopicPartitionList::new();
            for partition in known.topics().iter().flat_map(MetadataTopic::partitions) {
                let (_, end) =
                    consumer.fetch_watermarks(topic.name, partition.id(), METADATA_TIMEOUT)?;
                ends.add_partition_offset(topic.name, partition.id(), Offset::Offset(end))?;
            }
            if ends.count() == 0 {
                // Made a moment ago, and not known to every broker yet.
                return Err(KafkaError::MetadataFetch(Code::UnknownTopicOrPartition));
            }
            consumer.assign(&ends)?;
            Ok((consumer, ends.count()))
        })
        .await?;
        Ok(Attached::to_all_partitions(consumer, topic, partitions))
    }

    async fn publish_all(&self, batches: &[Batch]) -> Result<(), BrokerError> {
        self.ensure_declared().await?;
        let producer = self.producer().await?;
        let (known, unknown): (Vec<_>, Vec<_>) = batches
            .iter()
            .partition(|batch| self.topics.iter().any(|topic| topic.name == batch.topic));
        let mut outcome = in_time(PUBLISH_TIMEOUT, deliver(&producer, known)).await;
        if let Some(fatal) = self.replace_if_broken(&producer).await {
            outcome = outcome.map_err(|_| fatal);
        }
        // The topics may be gone; and to ask for them first keeps what can't be delivered out of
        // the producer's buffer for as long as the cluster is away.
        let mut refused = outcome.inspect_err(|_| self.declared.store(false, Ordering::Release))?;
        refused.extend(unknown.into_iter().map(|batch| (batch, "no such topic".to_owned())));
        let Some((_, reason)) = refused.first() else { return Ok(()) };
        let reason = reason.clone();
        let ids = refused.into_iter().map(|(batch, _)| batch.id.clone()).collect();
        Err(BrokerError::Rejected { ids, reason })
    }

    async fn attach(&self, topic: Topic) -> Result<Attached, BrokerError> {
        if !self.topics.contains(&topic) {
            return Err(away(format!("no topic is called {}", topic.name)));
        }
        self.declare().await?;
        match topic.delivery {
            Delivery::Competing => Ok(Attached::new(self.join(topic).await?, topic)),
            Delivery::Broadcast => self.listen(topic).await,
        }
    }
}

#[async_trait]
impl Broker for Kafka {
    async fn publish(&self, batches: &[Batch]) -> Result<(), BrokerError> {
        self.refusal.explain(self.publish_all(batches).await)
    }

    async fn subscribe(&self, topic: Topic) -> Result<Box<dyn Subscriber>, BrokerError> {
        Ok(Box::new(self.refusal.explain(self.attach(topic).await)?))
    }

    async fn ping(&self) -> Result<(), BrokerError> {
        let ping = async {
            self.ensure_declared().await?;
            let producer = self.producer().await?;
            let topic = self.topics.first().map(|topic| topic.name);
            blocking(move || producer.client().fetch_metadata(topic, PING_TIMEOUT)).await
        };
        self.refusal.explain(in_time(PING_TIMEOUT, ping).await.map(drop))
    }
}
