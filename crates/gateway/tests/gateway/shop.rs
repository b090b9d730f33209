//! A gateway on a real socket, and services behind it that can be killed and started again.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    time::Duration,
};

use axum::Router;
use gozon_contract::{Clock, RandomSource, Timestamp};
use gozon_gateway::{Config, Gateway, Limits, Origin, Upstream};
use gozon_http::{Health, serve};
use reqwest::Response;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Runtime,
};
use tokio_util::sync::CancellationToken;

/// A running gateway.
pub struct Gate {
    pub address: SocketAddr,
    pub stop: CancellationToken,
    pub clock: Clock,
}

impl Gate {
    /// A gateway with `orders`, nothing else behind it, and these limits.
    pub async fn with(orders: Upstream, limits: Limits) -> Self {
        Self::open(orders, Upstream::Remote(Vec::new()), None, limits).await
    }

    pub async fn open(
        orders: Upstream,
        payments: Upstream,
        web: Option<Upstream>,
        limits: Limits,
    ) -> Self {
        let (clock, stop) =
            (Clock::manual(Timestamp::from_micros(1_000_000)), CancellationToken::new());
        let gateway = Gateway::new(Config {
            orders,
            payments,
            web,
            openapi: json!({"openapi": "3.1.0"}),
            health: Health::default(),
            limits,
            clock: clock.clone(),
            random: RandomSource::seeded(1),
            stop: stop.clone(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tight = gozon_http::Limits {
            head_timeout: Duration::from_millis(300),
            write_timeout: Duration::from_millis(300),
            ..gozon_http::Limits::default()
        };
        tokio::spawn(serve(listener, gateway.router(), tight, stop.clone()));
        Self { address, stop, clock }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn get(&self, path: &str) -> Response {
        reqwest::get(self.url(path)).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: &str) -> Response {
        let request = reqwest::Client::new().post(self.url(path)).body(body.to_owned());
        request.send().await.unwrap()
    }

    /// Sends these bytes and reads until the gateway closes.
    pub async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The gateway may hang up before it has taken everything.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// A service with a runtime of its own, so that it can die as a process does.
pub struct Service {
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Service {
    pub fn start(routes: Router) -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap(), routes)
    }

    pub fn start_on(address: SocketAddr, routes: Router) -> Self {
        let listener = StdListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let limits = gozon_http::Limits { http2: true, ..gozon_http::Limits::default() };
            serve(listener, routes, limits, CancellationToken::new()).await;
        });
        Self { address, runtime: Some(runtime) }
    }

    /// Dies at once: its sockets are closed even those with a request under way.
    pub fn kill(mut self) -> SocketAddr {
        self.stop();
        self.address
    }

    fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            let stop = move || runtime.shutdown_timeout(Duration::from_secs(5));
            std::thread::spawn(stop).join().unwrap();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn remote(addresses: &[SocketAddr]) -> Upstream {
    let origin = |address| format!("http://{address}").parse::<Origin>().unwrap();
    Upstream::Remote(addresses.iter().map(origin).collect())
}

/// An address where nobody listens, taken as long as the socket lives.
pub fn nobody() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Checks that the response is this problem and names its request; returns it.
pub async fn problem(response: Response, status: u16, code: &str) -> Value {
    let headers = response.headers().clone();
    assert_eq!(headers["content-type"], "application/problem+json");
    assert_eq!(response.status(), status);
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], code);
    assert_eq!(problem["status"], status);
    assert_eq!(problem["request_id"], headers["x-request-id"].to_str().unwrap());
    problem
}

/// Checks that an answer read from the wire is this problem and names its request.
pub fn raw_problem(answer: &str, status: u16, code: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    let head = head.to_lowercase();
    assert!(head.contains("\r\ncontent-type: application/problem+json"), "{answer}");
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["code"], code, "{answer}");
    assert_eq!(problem["status"], status);
    let id = problem["request_id"].as_str().unwrap();
    assert!(!id.is_empty() && head.contains(&format!("\r\nx-request-id: {id}")), "{answer}");
}
