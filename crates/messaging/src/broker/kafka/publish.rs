//! Publishing a batch.

use std::time::Duration;

use futures_util::future::join_all;
use rdkafka::{
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
    message::{Header, OwnedHeaders},
    producer::{FutureRecord, future_producer::DeliveryFuture},
};
use tokio::time::sleep;

use super::{Producer, client::failed};
use crate::{Batch, BrokerError, CONTENT_TYPE, Message};

/// How long to wait for room in the producer's buffer before looking again.
const FULL_WAIT: Duration = Duration::from_millis(10);

/// No time stamp. The client would take this machine's clock, and a cluster refuses a record from more
/// than an hour ahead of its own. An event has its time inside.
const NO_TIMESTAMP: i64 = -1;

/// The header with the id of the delivery, which an inbox remembers.
pub(super) const DELIVERY_ID: &str = "delivery-id";

/// Delivers batches, in order, each event as a record of its own. Returns the batches that hold an
/// event which the cluster will never take, and why.
pub(super) async fn deliver<'a>(
    producer: &Producer,
    batches: Vec<&'a Batch>,
) -> Result<Vec<(&'a Batch, String)>, BrokerError> {
    let split = |batch: &&'a Batch| {
        let batch = *batch;
        let record = move |(n, message)| Record { batch, n, message };
        batch.split().into_iter().enumerate().map(record)
    };
    let records: Vec<Record<'a>> = batches.iter().flat_map(split).collect();
    let results = send(producer, &records).await;
    let mut refused: Vec<(&Batch, String)> = Vec::new();
    for (record, mut result) in records.iter().zip(results) {
        // The cluster judges whole record batches: the fault may be a neighbour's. Ask again.
        if result.as_ref().is_err_and(is_refusal) {
            result = send(producer, std::slice::from_ref(record)).await.pop().unwrap_or(Ok(()));
        }
        match result {
            Ok(()) => {}
            Err(error) if is_refusal(&error) => refused.push((record.batch, error.to_string())),
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(refused)
}

/// An event and its place in its batch.
struct Record<'a> {
    batch: &'a Batch,
    n: usize,
    message: Message,
}

/// Puts all records into the producer's buffer, in order, and then waits for what became of each.
async fn send(producer: &Producer, records: &[Record<'_>]) -> Vec<KafkaResult<()>> {
    let mut deliveries = Vec::with_capacity(records.len());
    for record in records {
        deliveries.push(enqueue(producer, record).await);
    }
    join_all(deliveries.into_iter().map(delivered)).await
}

async fn delivered(delivery: KafkaResult<DeliveryFuture>) -> KafkaResult<()> {
    match delivery?.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err((error, _))) => Err(error),
        Err(_) => Err(KafkaError::Canceled),
    }
}

async fn enqueue(producer: &Producer, record: &Record<'_>) -> KafkaResult<DeliveryFuture> {
    let Record { batch, n, message } = record;
    let delivery_id = format!("{}/{n}", batch.id);
    let headers = OwnedHeaders::new_with_capacity(3)
        .insert(Header { key: "content-type", value: Some(CONTENT_TYPE) })
        .insert(Header { key: "id", value: Some(&message.id) })
        .insert(Header { key: DELIVERY_ID, value: Some(&delivery_id) });
    let mut record = FutureRecord::to(&message.topic)
        .key(&message.key)
        .payload(&*message.body)
        .headers(headers)
        .timestamp(NO_TIMESTAMP);
    loop {
        record = match producer.send_result(record) {
            Ok(delivery) => return Ok(delivery),
            Err((KafkaError::MessageProduction(Code::QueueFull), record)) => record,
            Err((error, _)) => return Err(error),
        };
        sleep(FULL_WAIT).await;
    }
}

/// Whether the fault is the message's, or that of another in its record batch. A policy is the fault of
/// its owner: it is waited for.
fn is_refusal(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::MessageSizeTooLarge
                | Code::InvalidMessageSize
                | Code::InvalidRecord
                | Code::InvalidDifferentRecord
        )
    )
}
