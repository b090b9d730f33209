//! Several instances, some of them dead, and what is never sent twice.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::Router;
use gozon_gateway::{Limits, Upstream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

use crate::shop::{Gate, Service, nobody, problem, remote};

fn quick() -> Limits {
    Limits { eject: Duration::from_millis(50), ..Limits::default() }
}

/// Answers with its name and counts what it is asked.
fn named(name: &'static str) -> (Router, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let routes = Router::new().fallback(move || {
        counted.fetch_add(1, SeqCst);
        std::future::ready(name)
    });
    (routes, calls)
}

/// Reads one request per connection, counts it, says `answer` and hangs up.
async fn hangs_up_after(answer: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                if stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {
                    counted.fetch_add(1, SeqCst);
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    (address, calls)
}

#[tokio::test]
async fn a_dead_instance_is_left_and_found_again() {
    let (routes_a, calls_a) = named("a");
    let (routes_b, calls_b) = named("b");
    let (a, b) = (Service::start(routes_a.clone()), Service::start(routes_b));
    let gate = Gate::with(remote(&[a.address, b.address]), quick()).await;
    let client = reqwest::Client::new();
    let post = async || {
        let response = client.post(gate.url("/orders")).body("{}").send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.text().await.unwrap()
    };
    for _ in 0..100 {
        post().await;
    }
    assert!(calls_a.load(SeqCst) > 10 && calls_b.load(SeqCst) > 10);

    let address = a.kill();
    for _ in 0..100 {
        assert_eq!(post().await, "b");
    }
    let _a = Service::start_on(address, routes_a);
    while post().await != "a" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_service_that_is_away_comes_back() {
    let (routes, _) = named("a");
    let (reserved, dead) = nobody();
    let (_other, other) = nobody();
    let gate = Gate::with(remote(&[dead, other]), quick()).await;
    for _ in 0..5 {
        let refused = gate.post("/orders", "{}").await;
        assert_eq!(refused.headers()["retry-after"], "1");
        problem(refused, 503, "upstream_unavailable").await;
    }
    // Nobody waits for the end of an ejection when nobody else is there.
    drop(reserved);
    let _service = Service::start_on(dead, routes);
    assert_eq!(gate.post("/orders", "{}").await.text().await.unwrap(), "a");

    let gate = Gate::with(Upstream::Remote(Vec::new()), quick()).await;
    problem(gate.get("/orders").await, 503, "upstream_unavailable").await;
}

#[tokio::test]
async fn a_service_that_does_not_accept_is_unavailable() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody accepts, and the queue is full.
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let connect = TcpStream::connect(address);
        waiting.push(tokio::time::timeout(Duration::from_millis(50), connect).await);
    }
    let limits = Limits { connect: Duration::from_millis(100), ..Limits::default() };
    let gate = Gate::with(remote(&[address]), limits).await;
    problem(gate.post("/orders", "{}").await, 503, "upstream_unavailable").await;
    drop((waiting, listener));
}

#[tokio::test]
async fn a_broken_connection_is_a_bad_gateway() {
    for nonsense in
        ["", "HTTP/1.1 200 OK\r\nContent-", "nonsense\r\n\r\n", "HTTP/1.1 101 x\r\n\r\n"]
    {
        let (address, calls) = hangs_up_after(nonsense).await;
        let gate = Gate::with(remote(&[address]), Limits::default()).await;
        problem(gate.post("/orders", "{}").await, 502, "bad_gateway").await;
        assert_eq!(calls.load(SeqCst), 1);
        problem(gate.get("/orders").await, 502, "bad_gateway").await;
    }
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_a_timeout() {
    let stuck = Router::new().fallback(std::future::pending::<&'static str>);
    let service = Service::start(stuck.clone());
    for upstream in [remote(&[service.address]), Upstream::Local(stuck)] {
        let limits = Limits { response: Duration::from_millis(100), ..Limits::default() };
        let gate = Gate::with(upstream, limits).await;
        problem(gate.post("/orders", "{}").await, 504, "upstream_timeout").await;
        problem(gate.get("/orders").await, 504, "upstream_timeout").await;
    }
}

#[tokio::test]
async fn a_post_is_never_sent_twice_and_a_get_gets_through() {
    let (broken, broken_calls) = hangs_up_after("").await;
    let (routes, good_calls) = named("good");
    let good = Service::start(routes);
    let (_reserved, dead) = nobody();
    let gate = Gate::with(remote(&[broken, good.address, dead]), quick()).await;
    for _ in 0..30 {
        assert_eq!(gate.get("/orders").await.text().await.unwrap(), "good");
    }
    broken_calls.store(0, SeqCst);
    good_calls.store(0, SeqCst);
    let mut lost = 0;
    for _ in 0..100 {
        let response = gate.post("/orders", "{}").await;
        if response.status() != 200 {
            problem(response, 502, "bad_gateway").await;
            lost += 1;
        }
        // Lets the broken one come back into the choice.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(broken_calls.load(SeqCst), lost);
    assert_eq!(good_calls.load(SeqCst), 100 - lost);
    assert!(lost > 0);
}

#[tokio::test]
async fn a_post_with_a_key_is_retried_elsewhere() {
    let (broken, broken_calls) = hangs_up_after("").await;
    let (routes, good_calls) = named("good");
    let good = Service::start(routes);
    let gate = Gate::with(remote(&[broken, good.address]), quick()).await;
    let client = reqwest::Client::new();
    for n in 0..100 {
        let post = client.post(gate.url("/orders")).header("idempotency-key", n).body("{}");
        assert_eq!(post.send().await.unwrap().text().await.unwrap(), "good");
        // Lets the broken one come back into the choice.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(broken_calls.load(SeqCst) > 0);
    assert_eq!(good_calls.load(SeqCst), 100);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_harms_no_post() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (address, calls) = hangs_up_after(answer).await;
    let gate = Gate::with(remote(&[address]), Limits::default()).await;
    for _ in 0..20 {
        assert_eq!(gate.post("/orders", "{}").await.text().await.unwrap(), "ok");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(calls.load(SeqCst), 20);
}

#[tokio::test]
async fn connections_are_kept() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = accepted.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, SeqCst);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    });
    let gate = Gate::with(remote(&[address]), Limits::default()).await;
    for _ in 0..50 {
        assert_eq!(gate.get("/orders").await.text().await.unwrap(), "ok");
    }
    assert!(accepted.load(SeqCst) < 10, "{accepted:?}");
}
