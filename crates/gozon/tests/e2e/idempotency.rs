//! The same request sent again.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Combo, Plan, Reply, User, at_once};

on_every_combo!(fifty_at_once_do_one_thing, a_key_belongs_to_its_request, a_key_outlives_a_crash);

over_grpc_too!(fifty_at_once_do_one_thing, a_key_belongs_to_its_request, a_key_outlives_a_crash);

async fn with_key(user: &User, path: &str, key: &str, body: &Value) -> Reply {
    Reply::to(user.request(Method::POST, path).header("idempotency-key", key).json(body)).await
}

fn order(amount: i64) -> Value {
    json!({"amount": amount, "description": "a kettle"})
}

/// All must be the same answer with this status, all but one of them a replay.
fn same_answers(replies: &[Reply], status: u16) {
    let location = replies[0].header("location");
    for reply in replies {
        assert_eq!((reply.status, &reply.text), (status, &replies[0].text));
        assert_eq!(reply.header("location"), location);
    }
    let replayed = replies.iter().filter(|reply| {
        reply.header("idempotency-replayed").inspect(|value| assert_eq!(*value, "true")).is_some()
    });
    assert_eq!(replayed.count(), replies.len() - 1);
}

async fn fifty_at_once_do_one_thing(combo: Combo) {
    let shop = Plan::on(combo).instances(1, 2, 2).start().await;
    let user = shop.new_user();
    let fifty = async |path: &str, key: &str, body: Value| {
        at_once(50, 0..50, |_| with_key(&user, path, key, &body)).await
    };

    same_answers(&fifty("/accounts", "open", json!({})).await, 201);
    same_answers(&fifty("/accounts/deposit", "top-up", json!({"amount": 500})).await, 200);
    same_answers(&fifty("/orders", "order", order(100)).await, 201);
    // A refusal is an answer too.
    let refused = fifty("/accounts", "again", json!({})).await;
    assert!(refused.iter().all(|reply| reply.problem(409, "account_exists")["status"] == 409));

    let truth = shop.close().await;
    assert_eq!((truth.accounts.len(), truth.orders.len(), truth.entries.len()), (1, 1, 2));
    assert_eq!(truth.balance(user.id), 400);
}

async fn a_key_belongs_to_its_request(combo: Combo) {
    let shop = Plan::on(combo).instances(1, 2, 2).start().await;
    let user = shop.new_user().with_balance(1_000).await;
    let other = shop.new_user().with_balance(1_000).await;

    let first = with_key(&user, "/orders", "key", &order(10)).await.ok(201);
    let reused = async |path: &str, body: Value| {
        let reply = with_key(&user, path, "key", &body).await;
        reply.problem(422, "idempotency_key_reused");
        assert_eq!(reply.header("idempotency-replayed"), None);
    };
    reused("/orders", order(11)).await;
    reused("/orders", json!({"amount": 10, "description": "another kettle"})).await;
    // What the request means counts, not how it is written.
    let spaced = " {\n \"description\":\"a \\u006bettle\", \"amount\" : 10 } ";
    let spaced = user
        .request(Method::POST, "/orders")
        .header("idempotency-key", "key")
        .header("content-type", "application/json; charset=utf-8")
        .body(spaced);
    assert_eq!(Reply::to(spaced).await.ok(201), first);

    // Another user's key is another key, and so is another key of the same user.
    let others = with_key(&other, "/orders", "key", &order(10)).await.ok(201);
    assert_ne!(first["id"], others["id"]);
    assert_eq!(others["user_id"], other.id.to_string());
    let second = with_key(&user, "/orders", "key2", &order(10)).await.ok(201);
    assert_ne!(first["id"], second["id"]);
    // Each service has its own keys.
    with_key(&user, "/accounts/deposit", "key", &json!({"amount": 1})).await.ok(200);
    with_key(&user, "/accounts/deposit", "key", &json!({"amount": 2}))
        .await
        .problem(422, "idempotency_key_reused");

    // The answer stays what it was, also after the order has moved on.
    user.settled(first["id"].as_str().expect("an id")).await;
    assert_eq!(with_key(&user, "/orders", "key", &order(10)).await.ok(201), first);

    // Different requests race for one key: one of them wins, the others are told.
    let replies = at_once(50, 0..50, |i| {
        let body = order(20 + i % 5);
        let user = &user;
        async move { with_key(user, "/orders", "race", &body).await }
    })
    .await;
    let (won, lost): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.status == 201);
    assert_eq!((won.len(), lost.len()), (10, 40));
    same_answers(&won, 201);
    assert!(lost.iter().all(|reply| reply.problem(422, "idempotency_key_reused").is_object()));

    assert_eq!(shop.close().await.orders.len(), 4);
}

async fn a_key_outlives_a_crash(combo: Combo) {
    let mut shop = Plan::on(combo).start().await;
    let user = shop.new_user().with_balance(1_000).await;
    let top_up = json!({"amount": 5});
    let placed = with_key(&user, "/orders", "o", &order(10)).await;
    let topped_up = with_key(&user, "/accounts/deposit", "d", &top_up).await;
    let longest = "k".repeat(255);
    with_key(&user, "/orders", &longest, &order(7)).await.ok(201);

    shop.kill().await;
    shop.start().await;

    same_answers(&[placed, with_key(&user, "/orders", "o", &order(10)).await], 201);
    same_answers(&[topped_up, with_key(&user, "/accounts/deposit", "d", &top_up).await], 200);
    let again = with_key(&user, "/orders", &longest, &order(7)).await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));

    let truth = shop.close().await;
    assert_eq!((truth.orders.len(), truth.balance(user.id)), (2, 988));
}
