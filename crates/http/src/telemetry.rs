//! Logs and metrics.

use std::{io::IsTerminal as _, time::Duration};

use axum::{Router, http::header, routing::get};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Structured logs on standard error.
#[derive(Debug)]
pub struct Logs;

impl Logs {
    /// Checks a filter.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(filter: &str) -> Result<(), String> {
        EnvFilter::try_new(filter).map(drop).map_err(|error| error.to_string())
    }

    /// Starts logging what `filter` lets through (such as `info` or `info,gozon_orders=debug`):
    /// for people on a terminal, as JSON lines otherwise.
    ///
    /// # Errors
    /// The filter can't be read.
    pub fn start(filter: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
        let registry = tracing_subscriber::registry().with(filter);
        if std::io::stderr().is_terminal() {
            registry.with(fmt::layer().with_writer(std::io::stderr).with_target(false)).init();
        } else {
            let json = fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_span_list(false)
                .with_writer(std::io::stderr);
            registry.with(json).init();
        }
        Ok(())
    }
}

/// Prometheus metrics of this process.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

/// Upper bounds of the latency buckets, in seconds.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];
/// How often samples are put into their buckets.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Upper bounds of the size buckets.
const SIZES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

impl Metrics {
    /// Starts collecting; within a runtime.
    ///
    /// # Errors
    /// Something in this process collects already.
    pub fn start() -> Result<Self, BuildError> {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), SIZES)?
            .install_recorder()?;
        let upkeep = handle.clone();
        tokio::spawn(async move {
            // Samples wait in memory until then, whether anybody scrapes or not.
            loop {
                tokio::time::sleep(UPKEEP_INTERVAL).await;
                upkeep.run_upkeep();
            }
        });
        Ok(Self(handle))
    }

    /// `/metrics`, for a listener of its own.
    pub fn routes(&self) -> Router {
        let handle = self.0.clone();
        let text = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
        Router::new().route(
            "/metrics",
            get(move || async move {
                handle.run_upkeep();
                (text, handle.render())
            }),
        )
    }
}
