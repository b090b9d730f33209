//! From the broker to the effect: once, after every failure.

use std::{sync::Arc, time::Duration};

use gozon_contract::RandomSource;
use gozon_messaging::{Batch, Context, Mode, broker};
use gozon_testkit::{TestDb, on_both_databases};
use tokio_util::sync::CancellationToken;

use crate::{
    service::{A_WHILE, NEWS, Service, THING, deliver, event_ids, id},
    use_case::Fate,
};

on_both_databases!(
    redelivered_batch_does_nothing,
    event_in_another_delivery_reaches_the_use_case,
    replies_are_committed_with_the_effect,
    use_case_is_told_of_what_is_committed,
    failing_delivery_does_not_fail_its_neighbours,
    delivery_with_one_bad_event_is_taken_in_whole,
    conflict_is_tried_again_at_once,
    after_a_conflict_some_batches_begin_with_locks,
    commit_that_fails_leaves_neither_mark_nor_effect,
    swallowed_error_is_no_success,
    batch_is_given_back_while_the_database_is_away,
    batch_is_given_back_while_a_table_is_missing,
    foreign_deliveries_are_taken_in_too,
    duplicates_in_any_order_have_one_effect_each,
);

async fn redelivered_batch_does_nothing(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    let (one, two) = (service.delivery("1", &["a", "b"]), service.delivery("2", &["c"]));
    assert!(deliver(&inbox, &[one.clone(), one.clone()]).await);
    assert!(deliver(&inbox, &[two.clone(), one.clone()]).await);
    assert!(deliver(&service.inbox(), &[one, two]).await);
    assert!(deliver(&inbox, &[]).await);
    assert_eq!(service.effects().await, ["a", "b", "c"].map(id));
    assert_eq!(service.marks().await, ["1", "2"]);
}

/// The inbox remembers deliveries. An event that was sent twice is the use case's to recognise.
async fn event_in_another_delivery_reaches_the_use_case(test: TestDb) {
    let service = Service::new(test).await;
    service.use_case.guards_its_effect();
    let inbox = service.inbox();
    assert!(deliver(&inbox, &[service.delivery("1", &["a", "b"])]).await);
    service.use_case.seen();
    assert!(deliver(&inbox, &[service.delivery("2", &["b", "c"])]).await);
    assert!(service.use_case.seen().contains(&"b".to_owned()));
    assert!(deliver(&inbox, &[service.delivery("3", &["a", "a", "d"]), service.alone("d")]).await);
    assert_eq!(service.effects().await, ["a", "b", "c", "d"].map(id));
    assert_eq!(service.marks().await, ["1", "2", "3", "of d"]);
    assert_eq!(service.pending().await, [""; 0]);
}

async fn replies_are_committed_with_the_effect(test: TestDb) {
    let mut service = Service::new(test).await;
    let mut relay = service.relay();
    let inbox = service.inbox();
    assert!(deliver(&inbox, &[service.delivery("1", &["ask", "b"])]).await);
    assert_eq!(service.unsent().await, [id("re-ask")]);
    assert_eq!(service.sent_by(&mut relay).await, [id("re-ask")]);
    service.emptied_by(&mut relay).await;

    service.use_case.will("ask2", Fate::BreaksCommit, 1);
    assert!(deliver(&inbox, &[service.alone("ask2")]).await);
    assert_eq!(service.unsent().await, [""; 0]);
    assert_eq!(service.broker.take(), [""; 0]);
}

async fn use_case_is_told_of_what_is_committed(test: TestDb) {
    let mut service = Service::new(test).await;
    let mut relay = service.relay();
    let inbox = service.inbox();
    let told = || service.use_case.committed();
    let first = service.delivery("1", &["ask", "b"]);
    assert!(deliver(&inbox, std::slice::from_ref(&first)).await);
    assert_eq!(told(), [id("re-ask")]);
    assert!(deliver(&inbox, &[first, service.alone("ask2")]).await);
    assert_eq!(told(), [id("re-ask2")]);

    service.use_case.will("ask3", Fate::BreaksCommit, 1);
    assert!(deliver(&inbox, &[service.alone("ask3")]).await);
    assert_eq!(told(), [""; 0]);
    assert_eq!(inbox.retry_step().await.unwrap(), 1);
    assert_eq!(told(), [id("re-ask3")]);

    // A panic there is no reason to send it late.
    service.emptied_by(&mut relay).await;
    service.broker.take();
    assert!(deliver(&inbox, &[service.alone("ask-loud")]).await);
    assert_eq!(service.use_case.committed(), [id("re-ask-loud")]);
    assert_eq!(service.sent_by(&mut relay).await, [id("re-ask-loud")]);
}

