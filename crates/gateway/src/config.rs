//! What the gateway is told.

use std::time::Duration;

use axum::Router;
use gozon_contract::{Clock, RandomSource};
use gozon_http::{BODY_LIMIT, Health};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::origin::Origin;

/// Where a kind of request goes.
#[derive(Clone, Debug)]
pub enum Upstream {
    /// A service in this process: its router is called, with no network in between.
    Local(Router),
    /// Instances of a service elsewhere; load is balanced over them. All have one carrier.
    Remote(Vec<Origin>),
}

/// Everything the gateway is told.
pub struct Config {
    /// Answers `/orders…`.
    pub orders: Upstream,
    /// Answers `/accounts…`.
    pub payments: Upstream,
    /// Answers all other paths; without it they are 404 `route_not_found`.
    pub web: Option<Upstream>,
    /// The merged OpenAPI document, for `/openapi.json` and Swagger UI.
    pub openapi: Value,
    /// What `/readyz` asks about besides the remote upstreams: the services in this process.
    pub health: Health,
    /// What a request, a client and an upstream may cost.
    pub limits: Limits,
    /// For the rate limit.
    pub clock: Clock,
    /// For ids, for choosing between instances and for jitter.
    pub random: RandomSource,
    /// Closes every WebSocket. The router is served until about the same time.
    pub stop: CancellationToken,
}

/// What a request, a client and an upstream may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The most requests under way at once; more are 503 `overloaded`. A WebSocket does not count
    /// once it is open.
    pub in_flight: usize,
    /// How long connecting to an instance may take.
    pub connect: Duration,
    /// How long a request may take from its head to the response's head, 504 `upstream_timeout`
    /// after it. Longer than a service waits for its database, whose answer says more.
    pub response: Duration,
    /// The most headers of a request, 431 `headers_too_large` beyond it. The services take more, so
    /// that what the gateway adds is never too much for them.
    pub headers: usize,
    /// The largest head of a request, in bytes of its path, names and values; 431 likewise.
    pub head: usize,
    /// The largest body of a request, in bytes; more is 413 `body_too_large`.
    pub body: usize,
    /// How long the body of a request may take to arrive, 408 `request_timeout` after it.
    pub body_timeout: Duration,
    /// How long an instance that can't be reached is left alone at first. It doubles with each
    /// failure in a row, with jitter, up to `eject_longest`.
    pub eject: Duration,
    /// The longest that an instance is left alone.
    pub eject_longest: Duration,
    /// How often one user may ask; no limit if `None`.
    pub rate: Option<RateLimit>,
    /// Origins whose pages may open live sockets, beside the shop's own, where the gateway ends the
    /// sockets: with `grpc://` instances.
    pub origins: Vec<String>,
    /// How often such a socket is pinged.
    pub heartbeat: Duration,
}

/// How often one user (`X-User-Id`) may ask; 429 `rate_limited` beyond it.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// Requests per second in the long run, at least 1.
    pub per_second: u32,
    /// Requests at once after a pause, at least 1.
    pub burst: u32,
    /// The most users to remember, which bounds the memory; those seen longest ago are forgotten.
    pub users: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight: 4096,
            connect: Duration::from_secs(1),
            response: Duration::from_secs(40),
            headers: 80,
            head: 32 * 1024,
            body: BODY_LIMIT,
            body_timeout: Duration::from_secs(10),
            eject: Duration::from_millis(500),
            eject_longest: Duration::from_secs(15),
            rate: None,
            origins: Vec::new(),
            heartbeat: Duration::from_secs(20),
        }
    }
}
