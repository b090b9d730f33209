//! The limit on SQLite: the durable rows of orders as plain SQL in batches, in this process, with
//! the settings that the services use. `bench/limit.d` has the same for PostgreSQL.
//!
//! `sqlite-limit FOLDER ORDERS BATCH limit|floor` works on the migrated `orders.db` and
//! `payments.db` of FOLDER, both at once, and prints orders per second. `limit` writes a row per
//! event besides the business rows, to tables that it creates; `floor` writes business rows alone.

#![allow(clippy::cast_precision_loss, reason = "the figure is for people")]

use std::{io::Write as _, path::Path, time::Instant};

use anyhow::Context as _;
use gozon_store::Db;

/// A database's transactions for a batch, each with its statements. `$1` is the batch's first
/// number, `$2` its last.
type Transactions = &'static [&'static [Statement]];

enum Statement {
    /// Writes business rows.
    Business(&'static str),
    /// Writes an event's row in the outbox or the inbox.
    Event(&'static str),
}
use Statement::{Business, Event};

impl Statement {
    /// The SQL text, unless it writes an event's row and those are left out.
    fn text(&self, events: bool) -> Option<&'static str> {
        match self {
            Business(text) => Some(text),
            Event(text) => events.then_some(text),
        }
    }
}

/// The outbox and the inbox with a row per event.
const EVENT_TABLES: [&str; 3] = [
    "create table limit_outbox (
        available_at integer not null,
        id text not null,
        topic text not null,
        partition_key text not null,
        body text not null,
        created_at integer not null,
        attempts integer not null,
        primary key (available_at, id)
    ) strict, without rowid",
    "create table limit_inbox (
        id text not null primary key,
        received_at integer not null
    ) strict, without rowid",
    "create index limit_inbox_received_at on limit_inbox (received_at)",
];

/// Puts the common table `batch` before a statement: the numbers of the batch with their ids.
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

/// What a batch of orders writes to the orders database: they are placed, the requests for payment
/// are sent, the results are received, the changes are sent.
const ORDERS: Transactions = &[
    &[
        Business(batch!(
            "insert into orders
                (user_id, id, amount, description, status, version, created_at, updated_at)
             select user_id, order_id, 9900, 'A red kettle', 'NEW', 1, i, i from batch"
        )),
        Event(batch!(
            "insert into limit_outbox
                (available_at, id, topic, partition_key, body, created_at, attempts)
             select $1, order_text || ':payment.requested', 'payment.requested', user_text,
                    printf('%478s', '}'), i, 0 from batch"
        )),
    ],
    &[Event("delete from limit_outbox where available_at between $1 and $2")],
    &[
        Event(batch!(
            "insert into limit_inbox (id, received_at)
             select order_text || ':payment.settled', i from batch"
        )),
        Business(batch!(
            "update orders set status = 'FINISHED', version = version + 1, updated_at = i
             from batch
             where orders.user_id = batch.user_id and id = order_id and status = 'NEW'"
        )),
        Event(batch!(
            "insert into limit_outbox
                (available_at, id, topic, partition_key, body, created_at, attempts)
             select $1, order_text || ':order.changed', 'order.changed', user_text,
                    printf('%630s', '}'), i, 0 from batch"
        )),
    ],
    &[Event("delete from limit_outbox where available_at between $1 and $2")],
];

/// What it writes to the payments database: the requests are received and settled, the results are
/// sent.
const PAYMENTS: Transactions = &[
    &[
        Event(batch!(
            "insert into limit_inbox (id, received_at)
             select order_text || ':payment.requested', i from batch"
        )),
        Business(batch!(
            "insert into payments (order_id, user_id, amount, created_at)
             select order_id, user_id, 9900, i from batch"
        )),
        Business(batch!(
            "insert into entries
                (user_id, seq, kind, amount, balance_after, order_id, created_at)
             select user_id, i, 'payment', -9900, 1, order_id, i from batch"
        )),
        Business(batch!(
            "update accounts set balance = balance - paid, version = version + entries
             from (
                select user_id as payer, sum(9900) as paid, count(*) as entries
                from batch group by user_id
             )
             where user_id = payer"
        )),
        Event(batch!(
            "insert into limit_outbox
                (available_at, id, topic, partition_key, body, created_at, attempts)
             select $1, order_text || ':payment.settled', 'payment.settled', user_text,
                    printf('%480s', '}'), i, 0 from batch"
        )),
    ],
    &[Event("delete from limit_outbox where available_at between $1 and $2")],
];

const ACCOUNTS: Statement = Business(batch!(
    "insert into accounts (user_id, balance, version, created_at)
     select unhex(printf('%032x', i - $1)), 1000000000000, 1, 0 from batch"
));

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let usage = "sqlite-limit FOLDER ORDERS BATCH limit|floor";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, orders, batch, figure] = arguments.as_slice() else { anyhow::bail!(usage) };
    let (orders, batch): (i64, i64) =
        (orders.parse().context(usage)?, batch.parse().context(usage)?);
    let events = match figure.as_str() {
        "limit" => true,
        "floor" => false,
        _ => anyhow::bail!(usage),
    };

    let open =
        |name: &str| Db::open(&format!("sqlite:{}", Path::new(folder).join(name).display()), 1);
    let (orders_db, payments_db) = (open("orders.db")?, open("payments.db")?);
    for db in [&orders_db, &payments_db] {
        let mut tx = db.begin().await?;
        for table in EVENT_TABLES {
            tx.query(table).execute().await?;
        }
        tx.commit().await?;
    }
    run(&payments_db, &[&[ACCOUNTS]], 400, 400, events).await?;
    let start = Instant::now();
    tokio::try_join!(
        run(&orders_db, ORDERS, orders, batch, events),
        run(&payments_db, PAYMENTS, orders, batch, events)
    )?;
    let per_second = orders as f64 / start.elapsed().as_secs_f64();
    writeln!(std::io::stdout(), "{per_second:.0}")?;
    Ok(())
}

/// Runs the transactions for `orders` orders, batch by batch, with or without the events' rows.
async fn run(
    db: &Db,
    transactions: Transactions,
    orders: i64,
    batch: i64,
    events: bool,
) -> gozon_store::Result<()> {
    let transactions: Vec<Vec<&str>> = transactions
        .iter()
        .map(|statements| statements.iter().filter_map(|s| s.text(events)).collect())
        .filter(|statements: &Vec<_>| !statements.is_empty())
        .collect();
    let mut first = 1;
    while first <= orders {
        for statements in &transactions {
            let mut tx = db.begin().await?;
            for &statement in statements {
                tx.query(statement).bind(first).bind(first + batch - 1).execute().await?;
            }
            tx.commit().await?;
        }
        first += batch;
    }
    Ok(())
}
