//! `/livez` and `/readyz`: whether a process runs, and whether it can do its work.

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, header},
    routing::get,
};
use futures_util::future::{BoxFuture, join_all};
use serde_json::{Value, json};
use tokio::time::timeout;
use utoipa::openapi::OpenApi;

use crate::{FieldError, Problem};

/// How long a part may take to answer before it counts as away.
const PATIENCE: Duration = Duration::from_secs(2);

type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What a process needs to do its work: named parts, each with a question to ask it.
#[derive(Clone, Default)]
pub struct Health {
    parts: Vec<(String, Check)>,
}

impl Health {
    /// Adds a part. Its error is public: name what is missing and nothing internal.
    #[must_use]
    pub fn with<F>(
        mut self,
        part: impl Into<String>,
        check: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.parts.push((part.into(), Arc::new(move || Box::pin(check()))));
        self
    }

    /// The parts of both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.parts.extend(other.parts);
        self
    }

    /// Asks every part at once; those that are missing, each with the reason.
    pub async fn missing(&self) -> Vec<(String, String)> {
        let asked = self.parts.iter().map(|(part, check)| async move {
            let answer = timeout(PATIENCE, check()).await;
            let reason = answer.unwrap_or_else(|_| Err("does not answer".to_owned())).err()?;
            Some((part.clone(), reason))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

/// `/openapi.json`: the service's own document.
///
/// # Panics
/// If the document is no JSON value.
#[allow(clippy::needless_pass_by_value, reason = "callers have no further use for it")]
pub fn openapi_route(document: OpenApi) -> Router {
    let text = Bytes::from(document.to_json().expect("an OpenAPI document is a JSON value"));
    let json = [(header::CONTENT_TYPE, "application/json")];
    Router::new().route("/openapi.json", get(async move || (json, text)))
}

/// `/livez` and `/readyz`.
pub fn health_routes(health: Health) -> Router {
    Router::new()
        .route("/livez", get(|| async { Json(json!({"status": "alive"})) }))
        .route("/readyz", get(readyz))
        .with_state(health)
}

async fn readyz(State(health): State<Health>) -> Result<Json<Value>, Problem> {
    let missing = health.missing().await;
    if missing.is_empty() {
        let parts: Vec<_> = health.parts.iter().map(|(part, _)| part).collect();
        return Ok(Json(json!({"status": "ready", "parts": parts})));
    }
    let errors = missing
        .into_iter()
        .map(|(field, detail)| FieldError { field, code: Cow::Borrowed("away"), detail })
        .collect();
    let detail = "not ready: see errors for the parts that are missing";
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", detail);
    Err(Problem { errors, retry_after: Some(1), ..problem })
}
