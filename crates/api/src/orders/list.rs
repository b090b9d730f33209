//! `GET /orders`: the user's orders.

use axum::{Json, extract::State};
use gozon_contract::{Order, OrderId, OrderStatus};
use gozon_http::{Page, Params, Problem};
use uuid::Uuid;

use super::App;
use crate::Call;

/// Which of a user's orders to list.
#[derive(Clone, Copy, Debug)]
pub struct ListOrders {
    /// Only those with a smaller id.
    pub before: Option<OrderId>,
    /// Only those with this status.
    pub status: Option<OrderStatus>,
    /// The most orders, 1 to 100.
    pub limit: usize,
}

/// The cursor of the page after this order.
pub fn cursor(order: OrderId) -> String {
    format!("o{}", order.uuid().simple())
}

/// The order that a page ended with that has this cursor.
pub fn read_cursor(text: &str) -> Option<OrderId> {
    let hex = text.strip_prefix('o').filter(|hex| hex.len() == 32)?;
    Uuid::try_parse(hex).ok().map(OrderId::from)
}

/// The user's orders
///
/// The user's orders, newest first.
#[utoipa::path(
    get,
    path = "/orders",
    operation_id = "listOrders",
    tag = "orders",
    params(
        ("X-User-Id" = Uuid, Header, description = "The user"),
        ("limit" = Option<i32>, Query, description = "The most items, 1 to 100; 20 unless given", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, min_length = 1, description = "`next_cursor` of the page before; without it the list begins. Anything else, the empty text too, is `invalid_cursor`"),
        ("status" = Option<OrderStatus>, Query, description = "Only orders with this status; `CANCELED` is read as `CANCELLED`"),
    ),
    responses(
        (status = 200, description = "A page", body = Page<Order>),
        (status = 400, description = "`missing_user_id`, `invalid_user_id`, `invalid_limit`, `invalid_cursor`, `invalid_query`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`validation_failed`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`service_unavailable`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn list(
    State(app): State<App>,
    call: Call,
    params: Params,
) -> Result<Json<Page<Order>>, Problem> {
    let page = params.page()?;
    let status = params.get("status").map(str::parse::<OrderStatus>).transpose();
    let status = status.map_err(|error| Params::out_of_range("status", error.to_string()))?;
    let before = page.cursor(read_cursor)?;
    let query = ListOrders { before, status, limit: page.limit };
    app.orders.list(call, query).await.map(Json)
}
