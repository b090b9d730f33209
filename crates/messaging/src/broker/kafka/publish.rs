//! Publishing a batch.

use std::time::Duration;

use futures_util::future::join_all;
use rdkafka::{
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
    message::{Header, OwnedHeaders},
    producer::{FutureRecord, future_producer::DeliveryFuture},
};
use tokio::time::sleep;

use super::{Producer, client::away};
use crate::{BrokerError, CONTENT_TYPE, Message};

/// How long to wait for room in the producer's buffer before looking again.
const FULL_WAIT: Duration = Duration::from_millis(10);

/// Delivers messages, in order. Returns those that the cluster will never take, and why.
pub(super) async fn deliver<'a>(
    producer: &Producer,
    messages: Vec<&'a Message>,
) -> Result<Vec<(&'a Message, String)>, BrokerError> {
    let mut refused = Vec::new();
    let results = send(producer, &messages).await;
    for (message, mut result) in messages.into_iter().zip(results) {
        // The cluster judges whole record batches: the fault may be a neighbour's. Ask again.
        if result.as_ref().is_err_and(is_refusal) {
            result = send(producer, &[message]).await.pop().unwrap_or(Ok(()));
        }
        match result {
            Ok(()) => {}
            Err(error) if is_refusal(&error) => refused.push((message, error.to_string())),
            Err(error) => return Err(away(error)),
        }
    }
    Ok(refused)
}

/// Puts all messages into the producer's buffer, in order, and then waits for what became of each.
async fn send(producer: &Producer, messages: &[&Message]) -> Vec<KafkaResult<()>> {
    let mut deliveries = Vec::with_capacity(messages.len());
    for message in messages {
        deliveries.push(enqueue(producer, message).await);
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

async fn enqueue(producer: &Producer, message: &Message) -> KafkaResult<DeliveryFuture> {
    let headers = OwnedHeaders::new_with_capacity(2)
        .insert(Header { key: "content-type", value: Some(CONTENT_TYPE) })
        .insert(Header { key: "id", value: Some(&message.id) });
    let mut record =
        FutureRecord::to(&message.topic).key(&message.key).payload(&*message.body).headers(headers);
    loop {
        record = match producer.send_result(record) {
            Ok(delivery) => return Ok(delivery),
            Err((KafkaError::MessageProduction(Code::QueueFull), record)) => record,
            Err((error, _)) => return Err(error),
        };
        sleep(FULL_WAIT).await;
    }
}

/// Whether the fault is the message's, or that of another in its record batch.
fn is_refusal(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::MessageSizeTooLarge
                | Code::InvalidMessageSize
                | Code::InvalidRecord
                | Code::InvalidDifferentRecord
                | Code::InvalidTimestamp
                | Code::PolicyViolation
        )
    )
}
