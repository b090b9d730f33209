//! Services that are called over gRPC: what is sent elsewhere, and what is never sent twice.

use std::{
    future::pending,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, http::StatusCode};
use gozon_api::{
    Call, OrdersApi,
    live::{Watch, WatchOrders},
    orders::{ListOrders, NewOrder, Placed},
};
use gozon_contract::{Order, OrderId, OrderStatus, RandomSource, Timestamp};
use gozon_gateway::{Limits, Origin, Upstream};
use gozon_http::{Answered, Edge, Health, IdempotencyKey, Page, Problem, edge};
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::{RequestBuilder, Response};
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::shop::{Gate, Service, nobody, problem};

const USER: &str = "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e";

/// What the stand-in for a service does.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    Place,
    Fail,
    Nothing,
}

/// A stand-in for the orders service.
struct Stub {
    does: Does,
    placed: Arc<AtomicUsize>,
}

#[async_trait]
impl OrdersApi for Stub {
    async fn place(
        &self,
        call: Call,
        order: NewOrder,
        _: Option<IdempotencyKey>,
    ) -> Result<Answered<Placed>, Problem> {
        self.placed.fetch_add(1, SeqCst);
        match self.does {
            Does::Place => {}
            Does::Fail => return Err(Problem::internal(&"a secret")),
            Does::Nothing => pending().await,
        }
        let now = Timestamp::from_micros(1);
        let order = Order {
            id: OrderId::new(now, &RandomSource::seeded(1)),
            user_id: call.user,
            amount: order.amount,
            description: order.description,
            status: OrderStatus::New,
            cancel_reason: None,
            version: 1,
            created_at: now,
            updated_at: now,
        };
        Ok(Answered { answer: Ok(Placed(order)), replayed: false })
    }

    async fn get(&self, _: Call, _: OrderId) -> Result<Order, Problem> {
        Err(Problem::new(StatusCode::NOT_FOUND, "order_not_found", "not here"))
    }

    async fn list(&self, _: Call, _: ListOrders) -> Result<Page<Order>, Problem> {
        if self.does == Does::Nothing {
            pending().await
        } else {
            Ok(Page { items: Vec::new(), next_cursor: None })
        }
    }

    async fn watch(&self, _: Call, _: WatchOrders) -> Result<Watch, Problem> {
        Err(Problem::unavailable("nobody watches here"))
    }
}

fn stub(does: Does) -> (Router, Arc<AtomicUsize>) {
    let placed = Arc::new(AtomicUsize::new(0));
    let stub = Stub { does, placed: placed.clone() };
    let routes = gozon_rpc::orders(Arc::new(stub), Health::default(), CancellationToken::new());
    let random = RandomSource::seeded(1);
    (edge(routes, Edge { service: "orders", random }), placed)
}

fn grpc(addresses: &[SocketAddr]) -> Upstream {
    let origin = |address| format!("grpc://{address}").parse::<Origin>().unwrap();
    Upstream::Remote(addresses.iter().map(origin).collect())
}

fn quick() -> Limits {
    Limits { eject: Duration::from_millis(50), ..Limits::default() }
}

fn order(gate: &Gate) -> RequestBuilder {
    let body = r#"{"amount": 1, "description": "x"}"#;
    let request = reqwest::Client::new().post(gate.url("/orders")).body(body);
    request.header("content-type", "application/json").header("x-user-id", USER)
}

async fn list(gate: &Gate) -> Response {
    let request = reqwest::Client::new().get(gate.url("/orders")).header("x-user-id", USER);
    request.send().await.unwrap()
}

/// Takes a call, counts it, and does with it what `end` does.
async fn takes_calls(
    end: impl Fn(h2::server::SendResponse<axum::body::Bytes>) + Clone + Send + 'static,
    hangs_up: bool,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (counted, end) = (counted.clone(), end.clone());
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((_, respond))) = connection.accept().await {
                    counted.fetch_add(1, SeqCst);
                    end(respond);
                    if hangs_up {
                        return;
                    }
                }
            });
        }
    });
    (address, calls)
}

#[tokio::test]
async fn a_dead_instance_is_left_and_found_again() {
    let (routes_a, placed_a) = stub(Does::Place);
    let (routes_b, placed_b) = stub(Does::Place);
    let (a, b) = (Service::start(routes_a.clone()), Service::start(routes_b));
    let gate = Gate::with(grpc(&[a.address, b.address]), quick()).await;
    let post = async || assert_eq!(order(&gate).send().await.unwrap().status(), 201);
    for _ in 0..100 {
        post().await;
    }
    assert!(placed_a.load(SeqCst) > 10 && placed_b.load(SeqCst) > 10);
    let address = a.kill();
    placed_a.store(0, SeqCst);
    for _ in 0..100 {
        post().await;
    }
    assert_eq!(placed_a.load(SeqCst), 0);
    let _a = Service::start_on(address, routes_a);
    while placed_a.load(SeqCst) == 0 {
        post().await;
    }
}

