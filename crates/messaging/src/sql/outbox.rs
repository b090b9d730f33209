//! The outbox: batches on their way out.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use gozon_contract::Timestamp;
use gozon_store::{Reader, Result, Rows, Statement, Tx, select};

use super::LONGEST_WAIT;
use crate::{Batch, Message};

/// A row of the outbox: a batch, and when another process may take it over.
#[derive(Clone, Debug)]
pub(crate) struct OutboxRow {
    pub available_at: Timestamp,
    pub created_at: Timestamp,
    pub attempts: i64,
    pub events: i64,
    pub batch: Batch,
}

#[derive(sqlx::FromRow)]
struct Raw {
    available_at: i64,
    id: String,
    topic: String,
    body: String,
    events: i64,
    created_at: i64,
    attempts: i64,
}

impl From<Raw> for OutboxRow {
    fn from(raw: Raw) -> Self {
        Self {
            available_at: Timestamp::from_micros(raw.available_at),
            created_at: Timestamp::from_micros(raw.created_at),
            attempts: raw.attempts,
            events: raw.events,
            batch: Batch { id: raw.id, topic: raw.topic, body: raw.body.into_bytes().into() },
        }
    }
}

/// Puts batches into the outbox. One that is there already, at the same instant, is a conflict.
pub(crate) fn insert(rows: &[OutboxRow]) -> Statement {
    let rows = Rows::of(rows)
        .int("available_at", |row| row.available_at.micros())
        .text("id", |row| row.batch.id.clone())
        .text("topic", |row| row.batch.topic.clone())
        .text("body", |row| String::from_utf8_lossy(&row.batch.body).into_owned())
        .int("events", |row| row.events)
        .int("created_at", |row| row.created_at.micros())
        .int("attempts", |row| row.attempts)
        .done();
    Statement::new(
        "insert into outbox_batches (available_at, id, topic, body, events, created_at, attempts)
         select available_at, id, topic, body, events, created_at, attempts from {rows}",
    )
    .rows(rows)
}

/// Takes batches out of the outbox; those that are no longer there are no error.
pub(crate) fn delete(rows: &[OutboxRow]) -> Vec<Statement> {
    let delete = |(instant, ids): (Timestamp, Rows)| {
        Statement::new("delete from outbox_batches where available_at = $1 and id {among}")
            .bind(instant.micros())
            .rows(ids)
    };
    by_instant(rows).map(delete).collect()
}

/// The keys of rows, in as few statements as can be: those of one instant together.
fn by_instant(rows: &[OutboxRow]) -> impl Iterator<Item = (Timestamp, Rows)> {
    let mut instants: BTreeMap<Timestamp, Vec<&String>> = BTreeMap::new();
    for row in rows {
        instants.entry(row.available_at).or_default().push(&row.batch.id);
    }
    instants
        .into_iter()
        .map(|(instant, ids)| (instant, Rows::of(&ids).text("id", |id| (*id).clone()).done()))
}

/// Whether there is a row that became available from `from` to `now`, in the table or in the one of
/// the release before, or one to [recall].
pub(crate) async fn is_due(reader: &mut Reader, from: Timestamp, now: Timestamp) -> Result<bool> {
    let due: Option<(i64,)> = reader
        .query(select!(
            "select available_at from (
                select available_at from outbox_batches
                where available_at >= $1 and available_at <= $2
                union all
                select available_at from outbox_batches where available_at > $3
                union all
                select available_at from outbox where available_at <= $2
             ) as due limit 1"
        ))
        .bind(from.micros())
        .bind(now.micros())
        .bind(now.plus(LONGEST_WAIT).micros())
        .fetch_optional()
        .await?;
    Ok(due.is_some())
}

/// Makes up to `limit` rows available at `now` that would be so only after the [longest wait](LONGEST_WAIT).
pub(crate) async fn recall(tx: &mut Tx, now: Timestamp, limit: i64) -> Result<()> {
    tx.query(
        "with far as materialized (
            select available_at, id from outbox_batches where available_at > $2
            order by available_at, id limit $3 {skip_locked}
         )
         update outbox_batches set available_at = $1
         where (available_at, id) in (select available_at, id from far)",
    )
    .bind(now.micros())
    .bind(now.plus(LONGEST_WAIT).micros())
    .bind(limit)
    .execute()
    .await
    .map(drop)
}

