//! Callers that hang up before anything was done for them.

use std::time::Duration;

use gozon_testkit::{TestDb, Wire};
use reqwest::Method;
use serde_json::json;

use super::until_ready;
use crate::harness::{Combo, Plan, eventually, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_done_for_a_caller_that_hung_up() {
    let (orders, payments) = (TestDb::postgres().await, TestDb::postgres().await);
    let (wire, orders_url) = Wire::through(orders.url()).await;
    let plan = Plan::on(Combo::PostgresRabbit).databases(orders_url, payments.url().to_owned());
    let shop = plan.start().await;
    let user = shop.new_user().with_balance(1_000).await;

    wire.freeze();
    let order = |description: &str| {
        let body = json!({"amount": 10, "description": description});
        user.request(Method::POST, "/orders").json(&body)
    };
    // This one is begun, and finds nobody at the other end.
    let begun = tokio::spawn(send(order("begun")));
    eventually("it is under way", async || {
        let metrics = shop.processes[0].metrics().await;
        let groups = metrics.lines().find(|line| line.starts_with("gozon_group_size_count"));
        groups.map(drop)
    })
    .await;
    for n in 0..5 {
        let request = order(&format!("gave up {n}")).timeout(Duration::from_millis(500));
        assert!(send(request).await.is_err_and(|error| error.is_timeout()));
    }
    begun.await.expect("a task").expect("an answer").trouble_on_the_way();
    wire.mend();
    until_ready(&shop.process("orders-1").url(), true).await;
    eventually("orders are taken again", async || {
        let reply = send(order("after")).await.ok()?;
        (reply.status == 201).then_some(())
    })
    .await;
    let truth = shop.close().await;
    let stored: Vec<_> = truth.orders.iter().map(|order| order.description.as_str()).collect();
    assert!(!stored.is_empty() && stored.iter().all(|text| *text == "after"), "{stored:?}");
}
