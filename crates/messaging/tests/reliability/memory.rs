//! The broker inside the process keeps nothing, so it must not promise anything either.

use std::sync::Arc;

use futures_util::FutureExt as _;
use gozon_contract::{RandomSource, Timestamp};
use gozon_messaging::{Batch, Broker, BrokerError, broker};

use crate::service::{NEWS, THING, batch, event};

fn memory() -> Arc<dyn Broker> {
    broker::connect("memory:", &[THING, NEWS], &RandomSource::seeded(1)).unwrap()
}

fn things(names: &[&str]) -> Vec<Batch> {
    let thing = |name: &&str| batch(name, &[event(name, Timestamp::from_micros(0)).to_message()]);
    names.iter().map(thing).collect()
}

/// The most bytes to receive, so that there are no more batches than these.
fn bytes_of(batches: &[Batch]) -> usize {
    batches.iter().map(|batch| batch.body.len()).sum()
}

#[tokio::test]
async fn publishing_ends_when_the_consumer_has_committed() {
    let memory = memory();
    let mut consumer = memory.subscribe(THING).await.unwrap();
    let sent = things(&["a", "b"]);
    let mut publishing = memory.publish(&sent);
    assert!(publishing.as_mut().now_or_never().is_none());
    assert_eq!(consumer.receive(1).await.unwrap(), sent[..1]);
    consumer.ack().await.unwrap();
    assert!(publishing.as_mut().now_or_never().is_none());
    assert_eq!(consumer.receive(usize::MAX).await.unwrap(), sent[1..]);
    assert!(publishing.as_mut().now_or_never().is_none());
    consumer.ack().await.unwrap();
    publishing.await.unwrap();
}

#[tokio::test]
async fn returned_batches_come_again_in_order() {
    let memory = memory();
    let sent = things(&["a", "b", "c"]);
    let publishing = tokio::spawn({
        let (memory, sent) = (Arc::clone(&memory), sent.clone());
        async move { memory.publish(&sent).await }
    });
    let mut consumer = memory.subscribe(THING).await.unwrap();
    assert_eq!(consumer.receive(bytes_of(&sent[..2])).await.unwrap(), sent[..2]);
    consumer.nack().await.unwrap();
    assert_eq!(consumer.receive(bytes_of(&sent[..2])).await.unwrap(), sent[..2]);
    // A consumer that dies with batches in hand.
    drop(consumer);
    let mut consumer = memory.subscribe(THING).await.unwrap();
    assert_eq!(consumer.receive(usize::MAX).await.unwrap(), sent);
    assert!(!publishing.is_finished());
    consumer.ack().await.unwrap();
    publishing.await.unwrap().unwrap();
}

/// The relay publishes again what it was not told is safe; the queue must not grow by that.
#[tokio::test]
async fn abandoned_publish_is_taken_back() {
    let memory = memory();
    let sent = things(&["a", "b"]);
    for _ in 0..3 {
        assert!(memory.publish(&sent).now_or_never().is_none());
    }
    let mut consumer = memory.subscribe(THING).await.unwrap();
    assert!(consumer.receive(usize::MAX).now_or_never().is_none());
    let mut publishing = memory.publish(&sent);
    assert!(publishing.as_mut().now_or_never().is_none());
    assert_eq!(consumer.receive(usize::MAX).await.unwrap(), sent);
}

#[tokio::test]
async fn broadcast_waits_for_nobody_and_reaches_all() {
    let memory = memory();
    let news = vec![Batch { topic: NEWS.name.to_owned(), ..things(&["a"]).remove(0) }];
    memory.publish(&news).await.unwrap();
    let mut one = memory.subscribe(NEWS).await.unwrap();
    let mut two = memory.subscribe(NEWS).await.unwrap();
    memory.publish(&news).await.unwrap();
    assert_eq!(one.receive(usize::MAX).await.unwrap(), news);
    assert_eq!(two.receive(usize::MAX).await.unwrap(), news);
}

#[tokio::test]
async fn unknown_topic_rejects_that_batch_alone() {
    let memory = memory();
    let lost = Batch { topic: "lost".to_owned(), ..things(&["lost"]).remove(0) };
    let sent = [things(&["a"]).remove(0), lost.clone()];
    let mut consumer = memory.subscribe(THING).await.unwrap();
    let (result, ()) = tokio::join!(memory.publish(&sent), async {
        assert_eq!(consumer.receive(usize::MAX).await.unwrap(), sent[..1]);
        consumer.ack().await.unwrap();
    });
    assert!(matches!(result, Err(BrokerError::Rejected { ids, .. }) if ids == [lost.id]));
}
