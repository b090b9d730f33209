//! Disks that are full for a while.

use serde_json::json;

use super::{id_of, try_to_place, until_ready};
use crate::harness::{Combo, Plan, at_once, eventually};

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
