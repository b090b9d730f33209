//! All SQL of the audit: the only place that reads the tables of both services.

use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use gozon_contract::{PAYMENT_REQUESTED, PAYMENT_SETTLED};
use gozon_store::{Reader, Result, Rows, select};
use uuid::Uuid;

use crate::{Place, Side, case::About};

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct OrderRow {
    pub id: Uuid,
    pub user_id: Uuid,
    pub amount: i64,
    pub status: String,
    pub cancel_reason: Option<String>,
    pub created_at: i64,
}

/// A payment, or an entry that names an order.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct PaymentRow {
    pub order_id: Uuid,
    /// 1 for an entry.
    pub is_entry: i64,
    pub user_id: Uuid,
    pub amount: i64,
    pub decline_reason: Option<String>,
    pub created_at: i64,
}

/// An account or, with a kind, one of its entries.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct LedgerRow {
    pub user_id: Uuid,
    pub seq: i64,
    pub kind: Option<String>,
    /// An account's version, an entry's amount.
    pub amount: i64,
    /// An account's balance, an entry's `balance_after`.
    pub balance: i64,
    pub order_id: Option<Uuid>,
}

/// A message that waits in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageRow {
    pub order_id: Uuid,
    pub about: About,
    pub place: Place,
    pub side: Side,
    /// Since when it waits, in microseconds since the epoch.
    pub since: i64,
}

type Stream<'t, T> = Result<BoxStream<'t, Result<T>>>;

/// Fixes what a snapshot of the orders database shows, which its first statement does.
pub(crate) async fn look_at_orders(reader: &mut Reader) -> Result<()> {
    reader.query(select!("select 1 from orders limit 1")).fetch_optional::<(i32,)>().await.map(drop)
}

/// Fixes what a snapshot of the payments database shows.
pub(crate) async fn look_at_payments(reader: &mut Reader) -> Result<()> {
    reader
        .query(select!("select 1 from payments limit 1"))
        .fetch_optional::<(i32,)>()
        .await
        .map(drop)
}

/// How many rows [`orders`] gives.
pub(crate) async fn count_orders(reader: &mut Reader) -> Result<i64> {
    first(reader.query(select!("select count(*) from orders")).stream()).await
}

/// How many rows [`payments`] and [`ledger`] give.
pub(crate) async fn count_payments(reader: &mut Reader) -> Result<i64> {
    first(
        reader
            .query(select!(
                "select (select count(*) from payments) + (select count(*) from accounts)
                  + (select count(*) + count(order_id) from entries)"
            ))
            .stream(),
    )
    .await
}

/// The one number of a statement that may take long, so that no limit on statements applies.
async fn first(rows: Stream<'_, (i64,)>) -> Result<i64> {
    Ok(rows?.try_next().await?.map_or(0, |(number,)| number))
}

/// All orders, by id. The primary key starts with the user, so the database sorts.
pub(crate) fn orders(reader: &mut Reader) -> Stream<'_, OrderRow> {
    reader
        .query(select!(
            "select id, user_id, amount, status, cancel_reason, created_at from orders order by id"
        ))
        .stream()
}

/// All payments and all entries that name an order, by order, the payment first. Only the entries
/// must be sorted.
pub(crate) fn payments(reader: &mut Reader) -> Stream<'_, PaymentRow> {
    reader
        .query(select!(
            "select order_id, cast(0 as bigint) as is_entry, user_id, amount, decline_reason,
                created_at
         from payments
         union all
         select order_id, cast(1 as bigint), user_id, amount, null, created_at
         from entries where order_id is not null
         order by order_id, is_entry"
        ))
        .stream()
}

/// All accounts and entries, by user: the account, which gets a `seq` below any other, and its
/// entries in order. Two primary keys merged: nothing must be sorted.
pub(crate) fn ledger(reader: &mut Reader) -> Stream<'_, LedgerRow> {
    reader
        .query(select!(
            "select user_id, seq, kind, amount, balance_after as balance, order_id from entries
         union all
         select user_id, -9223372036854775807, null, version, balance, null from accounts
         order by user_id, seq"
        ))
        .stream()
}

