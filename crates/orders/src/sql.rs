//! All SQL of the orders service.

use std::{collections::HashMap, sync::Arc};

use gozon_contract::{
    CancelReason, Description, Money, Order, OrderId, OrderStatus, Timestamp, UserId,
};
use gozon_seam::mutation;
use gozon_store::{Error, Reader, Result, Rows, Statement, select};
use uuid::Uuid;

/// A stored value that can't be: somebody else wrote to our table.
fn corrupt(what: impl std::error::Error + Send + Sync + 'static) -> Error {
    sqlx::Error::Decode(Box::new(what)).into()
}

#[derive(sqlx::FromRow)]
struct RawOrder {
    user_id: Uuid,
    id: Uuid,
    amount: i64,
    description: String,
    status: String,
    cancel_reason: Option<String>,
    version: i64,
    created_at: i64,
    updated_at: i64,
}

impl TryFrom<RawOrder> for Order {
    type Error = Error;

    fn try_from(raw: RawOrder) -> Result<Self> {
        let reason = raw.cancel_reason.map(|reason| reason.parse::<CancelReason>());
        Ok(Self {
            id: raw.id.into(),
            user_id: raw.user_id.into(),
            amount: Money::try_from(raw.amount).map_err(corrupt)?,
            description: Description::try_from(raw.description).map_err(corrupt)?,
            status: raw.status.parse().map_err(corrupt)?,
            cancel_reason: reason.transpose().map_err(corrupt)?,
            version: raw.version,
            created_at: Timestamp::from_micros(raw.created_at),
            updated_at: Timestamp::from_micros(raw.updated_at),
        })
    }
}

/// Stores new orders.
pub(crate) fn insert_orders(orders: &[Arc<Order>]) -> Statement {
    let rows = Rows::of(orders)
        .uuid("user_id", |order| order.user_id.uuid())
        .uuid("id", |order| order.id.uuid())
        .int("amount", |order| order.amount.minor())
        .text("description", |order| order.description.to_string())
        .text("status", |order| order.status.as_str().to_owned())
        .int("version", |order| order.version)
        .int("created_at", |order| order.created_at.micros())
        .int("updated_at", |order| order.updated_at.micros())
        .done();
    Statement::new(
        "insert into orders
            (user_id, id, amount, description, status, version, created_at, updated_at)
         select user_id, id, amount, description, status, version, created_at, updated_at
         from {rows}",
    )
    .rows(rows)
}

/// One of a user's orders. Another user's is not found.
pub(crate) async fn find_order(
    reader: &mut Reader,
    user: UserId,
    id: OrderId,
) -> Result<Option<Order>> {
    if mutation!("whose order it is does not matter") {
        let raw: Option<RawOrder> = reader
            .query(select!(
                "select user_id, id, amount, description, status, cancel_reason, version,
                        created_at, updated_at
                 from orders where id = $1"
            ))
            .bind(id.uuid())
            .fetch_optional()
            .await?;
        return raw.map(Order::try_from).transpose();
    }
    let raw: Option<RawOrder> = reader
        .query(select!(
            "select user_id, id, amount, description, status, cancel_reason, version,
                    created_at, updated_at
             from orders where user_id = $1 and id = $2"
        ))
        .bind(user.uuid())
        .bind(id.uuid())
        .fetch_optional()
        .await?;
    raw.map(Order::try_from).transpose()
}

/// Which of a user's orders to list.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Filter {
    /// Only those with a smaller id.
    pub before: Option<OrderId>,
    /// Only those with this status.
    pub status: Option<OrderStatus>,
}

/// Up to `limit` of a user's orders, newest first.
pub(crate) async fn list_orders(
    reader: &mut Reader,
    user: UserId,
    filter: Filter,
    limit: usize,
) -> Result<Vec<Order>> {
    let raw: Vec<RawOrder> = reader
        .query(select!(
            "select user_id, id, amount, description, status, cancel_reason, version,
                    created_at, updated_at
             from orders
             where user_id = $1 and id < $2
               and status = coalesce(cast($3 as text), status)
             order by id desc limit $4"
        ))
        .bind(user.uuid())
        .bind(filter.before.map_or(Uuid::max(), OrderId::uuid))
        .bind(filter.status.map(OrderStatus::as_str))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all()
        .await?;
    raw.into_iter().map(Order::try_from).collect()
}

