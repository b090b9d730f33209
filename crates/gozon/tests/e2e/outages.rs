//! Something is away: what still works goes on, what doesn't says so, and all catches up by itself.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::time::sleep;

use crate::harness::{
    Combo, Plan, Process, Reply, Servers, Shop, User, at_once, eventually, gozon,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_servers_with_rabbit() {
    one_after_the_other(Combo::PostgresRabbit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_servers_with_kafka() {
    one_after_the_other(Combo::PostgresKafka).await;
}

on_every_combo!(a_stop_finishes_what_was_accepted, many_migrate_at_once);

over_grpc_too!(a_stop_finishes_what_was_accepted);

async fn one_after_the_other(combo: Combo) {
    let servers = Servers::of(combo).await;
    let mut shop = servers.plan().await.start().await;
    let user = shop.new_user().with_balance(1_000).await;
    settle_one(&user).await;

    // Without the broker, orders are taken and wait. It is not killed in its queues' first second:
    // RabbitMQ 3.10 may lose such a queue for good.
    sleep(Duration::from_secs(2)).await;
    servers.kill(servers.broker()).await;
    not_ready(&shop, "orders", &["orders.broker"]).await;
    not_ready(&shop, "payments", &["payments.broker"]).await;
    let placed = at_once(10, 0..20, |_| user.place(10)).await;
    user.deposit(5).await;
    for order in &placed {
        assert_eq!(user.order(id_of(order)).await["status"], "NEW");
    }
    servers.up(servers.broker()).await;
    shop.start().await;
    for order in &placed {
        assert_eq!(user.settled(id_of(order)).await["status"], "FINISHED");
    }

    // Without the orders database there are no orders; accounts are not concerned.
    servers.kill("postgres").await;
    not_ready(&shop, "orders", &["orders.database"]).await;
    let body = json!({"amount": 10, "description": "a kettle"});
    let refused = user.post("/orders", &body).await;
    refused.problem(503, "service_unavailable");
    assert!(refused.header("retry-after").is_some());
    user.get("/orders").await.problem(503, "service_unavailable");
    user.get(&format!("/orders/{}", id_of(&placed[0]))).await.problem(503, "service_unavailable");
    user.deposit(5).await;
    alive(&shop).await;
    servers.up("postgres").await;
    shop.start().await;
    settle_one(&user).await;

    // Without the payments database orders are taken and wait; accounts can't be asked.
    servers.kill("postgres2").await;
    not_ready(&shop, "payments", &["payments.database"]).await;
    let waiting = at_once(10, 0..20, |_| user.place(10)).await;
    user.get("/accounts/balance").await.problem(503, "service_unavailable");
    let deposit = json!({"amount": 5});
    user.post("/accounts/deposit", &deposit).await.problem(503, "service_unavailable");
    alive(&shop).await;
    servers.up("postgres2").await;
    shop.start().await;
    for order in &waiting {
        assert_eq!(user.settled(id_of(order)).await["status"], "FINISHED");
    }
    settle_one(&user).await;

    let truth = shop.close().await;
    assert_eq!((truth.orders.len(), truth.balance(user.id)), (43, 1_000 + 10 - 43 * 10));
}

fn id_of(order: &serde_json::Value) -> &str {
    order["id"].as_str().expect("an id")
}

async fn settle_one(user: &User) {
    let order = user.place(10).await;
    assert_eq!(user.settled(id_of(&order)).await["status"], "FINISHED");
}

async fn ask(process: &Process, path: &str) -> Reply {
    Reply::to(reqwest::Client::new().get(format!("{}{path}", process.url()))).await
}

/// Waits until every process of this kind says that these parts, among others, are missing.
async fn not_ready(shop: &Shop, kind: &str, parts: &[&str]) {
    for process in shop.processes.iter().filter(|process| process.name.starts_with(kind)) {
        eventually(&format!("{} misses {parts:?}", process.name), async || {
            let reply = ask(process, "/readyz").await;
            if reply.status == 200 {
                return None;
            }
            let missing = reply.json()["errors"].as_array().cloned().unwrap_or_default();
            let named = |part: &&str| missing.iter().any(|error| error["field"] == **part);
            parts.iter().all(named).then_some(())
        })
        .await;
    }
}

async fn alive(shop: &Shop) {
    for process in &shop.processes {
        assert_eq!(ask(process, "/livez").await.status, 200, "{}", process.name);
    }
}

async fn a_stop_finishes_what_was_accepted(combo: Combo) {
    let mut shop = Plan::on(combo).start().await;
    let user = shop.new_user().with_balance(100_000).await;
    let ordering = at_once(64, 0..600, |number| {
        let user = &user;
        async move {
            let order = json!({"amount": 10, "description": format!("order {number}")});
            crate::harness::send(user.request(Method::POST, "/orders").json(&order)).await
        }
    });
    let stopping = async {
        eventually("some orders are there", async || {
            let orders = user.get("/orders?limit=100").await.ok(200);
            (orders["items"].as_array().map(Vec::len) == Some(100)).then_some(())
        })
        .await;
        shop.stop().await;
    };
    let (replies, ()) = tokio::join!(ordering, stopping);
    let mut accepted = Vec::new();
    for reply in replies.into_iter().flatten() {
        if reply.status == 201 {
            accepted.push(id_of(&reply.ok(201)).to_owned());
        } else {
            reply.trouble_on_the_way();
        }
    }
    assert!(accepted.len() >= 100);

    shop.start().await;
    let truth = shop.close().await;
    let stored = |id: &&String| truth.orders.iter().any(|order| order.id.to_string() == **id);
    let lost: Vec<_> = accepted.iter().filter(|id| !stored(id)).collect();
    assert!(lost.is_empty(), "accepted and lost: {lost:?}");
}

async fn many_migrate_at_once(combo: Combo) {
    let mut shop = Plan::on(combo).instances(1, 3, 3).prepare().await;
    // Processes that serve and such that only migrate, all on empty databases.
    let databases = [
        ("GOZON_ORDERS_DATABASE_URL", shop.orders_url.clone()),
        ("GOZON_PAYMENTS_DATABASE_URL", shop.payments_url.clone()),
    ];
    let migrations = at_once(4, 0..4, |_| gozon(&["migrate"], &databases));
    let (ended, ()) = tokio::join!(migrations, shop.start());
    for output in ended {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let user = shop.new_user().with_balance(10).await;
    settle_one(&user).await;
    shop.close().await;
}
