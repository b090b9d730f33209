//! The gateway: the one public address of the shop. It routes by path and knows no business rule.
//!
//! A request passes the [`proxy`], which decides whether to let it in and where it goes, and then
//! one upstream: a service's router in this process, a load balancer over remote instances, or, where
//! gRPC is spoken to them, the service's REST routes over its gRPC client ([`grpc`]). A request's body
//! is read to its end before it is forwarded; a response's body streams.
//!
//! Connections to instances are pooled by hyper-util's client. It knows whether a request was sent,
//! which decides whether another instance may get it.

mod body;
mod channel;
mod config;
mod dns;
mod ejection;
mod error;
mod events;
mod frame;
mod grpc;
mod head;
mod headers;
mod instance;
mod load_balancer;
mod metrics;
mod origin;
mod permit;
mod proxy;
mod route;
mod token_bucket;
mod tunnel;
mod upstream;

use std::sync::Arc;

use axum::{Router, middleware::from_fn_with_state};
use gozon_contract::RandomSource;
use gozon_http::{Edge, Health, edge, health_routes};
use serde_json::Value;
use utoipa_swagger_ui::SwaggerUi;

pub use config::{Config, Limits, RateLimit, Upstream};
pub use origin::{Carrier, InvalidOrigin, Origin};

use proxy::Proxy;
use tunnel::Tunnels;

/// The gateway, ready to serve.
pub struct Gateway {
    proxy: Arc<Proxy>,
    openapi: Value,
    health: Health,
    random: RandomSource,
    tunnels: Tunnels,
}

impl Gateway {
    /// A gateway in front of the configured upstreams. Nothing is connected yet.
    pub fn new(config: Config) -> Self {
        let Config { orders, payments, web, openapi, health, limits, clock, random, stop } = config;
        let tunnels = Tunnels::new(stop.clone(), random.clone());
        let proxy = Proxy::new([orders, payments], web, limits, clock, &random, &tunnels, &stop);
        let proxy = Arc::new(proxy);
        let health = proxy.health().and(health);
        Self { proxy, openapi, health, random, tunnels }
    }

    /// Everything the gateway answers, to be served by [`gozon_http::serve`].
    pub fn router(&self) -> Router {
        let swagger = SwaggerUi::new("/swagger")
            .external_url_unchecked("/openapi.json", self.openapi.clone());
        let own = Router::from(swagger).merge(health_routes(self.health.clone()));
        let routes = Router::new()
            .fallback(proxy::forward)
            .with_state(self.proxy.clone())
            .merge(own.route_layer(from_fn_with_state(self.proxy.clone(), proxy::check)));
        edge(routes, Edge { service: "gateway", random: self.random.clone() })
    }

    /// Waits until the gateway stops, and then until every live client is closed: a WebSocket with
    /// code 1012, a stream of events after a whole event. They are closed over some seconds, so that
    /// clients come back one by one.
    pub fn sockets_closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let (tunnels, own) = (self.tunnels.clone(), self.proxy.sockets_closed());
        async move {
            tokio::join!(tunnels.closed(), own);
        }
    }

    /// What `/readyz` asks about: each remote upstream, and the parts that the configuration added.
    pub fn health(&self) -> Health {
        self.health.clone()
    }
}
