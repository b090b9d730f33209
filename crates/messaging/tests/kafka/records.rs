//! Events as a cluster's records.

use std::sync::Arc;

use gozon_contract::{Delivery, RandomSource};
use gozon_messaging::{Batch, BrokerError};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use crate::{PATIENCE, drain, hold, instance, servers, several, topic};

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
