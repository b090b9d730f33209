//! Listeners, and members of a group.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gozon_contract::{Delivery, RandomSource};
use gozon_messaging::broker;
use gozon_testkit::kafka_url;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
};
use tokio::time::timeout;

use crate::{MANY_BYTES, PATIENCE, delivered, drain, instance, receive, servers, several, topic};

#[tokio::test]
async fn listener_hears_what_is_published_after_it_attached() {
    let topic = topic(Delivery::Broadcast);
    let broker = instance(topic);
    broker.publish(&several(topic, 0..50)).await.unwrap();
    let mut first = broker.subscribe(topic).await.unwrap();
    let mut second = instance(topic).subscribe(topic).await.unwrap();
    let sent = several(topic, 50..100);
    broker.publish(&sent).await.unwrap();
    drain(first.as_mut(), &sent).await;
    drain(second.as_mut(), &sent).await;
    let mut third = broker.subscribe(topic).await.unwrap();
    let sent = several(topic, 100..101);
    broker.publish(&sent).await.unwrap();
    drain(third.as_mut(), &sent).await;
}

#[tokio::test]
async fn second_consumer_takes_its_share() {
    let topic = topic(Delivery::Competing);
    let broker = instance(topic);
    let mut first = instance(topic).subscribe(topic).await.unwrap();
    let mut ids = 0..;
    let mut publish = async || {
        let from = ids.next().unwrap() * 100;
        let sent = several(topic, from..from + 100);
        broker.publish(&sent).await.unwrap();
        sent
    };
    let sent = publish().await;
    drain(first.as_mut(), &sent).await;

    let mut missing: BTreeSet<String> = BTreeSet::new();
    let mut second = instance(topic).subscribe(topic).await.unwrap();
    let (mut firsts, mut seconds) = (0, 0);
    let share = async {
        while firsts == 0 || seconds == 0 || !missing.is_empty() {
            if missing.is_empty() {
                // Only what is published with both in the group counts.
                (firsts, seconds) = (0, 0);
                missing.extend(delivered(&publish().await).into_iter().map(|event| event.id));
            }
            let (subscriber, count) = tokio::select! {
                batch = first.receive(1000) => (&mut first, (batch.unwrap(), &mut firsts)),
                batch = second.receive(1000) => (&mut second, (batch.unwrap(), &mut seconds)),
            };
            subscriber.ack().await.unwrap();
            *count.1 += count.0.len();
            missing.retain(|id| count.0.iter().all(|event| event.id != *id));
        }
    };
    timeout(PATIENCE, share).await.expect("both get some of the work");

    // The one that is gone leaves its share to the other.
    drop(second);
    let sent = publish().await;
    let mut missing: BTreeSet<_> = delivered(&sent).into_iter().map(|event| event.id).collect();
    while !missing.is_empty() {
        let batch = receive(first.as_mut(), MANY_BYTES).await;
        first.ack().await.unwrap();
        missing.retain(|id| batch.iter().all(|event| event.id != *id));
    }
}

/// As when librdkafka has lost its share without a word: somebody holds it, and commits nothing.
#[tokio::test]
async fn a_member_notices_that_its_group_stands_still() {
    let topic = topic(Delivery::Competing);
    let url: &'static str = format!("{}?partitions=1", kafka_url()).leak();
    let broker = broker::connect(url, vec![topic].leak(), &RandomSource::system()).unwrap();
    broker.publish(&several(topic, 0..1)).await.unwrap();
    let group = format!("gozon.{}", topic.name);
    let (has_share, share) = tokio::sync::oneshot::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let idling = tokio::task::spawn_blocking(move || {
        let idler: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", servers())
            .set("group.id", group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        idler.subscribe(&[topic.name]).unwrap();
        let mut has_share = Some(has_share);
        while !stopped.load(Ordering::Relaxed) {
            if matches!(idler.poll(Duration::from_millis(100)), Some(Ok(_))) {
                has_share.take().map(|has_share| has_share.send(()));
            }
        }
    });
    timeout(PATIENCE, share).await.expect("the idler has its share").unwrap();

    let mut second = broker.subscribe(topic).await.unwrap();
    let missed = timeout(PATIENCE, second.receive(MANY_BYTES)).await.expect("it is noticed");
    assert!(missed.unwrap_err().to_string().contains("messages wait"));

    // The idler leaves. A member that attaches after that receives the message.
    stop.store(true, Ordering::Relaxed);
    idling.await.unwrap();
    let expected = delivered(&several(topic, 0..1));
    let got = async {
        loop {
            second = broker.subscribe(topic).await.unwrap();
            if let Ok(received) = second.receive(MANY_BYTES).await {
                break received;
            }
        }
    };
    assert_eq!(timeout(PATIENCE, got).await.expect("they are received"), expected);
}
