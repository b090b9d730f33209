//! From the broker to the effect: once, whatever fails.

use std::{sync::Arc, time::Duration};

use gozon_contract::RandomSource;
use gozon_messaging::{Message, broker};
use gozon_testkit::{TestDb, on_both_databases};
use tokio_util::sync::CancellationToken;

use crate::service::{A_WHILE, Fate, NEWS, Service, THING, deliver, id, ids};

on_both_databases!(
    a_repeat_has_no_effect,
    replies_are_committed_with_the_effect,
    the_handler_is_told_of_what_is_committed,
    one_failing_message_is_isolated,
    a_failing_message_is_retried_with_growing_waits_and_then_dead,
    a_panic_is_a_failure_of_that_message_alone,
    an_invalid_message_is_dead_at_once,
    a_conflict_is_tried_again_at_once,
    after_a_conflict_it_is_careful_for_a_while,
    a_commit_that_fails_leaves_neither_mark_nor_effect,
    a_swallowed_error_is_no_success,
    a_batch_is_given_back_while_the_database_is_away,
    a_late_attempt_does_not_undo_the_one_that_took_over,
    strangers_messages_are_set_aside_too,
    duplicates_in_any_order_have_one_effect_each,
);

async fn a_repeat_has_no_effect(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    let [a, b, c] = ["a", "b", "c"].map(|name| service.message(name));
    assert!(deliver(&inbox, &[a.clone(), b.clone(), a.clone()]).await);
    assert!(deliver(&inbox, &[b, c, a]).await);
    assert!(deliver(&inbox, &[]).await);
    assert_eq!(service.effects().await, ["a", "b", "c"].map(id));
}

async fn replies_are_committed_with_the_effect(test: TestDb) {
    let mut service = Service::new(test).await;
    let mut relay = service.relay();
    let inbox = service.inbox();
    assert!(deliver(&inbox, &[service.message("ask"), service.message("b")]).await);
    assert_eq!(service.unsent().await, [id("re-ask")]);
    assert_eq!(service.sent_by(&mut relay).await, [id("re-ask")]);
    service.emptied_by(&mut relay).await;

    service.handler.will("ask2", Fate::BreaksCommit, 1);
    assert!(deliver(&inbox, &[service.message("ask2")]).await);
    assert_eq!(service.unsent().await, [""; 0]);
    assert_eq!(service.broker.take(), [""; 0]);
}

async fn the_handler_is_told_of_what_is_committed(test: TestDb) {
    let mut service = Service::new(test).await;
    let mut relay = service.relay();
    let inbox = service.inbox();
    let told = || std::mem::take(&mut *service.handler.committed.lock().unwrap());
    let ask = service.message("ask");
    assert!(deliver(&inbox, &[ask.clone(), service.message("b")]).await);
    assert_eq!(told(), [id("re-ask")]);
    assert!(deliver(&inbox, &[ask.clone(), service.message("ask2")]).await);
    assert_eq!(told(), [id("re-ask2")]);

    service.handler.will("ask3", Fate::BreaksCommit, 1);
    assert!(deliver(&inbox, &[service.message("ask3")]).await);
    assert_eq!(told(), [""; 0]);
    service.clock.advance(A_WHILE);
    assert_eq!(inbox.retry_step().await.unwrap(), 1);
    assert_eq!(told(), [id("re-ask3")]);

    // A panic there is no reason to send it late.
    service.emptied_by(&mut relay).await;
    service.broker.take();
    assert!(deliver(&inbox, &[service.message("ask-loud")]).await);
    assert_eq!(told(), [id("re-ask-loud")]);
    assert_eq!(service.sent_by(&mut relay).await, [id("re-ask-loud")]);
}

async fn one_failing_message_is_isolated(test: TestDb) {
    let service = Service::new(test).await;
    service.handler.will("0137", Fate::Fails, u32::MAX);
    let names: Vec<_> = (0..500).map(|n| format!("{n:04}")).collect();
    let batch: Vec<_> = names.iter().map(|name| service.message(name)).collect();
    assert!(deliver(&service.inbox(), &batch).await);
    let others: Vec<_> = names.iter().filter(|name| *name != "0137").map(|name| id(name)).collect();
    assert_eq!(service.effects().await, others);
    assert_eq!(service.pending().await, [id("0137")]);
    // By halves: not one by one.
    assert!(service.handler.batches.lock().unwrap().len() < 30);
}