/// Rows that were taken over, and the instant that the last of them had before.
pub(crate) struct Claimed {
    pub rows: Vec<OutboxRow>,
    pub reached: Timestamp,
}

/// Takes over up to `limit` rows that became available from `from` to `now`, oldest first: nobody
/// else will before `until`. Rows that another process is just taking are passed over.
///
/// Each instant becomes an instant of its own after `until`, so that the rows that had one keep
/// sharing one, and are deleted by one statement.
pub(crate) async fn claim(
    tx: &mut Tx,
    from: Timestamp,
    now: Timestamp,
    until: Timestamp,
    limit: i64,
) -> Result<Claimed> {
    let raw: Vec<Raw> = tx
        .query(
            "select available_at, id, topic, body, events, created_at, attempts
             from outbox_batches where available_at >= $1 and available_at <= $2
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
        tx.query(
            "update outbox_batches set available_at = $2 where available_at = $1 and id {among}",
        )
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
    rows.sort_by(|a, b| (a.created_at, &a.batch.id).cmp(&(b.created_at, &b.batch.id)));
    Ok(Claimed { rows, reached })
}

#[derive(sqlx::FromRow)]
struct OldRow {
    available_at: i64,
    id: String,
    topic: String,
    body: String,
    created_at: i64,
}

/// Moves up to `limit` rows that an instance of the release before left behind, each an event, to
/// the new table; to be claimed there at `now`.
pub(crate) async fn adopt(tx: &mut Tx, now: Timestamp, limit: i64) -> Result<()> {
    let old: Vec<OldRow> = tx
        .query(
            "with due as materialized (
                select available_at, id from outbox where available_at <= $1
                order by available_at, id limit $2 {skip_locked}
             )
             delete from outbox where (available_at, id) in (select available_at, id from due)
             returning available_at, id, topic, body, created_at",
        )
        .bind(now.micros())
        .bind(limit)
        .fetch_all()
        .await?;
    if old.is_empty() {
        return Ok(());
    }
    let adopt = |old: OldRow| OutboxRow {
        available_at: now,
        created_at: Timestamp::from_micros(old.created_at),
        attempts: 0,
        events: 1,
        // The old table held one event twice if it was sent twice, at different instants.
        batch: Batch {
            id: format!("{}/{}", old.id, old.available_at),
            topic: old.topic,
            body: old.body.into_bytes().into(),
        },
    };
    let rows: Vec<_> = old.into_iter().map(adopt).collect();
    tx.run_all(vec![insert(&rows)]).await.map(drop)
}

/// Puts off a row that the broker would not take: one attempt more, again at `next`.
pub(crate) async fn postpone(tx: &mut Tx, row: &OutboxRow, next: Timestamp) -> Result<()> {
    tx.query(
        "update outbox_batches set attempts = attempts + 1, available_at = $3
         where available_at = $1 and id = $2",
    )
    .bind(row.available_at.micros())
    .bind(row.batch.id.as_str())
    .bind(next.micros())
    .execute()
    .await
    .map(drop)
}

/// An event as a row of its own, available at once.
pub(crate) fn row_of(
    message: &Message,
    id: String,
    created_at: Timestamp,
    now: Timestamp,
) -> OutboxRow {
    let batch = Batch { id, topic: message.topic.clone(), body: message.body.clone() };
    OutboxRow { available_at: now, created_at, attempts: 0, events: 1, batch }
}

/// When the oldest of the first thousand rows that became available since `from` was put into the
/// outbox. Rows that are tried again and again become available later each time, so the first one
/// need not be the oldest.
pub(crate) async fn oldest(reader: &mut Reader, from: Timestamp) -> Result<Option<Timestamp>> {
    let (oldest,): (Option<i64>,) = reader
        .query(select!(
            "select min(created_at) from (
                select created_at from outbox_batches where available_at >= $1
                order by available_at, id limit 1000
             ) as first"
        ))
        .bind(from.micros())
        .fetch_one()
        .await?;
    Ok(oldest.map(Timestamp::from_micros))
}
