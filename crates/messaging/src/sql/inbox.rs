//! The inbox: what was received, and what waits for another attempt.

use std::collections::HashSet;

use gozon_contract::Timestamp;
use gozon_store::{Result, Rows, Statement, Tx};

use crate::Message;

/// Marks messages as received. That one is a repeat is a conflict; to pass over it costs PostgreSQL
/// a look and a log entry more for each that is none.
pub(crate) fn mark_all(messages: &[Message], now: Timestamp) -> Statement {
    Statement::new("insert into inbox (id, received_at) select id, $1 from {rows}")
        .bind(now.micros())
        .rows(rows(&ids(messages)))
}

/// Marks messages as received; which of their ids were new.
pub(crate) async fn mark(
    tx: &mut Tx,
    messages: &[Message],
    now: Timestamp,
) -> Result<HashSet<String>> {
    let mut ids = ids(messages);
    ids.dedup();
    let new: Vec<(String,)> = tx
        .query(
            "insert into inbox (id, received_at)
             select id, $1 from {rows} where true
             on conflict (id) do nothing
             returning id",
        )
        .bind(now.micros())
        .rows(rows(&ids))
        .fetch_all()
        .await?;
    Ok(new.into_iter().map(|(id,)| id).collect())
}

/// The ids of messages, sorted, so that two instances that got the same messages in another order
/// don't deadlock.
fn ids(messages: &[Message]) -> Vec<&str> {
    let mut ids: Vec<&str> = messages.iter().map(|message| message.id.as_str()).collect();
    ids.sort_unstable();
    ids
}

fn rows(ids: &[&str]) -> Rows {
    Rows::of(ids).text("id", |id| (*id).to_owned()).done()
}

/// Forgets up to `$2` messages that were received before `$1`.
pub(crate) const FORGET: &str = "with old as materialized (
        select id from inbox where received_at < $1 order by received_at limit $2 {skip_locked}
     )
     delete from inbox where id in (select id from old)";

/// A received message whose handler has failed so far.
#[derive(Clone, Debug)]
pub(crate) struct PendingRow {
    pub message: Message,
    pub received_at: Timestamp,
    /// How often it was tried.
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

/// Keeps a message for an attempt at `next`. If it is kept already, it begins anew.
pub(crate) async fn keep(tx: &mut Tx, row: &PendingRow, next: Timestamp) -> Result<()> {
    tx.query(
        "insert into inbox_pending
            (id, topic, partition_key, body, received_at, attempts, next_attempt_at, error)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict (id) do update set
            attempts = excluded.attempts,
            next_attempt_at = excluded.next_attempt_at,
            error = excluded.error",
    )
    .bind(row.message.id.as_str())
    .bind(row.message.topic.as_str())
    .bind(row.message.key.as_str())
    .bind(&*row.message.body)
    .bind(row.received_at.micros())
    .bind(row.attempts)
    .bind(next.micros())
    .bind(row.error.as_str())
    .execute()
    .await
    .map(drop)
}

/// Whether there is a message of a topic whose next attempt is due.
pub(crate) async fn is_due(tx: &mut Tx, topic: &str, now: Timestamp) -> Result<bool> {
    let due: Option<(i64,)> = tx
        .query(
            "select next_attempt_at from inbox_pending
             where topic = $1 and next_attempt_at <= $2 order by next_attempt_at limit 1",
        )
        .bind(topic)
        .bind(now.micros())
        .fetch_optional()
        .await?;
    Ok(due.is_some())
}

/// Takes over up to `limit` messages of a topic whose next attempt is due; nobody else will before
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

/// Takes a message out of those that wait; whether it was there as it was claimed. Another process
/// may have finished the attempt if this one took longer than its lease.
pub(crate) async fn delete(tx: &mut Tx, row: &PendingRow) -> Result<bool> {
    let deleted = tx
        .query("delete from inbox_pending where id = $1 and attempts = $2")
        .bind(row.message.id.as_str())
        .bind(row.attempts)
        .execute()
        .await?;
    Ok(deleted == 1)
}

/// Writes down that another attempt failed, and that the next is at `next`; unless another process
/// finished the attempt meanwhile.
pub(crate) async fn postpone(
    tx: &mut Tx,
    row: &PendingRow,
    error: &str,
    next: Timestamp,
) -> Result<()> {
    tx.query(
        "update inbox_pending set attempts = attempts + 1, next_attempt_at = $3, error = $4
         where id = $1 and attempts = $2",
    )
    .bind(row.message.id.as_str())
    .bind(row.attempts)
    .bind(next.micros())
    .bind(error)
    .execute()
    .await
    .map(drop)
}

/// When the oldest message that waits for another attempt was received.
pub(crate) async fn oldest(tx: &mut Tx) -> Result<Option<Timestamp>> {
    let oldest: Option<(i64,)> = tx
        .query("select received_at from inbox_pending order by received_at limit 1")
        .fetch_optional()
        .await?;
    Ok(oldest.map(|(micros,)| Timestamp::from_micros(micros)))
}
