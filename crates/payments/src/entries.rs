//! `GET /accounts/entries`: the account's ledger.

use axum::{Json, extract::State};
use gozon_http::{CurrentUser, Page, Params, Problem};
use gozon_service::store_problem;

use crate::{balance::account_not_found, ledger::Entry, service::App, sql};

/// Ledger
///
/// The account's ledger, newest entry first.
#[utoipa::path(
    get,
    path = "/accounts/entries",
    operation_id = "listEntries",
    tag = "accounts",
    params(
        ("X-User-Id" = Uuid, Header, description = "The user"),
        ("limit" = Option<i32>, Query, description = "The most items, 1 to 100; 20 unless given", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, min_length = 1, description = "`next_cursor` of the page before; without it the list begins. Anything else, the empty text too, is `invalid_cursor`"),
    ),
    responses(
        (status = 200, description = "A page", body = Page<Entry>),
        (status = 400, description = "`missing_user_id`, `invalid_user_id`, `invalid_limit`, `invalid_cursor`, `invalid_query`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`account_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`validation_failed`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`service_unavailable`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn entries(
    State(app): State<App>,
    CurrentUser(user): CurrentUser,
    params: Params,
) -> Result<Json<Page<Entry>>, Problem> {
    let page = params.page()?;
    let before = page.cursor(read_cursor)?.unwrap_or(i64::MAX);
    let mut reader = app.db.read().await.map_err(store_problem)?;
    let entries = sql::list_entries(&mut reader, user, before, page.limit + 1)
        .await
        .map_err(store_problem)?;
    // An account without entries and no account look alike in the ledger.
    if entries.is_empty()
        && sql::find_account(&mut reader, user).await.map_err(store_problem)?.is_none()
    {
        return Err(account_not_found());
    }
    Ok(Json(Page::cut(entries, page.limit, |entry| format!("e{:x}", entry.seq))))
}

fn read_cursor(text: &str) -> Option<i64> {
    let seq = i64::from_str_radix(text.strip_prefix('e')?, 16).ok()?;
    (seq > 0 && format!("e{seq:x}") == text).then_some(seq)
}
