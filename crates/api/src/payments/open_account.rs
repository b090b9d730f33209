//! `POST /accounts`: open the user's account.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use gozon_contract::Account;
use gozon_http::{Answered, Fields, IdempotencyKey, Problem, Reply};
use serde::{Deserialize, Serialize};

use super::App;
use crate::Call;

/// The account that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Opened(pub Account);

impl Reply for Opened {
    const STATUS: StatusCode = StatusCode::CREATED;

    fn location(&self) -> Option<String> {
        Some("/accounts/balance".to_owned())
    }
}

/// Open an account
///
/// Opens the user's account with a balance of 0. A user has at most one.
#[utoipa::path(
    post,
    path = "/accounts",
    operation_id = "openAccount",
    tag = "accounts",
    params(
        ("X-User-Id" = Uuid, Header, description = "The user"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$", description = "A repeat with the same key does nothing twice"),
    ),
    responses(
        (status = 201, description = "The account", body = Account),
        (status = 400, description = "`missing_user_id`, `invalid_user_id`, `invalid_idempotency_key`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`account_exists`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`idempotency_key_reused`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`service_unavailable`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn open_account(
    State(app): State<App>,
    call: Call,
    headers: HeaderMap,
    _nothing_is_needed: Option<Fields>,
) -> Result<Answered<Opened>, Problem> {
    let key = IdempotencyKey::of(&headers)?;
    app.payments.open_account(call, key).await
}
