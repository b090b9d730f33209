//! What a person may do about messages that were given up on.

use std::time::Duration;

use gozon_contract::Timestamp;
use gozon_messaging::{Origin, dead_letters::Filter};
use gozon_testkit::{TestDb, on_both_databases};

use crate::{
    broker::Mood,
    service::{A_WHILE, Service, deliver, id},
    use_case::Fate,
};

on_both_databases!(
    filters_match_all_that_is_given,
    pages_follow_each_other,
    retry_begins_anew,
    retry_of_many_comes_to_an_end,
    late_repeat_of_a_retried_letter_has_no_second_effect,
    discarded_letters_are_gone,
    one_event_may_have_died_on_both_ways,
);

/// Dead letters with these names, a second apart, the first one dying first.
async fn dead(service: &Service, names: &[&str]) -> Vec<Timestamp> {
    let mut died = Vec::new();
    for name in names {
        service.clock.advance(Duration::from_secs(1));
        died.push(service.clock.now());
        service.bury(&[name]).await;
    }
    died
}

async fn listed(service: &Service, filter: Filter) -> Vec<String> {
    let page = service.dead_letters().list(&filter, None, 100).await.unwrap();
    page.letters.into_iter().map(|letter| letter.message.id).collect()
}

async fn filters_match_all_that_is_given(test: TestDb) {
    let service = Service::new(test).await;
    let died = dead(&service, &["a", "b", "c"]).await;
    let some = |value: &str| Some(value.to_owned());
    assert_eq!(listed(&service, Filter::default()).await, ["c", "b", "a"].map(id));
    for (filter, expected) in [
        (Filter { id: Some(id("b")), ..Filter::default() }, vec!["b"]),
        (Filter { topic: some("thing"), ..Filter::default() }, vec!["c", "b", "a"]),
        (Filter { topic: some("other"), ..Filter::default() }, vec![]),
        (Filter { key: some("a"), ..Filter::default() }, vec!["a"]),
        (Filter { error: some("no way"), ..Filter::default() }, vec!["c", "b", "a"]),
        (Filter { error: some("%"), ..Filter::default() }, vec![]),
        (Filter { since: Some(died[1]), ..Filter::default() }, vec!["c", "b"]),
        (Filter { until: Some(died[1]), ..Filter::default() }, vec!["b", "a"]),
        (Filter { key: some("a"), since: Some(died[1]), ..Filter::default() }, vec![]),
    ] {
        let names: Vec<_> = expected.into_iter().map(id).collect();
        assert_eq!(listed(&service, filter.clone()).await, names, "{filter:?}");
    }
}

async fn pages_follow_each_other(test: TestDb) {
    let service = Service::new(test).await;
    // All at the same instant: the id decides.
    service.bury(&["a", "b", "c", "d", "e"]).await;
    let letters = service.dead_letters();
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = letters.list(&Filter::default(), after.as_ref(), 2).await.unwrap();
        assert!(page.letters.len() <= 2);
        seen.extend(page.letters.into_iter().map(|letter| letter.message.id));
        match page.next {
            Some(next) => after = Some(next.to_string().parse().unwrap()),
            None => break,
        }
    }
    assert_eq!(seen, ["e", "d", "c", "b", "a"].map(id));
}

async fn retry_begins_anew(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.use_case.will("a", Fate::Fails, u32::MAX);
    assert!(deliver(&inbox, &[service.alone("a")]).await);
    assert_eq!(service.settle_pending(&inbox).await, 8);
    service.bury(&["b"]).await;
    assert_eq!(service.dead().await, ["a", "b"].map(id));

    let only_a = Filter { id: Some(id("a")), ..Filter::default() };
    assert_eq!(service.dead_letters().retry(&only_a).await.unwrap(), 1);
    assert_eq!(service.dead().await, [id("b")]);
    assert_eq!(service.effects().await, [""; 0]);
    // It has all its attempts again, and no wait before the first.
    service.use_case.will("a", Fate::Fails, 7);
    assert_eq!(inbox.retry_step().await.unwrap(), 1);
    service.clock.advance(A_WHILE);
    assert_eq!(service.settle_pending(&inbox).await, 7);
    assert_eq!(service.effects().await, [id("a")]);
    assert_eq!(service.dead().await, [id("b")]);
    assert_eq!(service.dead_letters().retry(&only_a).await.unwrap(), 0);
}

