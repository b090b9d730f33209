//! The outermost layer of every service: request ids, traces, logs, metrics, panics, and problems
//! rendered. What a handler returns passes here last.
//!
//! In `gozon up` the gateway calls the services' routes in its own process. Its edge has done all
//! this already, so that of the service only counts and times the request.

use std::{
    any::Any,
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, HttpBody as _},
    extract::{MatchedPath, Request},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    response::IntoResponse as _,
};
use futures_util::FutureExt as _;
use gozon_contract::{RandomSource, TraceParent};
use tokio::time::Instant;
use tower::{Layer, Service};
use tracing::Instrument as _;

use crate::{
    Problem,
    problem::GRPC,
    request_metrics::{RequestMetrics, method_label},
};

/// The header that carries a request's id.
pub const REQUEST_ID: &str = "x-request-id";
const TRACEPARENT: &str = "traceparent";
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Which request this is, in the extensions of every request.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The id that the client gave, or one made here.
    pub request_id: Arc<str>,
    /// This hop's span in the request's trace.
    pub trace: TraceParent,
    /// When nobody waits for the answer any more, if that is known.
    pub deadline: Option<Instant>,
}

/// In the extensions of a gRPC response: the HTTP status that the same answer has over REST.
#[derive(Clone, Copy, Debug)]
pub struct RestStatus(pub StatusCode);

/// The service, and where ids come from.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The service's name in logs and metrics.
    pub service: &'static str,
    /// For ids of requests that bring none.
    pub random: RandomSource,
}

/// Puts the edge around routes. What a library answers without a word, such as to unknown routes and
/// wrong methods, becomes a problem too.
pub fn edge(routes: Router, edge: Edge) -> Router {
    let metrics = RequestMetrics::new(edge.service);
    routes.layer(EdgeLayer(Arc::new(Observer { edge, metrics })))
}

fn panicked(panic: &(dyn Any + Send)) -> Response<Body> {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Problem::internal(&format_args!("panic: {text}")).into_response()
}

struct Observer {
    edge: Edge,
    metrics: RequestMetrics,
}

#[derive(Clone)]
struct EdgeLayer(Arc<Observer>);

#[derive(Clone)]
struct EdgeService<S> {
    inner: S,
    observer: Arc<Observer>,
}

impl<S> Layer<S> for EdgeLayer {
    type Service = EdgeService<S>;

    fn layer(&self, inner: S) -> EdgeService<S> {
        EdgeService { inner, observer: self.0.clone() }
    }
}

impl<S> Service<Request> for EdgeService<S>
where
    S: Service<Request, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let observer = self.observer.clone();
        let started = Instant::now();
        let method = method_label(request.method());
        let route = request.extensions().get::<MatchedPath>().cloned();
        let count = move |response: &mut Response<Body>| {
            let took = started.elapsed();
            let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
            observer.metrics.answered(route, method, status(response), took);
            add_timing(response.headers_mut(), observer.edge.service, took);
            took
        };
        if request.extensions().get::<RequestContext>().is_some() {
            let inner = self.inner.call(request);
            return Box::pin(async move {
                let mut response = inner.await?;
                count(&mut response);
                Ok(response)
            });
        }

        let Edge { service, random } = &self.observer.edge;
        let context = RequestContext {
            request_id: request_id(request.headers(), random),
            trace: trace(request.headers(), random),
            deadline: None,
        };
        let is_grpc = is_grpc(request.headers());
        // Writing a span's fields down is a quarter of what a request costs here, and a request
        // that is answered well has nothing to log: the span is for debugging.
        let span = tracing::debug_span!(
            "request",
            service,
            request_id = %context.request_id,
            trace_id = context.trace.trace_id(),
            method = %request.method(),
            path = request.uri().path(),
        );
        let (asked, uri, service) = (request.method().clone(), request.uri().clone(), *service);
        request.extensions_mut().insert(context.clone());
        let inner = self.inner.call(request);
        let answer = async move {
            let mut response = match AssertUnwindSafe(inner).catch_unwind().await {
                Ok(Ok(response)) => response,
                Err(panic) => panicked(&*panic),
            };
            let problem = response
                .extensions_mut()
                .remove::<Problem>()
                .or_else(|| unexplained(&response, &asked, uri.path()));
            let cause = problem.as_ref().and_then(|problem| problem.cause.clone());
            if let Some(problem) = problem {
                let mut headers = std::mem::take(response.headers_mut());
                headers.remove(CONTENT_LENGTH);
                response = if is_grpc {
                    problem.render_grpc()
                } else {
                    problem.render(&context.request_id)
                };
                response.headers_mut().extend(headers);
            }
            if let Ok(value) = HeaderValue::from_str(&context.request_id) {
                response.headers_mut().insert(REQUEST_ID, seen_once(value));
            }
            let (took, status) = (count(&mut response), status(&response));
            if status.is_server_error() {
                tracing::warn!(
                    service,
                    request_id = %context.request_id,
                    trace_id = context.trace.trace_id(),
                    method,
                    path = uri.path(),
                    status = status.as_u16(),
                    seconds = took.as_secs_f64(),
                    cause,
                    "answered"
                );
            } else {
                let (status, seconds) = (status.as_u16(), took.as_secs_f64());
                tracing::debug!(status, seconds, "answered");
            }
            Ok(response)
        };
        Box::pin(answer.instrument(span))
    }
}

