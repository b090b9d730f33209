//! From the outbox to the broker.

use std::time::Duration;

use gozon_messaging::{Origin, dead_letters::Filter};
use gozon_store::Error;
use gozon_testkit::{TestDb, on_both_databases};
use tokio_util::sync::CancellationToken;

use crate::service::{A_WHILE, Mood, Service, deliver, id};

on_both_databases!(
    a_message_is_sent_after_the_commit_and_then_gone,
    a_rolled_back_message_is_never_sent,
    what_was_not_handed_over_is_swept_after_its_lease,
    a_crash_between_publish_and_delete_sends_twice_and_does_once,
    a_rejected_message_becomes_a_dead_letter_and_holds_up_nobody,
    nothing_is_lost_while_the_broker_is_away,
    the_same_message_twice_stalls_nothing,
    the_same_message_twice_in_a_batch_is_sent_once,
    two_relays_share_what_was_left_behind,
    what_commits_behind_a_long_pass_is_found,
    a_stopping_relay_sends_what_it_was_handed,
    a_backlog_is_worked_off,
    a_silent_broker_does_not_stop_the_relay_for_ever,
);

async fn a_message_is_sent_after_the_commit_and_then_gone(test: TestDb) {
    let mut service = Service::new(test).await;
    let mut relay = service.relay();
    let mut tx = service.db.begin().await.unwrap();
    let added = service.outbox.add(vec![service.message("a")]);
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

async fn a_rolled_back_message_is_never_sent(test: TestDb) {
    let service = Service::new(test).await;
    let mut tx = service.db.begin().await.unwrap();
    let added = service.outbox.add(vec![service.message("a")]);
    tx.run_all(added.statement().into_iter().collect()).await.unwrap();
    drop(tx);
    drop(added);
    service.clock.advance(A_WHILE);
    service.another_relay().step().await;
    assert_eq!(service.broker.take(), [""; 0]);
}

async fn what_was_not_handed_over_is_swept_after_its_lease(test: TestDb) {
    let service = Service::new(test).await;
    service.leave_behind(vec![service.message("a"), service.message("b")]).await;
    // Its writer may still be at it.
    service.another_relay().step().await;
    assert_eq!(service.broker.take(), [""; 0]);
    service.clock.advance(Duration::from_secs(4));
    let mut relay = service.another_relay();
    assert_eq!(service.sent_by(&mut relay).await, [id("a"), id("b")]);
    service.emptied_by(&mut relay).await;
}

async fn a_crash_between_publish_and_delete_sends_twice_and_does_once(test: TestDb) {
    let service = Service::new(test).await;
    let message = service.message("a");
    service.leave_behind(vec![message.clone()]).await;
    for _ in 0..2 {
        service.clock.advance(A_WHILE);
        let mut relay = service.another_relay();
        relay.step().await;
        assert_eq!(service.broker.take(), [id("a")]);
        drop(relay);
    }
    for _ in 0..2 {
        assert!(deliver(&service.inbox(), std::slice::from_ref(&message)).await);
    }
    assert_eq!(service.effects().await, [id("a")]);
}

async fn a_rejected_message_becomes_a_dead_letter_and_holds_up_nobody(test: TestDb) {
    let service = Service::new(test).await;
    let messages = ["a", "bad", "c"].map(|name| service.message(name));
    service.leave_behind(messages.to_vec()).await;
    service.broker.is(Mood::Rejecting(vec![id("bad")]));

    let mut attempts = 0;
    while service.dead().await.is_empty() {
        service.clock.advance(A_WHILE);
        let mut relay = service.another_relay();
        relay.step().await;
        let sent = service.broker.take();
        assert_eq!(sent, if attempts == 0 { vec![id("a"), id("c")] } else { Vec::new() });
        if attempts == 0 {
            while service.unsent().await != [id("bad")] {
                relay.step().await;
            }
        }
        attempts += 1;
        assert!(attempts <= 10, "tried for ever");
    }
    assert_eq!(attempts, 10);
    assert_eq!(service.unsent().await, [""; 0]);
    let letters = service.dead_letters();
    let page = letters.list(&Filter::default(), None, 10).await.unwrap();
    let [letter] = page.letters.as_slice() else { panic!("{page:?}") };
    assert_eq!((letter.origin, letter.attempts), (Origin::Outbox, 10));
    assert_eq!(letter.message, messages[1]);

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
        service.commit(vec![service.message(name)]).await.committed();
        relay.step().await;
    }
    assert_eq!(service.unsent().await, ["a", "b", "c"].map(id));
    service.broker.is(Mood::Well);
    service.clock.advance(A_WHILE);
    service.emptied_by(&mut relay).await;
    assert_eq!(service.broker.take(), ["a", "b", "c"].map(id));
}

