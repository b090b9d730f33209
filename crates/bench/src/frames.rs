//! Live sockets: they receive each settled order at the time at which a user would see it.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio::{net::TcpStream, sync::oneshot, time::sleep};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, client::IntoClientRequest as _, protocol::WebSocketConfig},
};
use uuid::Uuid;

use crate::{
    http,
    tracker::{Outcome, Tracker},
};

/// Time between two attempts to connect a socket again.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);

/// What is read of a frame.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow)]
    order: Option<Order<'a>>,
    #[serde(default, borrow)]
    orders: Vec<Order<'a>>,
}

/// What is read of an order.
#[derive(Deserialize)]
pub(crate) struct Order<'a> {
    pub id: Uuid,
    pub status: &'a str,
}

/// Follows a user's orders, and connects again when the shop closes the socket. Reports the first
/// connection through `connected`.
pub(crate) async fn follow(
    host: Arc<str>,
    user: Uuid,
    tracker: Arc<Tracker>,
    connected: oneshot::Sender<anyhow::Result<()>>,
) {
    let mut socket = match connect(&host, user).await {
        Ok(socket) => {
            let _ = connected.send(Ok(()));
            socket
        }
        Err(error) => {
            let _ = connected.send(Err(error));
            return;
        }
    };
    loop {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Text(text) = message
                && let Ok(frame) = serde_json::from_str::<Frame<'_>>(&text)
            {
                for order in frame.order.iter().chain(&frame.orders) {
                    if let Some(outcome) = Outcome::of(order.status) {
                        tracker.settled(order.id, outcome);
                    }
                }
            }
        }
        tracker.lost_socket();
        socket = loop {
            sleep(RECONNECT_DELAY).await;
            if let Ok(socket) = connect(&host, user).await {
                break socket;
            }
        };
    }
}

async fn connect(host: &str, user: Uuid) -> anyhow::Result<WebSocketStream<TcpStream>> {
    let mut request = format!("ws://{host}/orders/stream").into_client_request()?;
    request.headers_mut().insert("x-user-id", user.to_string().parse()?);
    let config = WebSocketConfig::default().read_buffer_size(16 * 1024);
    let stream = http::connect(host).await?;
    let (socket, _) = client_async_with_config(request, stream, Some(config))
        .await
        .context("GET /orders/stream is refused")?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_frames_are_read() {
        let order = r#"{"id":"018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f","amount":1,"status":"NEW"}"#;
        let one = format!(r#"{{"type":"order","order":{order},"traceparent":"00"}}"#);
        let many = format!(r#"{{"type":"snapshot","orders":[{order},{order}]}}"#);
        let one: Frame<'_> = serde_json::from_str(&one).unwrap();
        let many: Frame<'_> = serde_json::from_str(&many).unwrap();
        assert_eq!((one.order.iter().len(), many.orders.len()), (1, 2));
        assert_eq!(Outcome::of(many.orders[1].status), None);
    }
}
