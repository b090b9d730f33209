//! Clients of the live stream.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::Mutex,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest as _,
        protocol::{WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

use super::{Truth, User};

/// How long a socket may be silent before the test fails: two pauses of a minute may follow each other.
const PATIENCE: Duration = Duration::from_mins(4);
/// The first and the longest wait before a watcher connects again.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// An open socket.
pub struct Live(WebSocketStream<TcpStream>);

/// What comes through a socket.
#[derive(Debug, PartialEq)]
pub enum Incoming {
    Frame(Value),
    Ping,
    /// The end, with the code that the server gave.
    Closed(Option<u16>),
}

impl Live {
    /// Connects as `user`, and says what the answer was if it is not the switch to a WebSocket.
    pub async fn connect(user: &User) -> Result<Self, Error> {
        Self::with_buffer(user, None).await
    }

    /// The same with little room for what was received and not read yet.
    pub async fn with_buffer(user: &User, bytes: Option<u32>) -> Result<Self, Error> {
        let mut request = format!("{}/orders/stream", user.door.url.replacen("http", "ws", 1))
            .into_client_request()?;
        let id = user.id.to_string().parse().expect("a header");
        request.headers_mut().insert("x-user-id", id);
        let address = user.door.url.trim_start_matches("http://").parse().expect("an address");
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        let config = WebSocketConfig::default().read_buffer_size(4096);
        Ok(Self(client_async_with_config(request, stream, Some(config)).await?.0))
    }

    /// What comes next, whatever it is.
    pub async fn next(&mut self) -> Incoming {
        let Ok(next) = timeout(PATIENCE, self.0.next()).await else {
            panic!("nothing comes through a socket");
        };
        match next {
            Some(Ok(Message::Text(text))) => {
                Incoming::Frame(serde_json::from_str(&text).expect("a frame of JSON"))
            }
            Some(Ok(Message::Ping(_))) => Incoming::Ping,
            Some(Ok(Message::Close(frame))) => {
                Incoming::Closed(frame.map(|frame| u16::from(frame.code)))
            }
            None | Some(Err(_)) => Incoming::Closed(None),
            Some(Ok(other)) => panic!("unexpected: {other:?}"),
        }
    }

    /// The next frame; pings are passed over.
    pub async fn frame(&mut self) -> Value {
        loop {
            match self.next().await {
                Incoming::Frame(frame) => return frame,
                Incoming::Ping => {}
                Incoming::Closed(code) => panic!("the socket ended with {code:?}"),
            }
        }
    }

    /// The code with which the server ends it; frames before that are passed over.
    pub async fn end(&mut self) -> Option<u16> {
        loop {
            if let Incoming::Closed(code) = self.next().await {
                return code;
            }
        }
    }

    pub async fn say(&mut self, text: String) {
        self.0.send(Message::text(text)).await.expect("a socket that takes a frame");
    }

    /// Says goodbye.
    pub async fn leave(mut self) {
        let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        let _ = self.0.close(Some(frame)).await;
        while let Some(Ok(_)) = self.0.next().await {}
    }

    /// The connection itself, to do what no WebSocket client does.
    pub fn into_stream(self) -> TcpStream {
        self.0.into_inner()
    }
}

/// A user's orders as the rule makes them: of each, the highest version seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen(pub BTreeMap<String, Value>);

impl Seen {
    /// Takes a frame; the orders in it that were news.
    pub fn take(&mut self, frame: &Value) -> usize {
        let orders = match frame["type"].as_str() {
            Some("snapshot") => frame["orders"].as_array().expect("orders").as_slice(),
            Some("order") => std::slice::from_ref(&frame["order"]),
            other => panic!("a frame of type {other:?}"),
        };
        let mut news = 0;
        for order in orders {
            let id = order["id"].as_str().expect("an id").to_owned();
            let known = self.0.get(&id).map_or(0, version);
            if version(order) > known {
                self.0.insert(id, order.clone());
                news += 1;
            }
        }
        news
    }

    /// Whether it is what the database says of the user.
    pub fn agrees(&self, truth: &Truth, user: &User) -> bool {
        let stored = truth.orders.iter().filter(|order| order.user_id == user.id);
        let stored: BTreeMap<_, _> = stored
            .map(|order| (order.id.to_string(), (order.status.as_str(), order.version)))
            .collect();
        let status = |order: &'_ Value| order["status"].as_str().expect("a status").to_owned();
        let seen: BTreeMap<_, _> = self
            .0
            .iter()
            .map(|(id, order)| (id.clone(), (status(order), version(order))))
            .collect();
        seen.len() == stored.len()
            && seen
                .iter()
                .all(|(id, (status, version))| stored.get(id) == Some(&(status.as_str(), *version)))
    }
}

/// The version of an order.
pub fn version(order: &Value) -> i64 {
    order["version"].as_i64().expect("a version")
}

/// Somebody who watches their orders, and connects again whenever the socket ends.
pub struct Watcher {
    pub user: User,
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
    task: JoinHandle<usize>,
}

impl Watcher {
    /// Watches from now on: the first socket is open and has its snapshot.
    pub async fn start(user: &User) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = CancellationToken::new();
        let live = Live::connect(user).await.expect("a socket");
        let task = tokio::spawn(watch(live, user.clone(), Arc::clone(&seen), stop.clone()));
        Self { user: user.clone(), seen, stop, task }
    }

    /// What it sees now.
    pub async fn seen(&self) -> Seen {
        self.seen.lock().await.clone()
    }

    /// Stops watching; how many sockets it had.
    pub async fn stop(self) -> usize {
        self.stop.cancel();
        self.task.await.expect("a watcher")
    }
}

async fn watch(live: Live, user: User, seen: Arc<Mutex<Seen>>, stop: CancellationToken) -> usize {
    let mut live = Some(live);
    let mut sockets = 0;
    let mut wait = RECONNECT.0;
    loop {
        if let Some(mut live) = live.take() {
            (sockets, wait) = (sockets + 1, RECONNECT.0);
            tokio::select! {
                () = stop.cancelled() => return sockets,
                () = read(&mut live, &user, &seen) => {}
            }
        }
        tokio::select! {
            () = stop.cancelled() => return sockets,
            () = sleep(wait) => live = Live::connect(&user).await.ok(),
        }
        wait = RECONNECT.1.min(2 * wait);
    }
}

/// Reads a socket until its end, and checks what every socket promises: first a snapshot, then
/// orders of this user only, each in a higher version than this socket has sent before.
async fn read(live: &mut Live, user: &User, seen: &Mutex<Seen>) {
    let mut here = Seen::default();
    let mut first = true;
    loop {
        let frame = match live.next().await {
            Incoming::Frame(frame) => frame,
            Incoming::Ping => continue,
            Incoming::Closed(_) => return,
        };
        assert_eq!(frame["type"] == "snapshot", first, "{frame}");
        let news = here.take(&frame);
        assert!(first || news == 1, "a version that this socket has sent before: {frame}");
        let stranger = here.0.values().find(|order| order["user_id"] != user.id.to_string());
        assert_eq!(stranger, None, "another user's order");
        seen.lock().await.take(&frame);
        first = false;
    }
}
