//! Who is asking.

use axum::{extract::FromRequestParts, http::request::Parts};
use gozon_contract::UserId;

use crate::Problem;

const USER_ID: &str = "x-user-id";

/// The user, from the `X-User-Id` header that the shop's infrastructure has authenticated.
#[derive(Clone, Copy, Debug)]
pub struct CurrentUser(pub UserId);

impl<S: Sync> FromRequestParts<S> for CurrentUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(USER_ID).iter();
        let Some(value) = values.next() else {
            let detail = "the X-User-Id header is missing";
            return Err(Problem::unreadable("missing_user_id", detail));
        };
        let id = value.to_str().ok().and_then(|text| text.parse().ok());
        match (id, values.next()) {
            (Some(id), None) => Ok(Self(id)),
            _ => Err(Problem::unreadable("invalid_user_id", "X-User-Id must be one UUID")),
        }
    }
}
