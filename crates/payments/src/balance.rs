//! `GET /accounts/balance`: the user's account.

use axum::{Json, extract::State, http::StatusCode};
use gozon_http::{CurrentUser, Problem};
use gozon_service::store_problem;

use crate::{ledger::Account, service::App, sql};

/// 404: the user has no account.
pub(crate) fn account_not_found() -> Problem {
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
pub(crate) async fn balance(
    State(app): State<App>,
    CurrentUser(user): CurrentUser,
) -> Result<Json<Account>, Problem> {
    let mut reader = app.db.read().await.map_err(store_problem)?;
    let account = sql::find_account(&mut reader, user).await.map_err(store_problem)?;
    account.map(Json).ok_or_else(account_not_found)
}
