//! The gateway: one door to the shop. It routes by path and knows no business rule.
//!
//! A request passes [`door`], which decides whether to let it in and where it goes, and then one
//! upstream: a service's router in this process, or a [`balance`]d set of remote instances, each
//! with its own pool of connections. Bodies stream both ways; nothing is buffered.

mod balance;
mod body;
mod config;
mod door;
mod ejection;
mod failure;
mod headers;
mod instance;
mod meters;
mod names;
mod origin;
mod rate;
mod route;
mod tunnel;
mod upstream;

use std::sync::Arc;

use axum::Router;
use gozon_contract::RandomSource;
use gozon_http::{Edge, Health, health_routes, observed};
use serde_json::Value;
use utoipa_swagger_ui::SwaggerUi;

pub use config::{Config, Limits, RateLimit, Upstream};
pub use origin::{InvalidOrigin, Origin};

use door::Door;

/// The gateway, ready to serve.
pub struct Gateway {
    door: Arc<Door>,
    openapi: Value,
    health: Health,
    random: RandomSource,
}

impl Gateway {
    /// A gateway in front of the configured upstreams. Nothing is connected yet.
    pub fn new(config: Config) -> Self {
        let Config { orders, payments, web, openapi, health, limits, clock, random, stop } = config;
        let door = Arc::new(Door::new(orders, payments, web, limits, clock, &random, &stop));
        let health = door.health().and(health);
        Self { door, openapi, health, random }
    }

    /// Everything the gateway answers, to be served by [`gozon_http::serve`].
    pub fn router(&self) -> Router {
        let swagger = SwaggerUi::new("/swagger")
            .external_url_unchecked("/openapi.json", self.openapi.clone());
        let routes = Router::new()
            .fallback(door::enter)
            .with_state(self.door.clone())
            .merge(swagger)
            .merge(health_routes(self.health.clone()));
        observed(routes, Edge { service: "gateway", random: self.random.clone() })
    }

    /// What `/readyz` asks about: each remote upstream, and the parts that the configuration added.
    pub fn health(&self) -> Health {
        self.health.clone()
    }
}
