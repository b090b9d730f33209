//! Receiving, acknowledging and giving back.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{FutureExt as _, StreamExt as _};
use gozon_contract::{Delivery, Topic};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::Consumer as _,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, Headers as _, Message as _},
    metadata::{MetadataPartition, MetadataTopic},
    topic_partition_list::TopicPartitionListElem,
};
use tokio::time::{Instant, sleep_until};

use super::{
    Consumer,
    client::{away, blocking, failed},
    publish::DELIVERY_ID,
};
use crate::{Batch, BrokerError, Subscriber};

/// How long a seek may take; it is done within this process.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a listener looks for partitions that were added to its topic (producers look for them
/// less often, see `topic.metadata.refresh.interval.ms`), and how long a member of a group hears
/// nothing before it looks whether it misses anything.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How long it waits for an answer then; nothing is received meanwhile.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// A consumer of one topic, in a group or on its own.
pub(super) struct Attached {
    consumer: Arc<Consumer>,
    topic: Topic,
    /// By partition, the offsets that were received and not acknowledged yet.
    held: BTreeMap<i32, Range<i64>>,
    /// Going on would skip messages.
    lost: bool,
    reads: Reads,
    check_at: Instant,
}

/// What a consumer reads.
enum Reads {
    /// All partitions of its topic, of which there are this many.
    All(usize),
    /// Those that its group gives to it. By partition on which messages waited at the last check, the
    /// offset that was committed.
    Share(BTreeMap<i32, Offset>),
}

impl Attached {
    pub(super) fn new(consumer: Consumer, topic: Topic) -> Self {
        Self {
            consumer: Arc::new(consumer),
            topic,
            held: BTreeMap::new(),
            lost: false,
            reads: Reads::Share(BTreeMap::new()),
            check_at: Instant::now() + CHECK_INTERVAL,
        }
    }

    /// One that reads all partitions of its topic, of which there are this many.
    pub(super) fn to_all_partitions(consumer: Consumer, topic: Topic, partitions: usize) -> Self {
        Self { reads: Reads::All(partitions), ..Self::new(consumer, topic) }
    }

    /// Fails if messages are missed: a listener's on partitions that were added, a group's if they wait
    /// and its commits have not moved since the last check. After a topic was deleted and made again,
    /// librdkafka may go on in its group without a partition, or with one that is gone, and says nothing.
    async fn check(&mut self) -> Result<(), BrokerError> {
        self.check_at = Instant::now() + CHECK_INTERVAL;
        let (consumer, topic) = (Arc::clone(&self.consumer), self.topic);
        let missed = match &mut self.reads {
            Reads::All(read) => {
                let known = blocking(move || partitions(&consumer, topic)).await;
                let added = known.is_ok_and(|known| known.len() != *read);
                added.then_some("partitions were added to the topic")
            }
            // What is held is not acknowledged yet.
            Reads::Share(_) if !self.held.is_empty() => None,
            Reads::Share(before) => {
                // A cluster that is away is found again by librdkafka.
                let now = blocking(move || waiting(&consumer, topic)).await.unwrap_or_default();
                let stands = !now.is_empty() && *before == now;
                *before = now;
                stands.then_some("messages wait, and none is received")
            }
        };
        self.lost |= missed.is_some();
        missed.map_or(Ok(()), |why| Err(away(why)))
    }

    fn hold(&mut self, partition: i32, offset: i64) {
        self.held.entry(partition).or_insert(offset..offset).end = offset + 1;
        if let Reads::Share(waiting) = &mut self.reads {
            waiting.clear();
            self.check_at = Instant::now() + CHECK_INTERVAL;
        }
    }

    /// The held partitions, each with an offset made of those that are held.
    fn held_at(&self, pick: impl Fn(&Range<i64>) -> i64) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(self.held.len());
        for (partition, offsets) in &self.held {
            let offset = Offset::Offset(pick(offsets));
            list.add_partition_offset(self.topic.name, *partition, offset)?;
        }
        Ok(list)
    }
}

