//! `GET /orders/{id}`: one order.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
};
use gozon_contract::{Order, OrderId};
use gozon_http::Problem;

use super::App;
use crate::Call;

/// 404: the user has no such order.
pub fn order_not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "order_not_found", "the user has no such order")
}

/// One order
///
/// One of the user's orders, with its status. Another user's order is not found.
#[utoipa::path(
    get,
    path = "/orders/{id}",
    operation_id = "getOrder",
    tag = "orders",
    params(
        ("X-User-Id" = Uuid, Header, description = "The user"),
        ("id" = Uuid, Path, description = "The order's id"),
    ),
    responses(
        (status = 200, description = "The order", body = Order),
        (status = 400, description = "`missing_user_id`, `invalid_user_id`, `invalid_order_id`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`order_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`service_unavailable`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get(
    State(app): State<App>,
    call: Call,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Order>, Problem> {
    let id: OrderId = id
        .ok()
        .and_then(|Path(id)| id.parse().ok())
        .ok_or_else(|| Problem::unreadable("invalid_order_id", "an order's id is a UUID"))?;
    app.orders.get(call, id).await.map(Json)
}
