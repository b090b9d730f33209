//! What a client may cost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::Request};
use futures_util::stream;
use gozon_gateway::{Limits, RateLimit, Upstream};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Semaphore, mpsc},
};

use crate::shop::{Gate, Service, problem, raw_problem, remote};

/// Reads the body and answers with its length, or 400; tells of each request.
fn reader(calls: Arc<AtomicUsize>) -> Router {
    Router::new().fallback(move |request: Request| async move {
        calls.fetch_add(1, SeqCst);
        match request.into_body().collect().await {
            Ok(body) => Ok(body.to_bytes().len().to_string()),
            Err(_) => Err(axum::http::StatusCode::BAD_REQUEST),
        }
    })
}

/// The same service, far and near.
fn far_and_near(service: &Service, routes: Router) -> [Upstream; 2] {
    [remote(&[service.address]), Upstream::Local(routes)]
}

fn chunked(bytes: usize) -> reqwest::Body {
    let pieces = (0..bytes / 1024).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 1024]));
    reqwest::Body::wrap_stream(stream::iter(pieces.collect::<Vec<_>>()))
}

#[tokio::test]
async fn a_body_may_be_64_kib() {
    let [far, near] = [(); 2].map(|()| Arc::<AtomicUsize>::default());
    let service = Service::start(reader(far.clone()));
    let near_routes = Upstream::Local(reader(near.clone()));
    for (upstream, calls) in [(remote(&[service.address]), far), (near_routes, near)] {
        let gate = Gate::with(upstream, Limits::default()).await;
        let client = reqwest::Client::new();
        let post = || client.post(gate.url("/orders"));

        let full = post().body(vec![b'x'; 65_536]).send().await.unwrap();
        assert_eq!(full.text().await.unwrap(), "65536");
        let full = post().body(chunked(65_536)).send().await.unwrap();
        assert_eq!(full.text().await.unwrap(), "65536");
        assert_eq!(calls.load(SeqCst), 2);

        // What says it is too large never gets there.
        let declared = post().body(vec![b'x'; 65_537]).send().await.unwrap();
        problem(declared, 413, "body_too_large").await;
        let declared = post().body(vec![b'x'; 900_000]).send().await.unwrap();
        problem(declared, 413, "body_too_large").await;
        assert_eq!(calls.load(SeqCst), 2);
        let streamed = post().body(chunked(66_560)).send().await.unwrap();
        problem(streamed, 413, "body_too_large").await;
        let streamed = post().body(chunked(900_000)).send().await.unwrap();
        problem(streamed, 413, "body_too_large").await;
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let routes = reader(Arc::default());
    let service = Service::start(routes.clone());
    for upstream in far_and_near(&service, routes) {
        let limits = Limits { body_timeout: Duration::from_millis(200), ..Limits::default() };
        let gate = Gate::with(upstream, limits).await;
        let request = "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc";
        let answer = gate.raw(request).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("application/problem+json") && answer.contains("request_timeout"));
    }
}

