//! Tables that are changed under running services.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{id_of, try_to_place};
use crate::harness::{Combo, Plan, Postgres, Reply, User, eventually};

const IN_ORDERS: [&str; 3] = [
    "alter table orders alter column description type varchar(4000)",
    "alter table orders alter column status type varchar(20)",
    "alter table outbox_batches alter column topic type varchar(100)",
];
const IN_PAYMENTS: [&str; 3] = [
    "alter table payments alter column decline_reason type varchar(100)",
    "alter table entries alter column kind type varchar(20)",
    "alter table outbox_batches alter column topic type varchar(100)",
];

/// Places orders and looks at them until `end`; how many were taken. Nothing but success or 503 is
/// an answer.
async fn order_on(user: User, end: CancellationToken) -> usize {
    let mut taken = 0;
    while !end.is_cancelled() {
        let allowed = |reply: &Reply| {
            if reply.status >= 400 {
                reply.problem(503, "service_unavailable");
            }
        };
        let placed = try_to_place(&user, "a kettle").await;
        allowed(&placed);
        taken += usize::from(placed.status == 201);
        allowed(&user.get("/orders").await);
        allowed(&user.get("/accounts/entries").await);
    }
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_column_type_heals_without_dead_letters() {
    let shop = Plan::on(Combo::PostgresRabbit).instances(1, 2, 2).start().await;
    let end = CancellationToken::new();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let user = shop.new_user().with_balance(100_000).await;
        clients.push(tokio::spawn(order_on(user, end.clone())));
    }
    let mut orders = Postgres::on(&shop.orders_url).await;
    let mut payments = Postgres::on(&shop.payments_url).await;
    for (in_orders, in_payments) in IN_ORDERS.into_iter().zip(IN_PAYMENTS) {
        sleep(Duration::from_millis(500)).await;
        orders.run(in_orders).await;
        payments.run(in_payments).await;
    }
    sleep(Duration::from_millis(500)).await;
    end.cancel();
    let mut taken = 0;
    for client in clients {
        taken += client.await.expect("a client");
    }
    assert!(taken > 0);

    let user = shop.new_user().with_balance(10).await;
    let order = eventually("orders are taken and listed", async || {
        let reply = try_to_place(&user, "after").await;
        let listed = user.get("/orders").await.status == 200;
        (reply.status == 201 && listed).then(|| reply.ok(201))
    })
    .await;
    assert_eq!(user.settled(&id_of(&order)).await["status"], "FINISHED");
    orders.close().await;
    payments.close().await;
    // There are no dead letters then, and nothing waits.
    let truth = shop.close().await;
    assert!(truth.orders.len() >= taken);
}
