//! The outermost layer of every service: request ids, traces, logs, metrics, panics, and problems
//! rendered. What a handler returns passes here last.

use std::{any::Any, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri},
    middleware::{self, Next},
};
use gozon_contract::Dice;
use gozon_messaging::TraceParent;
use tokio::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument as _;

use crate::Problem;

/// The header that carries a request's id.
pub const REQUEST_ID: &str = "x-request-id";
const TRACEPARENT: &str = "traceparent";

/// Which request this is, in the extensions of every request.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The id that the client gave, or one made here.
    pub request_id: Arc<str>,
    /// This hop's span in the request's trace.
    pub trace: TraceParent,
}

/// Whose edge it is, and where ids come from.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The service's name in logs and metrics.
    pub service: &'static str,
    /// For ids of requests that bring none.
    pub dice: Dice,
}

/// Puts the edge around a service's routes. Unknown routes and wrong methods become problems too.
pub fn edge(routes: Router, edge: Edge) -> Router {
    observed(routes.fallback(no_route), edge)
}

/// The edge around routes that have a fallback of their own.
pub fn observed(routes: Router, edge: Edge) -> Router {
    routes
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(edge, observe))
}

async fn no_route(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "route_not_found", format!("nothing is at {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{} does not take {method}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

#[allow(clippy::needless_pass_by_value, reason = "the layer hands over the panic")]
fn panicked(panic: Box<dyn Any + Send>) -> Response<Body> {
    use axum::response::IntoResponse as _;
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Problem::internal(&format_args!("panic: {text}")).into_response()
}

async fn observe(State(edge): State<Edge>, mut request: Request, next: Next) -> Response<Body> {
    let started = Instant::now();
    let context = RequestContext {
        request_id: request_id(request.headers(), &edge.dice),
        trace: trace(request.headers(), &edge.dice),
    };
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let method = request.method().clone();
    let span = tracing::info_span!(
        "request",
        service = edge.service,
        request_id = %context.request_id,
        trace_id = context.trace.trace_id(),
        %method,
        path = request.uri().path(),
    );
    if let Ok(value) = HeaderValue::from_str(&context.request_id) {
        request.headers_mut().insert(REQUEST_ID, value);
    }
    request.extensions_mut().insert(context.clone());

    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let headers = std::mem::take(response.headers_mut());
        response = problem.render(&context.request_id);
        response.headers_mut().extend(headers);
    }
    if let Ok(value) = HeaderValue::from_str(&context.request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }

    let seconds = started.elapsed().as_secs_f64();
    let status = response.status();
    span.in_scope(|| {
        if status.is_server_error() {
            tracing::warn!(status = status.as_u16(), seconds, "answered");
        } else {
            tracing::debug!(status = status.as_u16(), seconds, "answered");
        }
    });
    let labels = [
        ("service", edge.service.to_owned()),
        ("route", route),
        ("method", method.to_string()),
        ("status", status.as_u16().to_string()),
    ];
    metrics::counter!("gozon_http_requests_total", &labels).increment(1);
    metrics::histogram!("gozon_http_request_seconds", "service" => edge.service).record(seconds);
    response
}

/// The client's id if it is 1 to 128 visible ASCII characters, or else 16 random bytes.
fn request_id(headers: &HeaderMap, dice: &Dice) -> Arc<str> {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    match given {
        Some(id) if (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) => {
            id.into()
        }
        _ => format!("{:016x}{:016x}", dice.roll(), dice.roll()).into(),
    }
}

fn trace(headers: &HeaderMap, dice: &Dice) -> TraceParent {
    headers
        .get(TRACEPARENT)
        .and_then(|value| value.to_str().ok()?.parse::<TraceParent>().ok())
        .map_or_else(|| TraceParent::start(dice), |parent| parent.child(dice))
}