/// Up to `limit` of a user's orders that changed at `since` or later, in the order of their ids and
/// after the given one.
pub(crate) async fn orders_changed_since(
    reader: &mut Reader,
    user: UserId,
    since: Timestamp,
    after: Option<OrderId>,
    limit: usize,
) -> Result<Vec<Order>> {
    let raw: Vec<RawOrder> = reader
        .query(select!(
            "select user_id, id, amount, description, status, cancel_reason, version,
                    created_at, updated_at
             from orders where user_id = $1 and id > $2 and updated_at >= $3
             order by id limit $4"
        ))
        .bind(user.uuid())
        .bind(after.map_or(Uuid::nil(), OrderId::uuid))
        .bind(since.micros())
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all()
        .await?;
    raw.into_iter().map(Order::try_from).collect()
}

/// Up to `limit` orders that are NEW, come after `after` by the instant of their creation and their
/// id, and were not created after `until`; in that order.
pub(crate) async fn new_orders(
    reader: &mut Reader,
    after: (Timestamp, Uuid),
    until: Timestamp,
    limit: usize,
) -> Result<Vec<Order>> {
    let raw: Vec<RawOrder> = reader
        .query(select!(
            "select user_id, id, amount, description, status, cancel_reason, version,
                    created_at, updated_at
             from orders
             where created_at >= $1 and created_at <= $2 and status = 'NEW'
               and (created_at > $1 or id > $3)
             order by created_at, id limit $4"
        ))
        .bind(after.0.micros())
        .bind(until.micros())
        .bind(after.1)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all()
        .await?;
    raw.into_iter().map(Order::try_from).collect()
}

/// When the oldest of the orders that are NEW and were created from `from` to `until` was created.
pub(crate) async fn oldest_new(
    reader: &mut Reader,
    from: Timestamp,
    until: Timestamp,
) -> Result<Option<Timestamp>> {
    let (oldest,): (Option<i64>,) = reader
        .query(select!(
            "select min(created_at) from orders
             where created_at >= $1 and created_at <= $2 and status = 'NEW'"
        ))
        .bind(from.micros())
        .bind(until.micros())
        .fetch_one()
        .await?;
    Ok(oldest.map(Timestamp::from_micros))
}

/// The orders with these keys, as far as there are any; locked until the transaction ends, if it
/// locks.
pub(crate) async fn orders_of(
    reader: &mut Reader,
    keys: &[(UserId, OrderId)],
) -> Result<HashMap<OrderId, Arc<Order>>> {
    let raw: Vec<RawOrder> = reader
        .query(select!(
            "select orders.user_id, orders.id, orders.amount, orders.description, orders.status,
                    orders.cancel_reason, orders.version, orders.created_at, orders.updated_at
             from {rows} join orders on orders.user_id = rows.user_id and orders.id = rows.id
             {for_update}"
        ))
        .rows(
            Rows::of(keys)
                .uuid("user_id", |(user, _)| user.uuid())
                .uuid("id", |(_, order)| order.uuid())
                .done(),
        )
        .fetch_all()
        .await?;
    let read = |raw| Order::try_from(raw).map(|order| (order.id, Arc::new(order)));
    raw.into_iter().map(read).collect()
}

/// Writes down where orders have moved, each from the version before. If one of them is no longer
/// there, that is a conflict, and nothing is written.
pub(crate) fn move_orders<T>(orders: &[(Order, T)]) -> Statement {
    let rows = Rows::of(orders)
        .uuid("user_id", |(order, _)| order.user_id.uuid())
        .uuid("id", |(order, _)| order.id.uuid())
        .text("status", |(order, _)| order.status.as_str().to_owned())
        .maybe_text("cancel_reason", |(order, _)| {
            order.cancel_reason.map(|reason| reason.as_str().to_owned())
        })
        .int("version", |(order, _)| order.version)
        .int("updated_at", |(order, _)| order.updated_at.micros())
        .done();
    Statement::new(
        "update orders set
            status = rows.status, cancel_reason = rows.cancel_reason,
            version = rows.version, updated_at = rows.updated_at
         from {rows}
         where orders.user_id = rows.user_id and orders.id = rows.id
           and orders.version = rows.version - 1",
    )
    .rows(rows)
    .expecting(orders.len())
}
