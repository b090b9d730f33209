//! gRPC between the gateway and the services: clients see no difference, and instances may come and
//! go.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    bad_input,
    harness::{
        Combo, Door, Incoming, Live, Plan, Process, Reply, Shop, User, Watcher, at_once,
        eventually, send,
    },
};

/// Headers that may differ: they tell requests and moments apart.
const OWN_HEADERS: [&str; 3] = ["x-request-id", "date", "server-timing"];

/// A shop with two gateways, the first of which speaks HTTP to the services and the second gRPC.
async fn both_kinds() -> (Shop, [Door; 2]) {
    let plan = Plan::on(Combo::PostgresRabbit).instances(2, 2, 1).inside("http");
    let mut shop = plan.prepare().await;
    let url = |name: &str| shop.process(name).url().replacen("http", "grpc", 1);
    let orders = format!("{},{}", url("orders-1"), url("orders-2"));
    let payments = url("payments-1");
    let gateway = shop.process_mut("gateway-2");
    gateway.set("GOZON_ORDERS_URLS", orders);
    gateway.set("GOZON_PAYMENTS_URLS", payments);
    shop.start().await;
    let doors = ["gateway-1", "gateway-2"].map(|name| shop.door_of(name));
    (shop, doors)
}

/// An answer, as far as it must be the same: without what tells requests, orders and moments apart.
fn essence(reply: &Reply) -> String {
    let mut headers: Vec<_> = reply
        .headers
        .iter()
        .map(|(name, value)| {
            let own = OWN_HEADERS.contains(&name.as_str());
            let value = if own { "…" } else { value.to_str().expect("a visible header") };
            format!("{name}: {}", value.split('/').map(token).collect::<Vec<_>>().join("/"))
        })
        .collect();
    headers.sort();
    let body: Vec<_> = reply.text.split('"').map(token).collect();
    format!("{} {headers:#?} {}", reply.status, body.join("\""))
}

/// What stands for an id, a cursor or a time.
fn token(text: &str) -> &str {
    let is_hex = |text: &str| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if Uuid::try_parse(text).is_ok() && text.len() == 36 {
        "an id"
    } else if is_hex(text) || text.strip_prefix('o').is_some_and(is_hex) {
        "a token"
    } else if text.len() == 27 && text.starts_with("20") && text.ends_with('Z') {
        "a time"
    } else {
        text
    }
}

async fn assert_same(what: &str, requests: [RequestBuilder; 2]) -> [Reply; 2] {
    let [over_http, over_grpc] = requests;
    let replies = [Reply::to(over_http).await, Reply::to(over_grpc).await];
    assert_eq!(essence(&replies[0]), essence(&replies[1]), "{what}");
    replies
}

