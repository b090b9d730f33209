//! `POST /accounts/deposit`: top up.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use gozon_contract::{Account, Money};
use gozon_http::{Answered, Fields, IdempotencyKey, Problem, Reply};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use crate::Call;

/// A top-up.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Deposit {
    /// How much to add, in minor units.
    pub amount: Money,
}

/// The account after a top-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ToppedUp(pub Account);

impl Reply for ToppedUp {
    const STATUS: StatusCode = StatusCode::OK;

    fn location(&self) -> Option<String> {
        None
    }
}

/// Top up
///
/// Adds `amount` to the user's balance.
#[utoipa::path(
    post,
    path = "/accounts/deposit",
    operation_id = "deposit",
    tag = "accounts",
    params(
        ("X-User-Id" = Uuid, Header, description = "The user"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$", description = "A repeat with the same key does nothing twice"),
    ),
    request_body = Deposit,
    responses(
        (status = 200, description = "The account after it", body = Account),
        (status = 400, description = "`missing_user_id`, `invalid_user_id`, `invalid_json`, `invalid_idempotency_key`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`account_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`body_too_large`", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported_media_type`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`validation_failed`, `balance_limit`, `idempotency_key_reused`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`service_unavailable`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn deposit(
    State(app): State<App>,
    call: Call,
    headers: HeaderMap,
    mut fields: Fields,
) -> Result<Answered<ToppedUp>, Problem> {
    let amount = fields.money("amount");
    let deposit = Deposit { amount: fields.finish(amount)? };
    let key = IdempotencyKey::of(&headers)?;
    app.payments.deposit(call, deposit, key).await
}