async fn a_failing_message_is_retried_with_growing_waits_and_then_dead(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.handler.will("a", Fate::Fails, u32::MAX);
    assert!(deliver(&inbox, &[service.message("a")]).await);
    let mut waits = Vec::new();
    while service.dead().await.is_empty() {
        let mut waited = Duration::ZERO;
        while inbox.retry_step().await.unwrap() == 0 {
            let tick = Duration::from_millis(50);
            service.clock.advance(tick);
            waited += tick;
            assert!(waited < A_WHILE, "never tried again");
        }
        waits.push(waited);
    }
    assert_eq!(waits.len(), 7, "eight attempts in all: {waits:?}");
    for (i, wait) in waits.iter().enumerate() {
        let around = Duration::from_millis(500) * (1 << i);
        assert!(*wait >= around / 2 && *wait <= around * 2, "wait {i} of {waits:?}");
    }
    assert_eq!(service.pending().await, [""; 0]);
    // Dead is dead: a repeat from the broker does not bring it back.
    assert!(deliver(&inbox, &[service.message("a")]).await);
    assert_eq!(service.effects().await, [""; 0]);
    assert_eq!(service.pending().await, [""; 0]);
}

async fn a_panic_is_a_failure_of_that_message_alone(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.handler.will("b", Fate::Panics, 3);
    assert!(deliver(&inbox, &["a", "b", "c"].map(|name| service.message(name))).await);
    assert_eq!(service.effects().await, ["a", "c"].map(id));
    service.clock.advance(A_WHILE);
    assert_eq!(inbox.retry_step().await.unwrap(), 1);
    assert_eq!(service.effects().await, ["a", "b", "c"].map(id));
    assert_eq!(service.pending().await, [""; 0]);
}

async fn an_invalid_message_is_dead_at_once(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.handler.will("b", Fate::IsInvalid, u32::MAX);
    assert!(deliver(&inbox, &["a", "b", "c"].map(|name| service.message(name))).await);
    assert_eq!(service.effects().await, ["a", "c"].map(id));
    assert_eq!(service.dead().await, [id("b")]);
    assert_eq!(service.pending().await, [""; 0]);
}

async fn a_conflict_is_tried_again_at_once(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.handler.will("b", Fate::MeetsConflict, 3);
    assert!(deliver(&inbox, &["a", "b"].map(|name| service.message(name))).await);
    assert_eq!(service.effects().await, ["a", "b"].map(id));
    let attempts = std::mem::take(&mut *service.handler.batches.lock().unwrap());
    assert_eq!(attempts, [(2, false), (2, true), (2, true), (2, true)]);

    // In a later attempt, too.
    service.handler.will("c", Fate::Fails, 1);
    assert!(deliver(&inbox, &[service.message("c")]).await);
    service.handler.will("c", Fate::MeetsConflict, 2);
    service.clock.advance(A_WHILE);
    assert_eq!(inbox.retry_step().await.unwrap(), 1);
    assert_eq!(service.effects().await, ["a", "b", "c"].map(id));
}

async fn a_commit_that_fails_leaves_neither_mark_nor_effect(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    // As often as the batch, its halves and the message alone are tried.
    service.handler.will("b", Fate::BreaksCommit, 2);
    assert!(deliver(&inbox, &["a", "b"].map(|name| service.message(name))).await);
    assert_eq!(service.effects().await, [id("a")]);
    assert_eq!(service.pending().await, [id("b")]);
    service.handler.will("b", Fate::BreaksCommit, 1);
    for _ in 0..2 {
        service.clock.advance(A_WHILE);
        assert_eq!(inbox.retry_step().await.unwrap(), 1);
    }
    assert_eq!(service.effects().await, ["a", "b"].map(id));
}

/// Where one was in the way, others are likely to follow: each batch would be decided twice.
async fn after_a_conflict_it_is_careful_for_a_while(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    let a = service.message("a");
    for _ in 0..2 {
        assert!(deliver(&inbox, std::slice::from_ref(&a)).await);
    }
    for n in 0..30 {
        assert!(deliver(&inbox, &[service.message(&format!("n{n:02}"))]).await);
    }
    let attempts = service.handler.batches.lock().unwrap().clone();
    // The first time, the repeat as if it were new, then with care, then as before.
    assert_eq!(attempts[..2], [(1, false); 2]);
    let careful = attempts[2..].iter().take_while(|(_, careful)| *careful).count();
    assert!((1..30).contains(&careful), "{attempts:?}");
    assert!(attempts[2 + careful..].iter().all(|(_, careful)| !careful), "{attempts:?}");
    assert_eq!(service.effects().await.len(), 31);
}

