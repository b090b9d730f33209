//! More orders than the shop can settle.

use reqwest::Method;
use serde_json::json;

use super::{id_of, try_to_place};
use crate::harness::{Combo, Plan, Reply, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_new_orders_while_the_oldest_waits_too_long() {
    let plan = Plan::on(Combo::PostgresRabbit).setting("GOZON_MAX_UNSETTLED", "2");
    let mut shop = plan.start().await;
    let user = shop.new_user().with_balance(1_000).await;
    shop.process_mut("payments-1").kill().await;
    let keyed = || {
        let body = json!({"amount": 10, "description": "with a key"});
        user.request(Method::POST, "/orders").header("idempotency-key", "k").json(&body)
    };
    let waiting = Reply::to(keyed()).await.ok(201);
    let refused = eventually("new orders are refused", async || {
        let reply = try_to_place(&user, "one more").await;
        (reply.status != 201).then_some(reply)
    })
    .await;
    refused.problem(503, "too_many_unsettled");
    assert_eq!(refused.header("retry-after"), Some("5"));
    // What was placed already is no new order, and can be looked at.
    let again = Reply::to(keyed()).await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.ok(201)["id"], waiting["id"]);
    assert_eq!(user.order(&id_of(&waiting)).await["status"], "NEW");

    shop.start().await;
    user.settled(&id_of(&waiting)).await;
    let order = eventually("orders are taken again", async || {
        let reply = try_to_place(&user, "after").await;
        (reply.status == 201).then(|| reply.ok(201))
    })
    .await;
    user.settled(&id_of(&order)).await;
    shop.close().await;
}
