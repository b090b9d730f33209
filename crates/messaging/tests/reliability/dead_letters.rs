//! What a person may do about messages that were given up on.

use std::time::Duration;

use gozon_contract::Timestamp;
use gozon_messaging::{Message, Origin, dead_letters::Filter};
use gozon_testkit::{TestDb, on_both_databases};

use crate::service::{A_WHILE, Fate, Mood, Service, deliver, id};

on_both_databases!(
    filters_match_all_that_is_given,
    pages_follow_each_other,
    a_retry_begins_anew,
    a_retry_of_many_comes_to_an_end,
    a_retry_long_after_the_inbox_forgot_is_guarded_against_repeats,
    what_is_discarded_is_gone,
    one_message_may_have_died_on_both_ways,
);

/// Dead letters with these names, a second apart, the first one dying first.
async fn dead(service: &Service, names: &[&str]) -> Vec<Timestamp> {
    let inbox = service.inbox();
    let mut died = Vec::new();
    for name in names {
        service.clock.advance(Duration::from_secs(1));
        died.push(service.clock.now());
        service.handler.will(name, Fate::IsInvalid, 1);
        assert!(deliver(&inbox, &[service.message(name)]).await);
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
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(listed(&service, Filter::default()).await, ["c", "b", "a"].map(id));
    for (filter, expected) in [
        (Filter { id: Some(id("b")), ..Filter::default() }, vec!["b"]),
        (Filter { topic: text("thing"), ..Filter::default() }, vec!["c", "b", "a"]),
        (Filter { topic: text("other"), ..Filter::default() }, vec![]),
        (Filter { key: text("a"), ..Filter::default() }, vec!["a"]),
        (Filter { error: text("not a CloudEvent"), ..Filter::default() }, vec!["c", "b", "a"]),
        (Filter { error: text("%"), ..Filter::default() }, vec![]),
        (Filter { since: Some(died[1]), ..Filter::default() }, vec!["c", "b"]),
        (Filter { until: Some(died[1]), ..Filter::default() }, vec!["b", "a"]),
        (Filter { key: text("a"), since: Some(died[1]), ..Filter::default() }, vec![]),
    ] {
        let names: Vec<_> = expected.into_iter().map(id).collect();
        assert_eq!(listed(&service, filter.clone()).await, names, "{filter:?}");
    }
}

async fn pages_follow_each_other(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    // All at the same instant: the id decides.
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        service.handler.will(name, Fate::IsInvalid, u32::MAX);
    }
    assert!(deliver(&inbox, &names.map(|name| service.message(name))).await);
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

async fn a_retry_begins_anew(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    dead(&service, &["a", "b"]).await;
    let only_a = Filter { id: Some(id("a")), ..Filter::default() };
    assert_eq!(service.dead_letters().retry(&only_a).await.unwrap(), 1);
    assert_eq!(service.dead().await, [id("b")]);
    assert_eq!(service.effects().await, [""; 0]);
    // It has all its attempts again, and no wait before the first.
    service.handler.will("a", Fate::Fails, 7);
    let mut attempts = 0;
    while !service.pending().await.is_empty() {
        attempts += inbox.retry_step().await.unwrap();
        service.clock.advance(A_WHILE);
    }
    assert_eq!(attempts, 8);
    assert_eq!(service.effects().await, [id("a")]);
    assert_eq!(service.dead().await, [id("b")]);
    assert_eq!(service.dead_letters().retry(&only_a).await.unwrap(), 0);
}

/// More than one batch, each dying again as soon as it is retried.
async fn a_retry_of_many_comes_to_an_end(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    let names: Vec<_> = (0..1201).map(|n| format!("n{n:04}")).collect();
    for name in &names {
        service.handler.will(name, Fate::IsInvalid, u32::MAX);
    }
    let batch: Vec<Message> = names.iter().map(|name| service.message(name)).collect();
    assert!(deliver(&inbox, &batch).await);
    service.clock.advance(Duration::from_secs(1));
    let (retried, ()) = tokio::join!(
        async { service.dead_letters().retry(&Filter::default()).await.unwrap() },
        async {
            service.clock.advance(Duration::from_secs(1));
            inbox.retry_step().await.unwrap();
        }
    );
    assert_eq!(retried, 1201);
    while inbox.retry_step().await.unwrap() > 0 {
        service.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(service.dead().await.len(), 1201);
}

async fn a_retry_long_after_the_inbox_forgot_is_guarded_against_repeats(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    dead(&service, &["a"]).await;
    let mut tx = service.db.begin().await.unwrap();
    tx.query("delete from inbox").execute().await.unwrap();
    tx.commit().await.unwrap();
    service.clock.advance(A_WHILE);
    assert_eq!(service.dead_letters().retry(&Filter::default()).await.unwrap(), 1);
    // The broker delivers it once more before the retry is made.
    assert!(deliver(&inbox, &[service.message("a")]).await);
    assert_eq!(service.effects().await, [""; 0]);
    assert_eq!(inbox.retry_step().await.unwrap(), 1);
    assert!(deliver(&inbox, &[service.message("a")]).await);
    assert_eq!(service.effects().await, [id("a")]);
}

async fn what_is_discarded_is_gone(test: TestDb) {
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

async fn one_message_may_have_died_on_both_ways(test: TestDb) {
    let service = Service::new(test).await;
    dead(&service, &["a"]).await;
    service.leave_behind(vec![service.message("a")]).await;
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