/// PostgreSQL has nothing to commit after a failed statement and says so only in passing.
async fn a_swallowed_error_is_no_success(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.handler.will("b", Fate::SwallowsError, 2);
    assert!(deliver(&inbox, &["a", "b"].map(|name| service.message(name))).await);
    assert_eq!(service.effects().await, [id("a")]);
    service.clock.advance(A_WHILE);
    assert_eq!(inbox.retry_step().await.unwrap(), 1);
    assert_eq!(service.effects().await, ["a", "b"].map(id));
}

async fn a_batch_is_given_back_while_the_database_is_away(test: TestDb) {
    let service = Service::new(test).await;
    let away = service.test.another();
    away.close().await;
    let inbox = service.inbox_on(away, Arc::clone(&service.broker) as _);
    let batch = ["a", "b"].map(|name| service.message(name));
    assert!(!deliver(&inbox, &batch).await);
    inbox.retry_step().await.unwrap_err();
    assert!(deliver(&service.inbox(), &batch).await);
    assert_eq!(service.effects().await, ["a", "b"].map(id));
}

/// An attempt that outlives its lease fails after another process succeeded: nothing comes back.
async fn a_late_attempt_does_not_undo_the_one_that_took_over(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.handler.will("a", Fate::Fails, 1);
    assert!(deliver(&inbox, &[service.message("a")]).await);
    service.clock.advance(A_WHILE);
    // Both have claimed it; the first is slow.
    let (slow, quick) = tokio::join!(inbox.retry_step(), async {
        service.clock.advance(A_WHILE);
        service.inbox().retry_step().await
    });
    assert!(slow.unwrap() + quick.unwrap() >= 1);
    service.clock.advance(A_WHILE);
    service.inbox().retry_step().await.unwrap();
    assert_eq!(service.effects().await, [id("a")]);
    assert_eq!(service.pending().await, [""; 0]);
}

/// Anybody may write to a broker: ids and keys that no database takes, and bodies of any kind.
async fn strangers_messages_are_set_aside_too(test: TestDb) {
    let service = Service::new(test).await;
    let stranger = |id: String, key: String| Message {
        id,
        topic: THING.name.to_owned(),
        key,
        body: [0, 159, 146, 150].as_slice().into(),
    };
    let batch = [
        stranger("nul\0".to_owned(), "k".to_owned()),
        stranger("key".to_owned(), "\0".to_owned()),
        stranger("long".repeat(10_000), "k".to_owned()),
        stranger("long key".to_owned(), "k".repeat(100_000)),
        stranger(String::new(), "k".to_owned()),
        service.message("a"),
    ];
    assert!(deliver(&service.inbox(), &batch).await);
    assert_eq!(service.effects().await, [id("a")]);
    assert_eq!(service.dead().await.len(), 5);
    assert!(deliver(&service.inbox(), &batch).await);
    assert_eq!(service.dead().await.len(), 5);
}

async fn duplicates_in_any_order_have_one_effect_each(test: TestDb) {
    let service = Service::new(test).await;
    let topics: &'static [_] = &[THING, NEWS];
    let memory =
        broker::connect("memory:?duplicate&shuffle", topics, &RandomSource::seeded(3)).unwrap();
    service.handler.will("n17", Fate::Fails, 2);
    let stop = CancellationToken::new();
    let consumers: Vec<_> = (0..2)
        .map(|_| {
            let inbox = service.inbox_on(service.test.another(), Arc::clone(&memory));
            tokio::spawn(inbox.run(stop.clone()))
        })
        .collect();
    let messages: Vec<_> = (0..200).map(|n| service.message(&format!("n{n}"))).collect();
    for chunk in messages.chunks(20) {
        memory.publish(chunk).await.unwrap();
        memory.publish(&chunk[..5]).await.unwrap();
    }
    while !service.pending().await.is_empty() {
        service.clock.advance(A_WHILE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    for consumer in consumers {
        consumer.await.unwrap();
    }
    let mut expected: Vec<_> = messages.iter().map(|message| message.id.clone()).collect();
    expected.sort();
    assert_eq!(service.effects().await, expected);
    assert_eq!(ids(&service.db, "select id from inbox order by id").await, expected);
}
