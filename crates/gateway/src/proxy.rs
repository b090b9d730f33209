//! The proxy: which requests are let in, and where they go.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, HttpBody as _},
    extract::{Request, State},
    http::{HeaderMap, Response},
    middleware::Next,
};
use gozon_api::{Live, orders, payments};
use gozon_contract::{Clock, RandomSource};
use gozon_http::Health;
use gozon_rpc::{OrdersClient, PaymentsClient};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    body,
    config::{self, Limits},
    error::ProxyError,
    head, metrics,
    permit::{Permit, Permits},
    route::{Target, target},
    token_bucket::TokenBuckets,
    tunnel::Tunnels,
    upstream::{Shared, Upstream},
};

/// The proxy, with its upstreams.
pub(crate) struct Proxy {
    orders: Upstream,
    payments: Upstream,
    web: Option<Upstream>,
    limits: Limits,
    permits: Permits,
    buckets: Option<TokenBuckets>,
    clock: Clock,
    /// The live clients whose sockets the gateway ends itself.
    live: Live,
}

/// Answers every request that is not for the gateway itself.
pub(crate) async fn forward(State(proxy): State<Arc<Proxy>>, request: Request) -> Response<Body> {
    proxy.forward(request).await.unwrap_or_else(ProxyError::response)
}

/// Lets a request to the gateway itself pass that could be forwarded too.
pub(crate) async fn check(
    State(proxy): State<Arc<Proxy>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    match head::check(&parts, !body.is_end_stream(), &proxy.limits) {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(error) => error.response(),
    }
}

impl Proxy {
    pub(crate) fn new(
        [orders, payments]: [config::Upstream; 2],
        web: Option<config::Upstream>,
        limits: Limits,
        clock: Clock,
        random: &RandomSource,
        tunnels: &Tunnels,
        stop: &CancellationToken,
    ) -> Self {
        let live =
            Live::new(limits.origins.clone(), limits.heartbeat, random.clone(), stop.clone());
        let shared = Shared { limits: &limits, random, tunnels, stop };
        let orders = Upstream::new("orders", orders, shared, |transport| {
            let client = OrdersClient::new(transport, random.clone());
            orders::rest(Arc::new(client), live.clone())
        });
        let payments = Upstream::new("payments", payments, shared, |transport| {
            payments::rest(Arc::new(PaymentsClient::new(transport)))
        });
        // Pages are served over HTTP only.
        let web = web.map(|web| Upstream::new("web", web, shared, |_| Router::new()));
        Self {
            orders,
            payments,
            web,
            permits: Permits::new(limits.in_flight),
            buckets: limits.rate.map(TokenBuckets::new),
            clock,
            limits,
            live,
        }
    }

    /// Waits until the gateway stops, and then until the sockets that it ends itself are closed.
    pub(crate) fn sockets_closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let live = self.live.clone();
        async move { live.closed().await }
    }

    /// A part for each remote service. The shop is open while the web app is away.
    pub(crate) fn health(&self) -> Health {
        self.orders.health().and(self.payments.health())
    }

    async fn forward(&self, request: Request) -> Result<Response<Body>, ProxyError> {
        let deadline = Instant::now() + self.limits.response;
        let (parts, body) = request.into_parts();
        head::check(&parts, !body.is_end_stream(), &self.limits)?;
        let target = target(parts.uri.path());
        let upstream = match target {
            Target::Orders => &self.orders,
            Target::Payments => &self.payments,
            Target::Web => self.web.as_ref().ok_or(ProxyError::NoRoute)?,
        };
        let permit = self.acquire_permit()?;
        if target != Target::Web {
            self.check_rate(&parts.headers)?;
        }
        let body_deadline = deadline.min(Instant::now() + self.limits.body_timeout);
        let body = body::read(body, &parts.headers, self.limits.body, body_deadline).await?;
        upstream.call(Request::from_parts(parts, body), permit, deadline).await
    }

    fn acquire_permit(&self) -> Result<Permit, ProxyError> {
        self.permits.acquire().ok_or_else(|| {
            metrics::overloaded();
            ProxyError::Overloaded
        })
    }

    fn check_rate(&self, headers: &HeaderMap) -> Result<(), ProxyError> {
        let Some(buckets) = &self.buckets else { return Ok(()) };
        buckets.take(headers, self.clock.now()).map_err(|seconds| {
            metrics::rate_limited();
            ProxyError::RateLimited(seconds)
        })
    }
}