/// The problem of an error that says nothing: a library has answered.
fn unexplained(response: &Response<Body>, method: &Method, path: &str) -> Option<Problem> {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || response.headers().contains_key(CONTENT_TYPE) {
        return None;
    }
    let (code, detail) = match status {
        StatusCode::NOT_FOUND => ("route_not_found", format!("nothing is at {path}")),
        StatusCode::METHOD_NOT_ALLOWED => {
            ("method_not_allowed", format!("{path} does not take {method}"))
        }
        StatusCode::PRECONDITION_FAILED => {
            ("precondition_failed", format!("{path} is not as the request says that it must be"))
        }
        _ if status.is_client_error() => {
            ("invalid_request", "the request can't be answered".to_owned())
        }
        _ => ("internal_error", "something went wrong on our side".to_owned()),
    };
    response.body().is_end_stream().then(|| Problem::new(status, code, detail))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(GRPC.as_bytes()))
}

/// The status as REST has it: over gRPC, errors are answered with 200 too.
fn status<B>(response: &Response<B>) -> StatusCode {
    response.extensions().get().map_or(response.status(), |RestStatus(status)| *status)
}

/// Adds to `Server-Timing` how long a part took, in milliseconds, with all the parts behind it.
pub fn add_timing(headers: &mut HeaderMap, part: &str, took: Duration) {
    let tenths = took.as_micros() / 100;
    let value = format!("{part};dur={}.{}", tenths / 10, tenths % 10);
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.append(SERVER_TIMING, seen_once(value));
    }
}

/// Tells the header compression of HTTP/2 not to remember a value that is never seen again.
fn seen_once(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// The client's id if it is 1 to 128 visible ASCII characters, or else 16 random bytes.
fn request_id(headers: &HeaderMap, random: &RandomSource) -> Arc<str> {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    match given {
        Some(id) if (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) => {
            id.into()
        }
        _ => new_request_id(random).into(),
    }
}

pub(crate) fn new_request_id(random: &RandomSource) -> String {
    format!("{:016x}{:016x}", random.next_u64(), random.next_u64())
}

fn trace(headers: &HeaderMap, random: &RandomSource) -> TraceParent {
    headers
        .get(TRACEPARENT)
        .and_then(|value| value.to_str().ok()?.parse::<TraceParent>().ok())
        .map_or_else(|| TraceParent::start(random), |parent| parent.child(random))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::routing::get;
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tower::ServiceExt as _;

    use super::*;

    #[test]
    fn requests_are_counted_under_few_labels() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let edge = Edge { service: "test", random: RandomSource::seeded(1) };
        let routes =
            super::edge(Router::new().route("/things/{id}", get(async || "a thing")), edge);
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

    #[test]
    fn causes_are_logged_with_the_id_and_not_sent() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || Written(written.clone()))
            .finish();
        let edge = Edge { service: "test", random: RandomSource::seeded(1) };
        let routes = Router::new()
            .route("/panics", get(async || -> String { panic!("secret") }))
            .route("/fails", get(async || Problem::internal(&"secret")));
        let routes = super::edge(routes, edge);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        tracing::subscriber::with_default(subscriber, || {
            for path in ["/panics", "/fails"] {
                let request = Request::get(path).header(REQUEST_ID, path).body(Body::empty());
                let answer = routes.clone().oneshot(request.unwrap());
                let body = runtime.block_on(async {
                    let answer = answer.await.unwrap();
                    assert_eq!(answer.status(), 500);
                    axum::body::to_bytes(answer.into_body(), 10_000).await.unwrap()
                });
                let body = std::str::from_utf8(&body).unwrap();
                assert!(body.contains(path) && !body.contains("secret"), "{body}");
                let log = String::from_utf8(std::mem::take(&mut *log.lock().unwrap())).unwrap();
                assert!(log.contains(&format!("request_id={path}")), "{log}");
                assert!(log.contains("secret"), "{log}");
            }
        });
    }

    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(data)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