#[tokio::test]
async fn a_service_that_is_away_comes_back() {
    let (reserved, dead) = nobody();
    let gate = Gate::with(grpc(&[dead]), quick()).await;
    for _ in 0..3 {
        let refused = order(&gate).send().await.unwrap();
        assert_eq!(refused.headers()["retry-after"], "1");
        problem(refused, 503, "upstream_unavailable").await;
        problem(list(&gate).await, 503, "upstream_unavailable").await;
    }
    drop(reserved);
    let _service = Service::start_on(dead, stub(Does::Place).0);
    assert_eq!(order(&gate).send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn a_post_is_never_sent_twice_and_a_get_gets_through() {
    let (broken, broken_calls) = takes_calls(drop, true).await;
    let (routes, placed) = stub(Does::Place);
    let good = Service::start(routes);
    let gate = Gate::with(grpc(&[broken, good.address]), quick()).await;
    for _ in 0..30 {
        assert_eq!(list(&gate).await.status(), 200);
    }
    broken_calls.store(0, SeqCst);
    let mut lost = 0;
    for n in 0..100 {
        let response = order(&gate).send().await.unwrap();
        if response.status() != 201 {
            problem(response, 502, "bad_gateway").await;
            lost += 1;
        }
        assert_eq!(placed.load(SeqCst), n + 1 - lost);
        // Lets the broken one come back into the choice.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(broken_calls.load(SeqCst), lost);
    assert!(lost > 0);

    // With a key, the other one does it.
    let gate = Gate::with(grpc(&[broken, good.address]), quick()).await;
    for n in 0..50 {
        let keyed = order(&gate).header("idempotency-key", n);
        assert_eq!(keyed.send().await.unwrap().status(), 201);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(broken_calls.load(SeqCst) > lost);
}

#[tokio::test]
async fn a_call_that_was_refused_is_sent_elsewhere() {
    let refuse = |mut respond: h2::server::SendResponse<_>| {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
    };
    let (refusing, refused) = takes_calls(refuse, false).await;
    let (routes, placed) = stub(Does::Place);
    let good = Service::start(routes);
    let gate = Gate::with(grpc(&[refusing, good.address]), quick()).await;
    for n in 1..=50 {
        assert_eq!(order(&gate).send().await.unwrap().status(), 201);
        assert_eq!(placed.load(SeqCst), n);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(refused.load(SeqCst) > 0);
}

#[tokio::test]
async fn a_connection_that_ends_in_order_harms_no_post() {
    let (routes, placed) = stub(Does::Place);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, SeqCst);
            let routes = routes.clone();
            tokio::spawn(async move {
                let begun = Arc::new(Notify::new());
                let first = begun.clone();
                let service = service_fn(move |request| {
                    first.notify_one();
                    routes.clone().call(request)
                });
                let http = http2::Builder::new(TokioExecutor::new());
                let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = begun.notified() => {}
                }
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            });
        }
    });
    let gate = Gate::with(grpc(&[address]), Limits::default()).await;
    let orders = (0..200).map(|_| async { order(&gate).send().await.unwrap().status() });
    let statuses = futures_util::future::join_all(orders).await;
    assert!(statuses.iter().all(|status| *status == 201), "{statuses:?}");
    assert_eq!(placed.load(SeqCst), 200);
    assert!(connections.load(SeqCst) > 2);
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_a_timeout() {
    let service = Service::start(stub(Does::Nothing).0);
    let limits = Limits { response: Duration::from_millis(100), ..Limits::default() };
    let gate = Gate::with(grpc(&[service.address]), limits).await;
    problem(order(&gate).send().await.unwrap(), 504, "upstream_timeout").await;
    problem(list(&gate).await, 504, "upstream_timeout").await;
}

#[tokio::test]
async fn a_failure_inside_is_told_without_its_cause() {
    let service = Service::start(stub(Does::Fail).0);
    let gate = Gate::with(grpc(&[service.address]), Limits::default()).await;
    let told = problem(order(&gate).send().await.unwrap(), 500, "internal_error").await;
    assert!(!told.to_string().contains("secret"));
}

#[tokio::test]
async fn what_speaks_no_grpc_is_a_bad_gateway() {
    let rest = Router::new().fallback(|| async { "hello" });
    let service = Service::start(rest);
    let gate = Gate::with(grpc(&[service.address]), Limits::default()).await;
    problem(order(&gate).send().await.unwrap(), 502, "bad_gateway").await;
}
