//! What is acknowledged, what is given back, and where a consumer goes on.

use std::time::Duration;

use gozon_contract::Delivery;
use tokio::time::timeout;

use crate::{PATIENCE, delivered, drain, hold, instance, row, several, topic};

#[tokio::test]
async fn returned_events_come_again_in_order() {
    let topic = topic(Delivery::Competing);
    let broker = instance(topic);
    let sent = row(topic, 0..20);
    broker.publish(&sent).await.unwrap();
    let mut subscriber = broker.subscribe(topic).await.unwrap();
    assert_eq!(hold(subscriber.as_mut(), 5).await, delivered(&sent[..5]));
    subscriber.ack().await.unwrap();
    for _ in 0..3 {
        // What librdkafka read ahead must not overtake what is given back.
        assert_eq!(hold(subscriber.as_mut(), 5).await, delivered(&sent[5..10]));
        subscriber.nack().await.unwrap();
    }
    assert_eq!(hold(subscriber.as_mut(), 15).await, delivered(&sent[5..]));
}

#[tokio::test]
async fn every_partition_is_sought_back() {
    let topic = topic(Delivery::Competing);
    let broker = instance(topic);
    let sent = several(topic, 0..200);
    broker.publish(&sent).await.unwrap();
    let mut subscriber = broker.subscribe(topic).await.unwrap();
    hold(subscriber.as_mut(), 120).await;
    subscriber.nack().await.unwrap();
    drain(subscriber.as_mut(), &sent).await;
}

#[tokio::test]
async fn only_what_is_acknowledged_is_committed() {
    let topic = topic(Delivery::Competing);
    let broker = instance(topic);
    let sent = row(topic, 0..10);
    broker.publish(&sent).await.unwrap();

    let mut first = instance(topic).subscribe(topic).await.unwrap();
    assert_eq!(hold(first.as_mut(), 4).await, delivered(&sent[..4]));
    first.ack().await.unwrap();
    assert_eq!(hold(first.as_mut(), 4).await, delivered(&sent[4..8]));
    drop(first);

    let mut second = instance(topic).subscribe(topic).await.unwrap();
    assert_eq!(hold(second.as_mut(), 6).await, delivered(&sent[4..]));
    drop(second);

    let mut third = instance(topic).subscribe(topic).await.unwrap();
    drain(third.as_mut(), &sent[4..]).await;
}

#[tokio::test]
async fn cancelled_receive_loses_nothing() {
    let topic = topic(Delivery::Competing);
    let broker = instance(topic);
    let mut subscriber = broker.subscribe(topic).await.unwrap();
    let sent = row(topic, 0..500);
    let mut received = Vec::new();
    let publish = async {
        for chunk in sent.chunks(10) {
            broker.publish(chunk).await.unwrap();
        }
    };
    let receive = async {
        while received.len() < sent.len() {
            let attempt = timeout(Duration::from_micros(300), subscriber.receive(300)).await;
            if let Ok(batch) = attempt {
                received.extend(batch.unwrap());
                subscriber.ack().await.unwrap();
            }
        }
    };
    timeout(PATIENCE, futures_util::future::join(publish, receive)).await.expect("all arrive");
    assert_eq!(received, delivered(&sent));
}
