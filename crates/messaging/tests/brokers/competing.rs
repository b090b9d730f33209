//! Topics whose consumers compete: one of them deals with each message.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use gozon_messaging::{BrokerError, Message};
use tokio::task::{JoinHandle, yield_now};

use crate::subject::{Rig, Subject, ids, in_time, message, receive};

/// In one large batch, with bodies of a size that no order has.
pub async fn messages_arrive_as_they_were_sent(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let mut sent = rig.messages("large", 1000);
    for (n, message) in sent.iter_mut().enumerate() {
        let byte = u8::try_from(n % 251).unwrap();
        message.body = vec![byte; 8 * 1024].into();
    }
    let mut consumer = rig.subscribe(rig.queue).await;
    let publishing = rig.publish(sent.clone());
    let mut arrived: HashMap<_, _> = receive(consumer.as_mut(), &sent)
        .await
        .into_iter()
        .map(|message| (message.id.clone(), message))
        .collect();
    publishing.await.unwrap();
    for message in sent {
        assert_eq!(arrived.remove(&message.id), Some(message));
    }
    assert!(arrived.is_empty(), "nobody sent {arrived:?}");
}

/// In the broker if that stores it, or else with the publisher, who has to wait.
pub async fn a_message_waits_until_it_is_dealt_with(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let sent = rig.messages("early", 20);
    let publishing = rig.publish(sent.clone());
    if subject.traits.stores {
        publishing.await.unwrap();
        let mut consumer = in_time(rig.elsewhere().subscribe(rig.queue)).await.unwrap();
        receive(consumer.as_mut(), &sent).await;
    } else {
        let mut consumer = rig.subscribe(rig.queue).await;
        assert_eq!(in_time(consumer.receive(100)).await.unwrap().len(), 20);
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
    seen: Arc<Mutex<Vec<Message>>>,
}

impl Team {
    async fn of(size: usize, rig: &Rig) -> Self {
        let counts: Arc<Vec<_>> = Arc::new((0..size).map(|_| AtomicUsize::new(0)).collect());
        let seen = Arc::<Mutex<Vec<Message>>>::default();
        let mut members = Vec::new();
        for member in 0..size {
            let mut consumer = in_time(rig.elsewhere().subscribe(rig.queue)).await.unwrap();
            let (counts, seen) = (Arc::clone(&counts), Arc::clone(&seen));
            members.push(tokio::spawn(async move {
                loop {
                    let batch = consumer.receive(10).await.unwrap();
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
    async fn has_dealt_with(&self, wanted: &[Message]) -> Vec<Message> {
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
        let sent = rig.messages(&format!("round-{round}"), 100);
        in_time(rig.publish(sent.clone())).await.unwrap();
        in_time(team.has_dealt_with(&sent)).await;
    }
    // Both are at work and nothing fails: each message is dealt with by one of them.
    let sent = rig.messages("shared", 1000);
    rig.publish(sent.clone()).await.unwrap();
    let mut all = team.has_dealt_with(&sent).await;
    all.retain(|message| message.id.starts_with("shared"));
    assert_eq!(all.len(), 1000);
}

/// It dies between receiving and acknowledging.
pub async fn what_a_dead_consumer_held_comes_again(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let sent = rig.messages("held", 50);
    // What is published together may be handed out together.
    let publishing: Vec<_> = sent.chunks(10).map(|batch| rig.publish(batch.to_vec())).collect();
    let mut consumer = rig.subscribe(rig.queue).await;
    let done = ids(&in_time(consumer.receive(10)).await.unwrap());
    in_time(consumer.ack()).await.unwrap();
    assert!(!in_time(consumer.receive(10)).await.unwrap().is_empty());
    drop(consumer);
    // The first batch is dealt with; all others come.
    let missing: Vec<_> = sent.into_iter().filter(|one| !done.contains(&one.id)).collect();
    let mut heir = in_time(rig.elsewhere().subscribe(rig.queue)).await.unwrap();
    receive(heir.as_mut(), &missing).await;
    for one in publishing {
        one.await.unwrap();
    }
}

/// However often: an outage of the consumer's database may last.
pub async fn what_is_given_back_comes_again(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let sent = rig.messages("refused", 5);
    let publishing = rig.publish(sent.clone());
    let mut consumer = rig.subscribe(rig.queue).await;
    for _ in 0..45 {
        assert!(!in_time(consumer.receive(100)).await.unwrap().is_empty());
        in_time(consumer.nack()).await.unwrap();
    }
    receive(consumer.as_mut(), &sent).await;
    publishing.await.unwrap();
}

pub async fn the_messages_of_a_key_keep_their_order(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let team = Team::of(subject.traits.consumers_in_order, &rig).await;
    let sent = rig.messages("ordered", 1000);
    for batch in sent.chunks(100) {
        in_time(rig.publish(batch.to_vec())).await.unwrap();
    }
    let mut latest: HashMap<String, usize> = HashMap::new();
    for message in team.has_dealt_with(&sent).await {
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
    let batches: Vec<_> = (0..8).map(|n| rig.messages(&format!("batch-{n}"), 50)).collect();
    let publishing: Vec<_> = batches.iter().map(|batch| rig.publish(batch.clone())).collect();
    receive(consumer.as_mut(), &batches.concat()).await;
    for one in publishing {
        one.await.unwrap();
    }
}

pub async fn an_unknown_topic_is_rejected_and_the_rest_is_safe(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let known = message(rig.queue, "known", 1);
    let unknown =
        Message { topic: format!("{}.other", rig.queue.name), ..message(rig.queue, "unknown", 2) };
    let (batch, broker) = ([known.clone(), unknown.clone()], Arc::clone(&rig.broker));
    let publishing = tokio::spawn(async move { in_time(broker.publish(&batch)).await });
    let mut consumer = rig.subscribe(rig.queue).await;
    let arrived = receive(consumer.as_mut(), std::slice::from_ref(&known)).await;
    assert_eq!(arrived, [known]);
    match publishing.await.unwrap() {
        Err(BrokerError::Rejected { ids, .. }) => assert_eq!(ids, [unknown.id]),
        other => panic!("{other:?}"),
    }
}