/// Makes a request of a user.
type Step = Box<dyn Fn(&User) -> RequestBuilder>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_kinds_of_gateway_refuse_alike() {
    let (shop, doors) = both_kinds().await;
    let user = doors[0].new_user().with_balance(1_000).await;
    let [over_http, over_grpc] = doors.map(|door| bad_input::corpus(&user.at(&door)));
    assert!(over_http.len() > 300);
    for ((what, over_http), (_, over_grpc)) in over_http.into_iter().zip(over_grpc) {
        assert_same(&what, [over_http, over_grpc]).await;
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_kinds_of_gateway_do_alike() {
    let (shop, doors) = both_kinds().await;
    // Each has a user of its own, who does the same.
    let users = doors.clone().map(|door| door.new_user());
    let both = |make: &dyn Fn(&User) -> RequestBuilder| [make(&users[0]), make(&users[1])];
    let get = |path: &'static str| move |user: &User| user.request(Method::GET, path);
    let post = |path: &'static str, key: &'static str, body: serde_json::Value| {
        move |user: &User| {
            let request = user.request(Method::POST, path).json(&body);
            if key.is_empty() { request } else { request.header("idempotency-key", key) }
        }
    };
    let order = json!({"amount": 10, "description": "Чайник \"🫖\"\n"});
    let steps: Vec<Step> = vec![
        Box::new(get("/accounts/balance")),
        Box::new(get("/accounts/entries")),
        Box::new(post("/accounts/deposit", "", json!({"amount": 5}))),
        Box::new(post("/accounts", "open", json!({}))),
        Box::new(post("/accounts", "open", json!({}))),
        Box::new(post("/accounts", "again", json!({}))),
        Box::new(post("/accounts", "again", json!({}))),
        Box::new(post("/accounts/deposit", "", json!({"amount": 500}))),
        Box::new(post("/accounts/deposit", "d", json!({"amount": 5}))),
        Box::new(post("/accounts/deposit", "d", json!({"amount": 5}))),
        Box::new(post("/accounts/deposit", "d", json!({"amount": 6}))),
        Box::new(get("/accounts/balance")),
        Box::new(get("/orders")),
        Box::new(post("/orders", "", order.clone())),
        Box::new(post("/orders", "o", order.clone())),
        Box::new(post("/orders", "o", order.clone())),
        Box::new(post("/orders", "o", json!({"amount": 11, "description": "x"}))),
        Box::new(post("/orders", "", json!({"amount": 9_999, "description": "too much"}))),
    ];
    for (n, step) in steps.iter().enumerate() {
        assert_same(&format!("step {n}"), both(&**step)).await;
    }
    shop.quiet().await;
    for path in [
        "/orders",
        "/orders?limit=1",
        "/orders?status=FINISHED",
        "/orders?status=CANCELED&limit=100",
        "/accounts/balance",
        "/accounts/entries",
        "/accounts/entries?limit=2",
        "/orders?limit=1&unknown=1",
    ] {
        assert_same(path, both(&get(path))).await;
        let head = |user: &User| user.request(Method::HEAD, path);
        assert_same(&format!("HEAD {path}"), both(&head)).await;
    }
    for user in &users {
        let first = user.get("/orders?limit=1").await.ok(200);
        let cursor = first["next_cursor"].as_str().expect("a cursor").to_owned();
        let path = format!("/orders?limit=10&cursor={cursor}");
        let request = |door: &Door| user.at(door).request(Method::GET, &path);
        let [a, b] = assert_same(&path, [request(&doors[0]), request(&doors[1])]).await;
        assert_eq!(a.text, b.text);
        // A repeat through the other kind of gateway is the same to the byte.
        let again = |door: &Door| {
            user.at(door).request(Method::POST, "/orders").header("idempotency-key", "o")
        };
        let [a, b] =
            assert_same("a repeat", [again(&doors[0]).json(&order), again(&doors[1]).json(&order)])
                .await;
        assert_eq!(a.text, b.text);
        assert_eq!(b.header("idempotency-replayed"), Some("true"));
        let mut snapshots = Vec::new();
        for door in &doors {
            let mut live = Live::connect(&user.at(door)).await.expect("a socket");
            snapshots.push(live.frame().await);
        }
        assert_eq!(snapshots[0], snapshots[1]);
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_outlive_the_instances_they_watch() {
    let plan = Plan::on(Combo::PostgresRabbitGrpc).instances(1, 2, 1);
    let mut shop = plan.start().await;
    let mut users = Vec::new();
    for _ in 0..5 {
        users.push(shop.new_user().with_balance(1_000).await);
    }
    let watchers = at_once(8, users.iter().flat_map(|user| [user; 2]), Watcher::start).await;
    let placing = CancellationToken::new();
    let mut customers = JoinSet::new();
    for user in users {
        let placing = placing.clone();
        customers.spawn(async move {
            for number in 0.. {
                if placing.is_cancelled() {
                    return;
                }
                let order = json!({"amount": 10, "description": "a kettle"});
                user.insist("/orders", &number.to_string(), &order, 201).await;
                sleep(Duration::from_millis(20)).await;
            }
        });
    }
    // Each is stopped once and killed once; the second time both are away for a moment.
    for name in ["orders-1", "orders-2"] {
        sleep(Duration::from_millis(500)).await;
        let instance = shop.process_mut(name);
        instance.ask_to_stop();
        instance.stopped().await;
        instance.start();
        instance.ready().await;
    }
    for name in ["orders-1", "orders-2"] {
        sleep(Duration::from_millis(500)).await;
        shop.process_mut(name).kill().await;
    }
    shop.start().await;
    placing.cancel();
    while let Some(done) = customers.join_next().await {
        done.expect("a customer");
    }

    let truth = shop.quiet().await;
    for watcher in watchers {
        eventually("a watcher sees what is stored", async || {
            watcher.seen().await.agrees(&truth, &watcher.user).then_some(())
        })
        .await;
        assert_eq!(watcher.stop().await, 1, "a socket was cut");
    }
    // They end with the gateway, which says so.
    let user = shop.new_user();
    let mut live = Live::connect(&user).await.expect("a socket");
    live.frame().await;
    let gateway = shop.process_mut("gateway-1");
    gateway.ask_to_stop();
    assert_eq!(live.end().await, Some(1012));
    gateway.stopped().await;
    shop.start().await;
    shop.close().await;
}

/// What customers were told who ask once, without a key.
#[derive(Default)]
struct Told {
    accepted: Mutex<HashSet<String>>,
    asked: Mutex<Vec<String>>,
}

async fn ask_once(user: User, customer: usize, told: Arc<Told>, end: CancellationToken) {
    for number in 0.. {
        if end.is_cancelled() {
            return;
        }
        let description = format!("{customer}-{number}");
        told.asked.lock().expect("a list").push(description.clone());
        let order = json!({"amount": 1, "description": description});
        match send(user.request(Method::POST, "/orders").json(&order)).await {
            Ok(reply) if reply.status == 201 => {
                told.accepted.lock().expect("a list").insert(description);
            }
            Ok(reply) => {
                reply.trouble_on_the_way();
            }
            Err(error) => panic!("the gateway does not answer: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing_and_load_spreads_again() {
    let plan = Plan::on(Combo::PostgresRabbitGrpc).instances(1, 2, 2);
    let mut shop = plan.start().await;
    let (told, end) = (Arc::new(Told::default()), CancellationToken::new());
    let mut customers = JoinSet::new();
    for customer in 0..8 {
        let user = shop.new_user().with_balance(1_000_000).await;
        customers.spawn(ask_once(user, customer, told.clone(), end.clone()));
    }
    let all = ["orders-1", "payments-1", "orders-2", "payments-2"];
    for name in all {
        sleep(Duration::from_millis(300)).await;
        let instance = shop.process_mut(name);
        instance.ask_to_stop();
        instance.stopped().await;
        instance.start();
        instance.ready().await;
    }
    for name in all {
        sleep(Duration::from_millis(300)).await;
        shop.process_mut(name).kill().await;
        shop.start().await;
    }
    let deadline = Instant::now() + Duration::from_mins(1);
    for name in ["orders-1", "orders-2"] {
        eventually(&format!("{name} gets its share"), async || {
            assert!(Instant::now() < deadline, "{name} gets nothing");
            let placed =
                calls(shop.process(name), "gozon.orders.v1.OrdersService/PlaceOrder").await;
            (placed > 20).then_some(())
        })
        .await;
    }
    end.cancel();
    while let Some(done) = customers.join_next().await {
        done.expect("a customer");
    }

    let truth = shop.close().await;
    let stored: Vec<_> = truth.orders.iter().map(|order| order.description.clone()).collect();
    let distinct: HashSet<_> = stored.iter().cloned().collect();
    assert_eq!(stored.len(), distinct.len(), "an order without a key was placed twice");
    let accepted = told.accepted.lock().expect("a list");
    let lost: Vec<_> = accepted.difference(&distinct).collect();
    assert!(lost.is_empty(), "accepted and lost: {lost:?}");
    println!("{} accepted of {}", accepted.len(), told.asked.lock().expect("a list").len());
}

/// How many calls to this method a process has answered.
async fn calls(process: &Process, method: &str) -> u64 {
    let metrics = process.metrics().await;
    let lines = metrics.lines().filter(|line| line.starts_with("gozon_http_requests_total{"));
    let lines = lines.filter(|line| line.contains(method));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// A gateway that speaks gRPC tells its clients what is the matter with a service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_away_is_a_problem_and_sockets_end_after_a_while() {
    let mut shop = Plan::on(Combo::PostgresRabbitGrpc).start().await;
    let user = shop.new_user().with_balance(100).await;
    let mut live = Live::connect(&user).await.expect("a socket");
    live.frame().await;
    shop.process_mut("orders-1").kill().await;
    let order = json!({"amount": 1, "description": "x"});
    let refused = user.post("/orders", &order).await;
    refused.problem(503, "upstream_unavailable");
    assert!(refused.header("retry-after").is_some());
    user.get("/orders").await.problem(503, "upstream_unavailable");
    assert_eq!(user.balance().await, 100, "payments goes on");
    let ended = async {
        loop {
            if let Incoming::Closed(code) = live.next().await {
                return code;
            }
        }
    };
    assert_eq!(ended.await, Some(1013));
    shop.start().await;
    Live::connect(&user).await.expect("a socket").frame().await;
    user.settled(user.place(1).await["id"].as_str().expect("an id")).await;
    shop.close().await;
}