#[tokio::test]
async fn a_body_may_not_drip_for_ever() {
    let routes = reader(Arc::default());
    let service = Service::start(routes.clone());
    for upstream in far_and_near(&service, routes) {
        let limits = Limits { body_timeout: Duration::from_millis(500), ..Limits::default() };
        let gate = Gate::with(upstream, limits).await;
        let mut stream = TcpStream::connect(gate.address).await.unwrap();
        let head = b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        let drip = tokio::spawn(async move {
            while to.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let mut answer = vec![0; 12];
        from.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 408");
        drip.abort();
    }
}

#[tokio::test]
async fn heads_have_limits() {
    let service = Service::start(Router::new().fallback(async || "ok"));
    let gate = Gate::with(remote(&[service.address]), Limits::default()).await;
    let get = |fields: &str| format!("GET /orders HTTP/1.1\r\n{fields}Connection: close\r\n\r\n");
    let many = |count: usize| get(&format!("Host: x\r\n{}", "X-One: 1\r\n".repeat(count)));
    let large = |size: usize| get(&format!("Host: x\r\nX: {}\r\n", "x".repeat(size)));
    // What the gateway lets through is never too much for a service.
    for request in [many(78), large(32_000)] {
        let answer = gate.raw(&request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    for request in [many(79), many(95), many(101), many(500), large(33_000), large(70_000)] {
        raw_problem(&gate.raw(&request).await, 431, "headers_too_large");
    }
    let long = "x".repeat(70_000);
    let long = format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n");
    raw_problem(&gate.raw(&long).await, 431, "headers_too_large");
    // Slow heads are cut off without an answer.
    for request in ["GET /orders HTTP/1.1\r\nX:", ""] {
        assert_eq!(gate.raw(request).await, "");
    }
}

#[tokio::test]
async fn what_is_not_http_is_a_problem() {
    let gate = Gate::with(Upstream::Local(reader(Arc::default())), Limits::default()).await;
    for request in [
        "nonsense\r\n\r\n",
        "GET /ord ers HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /orders HTTP/9.9\r\nHost: x\r\n\r\n",
        "GET /orders HTTP/1.1\r\nbad header\r\n\r\n",
        "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "POST /orders HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    ] {
        raw_problem(&gate.raw(request).await, 400, "invalid_request");
    }
    // After a good request on the same connection too, in one packet.
    let both = "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}nonsense\r\n\r\n";
    let answers = gate.raw(both).await;
    let second = answers.rfind("HTTP/1.1").unwrap();
    assert!(answers.starts_with("HTTP/1.1 200") && answers[..second].ends_with("\r\n\r\n2"));
    raw_problem(&answers[second..], 400, "invalid_request");
}

#[tokio::test]
async fn a_request_has_exactly_one_host() {
    let gate = Gate::with(Upstream::Local(reader(Arc::default())), Limits::default()).await;
    let long = format!("Host: {}\r\n", "x".repeat(300));
    for hosts in [
        "",
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a b\r\n",
        "Host: me@a\r\n",
        "Host: a/b\r\n",
        &long,
    ] {
        // The gateway's own answers are no exception.
        for path in ["/orders", "/livez", "/openapi.json", "/swagger/"] {
            let request = format!("GET {path} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
            raw_problem(&gate.raw(&request).await, 400, "invalid_host");
        }
    }
    // HTTP/1.0 knows no hosts.
    let answer = gate.raw("GET /orders HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

#[tokio::test]
async fn encoded_bodies_are_not_supported() {
    let calls = Arc::<AtomicUsize>::default();
    let gate = Gate::with(Upstream::Local(reader(calls.clone())), Limits::default()).await;
    let post = |fields: &str| {
        format!("POST /orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n")
    };
    for coding in ["gzip", "br", "identity, gzip", "nonsense"] {
        let request = post(&format!("Content-Encoding: {coding}\r\nContent-Length: 2\r\n")) + "{}";
        let answer = gate.raw(&request).await;
        assert!(answer.contains("\r\naccept-encoding: identity\r\n"), "{answer}");
        raw_problem(&answer, 415, "unsupported_content_encoding");
    }
    for coding in ["gzip, chunked", "chunked, chunked", "x, chunked"] {
        let request = post(&format!("Transfer-Encoding: {coding}\r\n")) + "0\r\n\r\n";
        raw_problem(&gate.raw(&request).await, 501, "unsupported_transfer_encoding");
    }
    assert_eq!(calls.load(SeqCst), 0);
    for fields in ["Content-Encoding: identity\r\n", ""] {
        let chunked = post(&format!("{fields}Transfer-Encoding: Chunked\r\n"));
        let answer = gate.raw(&(chunked + "2\r\n{}\r\n0\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut_off() {
    let (alive, mut dropped) = mpsc::channel::<()>(1);
    let alive = Arc::new(std::sync::Mutex::new(Some(alive)));
    let endless = Router::new().fallback(move || {
        let alive = alive.lock().unwrap().take();
        let pieces = stream::repeat_with(move || {
            let _held = &alive;
            Ok::<_, std::io::Error>(vec![b'x'; 65_536])
        });
        std::future::ready(Body::from_stream(pieces))
    });
    let service = Service::start(endless);
    let gate = Gate::with(remote(&[service.address]), Limits::default()).await;
    let mut stream = TcpStream::connect(gate.address).await.unwrap();
    stream.write_all(b"GET /orders HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // The service is let go of although the client keeps its connection.
    assert!(dropped.recv().await.is_none());
    drop(stream);
}

#[tokio::test]
async fn requests_under_way_are_bounded() {
    let gates = Arc::new(Semaphore::new(0));
    let (arrived, mut arrivals) = mpsc::channel(8);
    let routes = {
        let gates = gates.clone();
        Router::new().fallback(async move || {
            arrived.send(()).await.unwrap();
            gates.acquire().await.unwrap().forget();
            "done"
        })
    };
    let service = Service::start(routes.clone());
    for upstream in far_and_near(&service, routes) {
        let limits = Limits { in_flight: 2, ..Limits::default() };
        let gate = Gate::with(upstream, limits).await;
        let held = [(); 2].map(|()| tokio::spawn(reqwest::get(gate.url("/orders"))));
        arrivals.recv().await.unwrap();
        arrivals.recv().await.unwrap();
        let refused = gate.get("/orders").await;
        assert_eq!(refused.headers()["retry-after"], "1");
        problem(refused, 503, "overloaded").await;
        assert_eq!(gate.get("/livez").await.status(), 200);
        gates.add_permits(3);
        for request in held {
            assert_eq!(request.await.unwrap().unwrap().text().await.unwrap(), "done");
        }
        assert_eq!(gate.get("/orders").await.status(), 200);
        arrivals.recv().await.unwrap();
    }
}

#[tokio::test]
async fn a_user_may_ask_only_so_often() {
    let rate = Some(RateLimit { per_second: 2, burst: 3, users: 100 });
    let limits = Limits { rate, ..Limits::default() };
    let gate = Gate::with(Upstream::Local(reader(Arc::default())), limits).await;
    let client = reqwest::Client::new();
    let ask = async |user: &str| {
        client.get(gate.url("/orders")).header("x-user-id", user).send().await.unwrap()
    };
    let (one, other) =
        ("018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f", "018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e1f");
    for _ in 0..3 {
        assert_eq!(ask(one).await.status(), 200);
    }
    let refused = ask(one).await;
    assert_eq!(refused.headers()["retry-after"], "1");
    problem(refused, 429, "rate_limited").await;
    assert_eq!(ask(other).await.status(), 200);
    gate.clock.advance(Duration::from_millis(500));
    assert_eq!(ask(one).await.status(), 200);
    assert_eq!(ask(one).await.status(), 429);
}
