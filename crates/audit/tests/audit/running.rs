//! Audits of a shop that goes on while it is audited.

use std::time::Duration;

use gozon_audit::{Clocks, Options, audit};
use gozon_contract::{Clock, OrderId, PAYMENT_REQUESTED, PAYMENT_SETTLED, RandomSource, UserId};
use gozon_store::Db;
use gozon_testkit::{TestDb, on_both_databases};
use uuid::Uuid;

use crate::shop::{ANNA, Shop, run};

/// Takes orders through all their states, each state in a transaction as the services do it, with
/// hardly a moment between them.
async fn keep_shopping(orders: Db, payments: Db, orders_to_place: u64) {
    let (clock, random) = (Clock::system(), RandomSource::system());
    for seq in 2..orders_to_place + 2 {
        let now = clock.now().micros();
        let id = OrderId::new(clock.now(), &random).uuid();
        let mut tx = orders.begin().await.unwrap();
        tx.query(
            "insert into orders (user_id, id, amount, description, status, version, created_at,
                                 updated_at)
             values ($1, $2, 1, 'A pin', 'NEW', 1, $3, $3)",
        )
        .bind(ANNA)
        .bind(id)
        .bind(now)
        .execute()
        .await
        .unwrap();
        send(&mut tx, id, PAYMENT_REQUESTED.name).await;
        tx.commit().await.unwrap();

        let mut tx = payments.begin().await.unwrap();
        tx.query(
            "insert into payments (order_id, user_id, amount, created_at) values ($1, $2, 1, $3)",
        )
        .bind(id)
        .bind(ANNA)
        .bind(now)
        .execute()
        .await
        .unwrap();
        tx.query(
            "insert into entries (user_id, seq, kind, amount, balance_after, order_id, created_at)
             select user_id, $2, 'payment', -1, balance - 1, $3, $4 from accounts
             where user_id = $1",
        )
        .bind(ANNA)
        .bind(i64::try_from(seq).unwrap())
        .bind(id)
        .bind(now)
        .execute()
        .await
        .unwrap();
        tx.query(
            "update accounts set balance = balance - 1, version = version + 1 where user_id = $1",
        )
        .bind(ANNA)
        .execute()
        .await
        .unwrap();
        send(&mut tx, id, PAYMENT_SETTLED.name).await;
        tx.commit().await.unwrap();

        run(&orders, "delete from outbox_batches", vec![]).await;
        let finish = "update orders set status = 'FINISHED', version = 2
                      where user_id = $1 and id = $2";
        run(&orders, finish, vec![ANNA.into(), id.into()]).await;
        run(&payments, "delete from outbox_batches", vec![]).await;
    }
}

async fn send(tx: &mut gozon_store::Tx, order: Uuid, topic: &str) {
    tx.query(
        "insert into outbox_batches (available_at, id, topic, body, events, created_at, attempts)
         values (1, $1, $2, $1, 1, 1, 0)",
    )
    .bind(format!(r#"{{"id": "{order}:{topic}"}}"#).as_str())
    .bind(topic)
    .execute()
    .await
    .unwrap();
}

/// Even without any tolerance for young orders, nothing is ever wrong.
async fn audits_of_a_running_shop_are_clean(db: TestDb) {
    let shop = Shop::empty(db).await;
    shop.account(ANNA, 1_000_000, 2).await;
    shop.entry(ANNA, 1, 1_000_000, 1_000_000, None).await;
    let shopping = tokio::spawn(keep_shopping(shop.orders.another(), shop.payments.another(), 300));
    let options = Options {
        new_age_limit: Duration::ZERO,
        message_age_limit: Duration::MAX,
        max_findings: 10,
        pause: Duration::ZERO,
        count_first: false,
    };
    let clocks = Clocks { orders: Clock::system(), payments: Clock::system() };
    let mut audits = 0;
    loop {
        let over = shopping.is_finished();
        let (orders, payments) = (shop.orders.db(), shop.payments.db());
        let report = audit(&orders, &payments, &clocks, &options, |_| {}).await.unwrap();
        assert!(report.ok, "audit {audits}: {report}");
        audits += 1;
        if over {
            shopping.await.unwrap();
            assert_eq!(report.checks[2].rows, 300);
            break;
        }
    }
    assert!(audits > 1);
}

/// A damage among many suspects is found too, and only it.
async fn more_suspects_than_fit_one_look(db: TestDb) {
    let shop = Shop::empty(db).await;
    for number in 1..=1200 {
        shop.order(ANNA, number, 1, "FINISHED", None).await;
        if number % 3 == 0 {
            shop.payment(ANNA, number, 1, Some("no_account"), 0).await;
        }
    }
    let report = shop.audit().await;
    let counts: Vec<u64> = report.checks[3].counts.values().copied().collect();
    assert_eq!(counts, [800, 400], "{report}");
}

/// What a user may be: all bits set.
async fn ids_at_the_ends_of_their_range(db: TestDb) {
    let shop = Shop::empty(db).await;
    for user in [Uuid::nil(), Uuid::max()] {
        let user = UserId::from(user).uuid();
        shop.account(user, 5, 2).await;
        shop.entry(user, 1, 5, 5, None).await;
    }
    shop.expect(&[]).await;
}

on_both_databases!(
    audits_of_a_running_shop_are_clean,
    more_suspects_than_fit_one_look,
    ids_at_the_ends_of_their_range,
);