async fn the_same_message_twice_in_a_batch_is_sent_once(test: TestDb) {
    let mut service = Service::new(test).await;
    let mut relay = service.relay();
    let batch = ["a", "b", "a", "c", "b"].map(|name| service.message(name)).to_vec();
    service.commit(batch).await.committed();
    assert_eq!(service.sent_by(&mut relay).await, [id("a"), id("b"), id("c")]);
}

/// A repeated request is answered again, so the same message may wait twice; at one instant that
/// is a conflict, and who runs its transaction again meets another instant.
async fn the_same_message_twice_stalls_nothing(test: TestDb) {
    let service = Service::new(test).await;
    let message = service.message("a");
    service.leave_behind(vec![message.clone()]).await;
    let again = service.outbox.add(vec![message.clone()]);
    let tx = service.db.at_once().await.unwrap();
    let again = tx.commit_with(again.statement().into_iter().collect()).await;
    assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    service.clock.advance(Duration::from_millis(100));
    service.leave_behind(vec![message.clone(), service.message("b")]).await;
    service.clock.advance(A_WHILE);
    let mut relay = service.another_relay();
    service.emptied_by(&mut relay).await;
    let mut sent = service.broker.take();
    sent.dedup();
    assert_eq!(sent, [id("a"), id("b")]);
}

async fn two_relays_share_what_was_left_behind(test: TestDb) {
    let service = Service::new(test).await;
    let names: Vec<_> = (0..5000).map(|n| format!("{n:05}")).collect();
    for chunk in names.chunks(1000) {
        service.leave_behind(chunk.iter().map(|name| service.message(name)).collect()).await;
    }
    service.clock.advance(A_WHILE);
    let (mut one, mut two) = (service.another_relay(), service.another_relay());
    tokio::join!(service.emptied_by(&mut one), service.emptied_by(&mut two));
    let mut sent = service.broker.take();
    sent.sort();
    assert_eq!(sent, names.iter().map(|name| id(name)).collect::<Vec<_>>());
}

/// The sweeps of a pass go on where the one before stopped; a transaction may commit behind that.
async fn what_commits_behind_a_long_pass_is_found(test: TestDb) {
    let service = Service::new(test).await;
    let names: Vec<_> = (0..3500).map(|n| format!("{n:05}")).collect();
    for chunk in names.chunks(500) {
        service.leave_behind(chunk.iter().map(|name| service.message(name)).collect()).await;
        service.clock.advance(Duration::from_millis(100));
    }
    service.clock.advance(Duration::from_secs(4));
    let mut relay = service.another_relay();
    relay.step().await;
    relay.step().await;
    let mut tx = service.db.begin().await.unwrap();
    let moved = tx
        .query("update outbox set available_at = $1 where id = $2 and available_at > $1")
        .bind(service.clock.now().minus(Duration::from_secs(9)).micros())
        .bind(id("03499").as_str())
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

async fn a_stopping_relay_sends_what_it_was_handed(test: TestDb) {
    let mut service = Service::new(test).await;
    let relay = service.relay();
    for name in ["a", "b"] {
        service.commit(vec![service.message(name)]).await.committed();
    }
    let stop = CancellationToken::new();
    stop.cancel();
    relay.run(stop).await;
    assert_eq!(service.broker.take(), [id("a"), id("b")]);
    assert_eq!(service.unsent().await, [""; 0]);
}

/// More than one sweep takes, so that it must come again at once.
async fn a_backlog_is_worked_off(test: TestDb) {
    let service = Service::new(test).await;
    for batch in 0..3 {
        let messages = (0..1000).map(|n| service.message(&format!("{batch}-{n:04}"))).collect();
        service.leave_behind(messages).await;
    }
    service.clock.advance(A_WHILE);
    let mut relay = service.another_relay();
    service.emptied_by(&mut relay).await;
    assert_eq!(service.broker.take().len(), 3000);
}

/// A publisher that is never answered goes on; nothing else would ever wake it.
async fn a_silent_broker_does_not_stop_the_relay_for_ever(test: TestDb) {
    let service = Service::new(test).await;
    let mut relay = service.another_relay().answer_within(Duration::from_millis(20));
    service.leave_behind(vec![service.message("a")]).await;
    service.clock.advance(A_WHILE);
    service.broker.is(Mood::Silent);
    relay.step().await;
    service.broker.is(Mood::Well);
    service.clock.advance(A_WHILE);
    service.emptied_by(&mut relay).await;
    assert_eq!(service.broker.take(), [id("a")]);
}
