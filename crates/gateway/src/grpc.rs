//! gRPC to a service: the load balancer as the transport of its client.

use std::{
    cell::RefCell,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Request, Response},
};
use futures_util::future::BoxFuture;
use gozon_rpc::{CallRules, status};
use http_body_util::BodyExt as _;
use tokio::{task_local, time::Instant};
use tonic::Status;
use tower::Service;

use crate::{
    error::ProxyError, load_balancer::LoadBalancer, metrics::UpstreamMetrics,
    permit::keep_until_sent,
};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// The part of `Server-Timing` that only the service knows.
const DATABASE: &[u8] = b"database;";

task_local! {
    /// How long the calls for a request waited for the database, as their service measured it.
    static DATABASE_TIMINGS: RefCell<Vec<HeaderValue>>;
}

/// Answers a request by routes that call a service. What its calls waited for the database stands in
/// the answer, as it does in the service's own.
pub(crate) async fn answer(mut routes: Router, request: Request<Body>) -> Response<Body> {
    let answer = async {
        let Ok(response) = routes.call(request).await;
        (response, DATABASE_TIMINGS.with(RefCell::take))
    };
    let (mut response, timings) = DATABASE_TIMINGS.scope(RefCell::default(), answer).await;
    for timing in timings {
        response.headers_mut().append(SERVER_TIMING, timing);
    }
    response
}

/// Takes a note of the time in the database that a call's response tells.
fn note_database_timing(headers: &HeaderMap) {
    let timings = headers.get_all(SERVER_TIMING).iter();
    for timing in timings.filter(|timing| timing.as_bytes().starts_with(DATABASE)) {
        // A call that is not part of a request has nobody to tell.
        let _ = DATABASE_TIMINGS.try_with(|noted| noted.borrow_mut().push(timing.clone()));
    }
}

/// Carries calls to one of the instances of a service. Clones share everything.
#[derive(Clone)]
pub(crate) struct GrpcTransport {
    pub(crate) balancer: Arc<LoadBalancer>,
    pub(crate) metrics: Arc<UpstreamMetrics>,
    /// How long a call without a deadline may take.
    pub(crate) limit: Duration,
}

impl Service<Request<tonic::body::Body>> for GrpcTransport {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let transport = self.clone();
        Box::pin(async move {
            let started = Instant::now();
            let answer = transport.send(request).await;
            match &answer {
                Ok(response) => {
                    note_database_timing(response.headers());
                    transport.metrics.answered(is_our_fault(response), started.elapsed());
                }
                Err(error) => transport.metrics.failed(*error),
            }
            answer.map_err(|error| status(&error.problem()))
        })
    }
}

impl GrpcTransport {
    async fn send(
        &self,
        request: Request<tonic::body::Body>,
    ) -> Result<Response<Body>, ProxyError> {
        let (parts, body) = request.into_parts();
        // A message in memory can be sent again.
        let body = body.collect().await.map_err(|_| ProxyError::BadGateway)?.to_bytes();
        let rules = parts.extensions.get::<CallRules>().copied();
        let rules =
            rules.unwrap_or(CallRules { repeatable: false, is_watch: false, deadline: None });
        let deadline = rules.deadline.unwrap_or_else(|| Instant::now() + self.limit);
        let request = Request::from_parts(parts, body);
        if rules.is_watch {
            let (response, lease) = self.balancer.watch(request, deadline).await?;
            return Ok(response.map(|body| keep_until_sent(body, lease)));
        }
        self.balancer.call(request, rules.repeatable, deadline).await
    }
}

/// Whether the status says UNKNOWN, INTERNAL, UNAVAILABLE or `DATA_LOSS`.
fn is_our_fault(response: &Response<Body>) -> bool {
    let code = response.headers().get("grpc-status").map(HeaderValue::as_bytes);
    matches!(code, Some(b"2" | b"13" | b"14" | b"15"))
}
