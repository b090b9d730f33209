//! Clocks that are wrong by hours or days, or jump. The time of a service is its database's.

use std::{path::PathBuf, time::Duration};

use gozon_contract::{Clock, Timestamp};
use gozon_testkit::Wire;
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

use super::id_of;
use crate::harness::{Combo, Plan, Postgres, Reply, User, eventually};

/// Farther from the truth than any slow machine brings an instant, and nearer than any wrong clock here.
const FAR: Duration = Duration::from_mins(30);

/// A file that says how wrong a clock is.
struct WrongClock {
    path: PathBuf,
    _folder: TempDir,
}

impl WrongClock {
    fn by(offset: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let clock = Self { path: folder.path().join("clock"), _folder: folder };
        clock.set(offset);
        clock
    }

    fn set(&self, offset: &str) {
        std::fs::write(&self.path, offset).expect("a clock that can be set");
    }
}

/// Places an order and makes a deposit, both with this key; the order.
async fn order_and_deposit(user: &User, key: &str) -> (serde_json::Value, bool) {
    let send = async |path: &str, body: serde_json::Value| {
        let request = user.request(Method::POST, path).header("idempotency-key", key);
        Reply::to(request.json(&body)).await
    };
    let deposit = send("/accounts/deposit", json!({"amount": 300})).await;
    deposit.ok(200);
    let order = send("/orders", json!({"amount": 10, "description": "a kettle"})).await;
    let replayed = |reply: &Reply| reply.header("idempotency-replayed") == Some("true");
    assert_eq!(replayed(&deposit), replayed(&order));
    (order.ok(201), replayed(&order))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_a_day_ahead_purges_no_keys() {
    let mut shop = Plan::on(Combo::PostgresRabbit).instances(1, 2, 2).start().await;
    let user = shop.new_user().with_balance(1_000).await;
    let (order, replayed) = order_and_deposit(&user, "once").await;
    assert!(!replayed);

    let clock = WrongClock::by("+26h");
    for name in ["orders-2", "payments-2"] {
        let process = shop.process_mut(name);
        process.kill().await;
        process.with_clock_of(&clock.path);
        process.start();
        process.ready().await;
    }
    // It does everything that it does when it starts.
    sleep(Duration::from_secs(3)).await;
    for name in ["orders-2", "payments-2"] {
        let process = shop.process_mut(name);
        // Midnight may have passed since it wrote its log.
        let log = process.log();
        let is_wrong = [0, 5].into_iter().any(|minutes_ago| {
            let ahead = Duration::from_mins(26 * 60 - minutes_ago);
            let then = Clock::system().now().plus(ahead).to_string();
            log.contains(&then[..10])
        });
        assert!(is_wrong, "its clock is right");
        process.kill().await;
        process.set("LD_PRELOAD", "");
    }
    shop.start().await;

    let (again, replayed) = order_and_deposit(&user, "once").await;
    assert!(replayed, "the key is forgotten");
    assert_eq!(again["id"], order["id"]);
    user.settled(&id_of(&order)).await;
    let truth = shop.close().await;
    assert_eq!((truth.orders.len(), truth.balance(user.id)), (1, 1_290));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_an_instance_hours_ahead_are_taken_over() {
    let mut shop = Plan::on(Combo::PostgresRabbit).instances(1, 2, 1).prepare().await;
    let (wire, broker_url) = Wire::through(&shop.broker_url).await;
    let clock = WrongClock::by("+2h");
    let ahead = shop.process_mut("orders-1");
    ahead.with_clock_of(&clock.path);
    ahead.set("GOZON_BROKER_URL", broker_url);
    shop.start().await;
    let user = shop.new_user().with_balance(100).await;

    // What it takes now is in its outbox alone.
    wire.freeze();
    let order = user.at(&shop.door_of("orders-1")).place(10).await;
    let created: Timestamp = serde_json::from_value(order["created_at"].clone()).expect("a time");
    let now = Clock::system().now();
    assert!(created.since(now) < FAR && now.since(created) < FAR, "{created}, but it is {now}");
    shop.process_mut("orders-1").kill().await;
    assert_eq!(user.settled(&id_of(&order)).await["status"], "FINISHED");

    wire.mend();
    shop.start().await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_has_no_effect() {
    jumps(Plan::on(Combo::PostgresRabbit)).await;
}

/// A cluster refuses records from the future.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_has_no_effect_on_kafka() {
    jumps(Plan::on(Combo::PostgresKafka)).await;
}

/// There, the machine's clock is the database's too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_has_no_effect_on_sqlite() {
    jumps(Plan::on(Combo::SqliteMemory)).await;
}

async fn jumps(plan: Plan) {
    let mut shop = plan.prepare().await;
    let clock = WrongClock::by("+0");
    for process in &mut shop.processes {
        process.with_clock_of(&clock.path);
    }
    shop.start().await;
    let user = shop.new_user().with_balance(1_000).await;
    let (first, _) = order_and_deposit(&user, "once").await;
    let mut last = first["created_at"].clone();
    for offset in ["+26h", "-49h", "+0"] {
        clock.set(offset);
        // Longer than the shop takes to see that.
        for _ in 0..8 {
            let order = user.place(10).await;
            user.settled(&id_of(&order)).await;
            let at = |time: &serde_json::Value| {
                serde_json::from_value::<Timestamp>(time.clone()).expect("a time")
            };
            let (before, now) = (at(&last), at(&order["created_at"]));
            assert!(now > before && now.since(before) < FAR, "{now} after {before}");
            last = order["created_at"].clone();
            sleep(Duration::from_millis(800)).await;
        }
    }
    let (again, replayed) = order_and_deposit(&user, "once").await;
    assert!(replayed && again["id"] == first["id"]);
    let truth = shop.close().await;
    assert_eq!(truth.orders.len(), 1 + 3 * 8);
}

/// A host with another time takes over; among those who see it is a process that starts right then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_whose_time_jumps_purges_nothing() {
    let mut shop = Plan::on(Combo::PostgresRabbit).instances(1, 2, 2).start().await;
    let user = shop.new_user().with_balance(1_000).await;
    let (first, _) = order_and_deposit(&user, "once").await;
    for url in [&shop.orders_url, &shop.payments_url] {
        let mut database = Postgres::on(url).await;
        // Only those that ask for it by this path see the function in place of the server's.
        database
            .run(
                "create function public.clock_timestamp() returns timestamptz language sql as
                    $$ select pg_catalog.clock_timestamp() + interval '30 hours' $$;
                 alter database {database} set search_path = public, pg_catalog",
            )
            .await;
        database.end_sessions().await;
        database.close().await;
    }
    for name in ["orders-2", "payments-2"] {
        let process = shop.process_mut(name);
        process.kill().await;
        process.start();
        process.ready().await;
    }
    for url in [&shop.orders_url, &shop.payments_url] {
        let mut database = Postgres::on(url).await;
        eventually("the jump is corrected", async || {
            let hours = "select correction / 3600000000 from service_clock";
            (database.number(hours).await < -28).then_some(())
        })
        .await;
        database.close().await;
    }
    // Nobody corrects the correction.
    sleep(Duration::from_secs(8)).await;
    for door in ["orders-1", "orders-2"] {
        let order = user.at(&shop.door_of(door)).place(10).await;
        let created: Timestamp =
            serde_json::from_value(order["created_at"].clone()).expect("a time");
        let now = Clock::system().now();
        assert!(created.since(now) < FAR && now.since(created) < FAR, "{door} says {created}");
        user.settled(&id_of(&order)).await;
    }
    let (again, replayed) = order_and_deposit(&user, "once").await;
    assert!(replayed && again["id"] == first["id"]);
    shop.close().await;
}
