//! All SQL of the outbox and the inbox.

use std::collections::HashSet;

use gozon_contract::Timestamp;
use gozon_store::{Migration, Result, Rows, Tx};

use crate::Message;

/// The tables that every service with an outbox and an inbox needs.
pub const MIGRATIONS: &[Migration] = &[Migration {
    component: "messaging",
    version: 1,
    postgres: include_str!("../migrations/postgres/1_messaging.sql"),
    sqlite: include_str!("../migrations/sqlite/1_messaging.sql"),
}];

/// A row of the outbox: a message, and when another process may take it over.
#[derive(Clone, Debug)]
pub(crate) struct OutboxRow {
    pub available_at: Timestamp,
    pub created_at: Timestamp,
    pub attempts: i64,
    pub message: Message,
}

#[derive(sqlx::FromRow)]
struct RawOutboxRow {
    available_at: i64,
    id: String,
    topic: String,
    partition_key: String,
    body: String,
    created_at: i64,
    attempts: i64,
}

impl From<RawOutboxRow> for OutboxRow {
    fn from(raw: RawOutboxRow) -> Self {
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

/// Puts messages into the outbox.
pub(crate) async fn insert_outbox(tx: &mut Tx, rows: &[OutboxRow]) -> Result<()> {
    let rows = Rows::of(rows)
        .int("available_at", |row| row.available_at.micros())
        .text("id", |row| row.message.id.clone())
        .text("topic", |row| row.message.topic.clone())
        .text("partition_key", |row| row.message.key.clone())
        .text("body", |row| String::from_utf8_lossy(&row.message.body).into_owned())
        .int("created_at", |row| row.created_at.micros())
        .int("attempts", |row| row.attempts)
        .done();
    tx.query(
        "insert into outbox
            (available_at, id, topic, partition_key, body, created_at, attempts)
         select available_at, id, topic, partition_key, body, created_at, attempts from {rows}",
    )
    .rows(rows)
    .execute()
    .await
    .map(drop)
}

/// Takes messages out of the outbox; those that are no longer there are no error.
pub(crate) async fn delete_outbox(tx: &mut Tx, rows: &[OutboxRow]) -> Result<u64> {
    let keys = Rows::of(rows)
        .int("available_at", |row| row.available_at.micros())
        .text("id", |row| row.message.id.clone())
        .done();
    tx.query(
        "delete from outbox
         where (available_at, id) in (select available_at, id from {rows})",
    )
    .rows(keys)
    .execute()
    .await
}

/// Takes over up to `limit` rows that became available from `from` to `now`, oldest first: nobody
/// else will before `until`. Rows that another process is just taking are passed over.
pub(crate) async fn claim_outbox(
    tx: &mut Tx,
    from: Timestamp,
    now: Timestamp,
    until: Timestamp,
    limit: i64,
) -> Result<Vec<OutboxRow>> {
    let mut rows: Vec<RawOutboxRow> = tx
        .query(
            "with due as materialized (
                select available_at, id from outbox
                where available_at >= $1 and available_at <= $2
                order by available_at, id limit $3 {skip_locked}
             )
             update outbox set available_at = $4
             where (available_at, id) in (select available_at, id from due)
             returning available_at, id, topic, partition_key, body, created_at, attempts",
        )
        .bind(from.micros())
        .bind(now.micros())
        .bind(limit)
        .bind(until.micros())
        .fetch_all()
        .await?;
    rows.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    Ok(rows.into_iter().map(OutboxRow::from).collect())
}

/// Puts off a row that the broker would not take: one attempt more, again at `next`.
pub(crate) async fn postpone_outbox(tx: &mut Tx, row: &OutboxRow, next: Timestamp) -> Result<()> {
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

/// When the oldest row was put into the outbox, looking at those available since `from`.
pub(crate) async fn oldest_outbox(tx: &mut Tx, from: Timestamp) -> Result<Option<Timestamp>> {
    let oldest: Option<(i64,)> = tx
        .query(
            "select created_at from outbox where available_at >= $1
             order by available_at, id limit 1",
        )
        .bind(from.micros())
        .fetch_optional()
        .await?;
    Ok(oldest.map(|(micros,)| Timestamp::from_micros(micros)))
}

/// Marks messages as received; which of their ids were new. The rows go in sorted, so that two
/// instances that got the same messages in another order don't deadlock.
pub(crate) async fn mark_inbox(
    tx: &mut Tx,
    messages: &[Message],
    now: Timestamp,
) -> Result<HashSet<String>> {
    let mut ids: Vec<&str> = messages.iter().map(|message| message.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    let new: Vec<(String,)> = tx
        .query(
            "insert into inbox (id, received_at)
             select id, $1 from {rows} where true
             on conflict (id) do nothing
             returning id",
        )
        .bind(now.micros())
        .rows(Rows::of(&ids).text("id", |id| (*id).to_owned()).done())
        .fetch_all()
        .await?;
    Ok(new.into_iter().map(|(id,)| id).collect())
}

/// Forgets up to `limit` messages that were received before `before`; how many there were.
pub(crate) async fn forget_inbox(tx: &mut Tx, before: Timestamp, limit: i64) -> Result<u64> {
    tx.query(
        "delete from inbox where id in (
            select id from inbox where received_at < $1 order by received_at limit $2
         )",
    )
    .bind(before.micros())
    .bind(limit)
    .execute()
    .await
}

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
struct RawPendingRow {
    id: String,
    topic: String,
    partition_key: String,
    body: Vec<u8>,
    received_at: i64,
    attempts: i64,
    error: String,
}

impl From<RawPendingRow> for PendingRow {
    fn from(raw: RawPendingRow) -> Self {
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

/// Keeps a message for another attempt at `next`.
pub(crate) async fn upsert_pending(tx: &mut Tx, row: &PendingRow, next: Timestamp) -> Result<()> {
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

/// Takes over up to `limit` messages of a topic whose next attempt is due; nobody else will before
/// `until`.
pub(crate) async fn claim_pending(
    tx: &mut Tx,
    topic: &str,
    now: Timestamp,
    until: Timestamp,
    limit: i64,
) -> Result<Vec<PendingRow>> {
    let rows: Vec<RawPendingRow> = tx
        .query(
            "with due as materialized (
                select id from inbox_pending
                where next_attempt_at <= $1 and topic = $2
                order by next_attempt_at limit $3 {skip_locked}
             )
             update inbox_pending set next_attempt_at = $4
             where id in (select id from due)
             returning id, topic, partition_key, body, received_at, attempts, error",
        )
        .bind(now.micros())
        .bind(topic)
        .bind(limit)
        .bind(until.micros())
        .fetch_all()
        .await?;
    Ok(rows.into_iter().map(PendingRow::from).collect())
}

/// Takes a message out of those that wait; whether it was there.
pub(crate) async fn delete_pending(tx: &mut Tx, id: &str) -> Result<bool> {
    let deleted = tx.query("delete from inbox_pending where id = $1").bind(id).execute().await?;
    Ok(deleted == 1)
}

/// When the oldest message that waits for another attempt was received.
pub(crate) async fn oldest_pending(tx: &mut Tx) -> Result<Option<Timestamp>> {
    let (oldest,): (Option<i64>,) =
        tx.query("select min(received_at) from inbox_pending").fetch_one().await?;
    Ok(oldest.map(Timestamp::from_micros))
}

/// Sets a message aside for good, until a person decides.
pub(crate) async fn insert_dead(tx: &mut Tx, row: &PendingRow, now: Timestamp) -> Result<()> {
    tx.query(
        "insert into dead_letters
            (id, topic, partition_key, body, received_at, attempts, died_at, error)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict (id) do update set
            attempts = excluded.attempts, died_at = excluded.died_at, error = excluded.error",
    )
    .bind(row.message.id.as_str())
    .bind(row.message.topic.as_str())
    .bind(row.message.key.as_str())
    .bind(&*row.message.body)
    .bind(row.received_at.micros())
    .bind(row.attempts)
    .bind(now.micros())
    .bind(row.error.as_str())
    .execute()
    .await
    .map(drop)
}
