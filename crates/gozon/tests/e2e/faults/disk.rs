//! Disks that are full for a while.

use serde_json::json;

use super::{id_of, try_to_place, until_ready};
use crate::harness::{Combo, Plan, Postgres, Servers, at_once, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_sqlite_is_503_and_heals() {
    let mut shop = Plan::on(Combo::SqliteMemory).prepare().await;
    shop.processes[0].outlive_full_disks();
    shop.start().await;
    let user = shop.new_user().with_balance(1_000).await;
    let url = shop.processes[0].url();
    for round in 0..3 {
        let before = at_once(4, 0..4, |_| user.place(10)).await;
        shop.processes[0].fill_disk(true);
        for _ in 0..5 {
            try_to_place(&user, "on a full disk").await.problem(503, "service_unavailable");
            user.post("/accounts/deposit", &json!({"amount": 1}))
                .await
                .problem(503, "service_unavailable");
            // What is there can still be read.
            user.get("/orders").await.ok(200);
        }
        until_ready(&url, false).await;
        shop.processes[0].fill_disk(false);
        until_ready(&url, true).await;
        let after = eventually("an order is taken", async || {
            let reply = try_to_place(&user, "after").await;
            (reply.status == 201).then(|| reply.ok(201))
        })
        .await;
        for order in before.iter().chain([&after]) {
            assert_eq!(user.settled(&id_of(order)).await["status"], "FINISHED", "round {round}");
        }
    }
    let truth = shop.close().await;
    assert_eq!(truth.with_status("FINISHED"), 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_postgres_is_503_and_heals() {
    let servers = Servers::of(Combo::PostgresRabbit).await;
    let shop = servers.plan().await.start().await;
    let user = shop.new_user().with_balance(1_000_000).await;
    let mut orders = Vec::new();

    // Under orders. What fits into the pages that are there is taken, until a table has to grow.
    servers.fill_disk("postgres", true).await;
    let mut refused = false;
    for _ in 0..100 {
        for reply in at_once(16, 0..50, |_| try_to_place(&user, "on a full disk")).await {
            match reply.status {
                201 => orders.push(id_of(&reply.ok(201))),
                _ => refused = reply.problem(503, "service_unavailable").is_object(),
            }
        }
        if refused {
            break;
        }
    }
    assert!(refused, "nothing was refused");
    let url = shop.process("orders-1").url();
    until_ready(&url, false).await;
    servers.fill_disk("postgres", false).await;
    until_ready(&url, true).await;

    // Under payments.
    servers.fill_disk("postgres2", true).await;
    let deposit = json!({"amount": 1});
    eventually("a deposit is refused", async || {
        let replies = at_once(16, 0..50, |_| user.post("/accounts/deposit", &deposit)).await;
        let refused = replies.iter().find(|reply| reply.status != 200)?;
        refused.problem(503, "service_unavailable");
        Some(())
    })
    .await;
    let url = shop.process("payments-1").url();
    until_ready(&url, false).await;
    for _ in 0..5 {
        orders.push(id_of(&user.place(10).await));
    }
    servers.fill_disk("postgres2", false).await;
    until_ready(&url, true).await;

    for order in &orders {
        assert_eq!(user.settled(order).await["status"], "FINISHED");
    }
    // It was the environment's fault, and no attempt of any event's.
    let mut payments = Postgres::on(&shop.payments_url).await;
    let spent = "select count(*) from inbox_pending where attempts > 0";
    assert_eq!(payments.number(spent).await, 0);
    payments.close().await;
    shop.close().await;
}
