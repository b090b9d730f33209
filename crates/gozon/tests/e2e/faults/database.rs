//! Databases that can be reached but do not do their work: read-only after a failover, closed for
//! connections, renamed, in the wrong encoding.

use serde_json::json;

use super::{id_of, try_to_place, until_ready};
use crate::harness::{Combo, Plan, Postgres, eventually};

/// What is done to a database, and what undoes it.
struct Fault {
    name: &'static str,
    cause: &'static str,
    cure: &'static str,
    /// Whether it can still be read.
    reads: bool,
}

const FAULTS: [Fault; 3] = [
    Fault {
        name: "read-only",
        cause: "alter database {database} set default_transaction_read_only = on",
        cure: "alter database {database} reset default_transaction_read_only",
        reads: true,
    },
    Fault {
        name: "closed for connections",
        cause: "alter database {database} with allow_connections false",
        cure: "alter database {database} with allow_connections true",
        reads: false,
    },
    Fault {
        name: "renamed",
        cause: "alter database {database} rename to {database}_old",
        cure: "alter database {database}_old rename to {database}",
        reads: false,
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_refuses_us_is_503_and_heals() {
    let shop = Plan::on(Combo::PostgresRabbit).start().await;
    let user = shop.new_user().with_balance(1_000).await;
    let orders = shop.process("orders-1").url();
    let payments = shop.process("payments-1").url();
    let first = user.place(10).await;
    user.settled(&id_of(&first)).await;

    for Fault { name, cause, cure, reads } in FAULTS {
        println!("{name}");
        let mut of_orders = Postgres::beside(&shop.orders_url).await;
        let mut of_payments = Postgres::beside(&shop.payments_url).await;
        for server in [&mut of_orders, &mut of_payments] {
            eventually(name, async || {
                server.end_sessions().await;
                server.try_run(cause).await.ok()
            })
            .await;
            server.end_sessions().await;
        }
        for _ in 0..3 {
            try_to_place(&user, name).await.problem(503, "service_unavailable");
            user.post("/accounts/deposit", &json!({"amount": 1}))
                .await
                .problem(503, "service_unavailable");
            let listed = user.get("/orders").await;
            if reads {
                listed.ok(200);
            } else {
                listed.problem(503, "service_unavailable");
            }
        }
        until_ready(&orders, false).await;
        until_ready(&payments, false).await;

        for server in [&mut of_orders, &mut of_payments] {
            server.run(cure).await;
        }
        // Connections that were made to a read-only database would go on as such.
        if reads {
            of_orders.end_sessions().await;
            of_payments.end_sessions().await;
        }
        until_ready(&orders, true).await;
        until_ready(&payments, true).await;
        let order = eventually("an order is taken", async || {
            let reply = try_to_place(&user, "after").await;
            (reply.status == 201).then(|| reply.ok(201))
        })
        .await;
        assert_eq!(user.settled(&id_of(&order)).await["status"], "FINISHED");
        of_orders.close().await;
        of_payments.close().await;
    }
    let truth = shop.close().await;
    assert_eq!(truth.with_status("FINISHED"), 1 + FAULTS.len());
}

/// What the services have on their way when it happens waits, and spends no attempts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_payments_database_makes_no_dead_letters() {
    let shop = Plan::on(Combo::PostgresRabbit).start().await;
    let user = shop.new_user().with_balance(1_000).await;
    let mut server = Postgres::beside(&shop.payments_url).await;
    server.run("alter database {database} set default_transaction_read_only = on").await;
    server.end_sessions().await;
    let order = user.place(10).await;
    let failed = async || {
        let log = shop.processes.iter().find(|process| process.name == "payments-1")?.log();
        (log.matches("giving a batch back").count() >= 12).then_some(())
    };
    eventually("it was tried more often than there are attempts", failed).await;
    server.run("alter database {database} reset default_transaction_read_only").await;
    server.end_sessions().await;
    assert_eq!(user.settled(&id_of(&order)).await["status"], "FINISHED");
    until_ready(&shop.process("payments-1").url(), true).await;
    server.close().await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_in_another_encoding_is_refused_at_the_start() {
    let mut shop = Plan::on(Combo::PostgresRabbit).prepare().await;
    let mut server = Postgres::beside(&shop.orders_url).await;
    server.run("drop database {database}").await;
    server.run("create database {database} encoding 'LATIN1' locale 'C' template template0").await;
    server.close().await;
    let orders = shop.process_mut("orders-1");
    orders.start();
    let log = orders.failed().await;
    assert!(log.contains("LATIN1") && log.contains("encoding UTF8"), "{log}");
}
