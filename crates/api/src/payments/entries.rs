//! `GET /accounts/entries`: the account's ledger.

use axum::{Json, extract::State};
use gozon_contract::Entry;
use gozon_http::{Page, Params, Problem};

use super::App;
use crate::Call;

/// Which of an account's entries to list.
#[derive(Clone, Copy, Debug)]
pub struct ListEntries {
    /// Only those with a smaller `seq`.
    pub before: Option<i64>,
    /// The most entries, 1 to 100.
    pub limit: usize,
}

/// The cursor of the page after this entry.
pub fn cursor(seq: i64) -> String {
    format!("e{seq:x}")
}

/// The `seq` of the entry that a page ended with that has this cursor.
pub fn read_cursor(text: &str) -> Option<i64> {
    let seq = i64::from_str_radix(text.strip_prefix('e')?, 16).ok()?;
    (seq > 0 && cursor(seq) == text).then_some(seq)
}

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
    call: Call,
    params: Params,
) -> Result<Json<Page<Entry>>, Problem> {
    let page = params.page()?;
    let before = page.cursor(read_cursor)?;
    let query = ListEntries { before, limit: page.limit };
    app.payments.entries(call, query).await.map(Json)
}
