//! The orders service, called over gRPC.

use async_trait::async_trait;
use gozon_api::{
    Call, OrdersApi,
    live::{Watch, WatchOrders},
    orders::{ListOrders, NewOrder, Placed, cursor},
};
use gozon_contract::{Order, OrderId, RandomSource};
use gozon_http::{Answered, IdempotencyKey, Page, Problem};

use super::{Transport, answered, request, unreadable, watch};
use crate::{
    convert::{order_status, read_order},
    proto::orders::{
        GetOrderRequest, ListOrdersRequest, PlaceOrderRequest,
        orders_service_client::OrdersServiceClient,
    },
    status::problem,
};

/// The orders service, called over gRPC.
pub struct OrdersClient<T> {
    grpc: OrdersServiceClient<T>,
    /// For jitter.
    random: RandomSource,
}

impl<T: Transport> OrdersClient<T> {
    /// Calls go over `transport`.
    pub fn new(transport: T, random: RandomSource) -> Self {
        Self { grpc: OrdersServiceClient::new(transport), random }
    }
}

#[async_trait]
impl<T: Transport> OrdersApi for OrdersClient<T> {
    async fn place(
        &self,
        call: Call,
        order: NewOrder,
        key: Option<IdempotencyKey>,
    ) -> Result<Answered<Placed>, Problem> {
        let message = PlaceOrderRequest {
            user_id: call.user.to_string(),
            amount: order.amount.minor(),
            description: order.description.into(),
            idempotency_key: key.map(String::from),
        };
        let request = request(&call, message.idempotency_key.is_some(), message);
        let answer = self.grpc.clone().place_order(request).await;
        answered(answer, |message| Some(Placed(read_order(message.order?)?)))
    }

    async fn get(&self, call: Call, id: OrderId) -> Result<Order, Problem> {
        let message = GetOrderRequest { user_id: call.user.to_string(), order_id: id.to_string() };
        let answer = self.grpc.clone().get_order(request(&call, true, message)).await;
        let message = answer.map_err(|status| problem(&status))?.into_inner();
        message.order.and_then(read_order).ok_or_else(unreadable)
    }

    async fn list(&self, call: Call, query: ListOrders) -> Result<Page<Order>, Problem> {
        let message = ListOrdersRequest {
            user_id: call.user.to_string(),
            page_size: i32::try_from(query.limit).unwrap_or(i32::MAX),
            page_token: query.before.map(cursor).unwrap_or_default(),
            status: query.status.map_or(0, |status| order_status(status).into()),
        };
        let answer = self.grpc.clone().list_orders(request(&call, true, message)).await;
        let message = answer.map_err(|status| problem(&status))?.into_inner();
        let items: Option<Vec<_>> = message.orders.into_iter().map(read_order).collect();
        let next_cursor = Some(message.next_page_token).filter(|token| !token.is_empty());
        Ok(Page { items: items.ok_or_else(unreadable)?, next_cursor })
    }

    async fn watch(&self, call: Call, query: WatchOrders) -> Result<Watch, Problem> {
        watch::start(self.grpc.clone(), call, query, self.random.clone()).await
    }
}
