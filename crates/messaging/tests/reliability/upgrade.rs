//! What an instance of the release before has left in the tables is sent and dealt with once, by
//! instances of this one. It kept an event to a row, and remembered events in its inbox.

use std::collections::HashSet;

use gozon_messaging::{MIGRATIONS, Message};
use gozon_store::{Rows, migrate};
use gozon_testkit::{TestDb, on_both_databases};

use crate::service::{A_WHILE, Service, THING, batch, deliver, event, id};

on_both_databases!(
    rows_left_in_the_old_outbox_are_sent,
    rows_written_to_the_old_outbox_meanwhile_are_sent,
    event_marked_by_the_release_before_is_a_repeat,
    events_pending_since_the_release_before_are_tried,
);

/// A database as the release before has made it.
async fn old(test: &TestDb) {
    migrate(&test.db(), &MIGRATIONS[..1]).await.unwrap();
}

/// The service after the upgrade.
async fn upgraded(test: TestDb) -> Service {
    migrate(&test.db(), MIGRATIONS).await.unwrap();
    Service::on_migrated(test).await
}

fn messages(names: &[&str]) -> Vec<Message> {
    let time = gozon_contract::Timestamp::from_micros(1_763_683_100_000_000);
    names.iter().map(|name| event(name, time).to_message()).collect()
}

/// Leaves messages in the old outbox, available at an instant.
async fn leave_in_outbox(test: &TestDb, messages: &[Message], available_at: i64) {
    let rows = Rows::of(messages)
        .text("id", |message| message.id.clone())
        .text("partition_key", |message| message.key.clone())
        .text("body", |message| String::from_utf8(message.body.to_vec()).unwrap())
        .done();
    let mut tx = test.db().begin().await.unwrap();
    let left = tx
        .query(
            "insert into outbox (available_at, id, topic, partition_key, body, created_at, attempts)
             select $1, id, $2, partition_key, body, 1, 0 from {rows}",
        )
        .bind(available_at)
        .bind(THING.name)
        .rows(rows);
    left.execute().await.unwrap();
    tx.commit().await.unwrap();
}

async fn rows_left_in_the_old_outbox_are_sent(test: TestDb) {
    old(&test).await;
    let names: Vec<_> = (0..150).map(|n| format!("{n:03}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let all = messages(&names);
    leave_in_outbox(&test, &all, 1).await;
    // An event may be there twice, at different instants.
    leave_in_outbox(&test, &all[..20], 2).await;
    let service = upgraded(test).await;
    service.use_case.guards_its_effect();
    let (mut one, mut two) = (service.another_relay(), service.another_relay());
    tokio::join!(service.emptied_by(&mut one), service.emptied_by(&mut two));
    let sent = service.broker.take_batches();
    {
        let mut x: Vec<_> = sent.iter().map(|batch| batch.id.clone()).collect();
        x.sort();
    }
    assert_eq!(sent.len(), 170, "each row once");
    let deliveries: HashSet<_> = sent.iter().map(|batch| batch.id.as_str()).collect();
    assert_eq!(deliveries.len(), 170);
    for some in sent.chunks(50) {
        assert!(deliver(&service.inbox(), some).await);
    }
    assert_eq!(service.effects().await, names.iter().map(|name| id(name)).collect::<Vec<_>>());
}

/// While both releases run. What the old instance has to itself is left to it.
async fn rows_written_to_the_old_outbox_meanwhile_are_sent(test: TestDb) {
    old(&test).await;
    let service = upgraded(test).await;
    service.leave_behind(&["new"]).await;
    service.clock.advance(A_WHILE);
    let now = service.clock.now().micros();
    leave_in_outbox(&service.test, &messages(&["left"]), now).await;
    leave_in_outbox(&service.test, &messages(&["leased"]), now + 3_000_000).await;
    let mut relay = service.another_relay();
    let mut sent = Vec::new();
    while service.unsent().await != [id("leased")] {
        relay.step().await;
        sent.extend(service.broker.take());
    }
    sent.sort();
    assert_eq!(sent, ["left", "new"].map(id));
    service.clock.advance(A_WHILE);
    service.emptied_by(&mut relay).await;
    assert_eq!(service.broker.take(), [id("leased")]);
}

/// Its broker may deliver it once more, alone or with others, under the id that it had.
async fn event_marked_by_the_release_before_is_a_repeat(test: TestDb) {
    old(&test).await;
    let mut tx = test.db().begin().await.unwrap();
    let mark = tx.query("insert into inbox (id, received_at) values ($1, 1)");
    mark.bind(id("a").as_str()).execute().await.unwrap();
    tx.commit().await.unwrap();
    let service = upgraded(test).await;
    let alone = batch(&id("a"), &messages(&["a"]));
    assert!(deliver(&service.inbox(), &[alone, service.alone("b")]).await);
    assert_eq!(service.effects().await, [id("b")]);
}

async fn events_pending_since_the_release_before_are_tried(test: TestDb) {
    old(&test).await;
    let mut tx = test.db().begin().await.unwrap();
    for (message, attempts) in messages(&["first", "last"]).iter().zip([1, 7]) {
        let pending = tx
            .query(
                "insert into inbox_pending (id, topic, partition_key, body, received_at, attempts,
                    next_attempt_at, error)
                 values ($1, $2, $3, $4, 1, $5, 1, 'no way')",
            )
            .bind(message.id.as_str())
            .bind(THING.name)
            .bind(message.key.as_str())
            .bind(&*message.body)
            .bind(attempts);
        pending.execute().await.unwrap();
    }
    tx.commit().await.unwrap();
    let service = upgraded(test).await;
    assert_eq!(service.inbox().retry_step().await.unwrap(), 2);
    assert_eq!(service.effects().await, ["first", "last"].map(id));
    assert_eq!((service.pending().await.len(), service.dead().await.len()), (0, 0));
}
