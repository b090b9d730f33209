//! `POST /orders`: place an order.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use gozon_contract::{Description, Money, Order};
use gozon_http::{Answered, Fields, IdempotencyKey, Problem, Reply};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use crate::Call;

/// What to order.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NewOrder {
    /// What it costs, in minor units.
    pub amount: Money,
    /// What it is.
    pub description: Description,
}

/// The order that was placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Placed(pub Order);

impl Reply for Placed {
    const STATUS: StatusCode = StatusCode::CREATED;

    fn location(&self) -> Option<String> {
        Some(format!("/orders/{}", self.0.id))
    }
}

/// Place an order
///
/// The order is NEW at first; it is paid for in the background and becomes FINISHED, or CANCELLED
/// with the reason.
#[utoipa::path(
    post,
    path = "/orders",
    operation_id = "placeOrder",
    tag = "orders",
    params(
        ("X-User-Id" = Uuid, Header, description = "The user"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$", description = "A repeat with the same key does nothing twice"),
    ),
    request_body = NewOrder,
    responses(
        (status = 201, description = "The order", body = Order, headers(("Location" = String, description = "Where it is found")), links(
            ("order" = (operation_id = "getOrder", parameters(("id" = "$response.body#/id"), ("X-User-Id" = "$request.header.X-User-Id")))),
        )),
        (status = 400, description = "`missing_user_id`, `invalid_user_id`, `invalid_json`, `invalid_idempotency_key`", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`body_too_large`", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported_media_type`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`validation_failed`, `idempotency_key_reused`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`service_unavailable`, `too_many_unsettled`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn place(
    State(app): State<App>,
    call: Call,
    headers: HeaderMap,
    mut fields: Fields,
) -> Result<Answered<Placed>, Problem> {
    let amount = fields.money("amount");
    let description = fields.description("description");
    let (amount, description) = fields.finish(amount.zip(description))?;
    let key = IdempotencyKey::of(&headers)?;
    app.orders.place(call, NewOrder { amount, description }, key).await
}
