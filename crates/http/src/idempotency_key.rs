//! The `Idempotency-Key` header.
//! After <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>.

use std::str::FromStr;

use axum::http::{HeaderMap, HeaderName};

use crate::Problem;

/// The header.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The key that a client gave to a request: 1 to 255 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

fn invalid() -> Problem {
    let detail = "Idempotency-Key must be 1 to 255 visible ASCII characters, given once";
    Problem::unreadable("invalid_idempotency_key", detail)
}

impl IdempotencyKey {
    /// The request's key, if it has one.
    ///
    /// # Errors
    /// 400 `invalid_idempotency_key` if it is no such key, or given twice.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(invalid());
        }
        value.to_str().map_err(|_| invalid())?.parse().map(Some)
    }
}

impl FromStr for IdempotencyKey {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if visible && (1..=255).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(invalid())
        }
    }
}

impl From<IdempotencyKey> for String {
    fn from(key: IdempotencyKey) -> Self {
        key.0
    }
}
