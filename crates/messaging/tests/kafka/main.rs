//! What only Kafka does: offsets, seeks, groups and record batches. The cluster comes from
//! `scripts/services run -- cargo test`.

#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]

mod cluster;
mod members;
mod offsets;
mod records;

use std::{ops::Range, sync::Arc, time::Duration};

use gozon_contract::{Delivery, RandomSource, Topic};
use gozon_messaging::{Batch, Broker, Subscriber, broker};
use gozon_testkit::kafka_url;
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
