//! The services, each as a process of its own.

use axum::Router;
use gozon_chassis::{Health, Tasks, health_routes};
use gozon_contract::{Clock, Dice};
use gozon_orders::{Orders, StreamLimits};
use gozon_payments::Payments;

use crate::{config, migrate, process};

/// `gozon orders`.
pub async fn orders(args: config::Service) -> anyhow::Result<()> {
    let (clock, dice, tasks) = (Clock::system(), Dice::system(), Tasks::default());
    let broker = gozon_messaging::broker::connect(&args.broker_url, gozon_orders::TOPICS, &dice)?;
    let listener = process::listen(args.listen).await?;
    let steps = migrate::orders();
    let db = migrate::open(&args.database_url, args.database_connections, &steps).await?;
    let orders = Orders::start(db, broker, args.stream.into(), clock, dice, &tasks);
    process::run("orders", listener, args.admin_listen, orders.routes, orders.health, tasks).await
}

/// `gozon payments`.
pub async fn payments(args: config::Service) -> anyhow::Result<()> {
    let (clock, dice, tasks) = (Clock::system(), Dice::system(), Tasks::default());
    let broker = gozon_messaging::broker::connect(&args.broker_url, gozon_payments::TOPICS, &dice)?;
    let listener = process::listen(args.listen).await?;
    let steps = migrate::payments();
    let db = migrate::open(&args.database_url, args.database_connections, &steps).await?;
    let payments = Payments::start(db, broker, clock, dice, &tasks);
    process::run("payments", listener, args.admin_listen, payments.routes, payments.health, tasks)
        .await
}

/// `gozon web`.
pub async fn web(args: config::Web) -> anyhow::Result<()> {
    let listener = process::listen(args.listen).await?;
    let health = Health::default();
    let routes = Router::new()
        .merge(health_routes(health.clone()))
        .fallback_service(crate::web::routes(&args.web_dir));
    process::run("web", listener, None, routes, health, Tasks::default()).await
}

impl From<config::Stream> for StreamLimits {
    fn from(args: config::Stream) -> Self {
        Self {
            sockets: args.max_sockets,
            sockets_per_user: args.max_sockets_per_user,
            origins: args.allowed_origins,
        }
    }
}
