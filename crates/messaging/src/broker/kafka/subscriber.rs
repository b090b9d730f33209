//! Receiving, acknowledging and giving back.

use std::{collections::BTreeMap, future::pending, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{FutureExt as _, StreamExt as _};
use gozon_contract::{Delivery, Topic};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::Consumer as _,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, Headers as _, Message as _},
    metadata::MetadataTopic,
    topic_partition_list::TopicPartitionListElem,
};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Consumer, METADATA_TIMEOUT,
    client::{away, blocking, failed},
    publish::DELIVERY_ID,
};
use crate::{Batch, BrokerError, Subscriber};

/// How long a seek may take; it is done within this process.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a listener looks for partitions that were added to its topic. Producers look for them
/// less often, see `topic.metadata.refresh.interval.ms`.
const PARTITION_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// A consumer of one topic, in a group or on its own.
pub(super) struct Attached {
    consumer: Arc<Consumer>,
    topic: Topic,
    /// By partition, the offsets that were received and not acknowledged yet.
    held: BTreeMap<i32, Range<i64>>,
    /// Going on would skip messages.
    lost: bool,
    /// Ends when the topic has other partitions than a listener reads.
    partitions_changed: Option<AbortOnDropHandle<()>>,
}

impl Attached {
    pub(super) fn new(consumer: Consumer, topic: Topic) -> Self {
        let consumer = Arc::new(consumer);
        Self { consumer, topic, held: BTreeMap::new(), lost: false, partitions_changed: None }
    }

    /// One that reads all partitions of its topic, of which there are this many.
    pub(super) fn to_all_partitions(consumer: Consumer, topic: Topic, partitions: usize) -> Self {
        let attached = Self::new(consumer, topic);
        let watching = watch_partitions(Arc::clone(&attached.consumer), topic, partitions);
        let watching = AbortOnDropHandle::new(tokio::spawn(watching));
        Self { partitions_changed: Some(watching), ..attached }
    }

    fn hold(&mut self, partition: i32, offset: i64) {
        self.held.entry(partition).or_insert(offset..offset).end = offset + 1;
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
                    next = stream.next() => next,
                    () = ended(&mut self.partitions_changed) => {
                        self.lost = true;
                        return Err(away("partitions were added to the topic"));
                    }
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

/// Returns when the topic no longer has so many partitions.
async fn watch_partitions(consumer: Arc<Consumer>, topic: Topic, partitions: usize) {
    loop {
        sleep(PARTITION_CHECK_INTERVAL).await;
        let consumer = Arc::clone(&consumer);
        let known = blocking(move || {
            let known = consumer.fetch_metadata(Some(topic.name), METADATA_TIMEOUT)?;
            Ok(known.topics().iter().flat_map(MetadataTopic::partitions).count())
        });
        if known.await.is_ok_and(|known| known != partitions) {
            return;
        }
    }
}

async fn ended(task: &mut Option<AbortOnDropHandle<()>>) {
    match task {
        Some(task) => drop(task.await),
        None => pending().await,
    }
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
