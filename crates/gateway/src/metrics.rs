//! What the gateway counts.
//!
//! A metric that each request touches is looked up once, by the first request that does: collecting
//! may start after the gateway was made.

use std::{sync::OnceLock, time::Duration};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::error::ProxyError;

/// What is counted per upstream.
pub(crate) struct UpstreamMetrics {
    upstream: &'static str,
    answered: OnceLock<Counter>,
    seconds: OnceLock<Histogram>,
}

impl UpstreamMetrics {
    pub(crate) fn new(upstream: &'static str) -> Self {
        Self { upstream, answered: OnceLock::new(), seconds: OnceLock::new() }
    }

    /// A response's head came after `took`.
    pub(crate) fn answered(&self, is_server_error: bool, took: Duration) {
        if is_server_error {
            self.requests("server_error").increment(1);
        } else {
            self.answered.get_or_init(|| self.requests("answered")).increment(1);
        }
        let seconds = || histogram!("gozon_gateway_upstream_seconds", "upstream" => self.upstream);
        self.seconds.get_or_init(seconds).record(took.as_secs_f64());
    }

    /// No response came.
    pub(crate) fn failed(&self, error: ProxyError) {
        let outcome = match error {
            ProxyError::Unreachable => "unreachable",
            ProxyError::BadGateway => "broken",
            ProxyError::Timeout => "timeout",
            _ => "other",
        };
        self.requests(outcome).increment(1);
    }

    fn requests(&self, outcome: &'static str) -> Counter {
        counter!(
            "gozon_gateway_upstream_requests_total",
            "upstream" => self.upstream,
            "outcome" => outcome,
        )
    }
}

/// The number of requests under way.
#[derive(Default)]
pub(crate) struct InFlight(OnceLock<Gauge>);

impl InFlight {
    pub(crate) fn get(&self) -> &Gauge {
        self.0.get_or_init(|| gauge!("gozon_gateway_in_flight_requests"))
    }
}

/// An instance of `upstream` was ejected.
pub(crate) fn ejected(upstream: &'static str) {
    counter!("gozon_gateway_ejections_total", "upstream" => upstream).increment(1);
}

/// A request was turned away by the in-flight bound.
pub(crate) fn overloaded() {
    counter!("gozon_gateway_overloaded_total").increment(1);
}

/// A request was turned away by the rate limit.
pub(crate) fn rate_limited() {
    counter!("gozon_gateway_rate_limited_total").increment(1);
}
