//! The web front end's files, with headers that let the page do nothing but talk to its own host.
//!
//! The page is at `/` and keeps its own routes behind `#`, so no other path is answered with it.

use std::{io, path::Path, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{Html, IntoResponse as _, Response},
};
use gozon_http::Problem;
use tower_http::services::ServeDir;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; font-src 'self'; manifest-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

const INDEX: &str = "/index.html";

/// How long files below `assets/` may be cached; they have their content's hash in the name.
const ASSETS_MAX_AGE: Duration = Duration::from_hours(365 * 24);

const NOT_BUILT: &str = "<!doctype html><title>Gozon</title><h1>The shop is open</h1>\
    <p>Its page is not built yet: run <code>make web</code>. \
    The API is described at <a href=/swagger>/swagger</a>.</p>";

/// Serves the folder's files, with its `index.html` at `/`.
pub fn routes(folder: &Path) -> Router {
    if !folder.join("index.html").is_file() {
        tracing::warn!(folder = %folder.display(), "no web front end here; `make web` builds it");
        return Router::new().fallback(not_built);
    }
    let files = ServeDir::new(folder)
        .append_index_html_on_directories(false)
        .precompressed_gzip()
        .precompressed_br();
    Router::new().fallback(serve).with_state(files)
}

async fn not_built(request: Request) -> Response {
    if request.uri().path() == "/" && is_read(&request) && accepts_html(&request) {
        return (StatusCode::NOT_FOUND, Html(NOT_BUILT)).into_response();
    }
    ([(header::CACHE_CONTROL, "no-store")], not_found(request.uri())).into_response()
}

async fn serve(State(files): State<ServeDir>, request: Request) -> Response {
    let is_asset = request.uri().path().starts_with("/assets/");
    let mut response = find(files, request).await.unwrap_or_else(Problem::into_response);
    let status = response.status();
    let caching = if status.is_client_error() {
        "no-store".to_owned()
    } else if is_asset && (status.is_success() || status == StatusCode::NOT_MODIFIED) {
        format!("public, max-age={}, immutable", ASSETS_MAX_AGE.as_secs())
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

/// The file that is asked for, if there is one and it may be asked for in this way.
async fn find(mut files: ServeDir, mut request: Request) -> Result<Response, Problem> {
    let uri = request.uri().clone();
    let is_read = is_read(&request);
    if uri.path() == "/" {
        *request.uri_mut() = Uri::from_static(INDEX);
    } else if uri.path().contains("//") {
        return Err(not_found(&uri));
    }
    let accepts_html = accepts_html(&request);
    if !is_read {
        // Only what is there can refuse a method.
        let path = request.uri().clone();
        request = Request::new(Body::empty());
        (*request.method_mut(), *request.uri_mut()) = (Method::HEAD, path);
    }
    let found = files.try_call(request).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::InvalidFilename => not_found(&uri),
        _ => Problem::internal(&error),
    })?;
    match found.status() {
        StatusCode::NOT_FOUND => Err(not_found(&uri)),
        _ if !is_read => Ok(wrong_method(&uri)),
        StatusCode::RANGE_NOT_SATISFIABLE => {
            let detail = "the file has no such range";
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            let mut response = Problem::new(status, "invalid_range", detail).into_response();
            let range = found.headers().get(header::CONTENT_RANGE).cloned();
            range.map(|range| response.headers_mut().insert(header::CONTENT_RANGE, range));
            Ok(response)
        }
        _ if is_html(&found) && !accepts_html => Err(not_found(&uri)),
        _ => Ok(found.map(Body::new)),
    }
}

fn is_html<B>(response: &Response<B>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"))
}

fn is_read(request: &Request) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}

/// Whether the client accepts HTML, as one that does not say accepts everything.
fn accepts_html(request: &Request) -> bool {
    let mut values = request.headers().get_all(header::ACCEPT).iter().peekable();
    let ranges = |value: &HeaderValue| {
        let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
        value.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_html = matches!(parts.next(), Some("text/html" | "text/*" | "*/*"));
            let weight = parts.find_map(|part| part.strip_prefix("q=")).unwrap_or("1");
            is_html && weight.parse().unwrap_or(1.0_f32) > 0.0
        })
    };
    values.peek().is_none() || values.any(ranges)
}

fn not_found(uri: &Uri) -> Problem {
    let detail = format!("nothing is at {}", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "route_not_found", detail)
}

fn wrong_method(uri: &Uri) -> Response {
    let detail = format!("{} can only be read", uri.path());
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail);
    ([(header::ALLOW, "GET,HEAD")], problem).into_response()
}
