//! A stream of rows in the order of their order's id, of which the next one can be seen.

use futures_util::{TryStreamExt as _, stream::BoxStream};
use uuid::Uuid;

use crate::{
    AuditError, Side,
    sql::{MessageRow, OrderRow, PaymentRow},
};

/// A row that is about an order.
pub(crate) trait OfOrder {
    /// Which order.
    fn order_id(&self) -> Uuid;
}

impl OfOrder for OrderRow {
    fn order_id(&self) -> Uuid {
        self.id
    }
}

impl OfOrder for PaymentRow {
    fn order_id(&self) -> Uuid {
        self.order_id
    }
}

impl OfOrder for MessageRow {
    fn order_id(&self) -> Uuid {
        self.order_id
    }
}

/// A place in a stream of rows.
pub(crate) struct Cursor<'t, T> {
    side: Side,
    rows: BoxStream<'t, gozon_store::Result<T>>,
    next: Option<T>,
}

impl<'t, T: OfOrder> Cursor<'t, T> {
    /// Stands before the first row.
    pub async fn new(
        side: Side,
        rows: gozon_store::Result<BoxStream<'t, gozon_store::Result<T>>>,
    ) -> Result<Self, AuditError> {
        let mut rows = rows.map_err(side.failed())?;
        let next = rows.try_next().await.map_err(side.failed())?;
        Ok(Self { side, rows, next })
    }

    /// Which order the next row is about; `None` at the end.
    pub fn next_order(&self) -> Option<Uuid> {
        self.next.as_ref().map(OfOrder::order_id)
    }

    /// The next row if it is about `order`. Rows about orders before it are passed over.
    pub async fn take(&mut self, order: Uuid) -> Result<Option<T>, AuditError> {
        while self.next_order().is_some_and(|next| next < order) {
            self.step().await?;
        }
        if self.next_order() == Some(order) { self.step().await } else { Ok(None) }
    }

    async fn step(&mut self) -> Result<Option<T>, AuditError> {
        let next = self.rows.try_next().await.map_err(self.side.failed())?;
        Ok(std::mem::replace(&mut self.next, next))
    }
}
