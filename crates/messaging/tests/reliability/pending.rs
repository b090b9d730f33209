//! Later attempts at received events, each by itself.

use std::time::Duration;

use gozon_testkit::{TestDb, on_both_databases};

use crate::{
    service::{A_WHILE, DAY, Service, batch, deliver, id},
    use_case::Fate,
};

on_both_databases!(
    failing_event_is_retried_with_growing_waits_then_dead,
    wait_of_a_wrong_time_is_not_believed,
    event_sent_again_and_again_dies_all_the_same,
    unreadable_event_gets_the_same_attempts,
    panic_fails_only_its_own_event,
    environment_errors_spend_no_attempts,
    locked_rows_spend_no_attempts,
    late_attempt_does_not_undo_the_one_that_took_over,
);

async fn failing_event_is_retried_with_growing_waits_then_dead(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.use_case.will("a", Fate::Fails, u32::MAX);
    let delivery = service.alone("a");
    assert!(deliver(&inbox, std::slice::from_ref(&delivery)).await);
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
    assert_eq!(waits.len(), 8, "eight attempts in all: {waits:?}");
    assert_eq!(waits[0], Duration::ZERO);
    for (i, wait) in waits[1..].iter().enumerate() {
        let around = Duration::from_millis(500) * (1 << i);
        assert!(*wait >= around / 2 && *wait <= around * 2, "wait {i} of {waits:?}");
    }
    assert_eq!(service.pending().await, [""; 0]);
    // Dead is dead: a repeat from the broker does not bring it back.
    assert!(deliver(&inbox, &[delivery]).await);
    assert_eq!(service.effects().await, [""; 0]);
    assert_eq!(service.pending().await, [""; 0]);
}

async fn wait_of_a_wrong_time_is_not_believed(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.use_case.will("a", Fate::Fails, 1);
    let now = service.clock.now();
    service.clock.set(now.plus(3 * DAY));
    assert!(deliver(&inbox, &[service.alone("a")]).await);
    assert_eq!(service.pending().await, [id("a")]);
    service.clock.set(now);
    assert_eq!(inbox.retry_step().await.unwrap(), 1);
    assert_eq!(service.effects().await, [id("a")]);
}

/// Each time in a new delivery, as when its sender asks again.
async fn event_sent_again_and_again_dies_all_the_same(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.use_case.will("a", Fate::Fails, u32::MAX);
    for delivery in 0..16 {
        assert!(deliver(&inbox, &[service.delivery(&delivery.to_string(), &["a"])]).await);
        inbox.retry_step().await.unwrap();
        service.clock.advance(A_WHILE);
        if !service.dead().await.is_empty() {
            break;
        }
    }
    assert_eq!(service.dead().await, [id("a")]);
    assert_eq!(service.pending().await, [""; 0]);
}

/// A later release may be able to read it.
async fn unreadable_event_gets_the_same_attempts(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    let mut messages = service.messages(&["a", "b", "c"]);
    messages[1].body = br#"{"id": "b:thing", "data": "of another kind"}"#.as_slice().into();
    assert!(deliver(&inbox, &[batch("1", &messages), service.alone("d")]).await);
    assert_eq!(service.effects().await, [id("d")]);
    assert_eq!(service.pending().await, ["a", "b", "c"].map(id));
    assert_eq!(service.settle_pending(&inbox).await, 2 + 8);
    assert_eq!(service.effects().await, ["a", "c", "d"].map(id));
    assert_eq!(service.dead().await, [id("b")]);
}

async fn panic_fails_only_its_own_event(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    // Together, with its delivery, together with what was taken in, and by itself.
    service.use_case.will("b", Fate::Panics, 4);
    let neighbours = [service.alone("z"), service.delivery("1", &["a", "b", "c"])];
    assert!(deliver(&inbox, &neighbours).await);
    assert_eq!(service.effects().await, [id("z")]);
    assert_eq!(inbox.retry_step().await.unwrap(), 3);
    assert_eq!(service.effects().await, ["a", "c", "z"].map(id));
    service.clock.advance(A_WHILE);
    assert_eq!(inbox.retry_step().await.unwrap(), 1);
    assert_eq!(service.effects().await, ["a", "b", "c", "z"].map(id));
    assert_eq!(service.pending().await, [""; 0]);
}

async fn environment_errors_spend_no_attempts(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.use_case.will("a", Fate::Fails, 1);
    assert!(deliver(&inbox, &[service.alone("a")]).await);
    service.use_case.will("a", Fate::IsAway, 10);
    for _ in 0..10 {
        inbox.retry_step().await.unwrap_err();
        assert_eq!(service.attempts().await, [(id("a"), 0)]);
        service.clock.advance(A_WHILE);
    }
    assert_eq!(inbox.retry_step().await.unwrap(), 1);
    assert_eq!(service.effects().await, [id("a")]);
    assert_eq!(service.dead().await, [""; 0]);
}

async fn locked_rows_spend_no_attempts(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.use_case.will("a", Fate::MeetsLock, 12);
    assert!(deliver(&inbox, &[service.alone("a"), service.alone("b")]).await);
    assert_eq!(service.effects().await, [id("b")]);
    for _ in 0..10 {
        assert_eq!(inbox.retry_step().await.unwrap(), 1);
        assert_eq!(service.attempts().await, [(id("a"), 0)]);
        // Not at once: it would only wait for the lock again.
        assert_eq!(inbox.retry_step().await.unwrap(), 0);
        service.clock.advance(A_WHILE);
    }
    assert_eq!(inbox.retry_step().await.unwrap(), 1);
    assert_eq!(service.effects().await, ["a", "b"].map(id));
}

/// An attempt that outlives its lease fails after another process succeeded: nothing comes back.
async fn late_attempt_does_not_undo_the_one_that_took_over(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.use_case.will("a", Fate::Fails, 1);
    assert!(deliver(&inbox, &[service.alone("a")]).await);
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
