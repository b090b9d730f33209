//! The outbox: messages on their way out.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use gozon_contract::Timestamp;
use gozon_store::{Result, Rows, Statement, Tx};

use crate::Message;

/// A row of the outbox: a message, and when another process may take it over.
#[derive(Clone, Debug)]
pub(crate) struct OutboxRow {
    pub available_at: Timestamp,
    pub created_at: Timestamp,
    pub attempts: i64,
    pub message: Message,
}

#[derive(sqlx::FromRow)]
struct Raw {
    available_at: i64,
    id: String,
    topic: String,
    partition_key: String,
    body: String,
    created_at: i64,
    attempts: i64,
}

impl From<Raw> for OutboxRow {
    fn from(raw: Raw) -> Self {
        Self {
            available_at: Timestamp::from_micros(raw.available_at),
            created_at: Timestamp::from_micros(raw.created_at),
            attempts: raw.attempts,
            message: Message {
                id: raw.id,
                topic: raw.topic,
                key: raw.partition_key,
                body: raw.body.into_bytes().into(),
            },
        }
    }
}

/// Puts messages into the outbox. One that is there already, at the same instant, is a conflict.
pub(crate) fn insert(rows: &[OutboxRow]) -> Statement {
    let rows = Rows::of(rows)
        .int("available_at", |row| row.available_at.micros())
        .text("id", |row| row.message.id.clone())
        .text("topic", |row| row.message.topic.clone())
        .text("partition_key", |row| row.message.key.clone())
        .text("body", |row| String::from_utf8_lossy(&row.message.body).into_owned())
        .int("created_at", |row| row.created_at.micros())
        .int("attempts", |row| row.attempts)
        .done();
    Statement::new(
        "insert into outbox
            (available_at, id, topic, partition_key, body, created_at, attempts)
         select available_at, id, topic, partition_key, body, created_at, attempts from {rows}",
    )
    .rows(rows)
}

/// Takes messages out of the outbox; those that are no longer there are no error.
pub(crate) fn delete(rows: &[OutboxRow]) -> Vec<Statement> {
    let delete = |(instant, ids): (Timestamp, Rows)| {
        Statement::new("delete from outbox where available_at = $1 and id {among}")
            .bind(instant.micros())
            .rows(ids)
    };
    by_instant(rows).map(delete).collect()
}

/// The keys of rows, in as few statements as can be: those of one instant together.
fn by_instant(rows: &[OutboxRow]) -> impl Iterator<Item = (Timestamp, Rows)> {
    let mut instants: BTreeMap<Timestamp, Vec<&String>> = BTreeMap::new();
    for row in rows {
        instants.entry(row.available_at).or_default().push(&row.message.id);
    }
    instants
        .into_iter()
        .map(|(instant, ids)| (instant, Rows::of(&ids).text("id", |id| (*id).clone()).done()))
}

/// Rows that were taken over, and the instant that the last of them had before.
pub(crate) struct Claimed {
    pub rows: Vec<OutboxRow>,
    pub reached: Timestamp,
}

/// Takes over up to `limit` rows that became available from `from` to `now`, oldest first: nobody
/// else will before `until`. Rows that another process is just taking are passed over.
///
/// Each instant becomes an instant of its own after `until`: the same message may be in the outbox
/// more than once (a repeated request is answered again), and the primary key would not let the
/// two have one instant.
pub(crate) async fn claim(
    tx: &mut Tx,
    from: Timestamp,
    now: Timestamp,
    until: Timestamp,
    limit: i64,
) -> Result<Claimed> {
    let raw: Vec<Raw> = tx
        .query(
            "select available_at, id, topic, partition_key, body, created_at, attempts
             from outbox where available_at >= $1 and available_at <= $2
             order by available_at, id limit $3 {skip_locked}",
        )
        .bind(from.micros())
        .bind(now.micros())
        .bind(limit)
        .fetch_all()
        .await?;
    let mut rows: Vec<_> = raw.into_iter().map(OutboxRow::from).collect();
    let reached = rows.last().map_or(from, |row| row.available_at);
    let mut moved = HashMap::new();
    for ((instant, ids), place) in by_instant(&rows).zip(1..) {
        let next = until.plus(Duration::from_micros(place));
        tx.query("update outbox set available_at = $2 where available_at = $1 and id {among}")
            .bind(instant.micros())
            .bind(next.micros())
            .rows(ids)
            .execute()
            .await?;
        moved.insert(instant, next);
    }
    for row in &mut rows {
        row.available_at = moved[&row.available_at];
    }
    rows.sort_by(|a, b| (a.created_at, &a.message.id).cmp(&(b.created_at, &b.message.id)));
    Ok(Claimed { rows, reached })
}

/// Puts off a row that the broker would not take: one attempt more, again at `next`.
pub(crate) async fn postpone(tx: &mut Tx, row: &OutboxRow, next: Timestamp) -> Result<()> {
    tx.query(
        "update outbox set attempts = attempts + 1, available_at = $3
         where available_at = $1 and id = $2",
    )
    .bind(row.available_at.micros())
    .bind(row.message.id.as_str())
    .bind(next.micros())
    .execute()
    .await
    .map(drop)
}

/// When the oldest of the first thousand rows that became available since `from` was put into the
/// outbox. Rows that are tried again and again become available later each time, so the first one
/// need not be the oldest.
pub(crate) async fn oldest(tx: &mut Tx, from: Timestamp) -> Result<Option<Timestamp>> {
    let (oldest,): (Option<i64>,) = tx
        .query(
            "select min(created_at) from (
                select created_at from outbox where available_at >= $1
                order by available_at, id limit 1000
             ) as first",
        )
        .bind(from.micros())
        .fetch_one()
        .await?;
    Ok(oldest.map(Timestamp::from_micros))
}
