//! What the service offers, over its own database.

use std::sync::Arc;

use async_trait::async_trait;
use gozon_api::{
    Call, OrdersApi,
    live::{Watch, WatchOrders, no_room, shutting_down},
    orders::{ListOrders, NewOrder, Placed, cursor, order_not_found},
};
use gozon_contract::{Order, OrderId, OrderStatus};
use gozon_http::{Answered, IdempotencyKey, Page, Problem};
use gozon_seam::mutation;
use gozon_service::{KeyedRequest, find_answer, store_problem};

use crate::{
    place::Placement,
    service::App,
    sql::{self, Filter},
    stream::{self, Full},
};

#[async_trait]
impl OrdersApi for App {
    async fn place(
        &self,
        call: Call,
        order: NewOrder,
        key: Option<IdempotencyKey>,
    ) -> Result<Answered<Placed>, Problem> {
        let request = key.map(|key| KeyedRequest::new(key, "POST /orders", &order));
        if let Err(closed) = self.intake.check() {
            // A repeat of an order that was placed is no new one.
            let placed = match &request {
                Some(_) if mutation!("no repeats while no new orders are taken") => None,
                Some(request) => find_answer(&self.db, call.user, request).await?,
                None => None,
            };
            return placed.ok_or(closed);
        }

        let now = self.clock.now();
        let order = Order {
            id: OrderId::new(now, &self.random),
            user_id: call.user,
            amount: order.amount,
            description: order.description,
            status: OrderStatus::New,
            cancel_reason: None,
            version: 1,
            created_at: now,
            updated_at: now,
        };
        let placement = Placement { order: Arc::new(order), trace: call.context.trace };
        self.place.submit(call.user, request, placement).await
    }

    async fn get(&self, call: Call, id: OrderId) -> Result<Order, Problem> {
        let mut reader = self.db.read().await.map_err(store_problem)?;
        let order = sql::find_order(&mut reader, call.user, id).await.map_err(store_problem)?;
        order.ok_or_else(order_not_found)
    }

    async fn list(&self, call: Call, query: ListOrders) -> Result<Page<Order>, Problem> {
        let ListOrders { before, status, limit } = query;
        let mut reader = self.db.read().await.map_err(store_problem)?;
        let filter = Filter { before, status };
        let orders = sql::list_orders(&mut reader, call.user, filter, limit + 1).await;
        let orders = orders.map_err(store_problem)?;
        Ok(Page::cut(orders, limit, |order| cursor(order.id)))
    }

    async fn watch(&self, call: Call, query: WatchOrders) -> Result<Watch, Problem> {
        if self.streams_stop.is_cancelled() {
            return Err(shutting_down());
        }
        let subscription = self.subscriptions.subscribe(call.user);
        let subscription = subscription.map_err(|full| no_room(full == Full::User))?;
        Ok(stream::watch(self.clone(), call.user, subscription, query))
    }
}