/// More than one batch, dying again while it is still going on.
async fn retry_of_many_comes_to_an_end(test: TestDb) {
    let service = Service::new(test).await;
    let names: Vec<_> = (0..1201).map(|n| format!("n{n:04}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    service.bury(&names).await;
    service.clock.advance(Duration::from_secs(1));
    let letters = service.dead_letters();
    let retrying = tokio::spawn(async move { letters.retry(&Filter::default()).await });
    let other = service.test.another();
    while !retrying.is_finished() {
        service.clock.advance(Duration::from_secs(1));
        let mut tx = other.begin().await.unwrap();
        let again = tx
            .query(
                "insert into dead_letters (id, origin, topic, partition_key, body, received_at,
                    attempts, died_at, error)
                 select id, 'inbox', topic, partition_key, body, received_at, 8, $1, 'again'
                 from inbox_pending where true",
            )
            .bind(service.clock.now().plus(A_WHILE).micros());
        again.execute().await.unwrap();
        let moved = "delete from inbox_pending where id in (select id from dead_letters)";
        tx.query(moved).execute().await.unwrap();
        tx.commit().await.unwrap();
        tokio::task::yield_now().await;
    }
    let retried = retrying.await.unwrap().unwrap();
    assert_eq!(retried, 1201);
    assert_eq!(service.dead().await.len() + service.pending().await.len(), 1201);
}

async fn late_repeat_of_a_retried_letter_has_no_second_effect(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    service.use_case.guards_its_effect();
    service.bury(&["a"]).await;
    service.clock.advance(A_WHILE);
    assert_eq!(service.dead_letters().retry(&Filter::default()).await.unwrap(), 1);
    // The inbox has forgotten its delivery, and the broker delivers it once more before the retry
    // is made, and after it.
    assert!(deliver(&inbox, &[service.alone("a")]).await);
    assert_eq!(inbox.retry_step().await.unwrap(), 1);
    service.sql("delete from inbox").await;
    assert!(deliver(&inbox, &[service.alone("a")]).await);
    assert_eq!(service.effects().await, [id("a")]);
    assert_eq!((service.dead().await.len(), service.pending().await.len()), (0, 0));
}

async fn discarded_letters_are_gone(test: TestDb) {
    let service = Service::new(test).await;
    dead(&service, &["a", "b"]).await;
    let letters = service.dead_letters();
    let only_a = Filter { key: Some("a".to_owned()), ..Filter::default() };
    assert_eq!(letters.discard(&only_a).await.unwrap(), 1);
    assert_eq!(service.dead().await, [id("b")]);
    assert_eq!(letters.discard(&Filter::default()).await.unwrap(), 1);
    assert_eq!(letters.discard(&Filter::default()).await.unwrap(), 0);
    assert_eq!((service.dead().await.len(), service.pending().await.len()), (0, 0));
}

async fn one_event_may_have_died_on_both_ways(test: TestDb) {
    let service = Service::new(test).await;
    service.bury(&["a"]).await;
    service.leave_behind(&["a"]).await;
    service.broker.is(Mood::Rejecting(vec![id("a")]));
    while service.dead().await.len() < 2 {
        service.clock.advance(A_WHILE);
        service.another_relay().step().await;
    }
    let page = service.dead_letters().list(&Filter::default(), None, 100).await.unwrap();
    let origins: Vec<_> = page.letters.iter().map(|letter| letter.origin).collect();
    assert_eq!(origins, [Origin::Outbox, Origin::Inbox]);
    assert_eq!(service.dead_letters().retry(&Filter::default()).await.unwrap(), 2);
    assert_eq!(service.unsent().await, [id("a")]);
    assert_eq!(service.pending().await, [id("a")]);
}
