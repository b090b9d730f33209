//! Both databases are restored to an instant, as docs/operating.md says, while the broker has lost
//! what was on its way.

use super::{id_of, until_sent};
use crate::harness::{Combo, Postgres, Servers, Shop, Truth, at_once, eventually, gozon};

/// Runs something on a database that nobody may be connected to.
async fn alone(url: &str, sql: &str) {
    let mut server = Postgres::beside(url).await;
    server.run("alter database {database} with allow_connections false").await;
    server.end_sessions().await;
    eventually("nobody else is connected", async || server.try_run(sql).await.ok()).await;
    let _ = server.try_run("alter database {database} with allow_connections true").await;
    server.close().await;
}

async fn repair(shop: &Shop) -> String {
    let urls = [
        ("GOZON_ORDERS_DATABASE_URL", shop.orders_url.clone()),
        ("GOZON_PAYMENTS_DATABASE_URL", shop.payments_url.clone()),
    ];
    let audited = gozon(&["audit", "--repair", "--new-age-limit", "0"], &urls).await;
    String::from_utf8_lossy(&audited.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_databases_settle_after_a_repair() {
    let servers = Servers::of(Combo::PostgresRabbit).await;
    // Nothing asks again by itself here.
    let plan = servers.plan().await.setting("GOZON_RESEND_AFTER", "0");
    let mut shop = plan.start().await;
    let user = shop.new_user().with_balance(10_000).await;
    let settled = at_once(4, 0..4, |_| user.place(10)).await;
    for order in &settled {
        user.settled(&id_of(order)).await;
    }

    let (_, prefix) = shop.broker_url.split_once("prefix=").expect("a prefix");
    let prefix = prefix.to_owned();
    let purge = async |topic: &str| {
        servers.rabbitmqctl(&["purge_queue", &format!("{prefix}{topic}")]).await;
    };

    // At the instant of the backup, the results of two payments are lost, and two requests are with
    // the broker.
    shop.process_mut("payments-1").kill().await;
    let mut waiting = at_once(4, 0..2, |_| user.place(10)).await;
    until_sent(&shop, "outbox of orders").await;
    shop.process_mut("orders-1").kill().await;
    shop.process_mut("payments-1").start();
    eventually("they are paid", async || {
        let truth = Truth::read(&shop.orders_url, &shop.payments_url).await;
        (truth.payments.len() == 6).then_some(())
    })
    .await;
    until_sent(&shop, "outbox of payments").await;
    purge("payment.settled").await;
    shop.process_mut("payments-1").kill().await;
    shop.process_mut("orders-1").start();
    shop.process_mut("orders-1").ready().await;
    waiting.extend(at_once(4, 0..2, |_| user.place(10)).await);
    until_sent(&shop, "outbox of orders").await;
    for url in [&shop.orders_url, &shop.payments_url] {
        alone(url, "create database {database}_backup template {database}").await;
    }
    // After it, life goes on.
    shop.start().await;
    for order in &waiting[2..] {
        user.settled(&id_of(order)).await;
    }
    let forgotten = user.place(10).await;
    user.settled(&id_of(&forgotten)).await;

    // The restore: the services are stopped, the broker is emptied, both databases are put back.
    shop.stop().await;
    purge("payment.requested").await;
    purge("payment.settled").await;
    for url in [&shop.orders_url, &shop.payments_url] {
        alone(url, "drop database {database}").await;
        let mut server = Postgres::beside(url).await;
        server.run("alter database {database}_backup rename to {database}").await;
        server.close().await;
    }
    shop.start().await;
    for order in &waiting {
        assert_eq!(user.order(&id_of(order)).await["status"], "NEW");
    }
    let said = repair(&shop).await;
    assert!(said.contains("asked again for the payment of 4 orders"), "{said}");
    for order in &waiting {
        assert_eq!(user.settled(&id_of(order)).await["status"], "FINISHED");
    }
    let said = repair(&shop).await;
    assert!(said.contains("asked again for the payment of 0 orders"), "{said}");
    let truth = shop.close().await;
    assert_eq!((truth.orders.len(), truth.balance(user.id)), (8, 10_000 - 80));
}
