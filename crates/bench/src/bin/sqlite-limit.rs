//! The ceiling on SQLite: the durable rows of orders as plain SQL in ideal batches, in this
//! process, with the settings that the services use. The like for PostgreSQL is in `bench/limit.d`.
//!
//! `sqlite-limit FOLDER ORDERS BATCH` works on the migrated `orders.db` and `payments.db` of
//! FOLDER, both at once, and prints orders per second.

#![allow(clippy::cast_precision_loss, reason = "the figure is for people")]

use std::{io::Write as _, path::Path, time::Instant};

use anyhow::Context as _;
use gozon_store::Db;

/// Statements by transaction; `$1` is the batch's first number, `$2` its last.
type Side = &'static [&'static [&'static str]];

/// The numbers of the batch, each with its ids.
macro_rules! batch {
    ($statement:literal) => {
        concat!(
            "with recursive numbers (i) as (select $1 union all select i + 1 from numbers where i < $2),
             batch as materialized (
                select i, unhex(printf('%032x', i)) as order_id, printf('%032x', i) || '0000' as order_text,
                       unhex(printf('%032x', (i * 2654435761 >> 16) % 400)) as user_id,
                       printf('%032x', (i * 2654435761 >> 16) % 400) || '0000' as user_text
                from numbers
             ) ",
            $statement
        )
    };
}

/// What a batch of orders writes in the orders database: they are placed, the requests for payment
/// are sent, the results are received, the changes are sent.
const ORDERS: Side = &[
    &[
        batch!(
            "insert into orders
                (user_id, id, amount, description, status, version, created_at, updated_at)
             select user_id, order_id, 9900, 'A red kettle', 'NEW', 1, i, i from batch"
        ),
        batch!(
            "insert into outbox
                (available_at, id, topic, partition_key, body, created_at, attempts)
             select $1, order_text || ':payment.requested', 'payment.requested', user_text,
                    printf('%478s', '}'), i, 0 from batch"
        ),
    ],
    &["delete from outbox where available_at between $1 and $2"],
    &[
        batch!(
            "insert into inbox (id, received_at)
             select order_text || ':payment.settled', i from batch"
        ),
        batch!(
            "update orders set status = 'FINISHED', version = version + 1, updated_at = i
             from batch
             where orders.user_id = batch.user_id and id = order_id and status = 'NEW'"
        ),
        batch!(
            "insert into outbox
                (available_at, id, topic, partition_key, body, created_at, attempts)
             select $1, order_text || ':order.changed', 'order.changed', user_text,
                    printf('%630s', '}'), i, 0 from batch"
        ),
    ],
    &["delete from outbox where available_at between $1 and $2"],
];

/// What it writes in the payments database: the requests are received and settled, the results are
/// sent.
const PAYMENTS: Side = &[
    &[
        batch!(
            "insert into inbox (id, received_at)
             select order_text || ':payment.requested', i from batch"
        ),
        batch!(
            "insert into payments (order_id, user_id, amount, created_at)
             select order_id, user_id, 9900, i from batch"
        ),
        batch!(
            "insert into entries
                (user_id, seq, kind, amount, balance_after, order_id, created_at)
             select user_id, i, 'payment', -9900, 1, order_id, i from batch"
        ),
        batch!(
            "update accounts set balance = balance - paid, version = version + entries
             from (
                select user_id as payer, sum(9900) as paid, count(*) as entries
                from batch group by user_id
             )
             where user_id = payer"
        ),
        batch!(
            "insert into outbox
                (available_at, id, topic, partition_key, body, created_at, attempts)
             select $1, order_text || ':payment.settled', 'payment.settled', user_text,
                    printf('%480s', '}'), i, 0 from batch"
        ),
    ],
    &["delete from outbox where available_at between $1 and $2"],
];

const ACCOUNTS: &str = batch!(
    "insert into accounts (user_id, balance, version, created_at)
     select unhex(printf('%032x', i - $1)), 1000000000000, 1, 0 from batch"
);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let usage = "sqlite-limit FOLDER ORDERS BATCH";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, orders, batch] = arguments.as_slice() else { anyhow::bail!(usage) };
    let (orders, batch): (i64, i64) =
        (orders.parse().context(usage)?, batch.parse().context(usage)?);

    let open =
        |name: &str| Db::open(&format!("sqlite:{}", Path::new(folder).join(name).display()), 1);
    let (orders_db, payments_db) = (open("orders.db")?, open("payments.db")?);
    work(&payments_db, &[&[ACCOUNTS]], 400, 400).await?;
    let start = Instant::now();
    tokio::try_join!(
        work(&orders_db, ORDERS, orders, batch),
        work(&payments_db, PAYMENTS, orders, batch)
    )?;
    let per_second = orders as f64 / start.elapsed().as_secs_f64();
    writeln!(std::io::stdout(), "{per_second:.0}")?;
    Ok(())
}

/// Runs a side's transactions for `orders` orders, batch by batch.
async fn work(db: &Db, side: Side, orders: i64, batch: i64) -> gozon_store::Result<()> {
    let mut first = 1;
    while first <= orders {
        for statements in side {
            let mut tx = db.begin().await?;
            for statement in *statements {
                tx.query(statement).bind(first).bind(first + batch - 1).execute().await?;
            }
            tx.commit().await?;
        }
        first += batch;
    }
    Ok(())
}