#[async_trait]
impl Subscriber for Attached {
    async fn receive(&mut self, max_bytes: usize) -> Result<Vec<Batch>, BrokerError> {
        if self.lost {
            return Err(away("lost its place"));
        }
        let consumer = Arc::clone(&self.consumer);
        let mut stream = consumer.stream();
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while bytes < max_bytes {
            // Only the first is waited for, so nothing is in hand when this is cancelled.
            let next = if batches.is_empty() {
                tokio::select! {
                    biased;
                    () = sleep_until(self.check_at) => {
                        self.check().await?;
                        continue;
                    }
                    next = stream.next() => next,
                }
            } else {
                stream.next().now_or_never().flatten()
            };
            match next {
                Some(Ok(message)) => {
                    self.hold(message.partition(), message.offset());
                    let batch = read(&message);
                    // An event costs more than its bytes.
                    bytes += batch.body.len() + 128;
                    batches.push(batch);
                }
                Some(Err(error)) if heals(&error) && !consumer.context().stranded() => {}
                Some(Err(error)) => {
                    self.lost = true;
                    return Err(failed(error));
                }
                None => break,
            }
        }
        Ok(batches)
    }

    /// Marks the offsets as ready to commit. librdkafka commits what is marked five times a second,
    /// before a partition moves on and at the end, and again if a commit failed. To commit each
    /// batch by itself would cost a round trip or, if not waited for, fill the connection to the
    /// group's coordinator until the heartbeats behind come too late. What a killed process had no
    /// time to commit comes again, and the inbox takes it for the repeat that it is.
    async fn ack(&mut self) -> Result<(), BrokerError> {
        let next = self.held_at(|offsets| offsets.end).map_err(away)?;
        self.held.clear();
        if next.count() == 0 || self.topic.delivery == Delivery::Broadcast {
            return Ok(());
        }
        match self.consumer.store_offsets(&next) {
            // The partitions went to another instance in the meantime, which gets the batch again.
            Err(KafkaError::StoreOffset(Code::State | Code::UnknownPartition)) => Ok(()),
            stored => stored.map_err(away),
        }
    }

    async fn nack(&mut self) -> Result<(), BrokerError> {
        let first = self.held_at(|offsets| offsets.start).map_err(away)?;
        self.held.clear();
        if first.count() == 0 {
            return Ok(());
        }
        // Until all partitions are back, or if one can't be, only attaching anew is safe.
        self.lost = true;
        let consumer = Arc::clone(&self.consumer);
        blocking(move || {
            let result = consumer.seek_partitions(first, SEEK_TIMEOUT)?;
            result.elements().iter().try_for_each(TopicPartitionListElem::error)
        })
        .await?;
        self.lost = false;
        Ok(())
    }
}

/// The topic's partitions.
fn partitions(consumer: &Consumer, topic: Topic) -> KafkaResult<Vec<i32>> {
    let known = consumer.fetch_metadata(Some(topic.name), CHECK_TIMEOUT)?;
    let partitions = known.topics().iter().flat_map(MetadataTopic::partitions);
    Ok(partitions.map(MetadataPartition::id).collect())
}

/// By partition on which messages wait for the group, the offset that is committed. A consumer looks at
/// its own partitions or, if it has none, at all.
fn waiting(consumer: &Consumer, topic: Topic) -> KafkaResult<BTreeMap<i32, Offset>> {
    let mut places = consumer.assignment()?;
    if places.count() == 0 {
        for partition in partitions(consumer, topic)? {
            places.add_partition(topic.name, partition);
        }
    }
    let mut waiting = BTreeMap::new();
    for place in consumer.committed_offsets(places, CHECK_TIMEOUT)?.elements() {
        let (start, end) =
            consumer.fetch_watermarks(topic.name, place.partition(), CHECK_TIMEOUT)?;
        let next = place.offset().to_raw().unwrap_or(start).max(start);
        if next < end {
            waiting.insert(place.partition(), place.offset());
        }
    }
    Ok(waiting)
}

/// What librdkafka tells of and then mends by itself.
fn heals(error: &KafkaError) -> bool {
    matches!(
        error,
        KafkaError::MessageConsumption(
            Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::OperationTimedOut
                | Code::Resolve
        )
    )
}

/// An event is a delivery. The id is the one that our producers give to it, or that of the event, or,
/// if some other program made the record, its place.
fn read(message: &BorrowedMessage<'_>) -> Batch {
    let header = |key| {
        let mut headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let value = headers.find(|header| header.key == key).and_then(|header| header.value)?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    let place = || format!("{}/{}/{}", message.topic(), message.partition(), message.offset());
    Batch {
        id: header(DELIVERY_ID).or_else(|| header("id")).unwrap_or_else(place),
        topic: message.topic().to_owned(),
        body: message.payload().unwrap_or_default().into(),
    }
}
