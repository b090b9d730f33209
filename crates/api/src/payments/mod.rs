//! What the payments service offers.

mod balance;
mod deposit;
mod entries;
mod open_account;

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use gozon_contract::{Account, Entry};
use gozon_http::{Answered, IdempotencyKey, Page, Problem, openapi_route};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use balance::account_not_found;
pub use deposit::{Deposit, ToppedUp};
pub use entries::{ListEntries, cursor, read_cursor};
pub use open_account::Opened;

use crate::Call;

/// What the payments service offers.
///
/// Errors of every call: 503 while the service can't do its work, and what the gateway answers when
/// it can't be reached. A repeat with the same key gives the first answer again.
#[async_trait]
pub trait PaymentsApi: Send + Sync + 'static {
    /// Opens the user's account; 409 `account_exists` if there is one.
    async fn open_account(
        &self,
        call: Call,
        key: Option<IdempotencyKey>,
    ) -> Result<Answered<Opened>, Problem>;

    /// Adds to the user's balance; 404 `account_not_found`, 422 `balance_limit`.
    async fn deposit(
        &self,
        call: Call,
        deposit: Deposit,
        key: Option<IdempotencyKey>,
    ) -> Result<Answered<ToppedUp>, Problem>;

    /// The user's account; 404 `account_not_found`.
    async fn balance(&self, call: Call) -> Result<Account, Problem>;

    /// The account's ledger, newest entry first; 404 `account_not_found`.
    async fn entries(&self, call: Call, query: ListEntries) -> Result<Page<Entry>, Problem>;
}

/// What the endpoints share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) payments: Arc<dyn PaymentsApi>,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Gozon payments", description = "Accounts, top-ups and the ledger"),
    tags((name = "accounts", description = "An account for each user, with its ledger"))
)]
struct Document;

fn endpoints() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(open_account::open_account))
        .routes(routes!(deposit::deposit))
        .routes(routes!(balance::balance))
        .routes(routes!(entries::entries))
}

/// The OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    endpoints().into_openapi()
}

/// REST, and the document at `/openapi.json`.
pub fn rest(payments: Arc<dyn PaymentsApi>) -> Router {
    let (routes, document) = endpoints().split_for_parts();
    routes.with_state(App { payments }).merge(openapi_route(document))
}
