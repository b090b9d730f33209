//! From the outbox to the broker.

use std::{collections::HashSet, time::Duration};

use gozon_messaging::{BATCH_CONTENT_TYPE, Event, Origin, Outgoing, dead_letters::Filter};
use gozon_store::select;
use gozon_testkit::{TestDb, on_both_databases};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::Mood,
    service::{A_WHILE, DAY, Service, deliver, event, id},
};

on_both_databases!(
    event_is_sent_after_the_commit_and_then_gone,
    rolled_back_event_is_never_sent,
    commit_of_250_events_is_three_rows_and_deliveries,
    each_topic_has_a_row_of_its_own,
    unsent_batch_is_swept_after_its_lease,
    lease_of_a_wrong_time_is_not_believed,
    crash_before_the_delete_sends_the_same_delivery_again,
    rejected_batch_is_split_until_the_bad_event_is_alone,
    nothing_is_lost_while_the_broker_is_away,
    what_the_hand_over_has_no_room_for_is_swept,
    two_relays_share_what_was_left_behind,
    late_commit_behind_a_long_pass_is_found,
    stopping_relay_sends_what_it_was_handed,
    silent_broker_does_not_stop_the_relay_for_ever,
);

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{n:05}")).collect()
}

fn texts(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

async fn event_is_sent_after_the_commit_and_then_gone(test: TestDb) {
    let mut service = Service::new(test).await;
    let mut relay = service.relay();
    let mut tx = service.db.begin().await.unwrap();
    let mut outgoing = Outgoing::default();
    outgoing.push(&event("a", service.clock.now()));
    let added = service.context.outbox.add(outgoing);
    tx.run_all(added.statement().into_iter().collect()).await.unwrap();
    assert_eq!(service.unsent().await, [""; 0]);
    relay.step().await;
    assert_eq!(service.broker.take(), [""; 0]);

    tx.commit().await.unwrap();
    assert_eq!(service.unsent().await, [id("a")]);
    added.committed();
    assert_eq!(service.sent_by(&mut relay).await, [id("a")]);
    service.emptied_by(&mut relay).await;
    assert_eq!(service.broker.take(), [""; 0]);
}

async fn rolled_back_event_is_never_sent(test: TestDb) {
    let service = Service::new(test).await;
    let mut tx = service.db.begin().await.unwrap();
    let mut outgoing = Outgoing::default();
    outgoing.push(&event("a", service.clock.now()));
    let added = service.context.outbox.add(outgoing);
    tx.run_all(added.statement().into_iter().collect()).await.unwrap();
    drop(tx);
    drop(added);
    service.clock.advance(A_WHILE);
    service.another_relay().step().await;
    assert_eq!(service.broker.take(), [""; 0]);
}

async fn rows(service: &Service) -> Vec<(String, i64)> {
    let mut reader = service.db.read().await.unwrap();
    let rows =
        reader.query(select!("select topic, events from outbox_batches order by topic, events"));
    rows.fetch_all().await.unwrap()
}

async fn commit_of_250_events_is_three_rows_and_deliveries(test: TestDb) {
    let mut service = Service::new(test).await;
    let mut relay = service.relay();
    let names = numbered(250);
    let added = service.commit(&texts(&names)).await;
    assert_eq!(rows(&service).await, [50, 100, 100].map(|events| ("thing".to_owned(), events)));
    added.committed();
    relay.step().await;
    let sent = service.broker.take_batches();
    assert_eq!(sent.iter().map(|batch| batch.split().len()).collect::<Vec<_>>(), [100, 100, 50]);
    assert!(sent.iter().all(|batch| batch.content_type() == BATCH_CONTENT_TYPE));
    let deliveries: HashSet<_> = sent.iter().map(|batch| &batch.id).collect();
    assert_eq!(deliveries.len(), 3);
    service.emptied_by(&mut relay).await;

    assert!(deliver(&service.inbox(), &sent).await);
    assert_eq!(service.effects().await, names.iter().map(|name| id(name)).collect::<Vec<_>>());
    assert_eq!(service.marks().await.len(), 3);
}

async fn each_topic_has_a_row_of_its_own(test: TestDb) {
    let mut service = Service::new(test).await;
    let mut relay = service.relay();
    let mut outgoing = Outgoing::default();
    for name in ["a", "b", "c"] {
        let event = event(name, service.clock.now());
        outgoing.push(&event);
        outgoing.push(&Event { topic: "news", ..event });
    }
    let added = service.commit_all(outgoing).await;
    assert_eq!(rows(&service).await, [("news".to_owned(), 3), ("thing".to_owned(), 3)]);
    added.committed();
    relay.step().await;
    let sent = service.broker.take_batches();
    let topics: Vec<_> = sent.iter().map(|batch| batch.topic.as_str()).collect();
    assert_eq!(topics, ["thing", "news"]);
    assert!(sent.iter().all(|batch| batch.split().iter().all(|event| event.topic == batch.topic)));
}

async fn unsent_batch_is_swept_after_its_lease(test: TestDb) {
    let service = Service::new(test).await;
    service.leave_behind(&["a", "b"]).await;
    // Its writer may still be at it.
    service.another_relay().step().await;
    assert_eq!(service.broker.take(), [""; 0]);
    service.clock.advance(Duration::from_secs(4));
    let mut relay = service.another_relay();
    assert_eq!(service.sent_by(&mut relay).await, [id("a"), id("b")]);
    service.emptied_by(&mut relay).await;
}

/// A process that started just after the database's clock had jumped ahead went by that time, and was
/// killed before anybody saw it.
async fn lease_of_a_wrong_time_is_not_believed(test: TestDb) {
    let service = Service::new(test).await;
    let now = service.clock.now();
    service.clock.set(now.plus(3 * DAY));
    service.leave_behind(&["a", "b"]).await;
    service.clock.set(now);
    let mut relay = service.another_relay();
    assert_eq!(service.sent_by(&mut relay).await, [id("a"), id("b")]);
    service.emptied_by(&mut relay).await;
}

async fn crash_before_the_delete_sends_the_same_delivery_again(test: TestDb) {
    let service = Service::new(test).await;
    service.leave_behind(&["a", "b"]).await;
    let mut deliveries = Vec::new();
    for _ in 0..2 {
        service.clock.advance(A_WHILE);
        let mut relay = service.another_relay();
        relay.step().await;
        deliveries.extend(service.broker.take_batches());
        drop(relay);
    }
    assert_eq!(deliveries.len(), 2);
    assert_eq!(deliveries[0], deliveries[1]);
    for delivery in deliveries {
        assert!(deliver(&service.inbox(), &[delivery]).await);
    }
    assert_eq!(service.effects().await, ["a", "b"].map(id));
}

async fn rejected_batch_is_split_until_the_bad_event_is_alone(test: TestDb) {
    let service = Service::new(test).await;
    service.leave_behind(&["a", "bad", "c"]).await;
    service.leave_behind(&["d", "e"]).await;
    service.broker.is(Mood::Rejecting(vec![id("bad")]));
    let mut sent = Vec::new();
    let mut relay = service.another_relay();
    while service.dead().await.is_empty() {
        service.clock.advance(A_WHILE);
        relay.step().await;
        sent.extend(service.broker.take());
        assert!(service.broker.rejected.lock().unwrap().len() <= 11, "tried for ever");
    }
    service.emptied_by(&mut relay).await;
    sent.extend(service.broker.take());
    sent.sort();
    sent.dedup();
    assert_eq!(sent, ["a", "c", "d", "e"].map(id));
    // Once with the others, then as often by itself as a message is tried.
    let rejected: Vec<_> = service.broker.rejected.lock().unwrap().drain(..).collect();
    let sizes: Vec<_> = rejected.iter().map(|batch| batch.split().len()).collect();
    assert_eq!(sizes, [[3].as_slice(), &[1; 10]].concat());
    let letters = service.dead_letters();
    let page = letters.list(&Filter::default(), None, 10).await.unwrap();
    let [letter] = page.letters.as_slice() else { panic!("{page:?}") };
    assert_eq!((letter.origin, letter.attempts), (Origin::Outbox, 10));
    assert_eq!((&letter.message.id, &*letter.message.key), (&id("bad"), "bad"));
    assert!(letter.error.contains("too\u{fffd}large"), "{}", letter.error);

    // A retry sends it, and does not hand it to the inbox.
    service.broker.is(Mood::Well);
    assert_eq!(letters.retry(&Filter::default()).await.unwrap(), 1);
    assert_eq!((service.dead().await.len(), service.pending().await.len()), (0, 0));
    let mut relay = service.another_relay();
    assert_eq!(service.sent_by(&mut relay).await, [id("bad")]);
    service.emptied_by(&mut relay).await;
}

async fn nothing_is_lost_while_the_broker_is_away(test: TestDb) {
    let mut service = Service::new(test).await;
    let mut relay = service.relay();
    service.broker.is(Mood::Away);
    for name in ["a", "b", "c"] {
        service.commit(&[name]).await.committed();
        relay.step().await;
        service.clock.advance(Duration::from_millis(1));
    }
    assert_eq!(service.unsent().await, ["a", "b", "c"].map(id));
    service.broker.is(Mood::Well);
    service.clock.advance(A_WHILE);
    service.emptied_by(&mut relay).await;
    assert_eq!(service.broker.take(), ["a", "b", "c"].map(id));
}

/// Bytes are counted, not rows: a broker that is slow must not cost memory without end.
async fn what_the_hand_over_has_no_room_for_is_swept(test: TestDb) {
    let mut service = Service::new(test).await;
    let mut relay = service.relay();
    let filler = "x".repeat(200_000);
    let names: Vec<_> = (0..40).map(|n| format!("{n:02}{filler}")).collect();
    for name in &names {
        service.commit(&[name]).await.committed();
    }
    // All that was handed over goes out, and no more, for as long as its writer has it to itself.
    let (mut sent, mut idle_steps) = (Vec::new(), 0);
    while idle_steps < 3 {
        relay.step().await;
        let more = service.broker.take_batches();
        idle_steps = if more.is_empty() { idle_steps + 1 } else { 0 };
        sent.extend(more);
    }
    let left = names.len() - sent.len();
    assert!((1..40).contains(&left), "{left} of 40 had no room");
    service.clock.advance(Duration::from_secs(4));
    service.emptied_by(&mut relay).await;
    sent.extend(service.broker.take_batches());
    let deliveries: HashSet<_> = sent.iter().map(|batch| batch.id.clone()).collect();
    assert_eq!((sent.len(), deliveries.len()), (40, 40), "each once");
}

/// Leaves a row behind for each of these chunks of events.
async fn leave_behind_rows(service: &Service, names: &[String], events: usize) {
    for chunk in names.chunks(events) {
        service.leave_behind(&texts(chunk)).await;
    }
}

/// More than one sweep takes, so that the next must come at once.
async fn two_relays_share_what_was_left_behind(test: TestDb) {
    let service = Service::new(test).await;
    let names = numbered(800);
    leave_behind_rows(&service, &names, 4).await;
    service.clock.advance(A_WHILE);
    let (mut one, mut two) = (service.another_relay(), service.another_relay());
    tokio::join!(service.emptied_by(&mut one), service.emptied_by(&mut two));
    let mut sent = service.broker.take();
    sent.sort();
    assert_eq!(sent, names.iter().map(|name| id(name)).collect::<Vec<_>>());
}

/// The sweeps of a pass go on where the one before stopped; a transaction may commit behind that.
async fn late_commit_behind_a_long_pass_is_found(test: TestDb) {
    let service = Service::new(test).await;
    let names = numbered(200);
    for chunk in names.chunks(10) {
        leave_behind_rows(&service, chunk, 1).await;
        service.clock.advance(Duration::from_millis(100));
    }
    service.clock.advance(Duration::from_secs(4));
    let mut relay = service.another_relay();
    relay.step().await;
    relay.step().await;
    let mut tx = service.db.begin().await.unwrap();
    let moved = tx
        .query(
            "update outbox_batches set available_at = $1
             where replace(body, $2, '') <> body and available_at > $1",
        )
        .bind(service.clock.now().minus(Duration::from_secs(9)).micros())
        .bind(id("00199").as_str())
        .execute()
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(moved, 1);
    service.emptied_by(&mut relay).await;
    let mut sent = service.broker.take();
    sent.sort();
    assert_eq!(sent, names.iter().map(|name| id(name)).collect::<Vec<_>>());
}

async fn stopping_relay_sends_what_it_was_handed(test: TestDb) {
    let mut service = Service::new(test).await;
    let relay = service.relay();
    for name in ["a", "b"] {
        service.commit(&[name]).await.committed();
    }
    let stop = CancellationToken::new();
    stop.cancel();
    relay.run(stop).await;
    assert_eq!(service.broker.take(), [id("a"), id("b")]);
    assert_eq!(service.unsent().await, [""; 0]);
}

/// A publisher that is never answered goes on; nothing else would ever wake it.
async fn silent_broker_does_not_stop_the_relay_for_ever(test: TestDb) {
    let service = Service::new(test).await;
    let mut relay = service.another_relay().answer_within(Duration::from_millis(20));
    service.leave_behind(&["a"]).await;
    service.clock.advance(A_WHILE);
    service.broker.is(Mood::Silent);
    relay.step().await;
    service.broker.is(Mood::Well);
    service.clock.advance(A_WHILE);
    service.emptied_by(&mut relay).await;
    assert_eq!(service.broker.take(), [id("a")]);
}
