//! The broker inside the process keeps nothing, so it must not promise anything either.

use std::sync::Arc;

use futures_util::FutureExt as _;
use gozon_contract::{RandomSource, Timestamp};
use gozon_messaging::{Broker, BrokerError, Message, broker};

use crate::service::{NEWS, THING, message};

fn memory() -> Arc<dyn Broker> {
    broker::connect("memory:", &[THING, NEWS], &RandomSource::seeded(1)).unwrap()
}

fn things(names: &[&str]) -> Vec<Message> {
    names.iter().map(|name| message(name, Timestamp::from_micros(0))).collect()
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
    assert_eq!(consumer.receive(9).await.unwrap(), sent[1..]);
    assert!(publishing.as_mut().now_or_never().is_none());
    consumer.ack().await.unwrap();
    publishing.await.unwrap();
}

#[tokio::test]
async fn what_is_given_back_comes_again_in_order() {
    let memory = memory();
    let sent = things(&["a", "b", "c"]);
    let publishing = tokio::spawn({
        let (memory, sent) = (Arc::clone(&memory), sent.clone());
        async move { memory.publish(&sent).await }
    });
    let mut consumer = memory.subscribe(THING).await.unwrap();
    assert_eq!(consumer.receive(2).await.unwrap(), sent[..2]);
    consumer.nack().await.unwrap();
    assert_eq!(consumer.receive(2).await.unwrap(), sent[..2]);
    // A consumer that dies with messages in hand.
    drop(consumer);
    let mut consumer = memory.subscribe(THING).await.unwrap();
    assert_eq!(consumer.receive(9).await.unwrap(), sent);
    assert!(!publishing.is_finished());
    consumer.ack().await.unwrap();
    publishing.await.unwrap().unwrap();
}

/// The relay publishes again what it was not told is safe; the queue must not grow by that.
#[tokio::test]
async fn an_abandoned_publish_is_taken_back() {
    let memory = memory();
    let sent = things(&["a", "b"]);
    for _ in 0..3 {
        assert!(memory.publish(&sent).now_or_never().is_none());
    }
    let mut consumer = memory.subscribe(THING).await.unwrap();
    assert!(consumer.receive(9).now_or_never().is_none());
    let mut publishing = memory.publish(&sent);
    assert!(publishing.as_mut().now_or_never().is_none());
    assert_eq!(consumer.receive(9).await.unwrap(), sent);
}

#[tokio::test]
async fn a_broadcast_waits_for_nobody_and_reaches_all() {
    let memory = memory();
    let news = vec![Message { topic: NEWS.name.to_owned(), ..things(&["a"]).remove(0) }];
    memory.publish(&news).await.unwrap();
    let mut one = memory.subscribe(NEWS).await.unwrap();
    let mut two = memory.subscribe(NEWS).await.unwrap();
    memory.publish(&news).await.unwrap();
    assert_eq!(one.receive(9).await.unwrap(), news);
    assert_eq!(two.receive(9).await.unwrap(), news);
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_a_rejection_of_that_message_alone() {
    let memory = memory();
    let lost = Message { topic: "lost".to_owned(), ..things(&["lost"]).remove(0) };
    let sent = [things(&["a"]).remove(0), lost.clone()];
    let mut consumer = memory.subscribe(THING).await.unwrap();
    let (result, ()) = tokio::join!(memory.publish(&sent), async {
        assert_eq!(consumer.receive(9).await.unwrap(), sent[..1]);
        consumer.ack().await.unwrap();
    });
    assert!(matches!(result, Err(BrokerError::Rejected { ids, .. }) if ids == [lost.id]));
}
