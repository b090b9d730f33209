//! The proxy: which requests are let in, and where they go.

use std::sync::Arc;

use axum::{
    body::{Body, HttpBody as _},
    extract::{Request, State},
    http::{HeaderMap, Response},
};
use gozon_contract::{Clock, RandomSource};
use gozon_http::Health;
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
    upstream::Upstream,
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
}

/// Answers every request that is not for the gateway itself.
pub(crate) async fn forward(State(proxy): State<Arc<Proxy>>, request: Request) -> Response<Body> {
    proxy.forward(request).await.unwrap_or_else(ProxyError::response)
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
        let upstream =
            |name, place| Upstream::new(name, place, &limits, random, tunnels.clone(), stop);
        Self {
            orders: upstream("orders", orders),
            payments: upstream("payments", payments),
            web: web.map(|web| upstream("web", web)),
            permits: Permits::new(limits.in_flight),
            buckets: limits.rate.map(TokenBuckets::new),
            clock,
            limits,
        }
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
