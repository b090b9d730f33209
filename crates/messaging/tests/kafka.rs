//! What only Kafka does: offsets, seeks, groups and record batches. The cluster comes from
//! `scripts/services run -- cargo test`.

#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use gozon_contract::{Delivery, RandomSource, Topic};
use gozon_messaging::{Broker, BrokerError, Message, Subscriber, broker};
use gozon_testkit::kafka_url;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use tokio::time::timeout;

/// Longer than a group takes to notice a member that is gone, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(90);

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

fn message(topic: Topic, id: &str) -> Message {
    Message {
        topic: topic.name.to_owned(),
        key: format!("key {id}"),
        body: format!("body {id}").into_bytes().into(),
        id: id.to_owned(),
    }
}

fn messages(topic: Topic, ids: std::ops::Range<u32>) -> Vec<Message> {
    ids.map(|id| message(topic, &id.to_string())).collect()
}

/// Messages with one key, and so of one partition and in order.
fn row(topic: Topic, ids: std::ops::Range<u32>) -> Vec<Message> {
    let key = |message| Message { key: "one".to_owned(), ..message };
    messages(topic, ids).into_iter().map(key).collect()
}

fn sorted(mut messages: Vec<Message>) -> Vec<Message> {
    messages.sort_by(|a, b| a.id.cmp(&b.id));
    messages
}

async fn receive(subscriber: &mut dyn Subscriber, most: usize) -> Vec<Message> {
    timeout(PATIENCE, subscriber.receive(most)).await.expect("something arrives").unwrap()
}

/// Receives and acknowledges until all of `expected` came once.
async fn drain(subscriber: &mut dyn Subscriber, expected: &[Message]) {
    let mut received = Vec::new();
    while received.len() < expected.len() {
        received.extend(receive(subscriber, 1000).await);
        subscriber.ack().await.unwrap();
    }
    assert_eq!(sorted(received), sorted(expected.to_vec()));
}

/// Receives without acknowledging until `count` messages are held.
async fn hold(subscriber: &mut dyn Subscriber, count: usize) -> Vec<Message> {
    let mut held = Vec::new();
    while held.len() < count {
        held.extend(receive(subscriber, count - held.len()).await);
    }
    held
}

#[tokio::test]
async fn what_is_given_back_comes_again_in_order() {
    let topic = topic(Delivery::Competing);
    let broker = instance(topic);
    let sent = row(topic, 0..20);
    broker.publish(&sent).await.unwrap();
    let mut subscriber = broker.subscribe(topic).await.unwrap();
    assert_eq!(hold(subscriber.as_mut(), 5).await, sent[..5]);
    subscriber.ack().await.unwrap();
    for _ in 0..3 {
        // What librdkafka read ahead must not overtake what is given back.
        assert_eq!(hold(subscriber.as_mut(), 5).await, sent[5..10]);
        subscriber.nack().await.unwrap();
    }
    assert_eq!(hold(subscriber.as_mut(), 15).await, sent[5..]);
}

#[tokio::test]
async fn every_partition_is_sought_back() {
    let topic = topic(Delivery::Competing);
    let broker = instance(topic);
    let sent = messages(topic, 0..200);
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
    assert_eq!(hold(first.as_mut(), 4).await, sent[..4]);
    first.ack().await.unwrap();
    assert_eq!(hold(first.as_mut(), 4).await, sent[4..8]);
    drop(first);

    let mut second = instance(topic).subscribe(topic).await.unwrap();
    assert_eq!(hold(second.as_mut(), 6).await, sent[4..]);
    drop(second);

    let mut third = instance(topic).subscribe(topic).await.unwrap();
    drain(third.as_mut(), &sent[4..]).await;
}

#[tokio::test]
async fn a_cancelled_receive_loses_nothing() {
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
            let attempt = timeout(Duration::from_micros(300), subscriber.receive(7)).await;
            if let Ok(batch) = attempt {
                received.extend(batch.unwrap());
                subscriber.ack().await.unwrap();
            }
        }
    };
    timeout(PATIENCE, futures_util::future::join(publish, receive)).await.expect("all arrive");
    assert_eq!(received, sent);
}

#[tokio::test]
async fn a_listener_hears_what_is_published_after_it_attached() {
    let topic = topic(Delivery::Broadcast);
    let broker = instance(topic);
    broker.publish(&messages(topic, 0..50)).await.unwrap();
    let mut first = broker.subscribe(topic).await.unwrap();
    let mut second = instance(topic).subscribe(topic).await.unwrap();
    let sent = messages(topic, 50..100);
    broker.publish(&sent).await.unwrap();
    drain(first.as_mut(), &sent).await;
    drain(second.as_mut(), &sent).await;
    let mut third = broker.subscribe(topic).await.unwrap();
    let sent = messages(topic, 100..101);
    broker.publish(&sent).await.unwrap();
    drain(third.as_mut(), &sent).await;
}