/// The id of a message, a letter for its place, and since when it waits there.
type RawMessage = (String, String, i64);

/// All messages about payments that wait in a database, by order.
pub(crate) fn messages(reader: &mut Reader, side: Side) -> Stream<'_, MessageRow> {
    let rows = reader
        .query(select!(
            "select coalesce(cast(event.value ->> 'id' as text), '') as id,
                    'o' as place, created_at as since
             from outbox_batches {each_event}
             where topic in ('payment.requested', 'payment.settled')
             union all select id, 'o', created_at from outbox
             where topic in ('payment.requested', 'payment.settled')
             union all select id, 'i', received_at from inbox_pending
             union all select id, 'd', died_at from dead_letters
             order by id"
        ))
        .stream::<RawMessage>()?;
    Ok(rows.try_filter_map(move |row| std::future::ready(Ok(message(&row, side)))).boxed())
}

/// Reads a message's id, `{order_id}:{topic}`. One that is spelled in another way is none of ours,
/// and would not be in its place in the order of UUIDs.
fn message((id, place, since): &RawMessage, side: Side) -> Option<MessageRow> {
    let (order, topic) = id.split_once(':')?;
    let order_id = Uuid::try_parse(order).ok().filter(|uuid| uuid.to_string() == order)?;
    let about = if topic == PAYMENT_REQUESTED.name {
        About::Request
    } else if topic == PAYMENT_SETTLED.name {
        About::Result
    } else {
        return None;
    };
    let place = match place.as_str() {
        "o" => Place::Outbox,
        "i" => Place::InboxPending,
        _ => Place::DeadLetters,
    };
    Some(MessageRow { order_id, about, place, side, since: *since })
}

/// Those of these orders that are there: user and id.
pub(crate) async fn find_orders(
    reader: &mut Reader,
    keys: &[(Uuid, Uuid)],
) -> Result<Vec<OrderRow>> {
    reader
        .query(select!(
            "select id, user_id, amount, status, cancel_reason, created_at from orders
         where (user_id, id) in (select user_id, id from {rows})"
        ))
        .rows(Rows::of(keys).uuid("user_id", |key| key.0).uuid("id", |key| key.1).done())
        .fetch_all()
        .await
}

/// The payments of those of these orders that have one.
pub(crate) async fn find_payments(reader: &mut Reader, orders: &[Uuid]) -> Result<Vec<PaymentRow>> {
    reader
        .query(select!(
            "select order_id, cast(0 as bigint) as is_entry, user_id, amount, decline_reason,
                created_at
         from payments where order_id in (select order_id from {rows})"
        ))
        .rows(Rows::of(orders).uuid("order_id", |order| *order).done())
        .fetch_all()
        .await
}

/// The messages about these orders that wait in a database.
pub(crate) async fn find_messages(
    reader: &mut Reader,
    orders: &[Uuid],
    side: Side,
) -> Result<Vec<MessageRow>> {
    let ids: Vec<String> = orders
        .iter()
        .flat_map(|order| [PAYMENT_REQUESTED, PAYMENT_SETTLED].map(|topic| (order, topic.name)))
        .map(|(order, topic)| format!("{order}:{topic}"))
        .collect();
    let rows: Vec<RawMessage> = reader
        .query(select!(
            "select id, place, since from (
                select coalesce(cast(event.value ->> 'id' as text), '') as id,
                    'o' as place, created_at as since
                from outbox_batches {each_event}
                union all select id, 'o', created_at from outbox
                union all select id, 'i', received_at from inbox_pending
                union all select id, 'd', died_at from dead_letters
             ) as waiting where id in (select id from {rows})"
        ))
        .rows(Rows::of(&ids).text("id", String::clone).done())
        .fetch_all()
        .await?;
    Ok(rows.iter().filter_map(|row| message(row, side)).collect())
}
