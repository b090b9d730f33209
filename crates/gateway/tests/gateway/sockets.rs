//! Live sockets, far and near.

use axum::{
    Router,
    extract::{
        WebSocketUpgrade,
        ws::{Message as Frame, WebSocket},
    },
    response::Response,
};
use futures_util::{SinkExt as _, StreamExt as _};
use gozon_gateway::{Limits, Upstream};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message},
};

use crate::shop::{Gate, Service, problem, remote};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Says its name, then repeats each message; "bye" ends it.
fn parrot(name: &'static str) -> Router {
    let talk = move |mut socket: WebSocket| async move {
        let mut next = Some(Frame::text(name));
        while let Some(frame) = next {
            if socket.send(frame).await.is_err() {
                return;
            }
            next = match socket.recv().await {
                Some(Ok(Frame::Text(text))) if text.as_str() != "bye" => Some(Frame::Text(text)),
                _ => None,
            };
        }
    };
    let upgrade =
        move |upgrade: WebSocketUpgrade| std::future::ready::<Response>(upgrade.on_upgrade(talk));
    Router::new()
        .route("/orders/stream", axum::routing::get(upgrade))
        .fallback(|| std::future::ready("ok"))
}

async fn connect(gate: &Gate) -> (Socket, String) {
    let url = format!("ws://{}/orders/stream", gate.address);
    let (mut socket, _) = connect_async(url).await.unwrap();
    let name = socket.next().await.unwrap().unwrap().into_text().unwrap().to_string();
    (socket, name)
}

/// The socket ends, cleanly or not.
async fn ends(mut socket: Socket) {
    while let Some(Ok(frame)) = socket.next().await {
        assert!(frame.is_close(), "{frame:?}");
    }
}

#[tokio::test]
async fn a_socket_goes_through_both_ways() {
    let service = Service::start(parrot("a"));
    for upstream in [remote(&[service.address]), Upstream::Local(parrot("a"))] {
        let limits = Limits { in_flight: 1, ..Limits::default() };
        let gate = Gate::with(upstream, limits).await;
        let (mut socket, _) = connect(&gate).await;
        let large = "x".repeat(50_000);
        for text in ["hello", &large, "again"] {
            socket.send(Message::text(text)).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), text);
        }
        // An open socket is no request under way.
        assert_eq!(gate.get("/orders").await.status(), 200);
        socket.send(Message::text("bye")).await.unwrap();
        ends(socket).await;
    }
}

#[tokio::test]
async fn a_refused_upgrade_is_answered_as_the_service_says() {
    let service = Service::start(parrot("a"));
    let gate = Gate::with(remote(&[service.address]), Limits::default()).await;
    let url = format!("ws://{}/orders/elsewhere", gate.address);
    let Err(Error::Http(response)) = connect_async(url).await else { panic!("switched") };
    assert_eq!(response.status(), 200);
    service.kill();
    let url = format!("ws://{}/orders/stream", gate.address);
    let Err(Error::Http(response)) = connect_async(url).await else { panic!("switched") };
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    problem(gate.get("/orders/stream").await, 503, "upstream_unavailable").await;
}

#[tokio::test]
async fn sockets_are_spread_and_survive_an_instance() {
    let (a, b) = (Service::start(parrot("a")), Service::start(parrot("b")));
    let gate = Gate::with(remote(&[a.address, b.address]), Limits::default()).await;
    let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let (socket, name) = connect(&gate).await;
        if name == "a" { at_a.push(socket) } else { at_b.push(socket) }
    }
    assert_eq!((at_a.len(), at_b.len()), (10, 10));

    a.kill();
    for socket in at_a {
        ends(socket).await;
    }
    for _ in 0..10 {
        assert_eq!(connect(&gate).await.1, "b");
    }
    for mut socket in at_b {
        socket.send(Message::text("still here")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), "still here");
    }
}

#[tokio::test]
async fn stopping_closes_each_socket_with_1012_after_a_whole_frame() {
    let service = Service::start(parrot("a"));
    let gate = Gate::with(remote(&[service.address]), Limits::default()).await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(connect(&gate).await.0);
    }
    // Frames are on their way, some of them only in part: nobody reads them yet.
    let large = "x".repeat(50_000);
    for socket in &mut sockets[..5] {
        socket.send(Message::text(large.as_str())).await.unwrap();
    }
    gate.stop.cancel();
    for mut socket in sockets {
        let code = loop {
            match socket.next().await.unwrap().unwrap() {
                Message::Text(text) => assert_eq!(text, large),
                Message::Close(frame) => break frame.unwrap().code,
                frame => panic!("{frame:?}"),
            }
        };
        assert_eq!(u16::from(code), 1012);
        ends(socket).await;
    }
}
