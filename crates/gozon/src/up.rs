//! `gozon up`: the whole shop in one process, with the same crates, tables, messages and loops as
//! in production.

use gozon_contract::{
    Clock, ORDER_CHANGED, PAYMENT_REQUESTED, PAYMENT_SETTLED, RandomSource, Topic,
};
use gozon_gateway::{Gateway, Upstream};
use gozon_orders::Orders;
use gozon_payments::Payments;
use gozon_service::Tasks;

use crate::{
    config, migrate, openapi,
    process::{self, Server, stop_on_signal},
    serve::settings,
    web,
};

const TOPICS: &[Topic] = &[PAYMENT_REQUESTED, PAYMENT_SETTLED, ORDER_CHANGED];

/// Runs the shop.
pub async fn up(args: config::Up) -> anyhow::Result<()> {
    let (random, tasks) = (RandomSource::system(), Tasks::default());
    let broker = process::broker(&args.broker_url, TOPICS, &random)?;
    let listener = process::listen(args.listen).await?;

    let connections = args.database_connections;
    let (orders_db, orders_time) =
        migrate::open(&args.databases.orders_url(), connections, &migrate::orders()).await?;
    let (payments_db, payments_time) =
        migrate::open(&args.databases.payments_url(), connections, &migrate::payments()).await?;
    let payments =
        Payments::start(payments_db, broker.clone(), payments_time, random.clone(), &tasks);
    let orders = Orders::start(
        orders_db,
        broker,
        settings(args.stream, args.resend),
        orders_time,
        random.clone(),
        &tasks,
    );

    let stop = stop_on_signal();
    let gateway = Gateway::new(gozon_gateway::Config {
        orders: Upstream::Local(orders.routes),
        payments: Upstream::Local(payments.routes),
        web: Some(Upstream::Local(web::routes(&args.web_dir))),
        openapi: openapi::merged_json()?,
        health: payments.health.and(orders.health),
        limits: args.traffic.into(),
        clock: Clock::system(),
        random,
        stop: stop.clone(),
    });
    let server = Server {
        name: "the shop",
        listener,
        admin: Some(args.admin_listen),
        routes: gateway.router(),
        http2: false,
        health: gateway.health(),
        tasks,
    };
    process::run(server, stop).await
}
