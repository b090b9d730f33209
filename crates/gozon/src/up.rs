//! `gozon up`: the whole shop in one process, with the same crates, tables, messages and loops as
//! in production.

use axum::Router;
use gozon_chassis::Tasks;
use gozon_contract::{Clock, Dice, ORDER_CHANGED, PAYMENT_REQUESTED, PAYMENT_SETTLED, Topic};
use gozon_orders::Orders;
use gozon_payments::Payments;

use crate::{config, migrate, process, web};

const TOPICS: &[Topic] = &[PAYMENT_REQUESTED, PAYMENT_SETTLED, ORDER_CHANGED];

/// Runs the shop.
pub async fn up(args: config::Up) -> anyhow::Result<()> {
    let (clock, dice, tasks) = (Clock::system(), Dice::system(), Tasks::default());
    let broker = gozon_messaging::broker::connect(&args.broker_url, TOPICS, &dice)?;
    let listener = process::listen(args.listen).await?;

    let connections = args.database_connections;
    let orders_db =
        migrate::open(&args.databases.orders_url(), connections, &migrate::orders()).await?;
    let payments_db =
        migrate::open(&args.databases.payments_url(), connections, &migrate::payments()).await?;
    let payments =
        Payments::start(payments_db, broker.clone(), clock.clone(), dice.clone(), &tasks);
    let orders =
        Orders::start(orders_db, broker, args.stream.into(), clock.clone(), dice.clone(), &tasks);

    let health = payments.health.and(orders.health);
    let routes = Router::new()
        .route("/accounts", to(payments.routes.clone()))
        .route("/accounts/{*rest}", to(payments.routes))
        .route("/orders", to(orders.routes.clone()))
        .route("/orders/{*rest}", to(orders.routes))
        .merge(gozon_chassis::health_routes(health.clone()))
        .fallback_service(web::routes(&args.web_dir));
    let admin = Some(args.admin_listen);
    process::run("the shop", listener, admin, routes, health, tasks).await
}

fn to(routes: Router) -> axum::routing::MethodRouter {
    use tower::ServiceExt as _;
    axum::routing::any(move |request: axum::extract::Request| routes.clone().oneshot(request))
}
