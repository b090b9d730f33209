//! What passes through, and what does not.

use std::sync::Arc;

use axum::{Router, body::Body, extract::Request, response::Response, routing::get};
use futures_util::{StreamExt as _, stream};
use gozon_contract::RandomSource;
use gozon_gateway::{Limits, Upstream};
use gozon_http::{Edge, edge};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::shop::{Gate, Service, problem, raw_problem, remote};

/// Answers with who it is and what it saw.
fn mirror(name: &'static str) -> Router {
    Router::new().fallback(move |request: Request| async move {
        let headers: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| json!([name.as_str(), value.to_str().unwrap()]))
            .collect();
        let seen = json!({"at": name, "uri": request.uri().to_string(), "headers": headers});
        Response::builder()
            .header("connection", "x-internal")
            .header("x-internal", "secret")
            .header("x-kept", "yes")
            .header("keep-alive", "timeout=5")
            .body(Body::from(seen.to_string()))
            .unwrap()
    })
}

async fn mirrors() -> (Gate, [Service; 3]) {
    let services = ["orders", "payments", "web"].map(|name| Service::start(mirror(name)));
    let [orders, payments, web] = services.each_ref().map(|service| remote(&[service.address]));
    (Gate::open(orders, payments, Some(web), Limits::default()).await, services)
}

fn header<'a>(seen: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = seen["headers"].as_array().unwrap().iter();
    headers.filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap()).collect()
}

fn body(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn headers_of_one_hop_stay_on_it() {
    let (gate, _services) = mirrors().await;
    let request = "GET /orders HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-For: 10.1.1.1\r\n\
        Connection: close, X-Secret, X-Request-Id\r\nX-Secret: 1\r\nTE: trailers\r\n\
        Proxy-Authorization: Basic x\r\nUpgrade: h2c\r\nKeep-Alive: 5\r\nX-User-Id: u\r\n\
        Idempotency-Key: k\r\n\r\n";
    let answer = gate.raw(request).await;
    let seen = body(&answer);
    for gone in ["connection", "x-secret", "te", "proxy-authorization", "upgrade", "keep-alive"] {
        assert!(header(&seen, gone).is_empty(), "{gone} in {seen}");
    }
    assert_eq!(header(&seen, "host"), ["shop.example"]);
    assert_eq!(header(&seen, "x-forwarded-host"), ["shop.example"]);
    assert_eq!(header(&seen, "x-forwarded-for"), ["10.1.1.1, 127.0.0.1"]);
    assert_eq!(header(&seen, "x-forwarded-proto"), ["http"]);
    assert_eq!(header(&seen, "x-user-id"), ["u"]);
    assert_eq!(header(&seen, "idempotency-key"), ["k"]);
    assert_eq!(header(&seen, "x-request-id").len(), 1);
    let head = answer.split_once("\r\n\r\n").unwrap().0;
    assert!(head.contains("x-kept: yes"));
    assert!(!head.contains("x-internal") && !head.contains("keep-alive"));
}

#[tokio::test]
async fn request_ids_and_traces_travel() {
    let (gate, _services) = mirrors().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let response = reqwest::Client::new()
        .get(gate.url("/accounts"))
        .header("x-request-id", "mine-1")
        .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"))
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["x-request-id"], "mine-1");
    let seen: Value = response.json().await.unwrap();
    assert_eq!(header(&seen, "x-request-id"), ["mine-1"]);
    let [parent] = header(&seen, "traceparent")[..] else { panic!("{seen}") };
    assert!(parent.contains(trace) && !parent.contains("b7ad6b7169203331"));

    let response = gate.get("/accounts").await;
    let made = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let seen: Value = response.json().await.unwrap();
    assert_eq!(header(&seen, "x-request-id"), [made]);
    assert_eq!(header(&seen, "traceparent").len(), 1);
}

