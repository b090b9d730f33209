//! Requests of the clients.

use std::time::Duration;

use gozon_seam::net::TcpStream;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::world::port_of;

/// An answer.
pub(crate) struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// The body, as far as it is JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The code of a problem.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// A request on a connection of its own; its head has come back.
pub(crate) async fn send(
    gateway: usize,
    request: Request<Full<Bytes>>,
) -> Option<Response<Incoming>> {
    let stream = TcpStream::connect(("127.0.0.1", port_of(gateway))).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.ok()
}

/// The whole answer, unless it is lost or takes longer than the client waits.
pub(crate) async fn call(
    gateway: usize,
    request: Request<Full<Bytes>>,
    patience: Duration,
) -> Option<Reply> {
    let answer = async {
        let (parts, body) = send(gateway, request).await?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
    };
    timeout(patience, answer).await.ok().flatten()
}

/// A request of a user, with an idempotency key if there is one.
pub(crate) fn request(
    method: &str,
    path: &str,
    user: uuid::Uuid,
    key: Option<&str>,
    body: Option<&serde_json::Value>,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "shop")
        .header("x-user-id", user.to_string());
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    request.body(Full::new(body)).unwrap_or_default()
}
