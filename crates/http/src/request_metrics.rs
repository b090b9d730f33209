//! What is counted of requests.

use std::{
    collections::HashMap,
    sync::{OnceLock, PoisonError, RwLock},
    time::Duration,
};

use axum::http::{Method, StatusCode};
use metrics::{Counter, Histogram, counter, histogram};

/// What is counted of a service's requests. Each metric is looked up by its labels once, and not
/// before the first request: collecting may start after the routes were made.
pub(crate) struct RequestMetrics {
    service: &'static str,
    seconds: OnceLock<Histogram>,
    routes: RwLock<HashMap<String, Requests>>,
}

/// The requests to a route, by method and status.
type Requests = HashMap<(&'static str, StatusCode), Counter>;

impl RequestMetrics {
    pub(crate) fn new(service: &'static str) -> Self {
        Self { service, seconds: OnceLock::new(), routes: RwLock::default() }
    }

    /// A request was answered after `took`.
    pub(crate) fn answered(
        &self,
        route: &str,
        method: &'static str,
        status: StatusCode,
        took: Duration,
    ) {
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
pub(crate) fn method_label(method: &Method) -> &'static str {
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
