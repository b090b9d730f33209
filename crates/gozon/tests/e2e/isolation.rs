//! What is one user's is nobody else's.

use reqwest::Method;

use crate::harness::{Combo, Reply, Shop};

on_every_combo!(another_users_order_is_not_found);

async fn another_users_order_is_not_found(combo: Combo) {
    let shop = Shop::on(combo).await;
    let owner = shop.new_user().with_balance(100).await;
    let stranger = shop.new_user().with_balance(100).await;
    let id = owner.place(10).await["id"].as_str().expect("an id").to_owned();
    let other = owner.place(10).await["id"].as_str().expect("an id").to_owned();
    owner.settled(&id).await;
    owner.settled(&other).await;

    // Not even whether it exists can be told.
    let unknown = "0198f4e9-3c1b-7c2d-9e4f-5a6b7c8d9e0f";
    let (theirs, nothing) = (
        stranger.get(&format!("/orders/{id}")).await,
        stranger.get(&format!("/orders/{unknown}")).await,
    );
    let (mut theirs, mut nothing) =
        (theirs.problem(404, "order_not_found"), nothing.problem(404, "order_not_found"));
    for problem in [&mut theirs, &mut nothing] {
        problem.as_object_mut().expect("an object").remove("request_id");
    }
    assert_eq!(theirs, nothing);

    for path in [
        format!("/orders/{}", id.to_uppercase()),
        format!("/orders/{id}?user_id={}", owner.id),
        format!("/orders/%30{}", &id[1..]),
    ] {
        stranger.get(&path).await.problem(404, "order_not_found");
        assert_eq!(owner.get(&path).await.ok(200)["id"], id, "{path}");
    }
    for path in [format!("/orders/{id}/"), format!("/orders//{id}")] {
        stranger.get(&path).await.problem(404, "route_not_found");
    }
    for path in ["/orders", "/orders?status=FINISHED"] {
        assert!(stranger.all(path, 100).await.is_empty());
        assert_eq!(owner.all(path, 100).await.len(), 2);
    }

    // A page of somebody else's list is no way in.
    let cursor = owner.get("/orders?limit=1").await.ok(200)["next_cursor"].clone();
    let cursor = cursor.as_str().expect("a cursor");
    assert!(stranger.all(&format!("/orders?cursor={cursor}"), 100).await.is_empty());
    // Nor is a user id in the query, where a header says who asks.
    let query = format!("/orders?user_id={}", owner.id);
    assert!(stranger.all(&query, 100).await.is_empty());
    Reply::to(shop.door().request(Method::GET, &query)).await.problem(400, "missing_user_id");

    // The accounts are apart, too.
    assert_eq!(stranger.balance().await, 100);
    let entries = stranger.all("/accounts/entries", 100).await;
    assert_eq!(entries.len(), 1);

    shop.close().await;
}
