//! How PostgreSQL finds what the shop asks for. A planner that believes in old statistics once took
//! twelve seconds for each batch of a backlog, and in quiet times read the whole table for each
//! order.

use std::collections::BTreeMap;

use gozon_store::{Db, select};

use crate::harness::{Combo, Plan, at_once};

/// Orders that wait while payments is away.
const WAITING: usize = 600;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlog_is_found_by_its_keys() {
    // Looking for orders that stay NEW reads those of the last minutes; that is not what is counted.
    let plan = Plan::on(Combo::PostgresRabbit).setting("GOZON_RESEND_AFTER", "0");
    let mut shop = plan.start().await;
    // The server's own upkeep reads whole tables, too, and counts as anybody.
    fill(&shop.orders_url, "alter table orders set (autovacuum_enabled = off)").await;
    fill(&shop.orders_url, "alter index orders_created_at set (autosummarize = off)").await;
    fill(&shop.payments_url, "alter table payments set (autovacuum_enabled = off)").await;
    fill(&shop.orders_url, OLD_ORDERS).await;
    fill(&shop.payments_url, OLD_PAYMENTS).await;
    let user = shop.new_user().with_balance(1_000_000).await;
    // The statistics are of a time when nothing was waiting.
    fill(&shop.orders_url, "analyze").await;
    fill(&shop.payments_url, "analyze").await;
    let payments =
        shop.processes.iter().position(|one| one.name == "payments-1").expect("payments");
    shop.processes[payments].kill().await;
    let placed = at_once(32, 0..WAITING, |_| user.place(10)).await;
    shop.start().await;
    for order in &placed {
        user.settled(order["id"].as_str().expect("an id")).await;
    }

    // What the servers of connections have counted is complete when the connections are gone.
    shop.stop().await;
    for url in [&shop.orders_url, &shop.payments_url] {
        for (table, (whole, by_key)) in rows_read(url).await {
            assert_eq!(whole, 0, "{table} was read as a whole");
            // Each is looked up once or twice by each who deals with it, and again by a test that
            // waits; with each of the old ones it would be millions.
            let most = 40 * i64::try_from(WAITING).expect("a count");
            assert!(by_key < most, "{by_key} rows of {table} were read");
        }
    }
    shop.start().await;
    shop.close().await;
}

/// Settled long ago, of users without accounts, ten each.
const OLD_ORDERS: &str = "insert into orders
        (user_id, id, amount, description, status, cancel_reason, version, created_at, updated_at)
    select lpad(to_hex(n / 10), 32, '0')::uuid, lpad(to_hex(n), 32, '0')::uuid, 10, 'old',
           'CANCELLED', 'no_account', 2, n, n
    from generate_series(1, 20000) as n";
const OLD_PAYMENTS: &str = "insert into payments
        (order_id, user_id, amount, decline_reason, created_at)
    select lpad(to_hex(n), 32, '0')::uuid, lpad(to_hex(n / 10), 32, '0')::uuid, 10,
           'no_account', n
    from generate_series(1, 20000) as n";

async fn fill(url: &str, sql: &'static str) {
    let db = Db::open(url, 1).expect("a database URL");
    let mut tx = db.begin().await.expect("a connection");
    tx.query(sql).execute().await.expect(sql);
    tx.commit().await.expect("a commit");
    db.close().await;
}

/// How many rows of each large table were read by going through all of it, and by its keys.
async fn rows_read(url: &str) -> BTreeMap<String, (i64, i64)> {
    let db = Db::open(url, 1).expect("a database URL");
    let mut reader = db.read().await.expect("a connection");
    let rows: Vec<(String, i64, i64)> = reader
        .query(select!(
            "select relname::text, seq_tup_read, coalesce(idx_tup_fetch, 0)
             from pg_stat_user_tables where relname in ('orders', 'payments', 'entries', 'inbox')"
        ))
        .fetch_all()
        .await
        .expect("statistics");
    drop(reader);
    db.close().await;
    rows.into_iter().map(|(table, whole, by_key)| (table, (whole, by_key))).collect()
}
