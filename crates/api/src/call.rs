//! Who calls, and as part of what.

use axum::{Extension, extract::FromRequestParts, http::request::Parts};
use gozon_contract::UserId;
use gozon_http::{CurrentUser, Problem, RequestContext};

/// A call of a user.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who calls.
    pub user: UserId,
    /// The request that the call is part of: its id, its trace and its deadline.
    pub context: RequestContext,
}

impl<S: Sync> FromRequestParts<S> for Call {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let CurrentUser(user) = CurrentUser::from_request_parts(parts, state).await?;
        Self::of(user, parts).await
    }
}

impl Call {
    /// A call of this user.
    ///
    /// # Errors
    /// 500 if the request has not passed the [edge](gozon_http::edge).
    pub async fn of(user: UserId, parts: &mut Parts) -> Result<Self, Problem> {
        let context = Extension::<RequestContext>::from_request_parts(parts, &()).await;
        let Extension(context) = context.map_err(|error| Problem::internal(&error))?;
        Ok(Self { user, context })
    }
}
