//! The fault model, a story for each kind of fault: docs/fault-model.md has the table.

mod alarm;
mod broker;
mod callers;
mod chaos;
mod clocks;
mod database;
mod disk;
mod intake;
mod locks;
mod mixed;
mod pauses;
mod restore;
mod schema;

use serde_json::{Value, json};

use crate::harness::{Reply, Shop, User, eventually, truth};

/// Whether the process at this address says that it is ready.
async fn is_ready(url: &str) -> bool {
    let answer = reqwest::get(format!("{url}/readyz")).await;
    answer.is_ok_and(|answer| answer.status() == 200)
}

/// Waits until it says that it is not, or that it is again.
async fn until_ready(url: &str, ready: bool) {
    eventually(&format!("{url} is ready: {ready}"), async || {
        (is_ready(url).await == ready).then_some(())
    })
    .await;
}

/// Waits until the broker has what was in this outbox.
async fn until_sent(shop: &Shop, outbox: &str) {
    eventually("it is sent", async || {
        let under_way = truth::under_way(&shop.orders_url, &shop.payments_url).await;
        (!under_way.contains(outbox)).then_some(())
    })
    .await;
}

/// Tries to place an order.
async fn try_to_place(user: &User, description: &str) -> Reply {
    user.post("/orders", &json!({"amount": 10, "description": description})).await
}

fn id_of(order: &Value) -> String {
    order["id"].as_str().expect("an id").to_owned()
}
