//! The web front end's files, with headers that let the page do nothing but talk to its own host.

use std::{path::Path, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
};
use tower_http::services::{ServeDir, ServeFile};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; font-src 'self'; manifest-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

/// Files below `assets/` have their content's hash in the name.
const FOREVER: Duration = Duration::from_hours(365 * 24);

/// Serves the folder; any path that is no file is the page itself.
pub fn routes(folder: &Path) -> Router {
    if !folder.join("index.html").is_file() {
        tracing::warn!(folder = %folder.display(), "no web front end here; `make web` builds it");
        return Router::new().fallback(not_built);
    }
    let files = ServeDir::new(folder)
        .precompressed_gzip()
        .precompressed_br()
        .fallback(ServeFile::new(folder.join("index.html")));
    Router::new().fallback_service(files).layer(middleware::from_fn(add_headers))
}

async fn not_built() -> impl IntoResponse {
    let page = "<!doctype html><title>Gozon</title><h1>The shop is open</h1>\
        <p>Its page is not built yet: run <code>make web</code>. \
        The API is described at <a href=/swagger>/swagger</a>.</p>";
    (StatusCode::NOT_FOUND, Html(page))
}

async fn add_headers(request: Request, next: Next) -> Response {
    let hashed = request.uri().path().starts_with("/assets/");
    let mut response = next.run(request).await;
    let caching = if hashed && response.status().is_success() {
        format!("public, max-age={}, immutable", FOREVER.as_secs())
    } else {
        "no-cache".to_owned()
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::from_str(&caching) {
        headers.insert(header::CACHE_CONTROL, value);
    }
    response
}
