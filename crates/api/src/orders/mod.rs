//! What the orders service offers.

mod get;
mod list;
mod place;

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use gozon_contract::{Order, OrderId};
use gozon_http::{Answered, IdempotencyKey, Page, Problem, openapi_route};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use get::order_not_found;
pub use list::{ListOrders, cursor, read_cursor};
pub use place::{NewOrder, Placed};

use crate::{
    Call, Live,
    live::{self, Watch, WatchOrders},
};

/// What the orders service offers.
///
/// Errors of every call: 503 while the service can't do its work, and what the gateway answers when
/// it can't be reached.
#[async_trait]
pub trait OrdersApi: Send + Sync + 'static {
    /// Places an order. A repeat with the same key gives the first answer again.
    async fn place(
        &self,
        call: Call,
        order: NewOrder,
        key: Option<IdempotencyKey>,
    ) -> Result<Answered<Placed>, Problem>;

    /// One of the user's orders; 404 `order_not_found` for any other.
    async fn get(&self, call: Call, id: OrderId) -> Result<Order, Problem>;

    /// The user's orders, newest first.
    async fn list(&self, call: Call, query: ListOrders) -> Result<Page<Order>, Problem>;

    /// The user's orders and their changes; 429 or 503 `too_many_sockets` if there is no room.
    async fn watch(&self, call: Call, query: WatchOrders) -> Result<Watch, Problem>;
}

/// What the endpoints share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) orders: Arc<dyn OrdersApi>,
    pub(crate) live: Live,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Gozon orders", description = "Placing orders and following them"),
    tags((name = "orders", description = "Orders, and how their payment ends"))
)]
struct Document;

fn endpoints() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(place::place, list::list))
        .routes(routes!(live::stream))
        .routes(routes!(get::get))
}

/// The OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    endpoints().into_openapi()
}

/// REST, and the document at `/openapi.json`.
pub fn rest(orders: Arc<dyn OrdersApi>, live: Live) -> Router {
    let (routes, document) = endpoints().split_for_parts();
    routes.with_state(App { orders, live }).merge(openapi_route(document))
}
