//! Topics whose consumers compete: one of them deals with each event.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use gozon_messaging::{Batch, BrokerError};
use tokio::task::{JoinHandle, yield_now};

use crate::subject::{
    MANY_BYTES, Rig, Subject, batch, event, events, ids, in_time, receive, receive_events,
};

/// Alone and together, with bodies of a size that no order has.
pub async fn events_arrive_as_they_were_sent(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let filler = "x".repeat(8 * 1024);
    let large = |n: usize| Batch {
        body: event("large", n, &filler).into_bytes().into(),
        ..batch(rig.queue, "large", n..n + 1)
    };
    let mut sent: Vec<_> = (0..500).map(large).collect();
    sent.extend(rig.batches("small", 500));
    let mut consumer = rig.subscribe(rig.queue).await;
    let publishing = rig.publish(sent.clone());
    let received = receive(consumer.as_mut(), &sent).await;
    publishing.await.unwrap();
    let mut arrived: HashMap<_, _> =
        events(&received).into_iter().map(|event| (event.id.clone(), event)).collect();
    for event in events(&sent) {
        assert_eq!(arrived.remove(&event.id), Some(event));
    }
    assert!(arrived.is_empty(), "nobody sent {arrived:?}");
}

/// What is sent again has the ids that it had, so that an inbox recognises it.
pub async fn delivery_sent_again_has_the_same_id(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let mut consumer = rig.subscribe(rig.queue).await;
    let sent = [batch(rig.queue, "several", 0..10), batch(rig.queue, "one", 0..1)].to_vec();
    let mut deliveries = Vec::new();
    for _ in 0..2 {
        let publishing = rig.publish(sent.clone());
        let received = receive(consumer.as_mut(), &sent).await;
        publishing.await.unwrap();
        let ids: BTreeSet<_> = received.into_iter().map(|batch| batch.id).collect();
        deliveries.push(ids);
    }
    assert_eq!(deliveries[0], deliveries[1]);
}

/// In the broker if that stores it, or else with the publisher, who has to wait.
pub async fn event_waits_until_it_is_dealt_with(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let sent = rig.batches("early", 20);
    let publishing = rig.publish(sent.clone());
    if subject.traits.stores {
        publishing.await.unwrap();
        let mut consumer = in_time(rig.elsewhere().subscribe(rig.queue)).await.unwrap();
        receive(consumer.as_mut(), &sent).await;
    } else {
        let mut consumer = rig.subscribe(rig.queue).await;
        assert_eq!(ids(&in_time(consumer.receive(MANY_BYTES)).await.unwrap()).len(), 20);
        yield_now().await;
        assert!(!publishing.is_finished());
        consumer.ack().await.unwrap();
        publishing.await.unwrap();
    }
}

/// Counts what each of two consumers deals with.
struct Team {
    members: Vec<JoinHandle<()>>,
    counts: Arc<Vec<AtomicUsize>>,
    seen: Arc<Mutex<Vec<Batch>>>,
}

impl Team {
    async fn of(size: usize, rig: &Rig) -> Self {
        let counts: Arc<Vec<_>> = Arc::new((0..size).map(|_| AtomicUsize::new(0)).collect());
        let seen = Arc::<Mutex<Vec<Batch>>>::default();
        let mut members = Vec::new();
        for member in 0..size {
            let mut consumer = in_time(rig.elsewhere().subscribe(rig.queue)).await.unwrap();
            let (counts, seen) = (Arc::clone(&counts), Arc::clone(&seen));
            members.push(tokio::spawn(async move {
                loop {
                    let batch = consumer.receive(1).await.unwrap();
                    counts[member].fetch_add(batch.len(), Ordering::Relaxed);
                    seen.lock().unwrap().extend(batch);
                    consumer.ack().await.unwrap();
                    yield_now().await;
                }
            }));
        }
        Self { members, counts, seen }
    }

    fn everyone_has_worked(&self) -> bool {
        self.counts.iter().all(|count| count.load(Ordering::Relaxed) > 0)
    }

