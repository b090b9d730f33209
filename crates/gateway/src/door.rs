//! Who is let in, and where to.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, Method, Response,
        header::{CONTENT_LENGTH, EXPECT},
    },
};
use gozon_contract::{Clock, RandomSource};
use gozon_http::Health;
use tokio_util::sync::CancellationToken;

use crate::{
    Limits,
    body::{self, Upload},
    config,
    failure::Failure,
    headers,
    meters::{self, InFlight},
    rate::Buckets,
    route::{Target, target},
    upstream::{Passage, Upstream},
};

/// The door, and what is behind it.
pub(crate) struct Door {
    orders: Upstream,
    payments: Upstream,
    web: Option<Upstream>,
    limits: Limits,
    flights: Arc<Flights>,
    buckets: Option<Buckets>,
    clock: Clock,
}

/// Requests under way.
struct Flights {
    now: AtomicUsize,
    gauge: InFlight,
}

/// One request under way, counted until it is dropped.
pub(crate) struct Flight(Arc<Flights>);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Relaxed);
        self.0.gauge.get().decrement(1.0);
    }
}

/// Takes every request that is not for the gateway itself.
pub(crate) async fn enter(State(door): State<Arc<Door>>, request: Request) -> Response<Body> {
    door.pass(request).await.unwrap_or_else(Failure::response)
}

impl Door {
    pub(crate) fn new(
        orders: config::Upstream,
        payments: config::Upstream,
        web: Option<config::Upstream>,
        limits: Limits,
        clock: Clock,
        random: &RandomSource,
        stop: &CancellationToken,
    ) -> Self {
        let upstream = |name, place| Upstream::new(name, place, &limits, random, stop.clone());
        Self {
            orders: upstream("orders", orders),
            payments: upstream("payments", payments),
            web: web.map(|web| upstream("web", web)),
            flights: Arc::new(Flights { now: AtomicUsize::new(0), gauge: InFlight::default() }),
            buckets: limits.rate.map(Buckets::new),
            clock,
            limits,
        }
    }

    /// A part for each remote service. The shop is open while the web app is away.
    pub(crate) fn health(&self) -> Health {
        [&self.orders, &self.payments].into_iter().fold(Health::default(), |health, upstream| {
            match upstream.balance() {
                None => health,
                Some(balance) => health.with(upstream.name, move || {
                    let balance = balance.clone();
                    async move { balance.reachable().await }
                }),
            }
        })
    }

    async fn pass(&self, request: Request) -> Result<Response<Body>, Failure> {
        if !is_known(request.method()) {
            return Err(Failure::Method);
        }
        let target = target(request.uri().path());
        let upstream = match target {
            Target::Orders => &self.orders,
            Target::Payments => &self.payments,
            Target::Web => self.web.as_ref().ok_or(Failure::NoRoute)?,
        };
        let flight = self.take_off()?;
        let most = if target == Target::Web { u64::MAX } else { self.limits.body };
        if target != Target::Web {
            self.check_rate(request.headers())?;
        }

        let (mut parts, body) = request.into_parts();
        let (body, upload) = self.watch(&parts.headers, body, most)?;
        let websocket = headers::wants_websocket(&parts.method, &parts.headers);
        headers::forward(&mut parts.headers, &parts.extensions, websocket);
        let request = Request::from_parts(parts, body);
        upstream.call(Passage { request, upload, websocket, flight }).await
    }

    fn take_off(&self) -> Result<Flight, Failure> {
        let before = self.flights.now.fetch_add(1, Relaxed);
        self.flights.gauge.get().increment(1.0);
        let flight = Flight(self.flights.clone());
        if before < self.limits.in_flight {
            return Ok(flight);
        }
        meters::overloaded();
        Err(Failure::Overloaded)
    }

    fn check_rate(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let Some(buckets) = &self.buckets else { return Ok(()) };
        buckets.take(headers, self.clock.now()).map_err(|seconds| {
            meters::rate_limited();
            Failure::RateLimited(seconds)
        })
    }

    /// Refuses a body that says it is too large, and watches one that may turn out to be.
    fn watch(
        &self,
        headers: &HeaderMap,
        body: Body,
        most: u64,
    ) -> Result<(Body, Option<Upload>), Failure> {
        use hyper::body::Body as _;
        if body.is_end_stream() {
            return Ok((body, None));
        }
        let declared =
            headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if declared.is_some_and(|length: u64| length > most) {
            // A client that asks before it sends will not send.
            if !headers.contains_key(EXPECT) {
                body::linger(body);
            }
            return Err(Failure::BodyTooLarge);
        }
        let (body, upload) = body::watch(body, most, self.limits.body_idle);
        Ok((body, Some(upload)))
    }
}

fn is_known(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::OPTIONS
    )
}
