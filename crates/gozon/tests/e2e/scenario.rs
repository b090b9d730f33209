//! A user's whole way through the shop.

use serde_json::json;

use crate::harness::{Combo, Plan, Reply, Shop};

on_every_combo!(
    an_order_is_paid_for,
    orders_that_are_not_covered,
    lists_in_pages,
    requests_have_ids,
    answers_say_how_long_each_part_took
);

over_grpc_too!(
    an_order_is_paid_for, lists_in_pages, requests_have_ids;
    with kafka: an_order_is_paid_for, orders_that_are_not_covered
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_on_rabbit() {
    pay_for_an_order(Plan::on(Combo::PostgresRabbit).together().start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_on_kafka() {
    pay_for_an_order(Plan::on(Combo::PostgresKafka).together().start().await).await;
}

async fn an_order_is_paid_for(combo: Combo) {
    pay_for_an_order(Shop::on(combo).await).await;
}

async fn pay_for_an_order(shop: Shop) {
    let user = shop.new_user();

    user.get("/accounts/balance").await.problem(404, "account_not_found");
    user.get("/accounts/entries").await.problem(404, "account_not_found");
    user.post("/accounts/deposit", &json!({"amount": 1})).await.problem(404, "account_not_found");
    let account = user.open_account().await;
    assert_eq!(account["user_id"], user.id.to_string());
    assert_eq!((&account["balance"], &account["version"]), (&json!(0), &json!(1)));
    user.post("/accounts", &json!({})).await.problem(409, "account_exists");
    let account = user.deposit(10_000).await;
    assert_eq!((&account["balance"], &account["version"]), (&json!(10_000), &json!(2)));
    assert_eq!(user.get("/accounts/balance").await.ok(200), account);

    let order = json!({"amount": 9_900, "description": "Чайник, красный 🫖"});
    let reply = user.post("/orders", &order).await;
    let placed = reply.ok(201);
    let id = placed["id"].as_str().expect("an id");
    assert_eq!(reply.header("location"), Some(format!("/orders/{id}").as_str()));
    assert_eq!(placed["user_id"], user.id.to_string());
    assert_eq!(
        (&placed["amount"], &placed["description"]),
        (&order["amount"], &order["description"])
    );
    assert_eq!((&placed["status"], &placed["version"]), (&json!("NEW"), &json!(1)));
    assert_eq!(placed["created_at"], placed["updated_at"]);
    assert_eq!(uuid::Uuid::parse_str(id).expect("a UUID").get_version_num(), 7);

    let settled = user.settled(id).await;
    assert_eq!((&settled["status"], &settled["version"]), (&json!("FINISHED"), &json!(2)));
    assert_eq!(settled.get("cancel_reason"), None);
    assert_eq!(settled["created_at"], placed["created_at"]);
    assert_eq!(user.balance().await, 100);

    let entries = user.get("/accounts/entries").await.ok(200);
    assert_eq!(entries["next_cursor"], json!(null));
    let entries = entries["items"].as_array().expect("items").clone();
    let [payment, deposit] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((&payment["seq"], &deposit["seq"]), (&json!(2), &json!(1)));
    assert_eq!((&payment["kind"], &deposit["kind"]), (&json!("payment"), &json!("deposit")));
    assert_eq!((&payment["amount"], &deposit["amount"]), (&json!(-9_900), &json!(10_000)));
    assert_eq!((&payment["balance_after"], &payment["order_id"]), (&json!(100), &json!(id)));
    assert_eq!(deposit.get("order_id"), None);

    shop.close().await;
}

async fn orders_that_are_not_covered(combo: Combo) {
    let shop = Shop::on(combo).await;
    let nobody = shop.new_user();
    let poor = shop.new_user().with_balance(99).await;

    let without_account = nobody.place(1).await;
    let too_much = poor.place(100).await;
    let covered = poor.place(99).await;
    for (user, order, status, reason) in [
        (&nobody, &without_account, "CANCELLED", Some("no_account")),
        (&poor, &too_much, "CANCELLED", Some("insufficient_funds")),
        (&poor, &covered, "FINISHED", None),
    ] {
        let settled = user.settled(order["id"].as_str().expect("an id")).await;
        assert_eq!(settled["status"], status);
        assert_eq!(settled.get("cancel_reason").and_then(|reason| reason.as_str()), reason);
        assert_eq!(settled["version"], 2);
    }
    assert_eq!(poor.balance().await, 0);

    // An account opened later does not bring an order back.
    nobody.open_account().await;
    nobody.deposit(1).await;
    let order = nobody.order(without_account["id"].as_str().expect("an id")).await;
    assert_eq!(order["status"], "CANCELLED");

    shop.close().await;
}

async fn lists_in_pages(combo: Combo) {
    let shop = Shop::on(combo).await;
    let user = shop.new_user().with_balance(100).await;
    let mut placed = Vec::new();
    for amount in [30, 1_000, 30, 1_000, 30, 1_000, 30] {
        placed.push(user.place(amount).await["id"].as_str().expect("an id").to_owned());
        user.settled(&placed[placed.len() - 1]).await;
    }
    placed.reverse();

    for limit in [1, 2, 7, 100] {
        let found = user.all("/orders", limit).await;
        let ids: Vec<_> = found.iter().map(|order| order["id"].as_str().expect("an id")).collect();
        assert_eq!(ids, placed, "newest first, for every page size");
    }
    for (filter, count) in [("NEW", 0), ("FINISHED", 3), ("CANCELLED", 4), ("CANCELED", 4)] {
        let found = user.all(&format!("/orders?status={filter}"), 2).await;
        assert_eq!(found.len(), count, "{filter}");
        let status = if filter == "CANCELED" { "CANCELLED" } else { filter };
        assert!(found.iter().all(|order| order["status"] == status), "{found:?}");
    }

    let entries = user.all("/accounts/entries", 3).await;
    let seqs: Vec<_> = entries.iter().map(|entry| entry["seq"].as_i64().expect("a seq")).collect();
    assert_eq!(seqs, [4, 3, 2, 1]);

    // A cursor stays where it was when something newer comes.
    let page = user.get("/orders?limit=3").await.ok(200);
    let cursor = page["next_cursor"].as_str().expect("a cursor").to_owned();
    let newest = user.place(1).await;
    let next = user.get(&format!("/orders?limit=4&cursor={cursor}")).await.ok(200);
    let ids: Vec<_> = next["items"].as_array().expect("items").iter().map(|o| &o["id"]).collect();
    assert_eq!(ids, placed[3..].iter().collect::<Vec<_>>());
    assert_eq!(user.get("/orders?limit=1").await.ok(200)["items"][0]["id"], newest["id"]);

    // Without a limit there are 20.
    for _ in 0..14 {
        user.place(1).await;
    }
    let page = user.get("/orders").await.ok(200);
    assert_eq!(page["items"].as_array().map(Vec::len), Some(20));
    assert!(page["next_cursor"].is_string());

    shop.close().await;
}

async fn requests_have_ids(combo: Combo) {
    let shop = Shop::on(combo).await;
    let user = shop.new_user();
    let request = || user.request(reqwest::Method::GET, "/orders");

    let given = Reply::to(request().header("x-request-id", "my-request.1")).await;
    assert_eq!(given.header("x-request-id"), Some("my-request.1"));
    let (one, other) = (Reply::to(request()).await, Reply::to(request()).await);
    assert!(one.header("x-request-id").is_some_and(|id| id.len() >= 16));
    assert_ne!(one.header("x-request-id"), other.header("x-request-id"));
    for bad in ["", "two words", &"x".repeat(129)] {
        let reply = Reply::to(request().header("x-request-id", bad)).await;
        assert_eq!(reply.status, 200);
        assert_ne!(reply.header("x-request-id"), Some(bad), "is made anew");
    }
    let problem = user.request(reqwest::Method::GET, "/orders/x").header("x-request-id", "mine");
    let problem = Reply::to(problem).await.problem(400, "invalid_order_id");
    assert_eq!(problem["request_id"], "mine");

    for document in ["/openapi.json", "/swagger/"] {
        let reply = Reply::to(shop.door().request(reqwest::Method::GET, document)).await;
        assert_eq!(reply.status, 200, "{document}");
    }
    shop.close().await;
}

async fn answers_say_how_long_each_part_took(combo: Combo) {
    let shop = Shop::on(combo).await;
    let user = shop.new_user().with_balance(100).await;
    let parts = |reply: &Reply| {
        let values = reply.headers.get_all("server-timing").into_iter();
        let parts = values.map(|value| {
            let (part, took) = value.to_str().expect("a text").split_once(";dur=").expect("dur");
            took.parse::<f64>().expect("milliseconds");
            part.to_owned()
        });
        parts.collect::<Vec<_>>()
    };
    let order = user.post("/orders", &json!({"amount": 10, "description": "a kettle"})).await;
    for reply in [&order, &user.get("/orders").await, &user.get("/orders?cursor=x").await] {
        let expected = ["database", "orders", "gateway"];
        // A request that is refused by its looks never gets to the database.
        let from = usize::from(reply.status == 400);
        assert_eq!(parts(reply), expected[from..], "{}", reply.text);
    }
    let balance = user.get("/accounts/balance").await;
    assert_eq!(parts(&balance), ["database", "payments", "gateway"]);
    shop.close().await;
}