    /// All that was dealt with, once `wanted` was.
    async fn has_dealt_with(&self, wanted: &[Batch]) -> Vec<Batch> {
        let wanted = ids(wanted);
        in_time(async {
            loop {
                let seen = self.seen.lock().unwrap().clone();
                if wanted.is_subset(&ids(&seen)) {
                    return seen;
                }
                assert!(self.members.iter().all(|member| !member.is_finished()));
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.members.iter().for_each(JoinHandle::abort);
    }
}

pub async fn consumers_share_the_work(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let team = Team::of(2, &rig).await;
    let mut round = 0;
    while !team.everyone_has_worked() {
        round += 1;
        let sent = rig.batches(&format!("round-{round}"), 100);
        in_time(rig.publish(sent.clone())).await.unwrap();
        in_time(team.has_dealt_with(&sent)).await;
    }
    // Both are at work and nothing fails: each message is dealt with by one of them.
    let sent = rig.batches("shared", 1000);
    rig.publish(sent.clone()).await.unwrap();
    let mut all = events(&team.has_dealt_with(&sent).await);
    all.retain(|event| event.id.starts_with("shared"));
    assert_eq!(all.len(), 1000);
}

/// It dies between receiving and acknowledging.
pub async fn events_of_a_dead_consumer_come_again(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let sent = rig.batches("held", 50);
    let publishing: Vec<_> = sent.iter().map(|batch| rig.publish(vec![batch.clone()])).collect();
    let mut consumer = rig.subscribe(rig.queue).await;
    let done = ids(&in_time(consumer.receive(1)).await.unwrap());
    in_time(consumer.ack()).await.unwrap();
    assert!(!in_time(consumer.receive(1)).await.unwrap().is_empty());
    drop(consumer);
    // What came first is dealt with; all else comes.
    let missing = ids(&sent).difference(&done).cloned().collect();
    let mut heir = in_time(rig.elsewhere().subscribe(rig.queue)).await.unwrap();
    receive_events(heir.as_mut(), missing).await;
    for one in publishing {
        one.await.unwrap();
    }
}

/// However often: an outage of the consumer's database may last.
pub async fn returned_events_come_again(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let sent = rig.batches("refused", 10);
    let publishing = rig.publish(sent.clone());
    let mut consumer = rig.subscribe(rig.queue).await;
    for _ in 0..45 {
        assert!(!in_time(consumer.receive(MANY_BYTES)).await.unwrap().is_empty());
        in_time(consumer.nack()).await.unwrap();
    }
    receive(consumer.as_mut(), &sent).await;
    publishing.await.unwrap();
}

pub async fn events_of_a_key_keep_their_order(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let team = Team::of(subject.traits.consumers_in_order, &rig).await;
    let sent = rig.batches("ordered", 1000);
    for ten in sent.chunks(10) {
        in_time(rig.publish(ten.to_vec())).await.unwrap();
    }
    let mut latest: HashMap<String, usize> = HashMap::new();
    for message in events(&team.has_dealt_with(&sent).await) {
        let n: usize = message.id.rsplit_once('-').unwrap().1.parse().unwrap();
        let after = latest.entry(message.key).or_insert(n);
        // A repeat is no disorder.
        assert!(n == *after || n == *after + 10 || n < *after, "{n} came after {after}");
        *after = n.max(*after);
    }
    assert!(latest.values().all(|n| *n >= 990));
}

pub async fn publishers_do_not_disturb_each_other(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let mut consumer = rig.subscribe(rig.queue).await;
    let batches: Vec<_> = (0..8).map(|n| rig.batches(&format!("batch-{n}"), 50)).collect();
    let publishing: Vec<_> = batches.iter().map(|batch| rig.publish(batch.clone())).collect();
    receive(consumer.as_mut(), &batches.concat()).await;
    for one in publishing {
        one.await.unwrap();
    }
}

pub async fn unknown_topic_is_rejected_and_the_rest_is_safe(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let known = batch(rig.queue, "known", 0..3);
    let unknown =
        Batch { topic: format!("{}.other", rig.queue.name), ..batch(rig.queue, "unknown", 0..3) };
    let (both, broker) = ([known.clone(), unknown.clone()], Arc::clone(&rig.broker));
    let publishing = tokio::spawn(async move { in_time(broker.publish(&both)).await });
    let mut consumer = rig.subscribe(rig.queue).await;
    let arrived = receive(consumer.as_mut(), std::slice::from_ref(&known)).await;
    assert_eq!(ids(&arrived), ids(&[known]));
    match publishing.await.unwrap() {
        Err(BrokerError::Rejected { ids, .. }) => assert_eq!(ids, [unknown.id]),
        other => panic!("{other:?}"),
    }
}
