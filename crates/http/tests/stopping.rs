//! A server that stops while clients keep their connections.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use axum::{Router, routing::get};
use gozon_http::{Limits, serve};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn a_request_on_a_kept_connection_is_answered_while_it_stops() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (routes, stop) = (Router::new().route("/", get(async || "done")), CancellationToken::new());
    let server = tokio::spawn(serve(listener, routes, Limits::default(), stop.clone()));
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(REQUEST).await.unwrap();
    let mut first = [0; 512];
    let length = connection.read(&mut first).await.unwrap();
    let first = String::from_utf8_lossy(&first[..length]).to_lowercase();
    assert!(first.ends_with("done") && !first.contains("connection: close"), "{first}");

    stop.cancel();
    // Once it takes no new connection, it has seen the signal.
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    connection.write_all(REQUEST).await.unwrap();
    let mut last = String::new();
    connection.read_to_string(&mut last).await.unwrap();
    assert!(last.to_lowercase().contains("connection: close"), "{last}");
    assert!(last.ends_with("done"), "{last}");
    server.await.unwrap();
}
