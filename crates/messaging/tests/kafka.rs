//! What only Kafka does: offsets, seeks, groups and record batches. The cluster comes from
//! `scripts/services run -- cargo test`.

#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gozon_contract::{Delivery, RandomSource, Topic};
use gozon_messaging::{Batch, Broker, BrokerError, Subscriber, broker};
use gozon_testkit::kafka_url;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use tokio::time::timeout;

/// Longer than a group takes to notice a member that is gone, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(90);
/// More than a test sends.
const MANY_BYTES: usize = 64 * 1024 * 1024;

fn servers() -> String {
    kafka_url().trim_start_matches("kafka://").to_owned()
}

/// A topic that no other test has.
fn topic(delivery: Delivery) -> Topic {
    let name = format!("test.{:016x}", RandomSource::system().next_u64());
    Topic { name: name.leak(), delivery }
}

/// An instance: a connection of its own to the cluster.
fn instance(topic: Topic) -> Arc<dyn Broker> {
    broker::connect(&kafka_url(), vec![topic].leak(), &RandomSource::system()).unwrap()
}

/// An event alone, with a key of its own.
fn one(topic: Topic, id: &str) -> Batch {
    keyed(topic, id, id)
}

fn keyed(topic: Topic, id: &str, key: &str) -> Batch {
    let body = format!(r#"{{"id":"{id}","partitionkey":"key {key}"}}"#);
    Batch { id: id.to_owned(), topic: topic.name.to_owned(), body: body.into_bytes().into() }
}

fn several(topic: Topic, ids: Range<u32>) -> Vec<Batch> {
    ids.map(|id| one(topic, &id.to_string())).collect()
}

/// Events with one key, and so of one partition and in order.
fn row(topic: Topic, ids: Range<u32>) -> Vec<Batch> {
    ids.map(|id| keyed(topic, &id.to_string(), "one")).collect()
}

/// What is delivered of batches: each event by itself, named by its place in its batch.
fn delivered(batches: &[Batch]) -> Vec<Batch> {
    let events = |batch: &Batch| {
        let name = |(n, event): (usize, gozon_messaging::Message)| Batch {
            id: format!("{}/{n}", batch.id),
            topic: event.topic,
            body: event.body,
        };
        batch.split().into_iter().enumerate().map(name).collect::<Vec<_>>()
    };
    batches.iter().flat_map(events).collect()
}

fn sorted(mut batches: Vec<Batch>) -> Vec<Batch> {
    batches.sort_by(|a, b| a.id.cmp(&b.id));
    batches
}

async fn receive(subscriber: &mut dyn Subscriber, max_bytes: usize) -> Vec<Batch> {
    timeout(PATIENCE, subscriber.receive(max_bytes)).await.expect("something arrives").unwrap()
}

/// Receives and acknowledges until all events of `expected` came once.
async fn drain(subscriber: &mut dyn Subscriber, expected: &[Batch]) {
    let expected = delivered(expected);
    let mut received = Vec::new();
    while received.len() < expected.len() {
        received.extend(receive(subscriber, MANY_BYTES).await);
        subscriber.ack().await.unwrap();
    }
    assert_eq!(sorted(received), sorted(expected));
}

/// Receives without acknowledging until `count` events are held.
async fn hold(subscriber: &mut dyn Subscriber, count: usize) -> Vec<Batch> {
    let mut held = Vec::new();
    while held.len() < count {
        held.extend(receive(subscriber, 1).await);
    }
    held
}

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

    // Whoever attaches anew gets them once the group goes on.
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

fn filled(id: &str, filler: &str) -> Arc<[u8]> {
    format!(r#"{{"id":"{id}","data":"{filler}"}}"#).into_bytes().into()
}

#[tokio::test]
async fn too_large_event_is_refused_and_the_rest_is_sent() {
    let topic = topic(Delivery::Competing);
    let broker = instance(topic);
    let mut sent = several(topic, 0..10);
    sent[4].body = filled("4", &"x".repeat(2_000_000));
    match broker.publish(&sent).await {
        Err(BrokerError::Rejected { ids, .. }) => assert_eq!(ids, ["4"]),
        other => panic!("{other:?}"),
    }
    sent.remove(4);
    drain(broker.subscribe(topic).await.unwrap().as_mut(), &sent).await;
}

/// The cluster refuses the record batch that an event is in, and its neighbours with it.
#[tokio::test]
async fn neighbours_of_a_refused_event_are_sent() {
    let topic = topic(Delivery::Competing);
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers()).create().unwrap();
    let small =
        NewTopic::new(topic.name, 1, TopicReplication::Fixed(-1)).set("max.message.bytes", "20000");
    admin.create_topics([&small], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();

    let broker = instance(topic);
    let mut sent = several(topic, 0..10);
    // lz4 can't make this smaller.
    let random = RandomSource::seeded(1);
    let noise: Vec<_> = (0..2000).map(|_| format!("{:016x}", random.next_u64())).collect();
    let noise = noise.concat();
    sent[4].body = filled("4", &noise);
    match broker.publish(&sent).await {
        Err(BrokerError::Rejected { ids, .. }) => assert_eq!(ids, ["4"]),
        other => panic!("{other:?}"),
    }
    sent.remove(4);
    drain(broker.subscribe(topic).await.unwrap().as_mut(), &sent).await;
    // What it met is no reason to refuse more.
    let more = several(topic, 10..20);
    broker.publish(&more).await.unwrap();
    // Nor is it the end of the others that share its batch: these arrive, though the batch, which
    // is then split, is refused.
    let large = String::from_utf8(filled("b", &noise).to_vec()).unwrap();
    let body = format!(r#"[{{"id":"a"}},{large},{{"id":"c"}}]"#).into_bytes().into();
    let batch = Batch { id: "batch".to_owned(), topic: topic.name.to_owned(), body };
    match broker.publish(&[batch]).await {
        Err(BrokerError::Rejected { ids, .. }) => assert_eq!(ids, ["batch"]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn undeclared_topic_is_refused() {
    let (known, unknown) = (topic(Delivery::Competing), topic(Delivery::Competing));
    let broker = instance(known);
    let sent = [one(known, "a"), one(unknown, "b")];
    match broker.publish(&sent).await {
        Err(BrokerError::Rejected { ids, .. }) => assert_eq!(ids, ["b"]),
        other => panic!("{other:?}"),
    }
    assert!(broker.subscribe(unknown).await.is_err());
    drain(broker.subscribe(known).await.unwrap().as_mut(), &sent[..1]).await;
}

#[tokio::test]
async fn topics_get_their_partitions() {
    for (delivery, option, partitions) in [
        (Delivery::Competing, "", 3),
        (Delivery::Competing, "?partitions=5", 5),
        (Delivery::Broadcast, "", 1),
    ] {
        let topic = topic(delivery);
        let url: &'static str = format!("{}{option}", kafka_url()).leak();
        let instance =
            || broker::connect(url, vec![topic].leak(), &RandomSource::system()).unwrap();
        // Several instances at once.
        let pings = (0..4).map(|_| async move { instance().ping().await });
        futures_util::future::try_join_all(pings).await.unwrap();
        let client: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", servers()).create().unwrap();
        let known = client.fetch_metadata(Some(topic.name), PATIENCE).unwrap();
        assert_eq!(known.topics()[0].partitions().len(), partitions);
    }
}

/// A batch's events go to the partitions of their keys.
#[tokio::test]
async fn events_of_a_batch_are_records_of_their_own() {
    let topic = topic(Delivery::Competing);
    let broker = instance(topic);
    let events: Vec<_> =
        (0..100).map(|n| format!(r#"{{"id":"{n}","partitionkey":"{n}"}}"#)).collect();
    let body = format!("[{}]", events.join(",")).into_bytes().into();
    let sent = [Batch { id: "b".to_owned(), topic: topic.name.to_owned(), body }];
    broker.publish(&sent).await.unwrap();
    drain(broker.subscribe(topic).await.unwrap().as_mut(), &sent).await;
}

/// By an instance of the release before, which names the event, or by a program that is none of
/// ours, and names nothing.
#[tokio::test]
async fn foreign_record_is_named_by_its_event_or_its_place() {
    let topic = topic(Delivery::Broadcast);
    let mut subscriber = instance(topic).subscribe(topic).await.unwrap();
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", servers()).create().unwrap();
    let record = || BaseRecord::<(), _>::to(topic.name).partition(0);
    let headers = OwnedHeaders::new()
        .insert(Header { key: "content-type", value: Some("application/cloudevents+json") })
        .insert(Header { key: "id", value: Some("order:thing") });
    producer.send(record().payload("named").headers(headers)).unwrap();
    producer.send(record().payload("hello")).unwrap();
    producer.flush(PATIENCE).unwrap();
    let batch = |id: &str, body: &str| Batch {
        id: id.to_owned(),
        topic: topic.name.to_owned(),
        body: body.as_bytes().into(),
    };
    let expected = [batch("order:thing", "named"), batch(&format!("{}/0/1", topic.name), "hello")];
    assert_eq!(hold(subscriber.as_mut(), 2).await, expected);
}

#[tokio::test]
async fn everything_fails_in_time_without_a_cluster() {
    let topic = topic(Delivery::Competing);
    let nobody = "kafka://127.0.0.1:1,127.0.0.1:2";
    let broker = broker::connect(nobody, vec![topic].leak(), &RandomSource::system()).unwrap();
    let all = async {
        assert!(matches!(broker.ping().await, Err(BrokerError::Away(_))));
        assert!(matches!(broker.subscribe(topic).await, Err(BrokerError::Away(_))));
        let publish = broker.publish(&[one(topic, "a")]).await;
        assert!(matches!(publish, Err(BrokerError::Away(_))));
    };
    timeout(PATIENCE, all).await.expect("a timeout of their own");
}

#[test]
fn urls_are_checked() {
    for bad in [
        "kafka:",
        "kafka://",
        "kafka://a:1,",
        "kafka://a:1/x",
        "kafka://a:x",
        "kafka://a:1,:2",
        "kafka://a:99999",
        "kafka://u:p@a:1",
        "kafka:a",
        "kafka://a:1?partition=3",
        "kafka://a:1?partitions=0",
        "kafka://a:1?partitions=many",
    ] {
        let error = broker::connect(bad, &[], &RandomSource::system()).err();
        assert!(matches!(error, Some(BrokerError::InvalidUrl(_))), "{bad}");
    }
    for good in
        ["kafka://a:1,b:2", "kafka://a,[::1],[::1]:1", "kafka://a:1?prefix=n.&partitions=12"]
    {
        assert!(broker::connect(good, &[], &RandomSource::system()).is_ok(), "{good}");
    }
}