#[tokio::test]
async fn a_second_consumer_takes_its_share() {
    let topic = topic(Delivery::Competing);
    let broker = instance(topic);
    let mut first = instance(topic).subscribe(topic).await.unwrap();
    let mut ids = 0..;
    let mut publish = async || {
        let from = ids.next().unwrap() * 100;
        let sent = messages(topic, from..from + 100);
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
                missing.extend(publish().await.into_iter().map(|message| message.id));
            }
            let (subscriber, count) = tokio::select! {
                batch = first.receive(10) => (&mut first, (batch.unwrap(), &mut firsts)),
                batch = second.receive(10) => (&mut second, (batch.unwrap(), &mut seconds)),
            };
            subscriber.ack().await.unwrap();
            *count.1 += count.0.len();
            missing.retain(|id| count.0.iter().all(|message| message.id != *id));
        }
    };
    timeout(PATIENCE, share).await.expect("both get some of the work");

    // The one that is gone leaves its share to the other.
    drop(second);
    let sent = publish().await;
    let mut missing: BTreeSet<_> = sent.into_iter().map(|message| message.id).collect();
    while !missing.is_empty() {
        let batch = receive(first.as_mut(), 1000).await;
        first.ack().await.unwrap();
        missing.retain(|id| batch.iter().all(|message| message.id != *id));
    }
}

#[tokio::test]
async fn a_message_too_large_is_refused_and_the_rest_is_sent() {
    let topic = topic(Delivery::Competing);
    let broker = instance(topic);
    let mut sent = messages(topic, 0..10);
    sent[4].body = vec![0; 2_000_000].into();
    match broker.publish(&sent).await {
        Err(BrokerError::Rejected { ids, .. }) => assert_eq!(ids, ["4"]),
        other => panic!("{other:?}"),
    }
    sent.remove(4);
    drain(broker.subscribe(topic).await.unwrap().as_mut(), &sent).await;
}

/// The cluster refuses the record batch that a message is in, and its neighbours with it.
#[tokio::test]
async fn neighbours_of_a_refused_message_are_sent() {
    let topic = topic(Delivery::Competing);
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers()).create().unwrap();
    let small =
        NewTopic::new(topic.name, 1, TopicReplication::Fixed(-1)).set("max.message.bytes", "20000");
    admin.create_topics([&small], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();

    let broker = instance(topic);
    let mut sent = messages(topic, 0..10);
    // lz4 can't make this smaller.
    let random = RandomSource::seeded(1);
    sent[4].body = (0..4000).flat_map(|_| random.next_u64().to_le_bytes()).collect();
    match broker.publish(&sent).await {
        Err(BrokerError::Rejected { ids, .. }) => assert_eq!(ids, ["4"]),
        other => panic!("{other:?}"),
    }
    sent.remove(4);
    drain(broker.subscribe(topic).await.unwrap().as_mut(), &sent).await;
    // What it met is no reason to refuse more.
    let more = messages(topic, 10..20);
    broker.publish(&more).await.unwrap();
}

#[tokio::test]
async fn a_topic_that_was_not_declared_is_refused() {
    let (known, unknown) = (topic(Delivery::Competing), topic(Delivery::Competing));
    let broker = instance(known);
    let sent = [message(known, "a"), message(unknown, "b")];
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

#[tokio::test]
async fn a_record_from_elsewhere_has_its_place_as_its_id() {
    let topic = topic(Delivery::Broadcast);
    let mut subscriber = instance(topic).subscribe(topic).await.unwrap();
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", servers()).create().unwrap();
    producer.send(BaseRecord::<(), _>::to(topic.name).partition(0).payload("hello")).unwrap();
    producer.flush(PATIENCE).unwrap();
    let received = receive(subscriber.as_mut(), 10).await;
    let expected = Message {
        id: format!("{}/0/0", topic.name),
        topic: topic.name.to_owned(),
        key: String::new(),
        body: b"hello".as_slice().into(),
    };
    assert_eq!(received, [expected]);
}

#[tokio::test]
async fn without_a_cluster_everything_fails_in_time() {
    let topic = topic(Delivery::Competing);
    let nobody = "kafka://127.0.0.1:1,127.0.0.1:2";
    let broker = broker::connect(nobody, vec![topic].leak(), &RandomSource::system()).unwrap();
    let all = async {
        assert!(matches!(broker.ping().await, Err(BrokerError::Away(_))));
        assert!(matches!(broker.subscribe(topic).await, Err(BrokerError::Away(_))));
        let publish = broker.publish(&[message(topic, "a")]).await;
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
        "kafka://u:p@a:1",
        "kafka:a",
        "kafka://a:1?partition=3",
        "kafka://a:1?partitions=0",
        "kafka://a:1?partitions=many",
    ] {
        let error = broker::connect(bad, &[], &RandomSource::system()).err();
        assert!(matches!(error, Some(BrokerError::InvalidUrl(_))), "{bad}");
    }
    for good in ["kafka://a:1,b:2", "kafka://a:1?prefix=n.&partitions=12"] {
        assert!(broker::connect(good, &[], &RandomSource::system()).is_ok(), "{good}");
    }
}