#[tokio::test]
async fn paths_arrive_as_they_came_and_nowhere_else() {
    let (gate, _services) = mirrors().await;
    for (path, at) in [
        ("/orders?limit=1&x=%2F", "orders"),
        ("/orders/", "orders"),
        ("/orders/../accounts", "orders"),
        ("/orders/%2e%2e/accounts", "orders"),
        ("/accounts/balance", "payments"),
        ("/accounts/../orders/x", "payments"),
        ("/ordersX", "web"),
        ("//orders", "web"),
        ("/orders%2Fx", "web"),
        ("/%6Frders", "web"),
        ("/x/../orders", "web"),
        ("/", "web"),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let seen = body(&gate.raw(&request).await);
        assert_eq!((&seen["at"], &seen["uri"]), (&json!(at), &json!(path)));
    }
    let absolute =
        "GET http://elsewhere/orders?a=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let seen = body(&gate.raw(absolute).await);
    assert_eq!((&seen["at"], &seen["uri"]), (&json!("orders"), &json!("/orders?a=1")));
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let orders = Router::new().route("/orders", get(async || "list").post(async || "placed"));
    let orders = edge(orders, Edge { service: "orders", random: RandomSource::seeded(1) });
    let service = Service::start(orders.clone());
    for upstream in [remote(&[service.address]), Upstream::Local(orders)] {
        let gate = Gate::with(upstream, Limits::default()).await;
        for path in ["/nowhere", "/ordersX", "/metrics", "/account/balance", "//orders"] {
            problem(gate.get(path).await, 404, "route_not_found").await;
            problem(gate.post(path, "").await, 404, "route_not_found").await;
        }
        problem(gate.post("/livez", "").await, 405, "method_not_allowed").await;
        for method in ["TRACE", "BREW", "DELETE", "OPTIONS"] {
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            let request = reqwest::Client::new().request(method, gate.url("/orders"));
            let response = request.send().await.unwrap();
            assert_eq!(response.headers()["allow"], "GET,HEAD,POST");
            problem(response, 405, "method_not_allowed").await;
        }
        let connect = "CONNECT x:1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        raw_problem(&gate.raw(connect).await, 501, "method_not_implemented");
    }
}

#[tokio::test]
async fn answers_say_how_long_each_hop_took() {
    let orders = Router::new().fallback(async || "done");
    let orders = edge(orders, Edge { service: "orders", random: RandomSource::seeded(1) });
    let service = Service::start(orders.clone());
    for upstream in [remote(&[service.address]), Upstream::Local(orders)] {
        let gate = Gate::with(upstream, Limits::default()).await;
        let response = gate.get("/orders").await;
        let timings: Vec<_> = response.headers().get_all("server-timing").iter().collect();
        assert!(timings[0].to_str().unwrap().starts_with("orders;dur="), "{timings:?}");
        assert!(timings[1].to_str().unwrap().starts_with("gateway;dur="), "{timings:?}");
    }
}

#[tokio::test]
async fn a_response_arrives_as_it_is_sent() {
    let (chunks, source) = mpsc::channel::<&'static str>(1);
    let source = Arc::new(std::sync::Mutex::new(Some(source)));
    let routes = Router::new().fallback(move || {
        let source = source.lock().unwrap().take().unwrap();
        let pieces = stream::unfold(source, |mut source| async {
            source.recv().await.map(|piece| (Ok::<_, std::io::Error>(piece), source))
        });
        std::future::ready(Body::from_stream(pieces))
    });
    let service = Service::start(routes);
    let gate = Gate::with(remote(&[service.address]), Limits::default()).await;
    let mut answer = gate.get("/orders").await.bytes_stream();
    for piece in ["one", "two", "three"] {
        chunks.send(piece).await.unwrap();
        assert_eq!(answer.next().await.unwrap().unwrap(), piece);
    }
    drop(chunks);
    assert!(answer.next().await.is_none());
}

#[tokio::test]
async fn a_request_in_chunks_arrives_whole() {
    let echo = Router::new().fallback(|request: Request| async { request.into_body() });
    let service = Service::start(echo.clone());
    for upstream in [remote(&[service.address]), Upstream::Local(echo)] {
        let gate = Gate::with(upstream, Limits::default()).await;
        let pieces = stream::iter(["one", "two"].map(Ok::<_, std::io::Error>));
        let request = reqwest::Client::new().post(gate.url("/orders"));
        let answer = request.body(reqwest::Body::wrap_stream(pieces)).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "onetwo");
    }
}

#[tokio::test]
async fn the_gateway_serves_its_document_and_health() {
    let service = Service::start(mirror("x"));
    let upstream = || remote(&[service.address]);
    let gate = Gate::open(upstream(), upstream(), None, Limits::default()).await;
    let document: Value = gate.get("/openapi.json").await.json().await.unwrap();
    assert_eq!(document, json!({"openapi": "3.1.0"}));
    let page = gate.get("/swagger").await;
    assert_eq!(page.status(), 200);
    assert!(page.text().await.unwrap().contains("swagger-ui"));
    assert_eq!(gate.get("/livez").await.status(), 200);
    assert_eq!(gate.get("/readyz").await.status(), 200);
    service.kill();
    let problem = problem(gate.get("/readyz").await, 503, "not_ready").await;
    assert_eq!(problem["errors"].as_array().unwrap().len(), 2);
}
