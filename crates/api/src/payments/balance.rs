//! `GET /accounts/balance`: the user's account.

use axum::{Json, extract::State, http::StatusCode};
use gozon_contract::Account;
use gozon_http::Problem;

use super::App;
use crate::Call;

/// 404: the user has no account.
pub fn account_not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "account_not_found", "the user has no account")
}

/// Balance
///
/// The user's account with its balance.
#[utoipa::path(
    get,
    path = "/accounts/balance",
    operation_id = "getBalance",
    tag = "accounts",
    params(("X-User-Id" = Uuid, Header, description = "The user")),
    responses(
        (status = 200, description = "The account", body = Account),
        (status = 400, description = "`missing_user_id`, `invalid_user_id`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`account_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`service_unavailable`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn balance(State(app): State<App>, call: Call) -> Result<Json<Account>, Problem> {
    app.payments.balance(call).await.map(Json)
}
