//! The services, each as a process of its own.

use std::{num::NonZeroU32, time::Duration};

use anyhow::bail;
use axum::Router;
use gozon_contract::{Clock, RandomSource};
use gozon_gateway::{Gateway, Limits, Origin, RateLimit, Upstream};
use gozon_http::{Edge, Health, edge, health_routes};
use gozon_orders::{Orders, Settings, StreamLimits};
use gozon_payments::Payments;
use gozon_service::{Stage, Tasks};

use crate::{
    config, migrate, openapi,
    process::{self, Server, stop_on_signal},
    settings::names,
};

/// Number of users whose request rate is remembered.
const RATED_USERS: usize = 100_000;

/// `gozon gateway`.
pub async fn gateway(args: config::Gateway) -> anyhow::Result<()> {
    let listener = process::listen(args.listen).await?;
    let tasks = Tasks::default();
    let gateway = Gateway::new(gozon_gateway::Config {
        orders: remote("orders-urls", &args.orders_urls)?,
        payments: remote("payments-urls", &args.payments_urls)?,
        web: if args.web_urls.is_empty() {
            None
        } else {
            Some(remote("web-urls", &args.web_urls)?)
        },
        openapi: openapi::merged_json()?,
        health: Health::default(),
        limits: Limits {
            origins: args.sockets.allowed_origins,
            heartbeat: heartbeat(args.sockets.heartbeat),
            ..args.traffic.into()
        },
        clock: Clock::system(),
        random: RandomSource::system(),
        stop: tasks.stop_token(Stage::Streams),
    });
    tasks.spawn(Stage::Streams, "sockets", gateway.sockets_closed());
    let server = Server {
        name: "gateway",
        listener,
        admin: args.admin_listen,
        routes: gateway.router(),
        http2: false,
        health: gateway.health(),
        tasks,
    };
    process::run(server, stop_on_signal()).await
}

fn remote(setting: &str, urls: &[String]) -> anyhow::Result<Upstream> {
    let origins: Vec<Origin> = urls.iter().map(|url| url.parse()).collect::<Result<_, _>>()?;
    if origins.iter().any(|origin| origin.carrier() != origins[0].carrier()) {
        bail!("{}: give only http:// URLs, or only grpc:// URLs", names(setting));
    }
    Ok(Upstream::Remote(origins))
}

/// `gozon orders`.
pub async fn orders(args: config::Service) -> anyhow::Result<()> {
    let (random, tasks) = (RandomSource::system(), Tasks::default());
    let broker = process::broker(&args.broker_url, gozon_orders::TOPICS, &random)?;
    let listener = process::listen(args.listen).await?;
    let steps = migrate::orders();
    let (db, time) = migrate::open(&args.database_url, args.database_connections, &steps).await?;
    let orders =
        Orders::start(db, broker, settings(args.stream, args.resend), time, random, &tasks);
    let server = Server {
        name: "orders",
        listener,
        admin: args.admin_listen,
        routes: orders.routes,
        http2: true,
        health: orders.health,
        tasks,
    };
    process::run(server, stop_on_signal()).await
}

/// The settings of the orders service.
pub fn settings(stream: config::Stream, resend: config::Resend) -> Settings {
    let seconds = u64::from(resend.resend_after);
    let resend_after = (seconds > 0).then(|| Duration::from_secs(seconds));
    let max_unsettled = resend.max_unsettled.map(|limit| Duration::from_secs(limit.get().into()));
    Settings { stream: stream.into(), resend_after, max_unsettled }
}

/// `gozon payments`.
pub async fn payments(args: config::Service) -> anyhow::Result<()> {
    let (random, tasks) = (RandomSource::system(), Tasks::default());
    let broker = process::broker(&args.broker_url, gozon_payments::TOPICS, &random)?;
    let listener = process::listen(args.listen).await?;
    let steps = migrate::payments();
    let (db, time) = migrate::open(&args.database_url, args.database_connections, &steps).await?;
    let payments = Payments::start(db, broker, time, random, &tasks);
    let server = Server {
        name: "payments",
        listener,
        admin: args.admin_listen,
        routes: payments.routes,
        http2: true,
        health: payments.health,
        tasks,
    };
    process::run(server, stop_on_signal()).await
}

/// `gozon web`.
pub async fn web(args: config::Web) -> anyhow::Result<()> {
    let listener = process::listen(args.listen).await?;
    let health = Health::default();
    let routes = Router::new()
        .merge(health_routes(health.clone()))
        .fallback_service(crate::web::routes(&args.web_dir));
    let routes = edge(routes, Edge { service: "web", random: RandomSource::system() });
    let tasks = Tasks::default();
    let server = Server { name: "web", listener, admin: None, routes, http2: false, health, tasks };
    process::run(server, stop_on_signal()).await
}

impl From<config::Traffic> for Limits {
    fn from(args: config::Traffic) -> Self {
        let rate = args.rate_limit.map(|limit| RateLimit {
            per_second: limit.get(),
            burst: limit.get().saturating_mul(2),
            users: RATED_USERS,
        });
        Self { in_flight: args.max_in_flight.get(), rate, ..Self::default() }
    }
}

fn heartbeat(seconds: NonZeroU32) -> Duration {
    Duration::from_secs(seconds.get().into())
}

impl From<config::Stream> for StreamLimits {
    fn from(args: config::Stream) -> Self {
        Self {
            sockets: args.max_sockets,
            sockets_per_user: args.max_sockets_per_user,
            origins: args.sockets.allowed_origins,
            heartbeat: heartbeat(args.sockets.heartbeat),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_waits_longer_than_a_service_for_its_database() {
        assert!(Limits::default().response > gozon_store::STATEMENT_TIMEOUT);
    }
}