async fn failing_delivery_does_not_fail_its_neighbours(test: TestDb) {
    let service = Service::new(test).await;
    service.use_case.will("0137", Fate::Fails, u32::MAX);
    let names: Vec<_> = (0..300).map(|n| format!("{n:04}")).collect();
    let batch: Vec<_> = names.iter().map(|name| service.alone(name)).collect();
    assert!(deliver(&service.inbox(), &batch).await);
    let others: Vec<_> = names.iter().filter(|name| *name != "0137").map(|name| id(name)).collect();
    assert_eq!(service.effects().await, others);
    assert_eq!(service.pending().await, [id("0137")]);
}

async fn delivery_with_one_bad_event_is_taken_in_whole(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.use_case.will("037", Fate::Fails, u32::MAX);
    let names: Vec<_> = (0..100).map(|n| format!("{n:03}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let delivery = service.delivery("1", &names);
    assert!(deliver(&inbox, std::slice::from_ref(&delivery)).await);
    assert_eq!(service.pending().await.len(), 100);
    assert!(service.attempts().await.iter().all(|(_, attempts)| *attempts == 0));
    assert_eq!(service.marks().await, ["1"]);

    // Without a wait.
    assert_eq!(inbox.retry_step().await.unwrap(), 100);
    let others: Vec<_> = names.iter().filter(|name| **name != "037").map(|name| id(name)).collect();
    assert_eq!(service.effects().await, others);
    assert_eq!(service.attempts().await, [(id("037"), 1)]);

    assert!(deliver(&inbox, &[delivery]).await);
    assert_eq!(service.effects().await.len(), 99);
    assert_eq!(service.attempts().await, [(id("037"), 1)]);
}

async fn conflict_is_tried_again_at_once(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.use_case.will("b", Fate::MeetsConflict, 3);
    assert!(deliver(&inbox, &[service.delivery("1", &["a", "b"])]).await);
    assert_eq!(service.effects().await, ["a", "b"].map(id));
    let locking = (2, Mode::Locking);
    assert_eq!(service.use_case.calls(), [(2, Mode::Optimistic), locking, locking, locking]);

    // In a later attempt, too.
    service.use_case.will("c", Fate::Fails, 1);
    assert!(deliver(&inbox, &[service.alone("c")]).await);
    service.use_case.will("c", Fate::MeetsConflict, 2);
    assert_eq!(inbox.retry_step().await.unwrap(), 1);
    assert_eq!(service.effects().await, ["a", "b", "c"].map(id));
}

/// Where one was in the way, others are likely to follow: each batch would be decided twice.
async fn after_a_conflict_some_batches_begin_with_locks(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    for _ in 0..2 {
        assert!(deliver(&inbox, &[service.alone("a")]).await);
    }
    for n in 0..30 {
        assert!(deliver(&inbox, &[service.alone(&format!("n{n:02}"))]).await);
    }
    let calls = service.use_case.calls();
    // The first time, the repeat as if it were new, then with locks, then as before.
    assert_eq!(calls[..2], [(1, Mode::Optimistic); 2]);
    let locking = calls[2..].iter().take_while(|(_, mode)| *mode == Mode::Locking).count();
    assert!((1..30).contains(&locking), "{calls:?}");
    assert!(calls[2 + locking..].iter().all(|(_, mode)| *mode == Mode::Optimistic), "{calls:?}");
    assert_eq!(service.effects().await.len(), 31);
}

async fn commit_that_fails_leaves_neither_mark_nor_effect(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    // As often as the deliveries are tried together and by themselves.
    service.use_case.will("b", Fate::BreaksCommit, 2);
    assert!(deliver(&inbox, &[service.alone("a"), service.alone("b")]).await);
    assert_eq!(service.effects().await, [id("a")]);
    assert_eq!(service.attempts().await, [(id("b"), 0)]);
    service.use_case.will("b", Fate::BreaksCommit, 1);
    assert_eq!(inbox.retry_step().await.unwrap(), 1);
    assert_eq!(service.attempts().await, [(id("b"), 1)]);
    service.clock.advance(A_WHILE);
    assert_eq!(inbox.retry_step().await.unwrap(), 1);
    assert_eq!(service.effects().await, ["a", "b"].map(id));
}

/// A decision without what it wanted to know is none, even if it makes nothing of that. The fault is
/// the environment's, so nothing is given up on.
async fn swallowed_error_is_no_success(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.use_case.will("b", Fate::SwallowsError, 1);
    let delivery = [service.delivery("1", &["a", "b"])];
    assert!(!deliver(&inbox, &delivery).await);
    assert_eq!(service.effects().await, [""; 0]);
    assert!(deliver(&inbox, &delivery).await);
    assert_eq!(service.effects().await, ["a", "b"].map(id));
}

async fn batch_is_given_back_while_the_database_is_away(test: TestDb) {
    let service = Service::new(test).await;
    let away = service.test.another();
    away.close().await;
    let inbox = service.inbox_in(Context { db: away, ..service.context.clone() });
    let batch = [service.delivery("1", &["a", "b"]), service.alone("c")];
    assert!(!deliver(&inbox, &batch).await);
    inbox.retry_step().await.unwrap_err();
    assert!(deliver(&service.inbox(), &batch).await);
    assert_eq!(service.effects().await, ["a", "b", "c"].map(id));
}

/// For longer than any event is tried: what is the operator's to mend is nobody's dead letter.
async fn batch_is_given_back_while_a_table_is_missing(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    let batch = [service.delivery("1", &["a", "b"]), service.alone("c")];
    service.sql("alter table effect rename to effect_elsewhere").await;
    for _ in 0..10 {
        assert!(!deliver(&inbox, &batch).await);
    }
    assert_eq!((service.marks().await.len(), service.pending().await.len()), (0, 0));
    service.sql("alter table effect_elsewhere rename to effect").await;
    assert!(deliver(&inbox, &batch).await);
    assert_eq!(service.effects().await, ["a", "b", "c"].map(id));
}

/// Anybody may write to a broker: ids and keys that no database takes, and bodies of any kind.
async fn foreign_deliveries_are_taken_in_too(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    let foreign = |id: &str, body: &[u8]| Batch {
        id: id.to_owned(),
        topic: THING.name.to_owned(),
        body: body.into(),
    };
    let long = "long".repeat(10_000);
    let keyed = |key: &str| serde_json::json!({"id": "keyed", "partitionkey": key}).to_string();
    let batch = [
        foreign("nul\0", &[0, 159, 146, 150]),
        foreign(&long, &[0, 159, 146, 150]),
        foreign("", b"7"),
        foreign("no events", b"[]"),
        foreign("key", keyed("\0").as_bytes()),
        foreign("long key", keyed(&long).as_bytes()),
        foreign("in one", br#"[{"id": "x"}, 7, {"id": "x"}]"#),
        service.alone("a"),
    ];
    assert!(deliver(&inbox, &batch).await);
    assert_eq!(service.effects().await, [id("a")]);
    assert_eq!(service.pending().await.len(), 8);
    assert_eq!(service.settle_pending(&inbox).await, 8 * 8);
    assert_eq!(service.dead().await.len(), 8);
    assert!(deliver(&inbox, &batch).await);
    assert_eq!((service.dead().await.len(), service.pending().await.len()), (8, 0));
}

async fn duplicates_in_any_order_have_one_effect_each(test: TestDb) {
    let service = Service::new(test).await;
    let topics: &'static [_] = &[THING, NEWS];
    let memory =
        broker::connect("memory:?duplicate&shuffle", topics, &RandomSource::seeded(3)).unwrap();
    service.use_case.will("n17", Fate::Fails, 2);
    let stop = CancellationToken::new();
    let consumers: Vec<_> = (0..2)
        .map(|_| {
            let broker = Arc::clone(&memory);
            let inbox = service.inbox_in(Context { broker, ..service.elsewhere() });
            tokio::spawn(inbox.run(stop.clone()))
        })
        .collect();
    let names: Vec<_> = (0..200).map(|n| format!("n{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let batches: Vec<_> =
        names.chunks(5).map(|chunk| service.delivery(&format!("of {}", chunk[0]), chunk)).collect();
    for chunk in batches.chunks(4) {
        memory.publish(chunk).await.unwrap();
        memory.publish(&chunk[..2]).await.unwrap();
    }
    while !service.pending().await.is_empty() {
        service.clock.advance(A_WHILE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    for consumer in consumers {
        consumer.await.unwrap();
    }
    let mut expected = event_ids(&batches);
    expected.sort();
    assert_eq!(service.effects().await, expected);
    let mut marks: Vec<_> = batches.into_iter().map(|batch| batch.id).collect();
    marks.sort();
    assert_eq!(service.marks().await, marks);
}
