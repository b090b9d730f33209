//! The outermost layer of every service: request ids, traces, logs, metrics, panics, and problems
//! rendered. What a handler returns passes here last.

use std::{
    any::Any,
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri},
    middleware::{self, Next},
};
use gozon_contract::RandomSource;
use gozon_contract::TraceParent;
use metrics::{Counter, Histogram, counter, histogram};
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
    pub random: RandomSource,
}

/// Puts the edge around a service's routes. Unknown routes and wrong methods become problems too.
pub fn edge(routes: Router, edge: Edge) -> Router {
    observed(routes.fallback(no_route), edge)
}

/// The edge around routes that have a fallback of their own.
pub fn observed(routes: Router, edge: Edge) -> Router {
    let meters = Meters::new(edge.service);
    let observe = middleware::from_fn_with_state(Arc::new((edge, meters)), observe);
    // As one layer: the router boxes what each layer returns.
    routes
        .method_not_allowed_fallback(wrong_method)
        .layer((observe, CatchPanicLayer::custom(panicked)))
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

async fn observe(
    State(observer): State<Arc<(Edge, Meters)>>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let (edge, meters) = &*observer;
    let started = Instant::now();
    let context = RequestContext {
        request_id: request_id(request.headers(), &edge.random),
        trace: trace(request.headers(), &edge.random),
    };
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = name_of(request.method());
    let span = tracing::info_span!(
        "request",
        service = edge.service,
        request_id = %context.request_id,
        trace_id = context.trace.trace_id(),
        method = %request.method(),
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

    let took = started.elapsed();
    let seconds = took.as_secs_f64();
    let status = response.status();
    span.in_scope(|| {
        if status.is_server_error() {
            tracing::warn!(status = status.as_u16(), seconds, "answered");
        } else {
            tracing::debug!(status = status.as_u16(), seconds, "answered");
        }
    });
    meters.answered(route.as_ref().map_or("unmatched", MatchedPath::as_str), method, status, took);
    response
}

/// What is counted. Each is looked up by its labels once, and not before the first request: whoever
/// collects may start after the routes were made.
struct Meters {
    service: &'static str,
    seconds: OnceLock<Histogram>,
    routes: RwLock<HashMap<String, Requests>>,
}

/// The requests to a route, by method and status.
type Requests = HashMap<(&'static str, StatusCode), Counter>;

impl Meters {
    fn new(service: &'static str) -> Self {
        Self { service, seconds: OnceLock::new(), routes: RwLock::default() }
    }

    fn answered(&self, route: &str, method: &'static str, status: StatusCode, took: Duration) {
        let seconds = || histogram!("gozon_http_request_seconds", "service" => self.service);
        self.seconds.get_or_init(seconds).record(took.as_secs_f64());
        let known = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(requests) = known.get(route).and_then(|these| these.get(&(method, status))) {
            return requests.increment(1);
        }
        drop(known);
        let labels = [
            ("service", self.service.to_owned()),
            ("route", route.to_owned()),
            ("method", method.to_owned()),
            ("status", status.as_u16().to_string()),
        ];
        let requests = counter!("gozon_http_requests_total", &labels);
        requests.increment(1);
        let mut known = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(route.to_owned()).or_default().insert((method, status), requests);
    }
}

/// A method as a label. Clients may make methods up; labels are kept for ever.
fn name_of(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// The client's id if it is 1 to 128 visible ASCII characters, or else 16 random bytes.
fn request_id(headers: &HeaderMap, random: &RandomSource) -> Arc<str> {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    match given {
        Some(id) if (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) => {
            id.into()
        }
        _ => format!("{:016x}{:016x}", random.next_u64(), random.next_u64()).into(),
    }
}

fn trace(headers: &HeaderMap, random: &RandomSource) -> TraceParent {
    headers
        .get(TRACEPARENT)
        .and_then(|value| value.to_str().ok()?.parse::<TraceParent>().ok())
        .map_or_else(|| TraceParent::start(random), |parent| parent.child(random))
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tower::ServiceExt as _;

    use super::*;

    #[test]
    fn requests_are_counted_under_few_labels() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let edge = Edge { service: "test", random: RandomSource::seeded(1) };
        let routes = observed(Router::new().route("/things/{id}", get(async || "a thing")), edge);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        metrics::with_local_recorder(&recorder, || {
            runtime.block_on(async {
                for (method, path) in [
                    ("GET", "/things/1"),
                    ("GET", "/things/2"),
                    ("GET", "/nothing"),
                    ("BREW", "/things/1"),
                    ("BREW2", "/things/1"),
                ] {
                    let request = Request::builder().method(method).uri(path);
                    let request = request.body(Body::empty()).unwrap();
                    routes.clone().oneshot(request).await.unwrap();
                }
            });
        });
        let text = recorder.handle().render();
        for (route, method, status, count) in [
            ("/things/{id}", "GET", 200, 2),
            ("/things/{id}", "other", 405, 2),
            ("unmatched", "GET", 404, 1),
        ] {
            let line = format!(
                "gozon_http_requests_total{{service=\"test\",route=\"{route}\",\
                 method=\"{method}\",status=\"{status}\"}} {count}\n"
            );
            assert!(text.contains(&line), "{line} in {text}");
        }
        assert!(text.contains("gozon_http_request_seconds_count{service=\"test\"} 5\n"), "{text}");
    }
}
