//! All SQL that looks for one order.

use futures_util::TryStreamExt as _;
use gozon_contract::Timestamp;
use gozon_store::{Reader, Result, select};
use serde_json::Value;
use uuid::Uuid;

use super::{Entry, Order, Payment, Place, Waiting};
use crate::Side;

#[derive(sqlx::FromRow)]
struct OrderRow {
    user_id: Uuid,
    amount: i64,
    status: String,
    cancel_reason: Option<String>,
    version: i64,
    created_at: i64,
    updated_at: i64,
}

impl From<OrderRow> for Order {
    fn from(row: OrderRow) -> Self {
        let OrderRow { user_id, amount, status, cancel_reason, version, .. } = row;
        let created_at = Timestamp::from_micros(row.created_at);
        let updated_at = Timestamp::from_micros(row.updated_at);
        Self { user_id, amount, status, cancel_reason, version, created_at, updated_at }
    }
}

/// An order by its key.
pub(super) async fn order_of(reader: &mut Reader, user: Uuid, id: Uuid) -> Result<Option<Order>> {
    let row: Option<OrderRow> = reader
        .query(select!(
            "select user_id, amount, status, cancel_reason, version, created_at, updated_at
             from orders where user_id = $1 and id = $2"
        ))
        .bind(user)
        .bind(id)
        .fetch_optional()
        .await?;
    Ok(row.map(Order::from))
}

/// An order by its id alone. No index has it: the whole table is read, and no limit on statements
/// applies to a stream.
pub(super) async fn order(reader: &mut Reader, id: Uuid) -> Result<Option<Order>> {
    let mut rows = reader
        .query(select!(
            "select user_id, amount, status, cancel_reason, version, created_at, updated_at
             from orders where id = $1"
        ))
        .bind(id)
        .stream::<OrderRow>()?;
    Ok(rows.try_next().await?.map(Order::from))
}

/// What was decided for an order.
pub(super) async fn payment(reader: &mut Reader, order: Uuid) -> Result<Option<Payment>> {
    let row: Option<(Uuid, i64, Option<String>, i64)> = reader
        .query(select!(
            "select user_id, amount, decline_reason, created_at from payments
             where order_id = $1"
        ))
        .bind(order)
        .fetch_optional()
        .await?;
    Ok(row.map(|(user_id, amount, decline_reason, created_at)| Payment {
        user_id,
        amount,
        decline_reason,
        created_at: Timestamp::from_micros(created_at),
    }))
}

/// The entries of a user's account that name an order.
pub(super) async fn entries(reader: &mut Reader, user: Uuid, order: Uuid) -> Result<Vec<Entry>> {
    let rows = reader
        .query(select!(
            "select seq, amount, balance_after, created_at from entries
             where user_id = $1 and order_id = $2 order by seq"
        ))
        .bind(user)
        .bind(order)
        .stream::<(i64, i64, i64, i64)>()?;
    rows.map_ok(|(seq, amount, balance_after, created_at)| Entry {
        seq,
        amount,
        balance_after,
        created_at: Timestamp::from_micros(created_at),
    })
    .try_collect()
    .await
}

/// The balance of a user's account, if there is one.
pub(super) async fn balance(reader: &mut Reader, user: Uuid) -> Result<Option<i64>> {
    let row: Option<(i64,)> = reader
        .query(select!("select balance from accounts where user_id = $1"))
        .bind(user)
        .fetch_optional()
        .await?;
    Ok(row.map(|(balance,)| balance))
}

/// The messages about an order that wait in a database. The two tables of failures are read whole:
/// they are small, and what they hold may be no text.
pub(super) async fn find_messages(
    reader: &mut Reader,
    side: Side,
    order: Uuid,
) -> Result<Vec<Waiting>> {
    let order = order.to_string();
    let mut found = Vec::new();

    let mut outbox = reader
        .query(select!(
            "select topic, body, created_at, attempts from outbox_batches where body like $1
             union all
             select topic, body, created_at, attempts from outbox where body like $1"
        ))
        .bind(format!("%{order}%").as_str())
        .stream::<(String, String, i64, i64)>()?;
    while let Some((topic, body, since, attempts)) = outbox.try_next().await? {
        found.extend(events_about(body.as_bytes(), &order).into_iter().map(|id| Waiting {
            database: side,
            place: Place::Outbox,
            id,
            topic: topic.clone(),
            since: Timestamp::from_micros(since),
            attempts,
            next_attempt_at: None,
            error: None,
        }));
    }
    drop(outbox);

    let mut failed = reader
        .query(select!(
            "select id, topic, body, received_at, attempts, next_attempt_at, error
             from inbox_pending
             union all
             select id, topic, body, died_at, attempts, null, error
             from dead_letters"
        ))
        .stream::<(String, String, Vec<u8>, i64, i64, Option<i64>, String)>()?;
    while let Some((id, topic, body, since, attempts, next, error)) = failed.try_next().await? {
        if id.starts_with(&order) || !events_about(&body, &order).is_empty() {
            found.push(Waiting {
                database: side,
                place: if next.is_some() { Place::InboxPending } else { Place::DeadLetters },
                id,
                topic,
                since: Timestamp::from_micros(since),
                attempts,
                next_attempt_at: next.map(Timestamp::from_micros),
                error: Some(error),
            });
        }
    }
    Ok(found)
}

/// The ids of the events about an order in a body: one CloudEvent, or a batch of them.
fn events_about(body: &[u8], order: &str) -> Vec<String> {
    let events = match serde_json::from_slice(body) {
        Ok(Value::Array(events)) => events,
        Ok(event) => vec![event],
        Err(_) => return Vec::new(),
    };
    let is_about = |event: &&Value| event["subject"] == order || event["data"]["order_id"] == order;
    let id = |event: &Value| event["id"].as_str().unwrap_or_default().to_owned();
    events.iter().filter(is_about).map(id).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_found_alone_and_in_a_batch() {
        let event = |id: &str, subject: &str| json!({"id": id, "subject": subject, "data": {}});
        let alone = event("a:x", "a").to_string();
        assert_eq!(events_about(alone.as_bytes(), "a"), ["a:x"]);
        let batch = json!([event("b:x", "b"), event("a:x", "a"), event("a:y", "a")]).to_string();
        assert_eq!(events_about(batch.as_bytes(), "a"), ["a:x", "a:y"]);
        assert!(events_about(batch.as_bytes(), "c").is_empty());
        assert!(events_about(b"\xff", "a").is_empty());
    }
}
