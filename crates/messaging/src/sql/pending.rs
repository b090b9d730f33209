//! Events that were received and wait for another attempt.

use std::collections::HashMap;

use gozon_contract::Timestamp;
use gozon_store::{Reader, Result, Rows, Statement, Tx, select};

use super::LONGEST_WAIT;
use crate::Message;

/// A received event that could not be dealt with so far.
#[derive(Clone, Debug)]
pub(crate) struct PendingRow {
    pub message: Message,
    pub received_at: Timestamp,
    /// How often it was tried by itself.
    pub attempts: i64,
    /// What went wrong last.
    pub error: String,
}

#[derive(sqlx::FromRow)]
struct Raw {
    id: String,
    topic: String,
    partition_key: String,
    body: Vec<u8>,
    received_at: i64,
    attempts: i64,
    error: String,
}

impl From<Raw> for PendingRow {
    fn from(raw: Raw) -> Self {
        Self {
            message: Message {
                id: raw.id,
                topic: raw.topic,
                key: raw.partition_key,
                body: raw.body.into(),
            },
            received_at: Timestamp::from_micros(raw.received_at),
            attempts: raw.attempts,
            error: raw.error,
        }
    }
}

/// Keeps events for attempts at `next`. One that is kept already goes on with its attempts, or an
/// event that is sent again and again would never become a dead letter.
pub(crate) fn keep(rows: &[PendingRow], next: Timestamp) -> Statement {
    let rows = Rows::of(rows)
        .text("id", |row| row.message.id.clone())
        .text("topic", |row| row.message.topic.clone())
        .text("partition_key", |row| row.message.key.clone())
        .bytes("body", |row| row.message.body.to_vec())
        .int("received_at", |row| row.received_at.micros())
        .int("attempts", |row| row.attempts)
        .text("error", |row| row.error.clone())
        .done();
    Statement::new(
        "insert into inbox_pending
            (id, topic, partition_key, body, received_at, attempts, next_attempt_at, error)
         select id, topic, partition_key, body, received_at, attempts, $1, error from {rows}
         where true
         on conflict (id) do update set body = excluded.body, error = excluded.error",
    )
    .bind(next.micros())
    .rows(rows)
}

/// Whether there is an event of a topic whose next attempt is due, or one to [recall].
pub(crate) async fn is_due(reader: &mut Reader, topic: &str, now: Timestamp) -> Result<bool> {
    let due: Option<(i64,)> = reader
        .query(select!(
            "select next_attempt_at from (
                select next_attempt_at from inbox_pending
                where topic = $1 and next_attempt_at <= $2
                union all
                select next_attempt_at from inbox_pending
                where topic = $1 and next_attempt_at > $3
             ) as due limit 1"
        ))
        .bind(topic)
        .bind(now.micros())
        .bind(now.plus(LONGEST_WAIT).micros())
        .fetch_optional()
        .await?;
    Ok(due.is_some())
}

/// Makes up to `limit` attempts of a topic due at `now` that would be so only after the [longest
/// wait](LONGEST_WAIT).
pub(crate) async fn recall(tx: &mut Tx, topic: &str, now: Timestamp, limit: i64) -> Result<()> {
    tx.query(
        "with far as materialized (
            select id from inbox_pending where topic = $1 and next_attempt_at > $3
            order by next_attempt_at limit $4 {skip_locked}
         )
         update inbox_pending set next_attempt_at = $2 where id in (select id from far)",
    )
    .bind(topic)
    .bind(now.micros())
    .bind(now.plus(LONGEST_WAIT).micros())
    .bind(limit)
    .execute()
    .await
    .map(drop)
}

/// Takes over up to `limit` events of a topic whose next attempt is due; nobody else will before
/// `until`.
pub(crate) async fn claim(
    tx: &mut Tx,
    topic: &str,
    now: Timestamp,
    until: Timestamp,
    limit: i64,
) -> Result<Vec<PendingRow>> {
    let rows: Vec<Raw> = tx
        .query(
            "with due as materialized (
                select id from inbox_pending
                where topic = $1 and next_attempt_at <= $2
                order by next_attempt_at limit $3 {skip_locked}
             )
             update inbox_pending set next_attempt_at = $4
             where id in (select id from due)
             returning id, topic, partition_key, body, received_at, attempts, error",
        )
        .bind(topic)
        .bind(now.micros())
        .bind(limit)
        .bind(until.micros())
        .fetch_all()
        .await?;
    Ok(rows.into_iter().map(PendingRow::from).collect())
}

/// How often those of these events that still wait were tried.
pub(crate) async fn attempts(
    reader: &mut Reader,
    rows: &[&PendingRow],
) -> Result<HashMap<String, i64>> {
    let found: Vec<(String, i64)> = reader
        .query(select!("select id, attempts from inbox_pending where id {among}"))
        .rows(Rows::of(rows).text("id", |row| row.message.id.clone()).done())
        .fetch_all()
        .await?;
    Ok(found.into_iter().collect())
}

/// Takes events out of those that wait, as they were claimed. If another process has finished one of
/// the attempts, because this one took longer than its lease, that is a conflict.
pub(crate) fn delete(rows: &[&PendingRow]) -> Statement {
    let mut rows = rows.to_vec();
    rows.sort_unstable_by(|a, b| a.message.id.cmp(&b.message.id));
    Statement::new(
        "delete from inbox_pending where (id, attempts) in (select id, attempts from {rows})",
    )
    .rows(
        Rows::of(&rows)
            .text("id", |row| row.message.id.clone())
            .int("attempts", |row| row.attempts)
            .done(),
    )
    .expecting(rows.len())
}

/// Writes down that an attempt has failed, and that the next is at `next`; unless another process
/// has finished the attempt meanwhile. `spent` is 1 if the attempt counts, 0 if it does not.
pub(crate) async fn postpone(
    tx: &mut Tx,
    row: &PendingRow,
    spent: i64,
    error: &str,
    next: Timestamp,
) -> Result<()> {
    tx.query(
        "update inbox_pending
         set attempts = attempts + $3, next_attempt_at = $4, error = $5
         where id = $1 and attempts = $2",
    )
    .bind(row.message.id.as_str())
    .bind(row.attempts)
    .bind(spent)
    .bind(next.micros())
    .bind(error)
    .execute()
    .await
    .map(drop)
}

/// When the oldest event that waits for another attempt was received.
pub(crate) async fn oldest(reader: &mut Reader) -> Result<Option<Timestamp>> {
    let oldest: Option<(i64,)> = reader
        .query(select!("select received_at from inbox_pending order by received_at limit 1"))
        .fetch_optional()
        .await?;
    Ok(oldest.map(|(micros,)| Timestamp::from_micros(micros)))
}
