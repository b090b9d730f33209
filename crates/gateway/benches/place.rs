//! `POST /orders` through the gateway to a service in the same process, without sockets and without
//! a database: what HTTP costs by itself.

use axum::{
    Extension, Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
    routing::post,
};
use divan::Bencher;
use gozon_contract::{Clock, Description, Money, RandomSource};
use gozon_gateway::{Config, Gateway, Limits, Upstream};
use gozon_http::{
    Answered, CurrentUser, Edge, Fields, Health, Logs, Metrics, Problem, Reply, RequestContext,
    edge,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

fn main() {
    Logs::start("info").expect("logs");
    let _metrics = Metrics::start().expect("metrics");
    divan::main();
}

#[derive(Clone, Serialize, Deserialize)]
struct Placed {
    amount: Money,
    description: Description,
}

impl Reply for Placed {
    const STATUS: StatusCode = StatusCode::CREATED;

    fn location(&self) -> Option<String> {
        Some("/orders/1".to_owned())
    }
}

async fn place(
    CurrentUser(_): CurrentUser,
    Extension(_): Extension<RequestContext>,
    _: HeaderMap,
    mut fields: Fields,
) -> Result<Answered<Placed>, Problem> {
    let order = fields.money("amount").zip(fields.description("description"));
    let (amount, description) = fields.finish(order)?;
    Ok(Answered { answer: Ok(Placed { amount, description }), replayed: false })
}

fn gateway() -> Router {
    let random = RandomSource::seeded(1);
    let orders = Router::new().route("/orders", post(place)).route("/orders/{id}", post(place));
    let orders = edge(orders, Edge { service: "orders", random: random.clone() });
    Gateway::new(Config {
        orders: Upstream::Local(orders),
        payments: Upstream::Local(Router::new()),
        web: None,
        openapi: json!({}),
        health: Health::default(),
        limits: Limits::default(),
        clock: Clock::system(),
        random,
        stop: CancellationToken::new(),
    })
    .router()
}

fn request() -> Request<Body> {
    let body = r#"{"amount": 9900, "description": "A red kettle"}"#;
    Request::post("/orders")
        .header("host", "localhost:8080")
        .header("x-user-id", "018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f")
        .header("content-type", "application/json")
        .header("content-length", body.len())
        .header("accept", "*/*")
        .body(body.into())
        .expect("a request")
}

#[divan::bench]
fn place_an_order(bencher: Bencher) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut gateway = gateway();
    bencher.bench_local(|| {
        let answer = runtime.block_on(gateway.call(request())).expect("an answer");
        assert_eq!(answer.status(), 201);
    });
}
