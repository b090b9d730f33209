//! HTTP/2 connections to an instance, for gRPC, by the library that hyper's are made of.
//!
//! hyper-util's pool keeps a single one to a host, and lets requests that wait for it try to connect
//! one after the other. Here there are a few, since each has a lock that all its calls take in turn,
//! and calls that wait for a connection share the outcome. A call's head and message leave in one
//! write: hyper's client needs two, and a task for each call.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Bytes, HttpBody},
    http::{Request, Response},
};
use futures_util::{FutureExt as _, future::BoxFuture, future::Shared};
use h2::{
    Ping, PingPong, Reason, RecvStream,
    client::{Builder, SendRequest},
};
use hyper::body::Frame;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::instance::{Instance, Load, SendError};

/// Number of connections for calls, and of those for watches: what comes for a watch never delays the
/// answer to a call.
const CONNECTIONS: usize = 2;
/// How much of a response may be on its way unread: a snapshot of long descriptions takes a few round
/// trips.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for all responses of a connection: as much as there may be. Every stream is read as soon
/// as something comes.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// How often a silent instance is asked for a sign of life, and how long that may take.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls that were given up, whose answers may yet come.
const MAX_RESET_STREAMS: usize = 10_000;
/// How often a call is tried that a connection did not take because it was being closed.
const ATTEMPTS: usize = 3;

/// An open connection, as far as `ended` is not cancelled.
#[derive(Clone)]
struct Connection {
    requests: SendRequest<Bytes>,
    /// It takes no more requests.
    ended: CancellationToken,
}

type Connecting = Shared<BoxFuture<'static, Result<Connection, Arc<io::Error>>>>;

/// The connections to one instance.
#[derive(Default)]
pub(crate) struct Channels {
    calls: [Channel; CONNECTIONS],
    watches: [Channel; CONNECTIONS],
    next: AtomicUsize,
}

/// A connection that is opened when it is needed, and again when it has ended.
#[derive(Default)]
struct Channel(Mutex<Option<Connecting>>);

impl Channels {
    /// Sends a request to `instance`, whose channels these are, and waits for the response's head.
    /// What a connection did not take is sent again on a new one.
    pub(crate) async fn send(
        &self,
        instance: &Arc<Instance>,
        load: Load,
        request: &Request<Bytes>,
        limit: Duration,
        deadline: Instant,
    ) -> Result<Response<Incoming>, SendError> {
        let uri = instance.uri(request).ok_or(SendError::Unsent)?;
        let channels = match load {
            Load::Requests => &self.calls,
            Load::Sockets => &self.watches,
        };
        let channel = &channels[self.next.fetch_add(1, Relaxed) % CONNECTIONS];
        for _ in 0..ATTEMPTS {
            let connection = match timeout_at(deadline, channel.get(instance, limit)).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => {
                    tracing::debug!(%instance, %error, "can't connect");
                    return Err(SendError::Unsent);
                }
                Err(_) => return Err(SendError::Timeout),
            };
            let mut head = Request::new(());
            *head.method_mut() = request.method().clone();
            *head.uri_mut() = uri.clone();
            head.headers_mut().clone_from(request.headers());
            match timeout_at(deadline, connection.send(head, request.body().clone())).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => {
                    tracing::debug!(%instance, %error, "a call failed");
                    if !error.was_unsent {
                        return Err(SendError::Broken);
                    }
                }
                Err(_) => return Err(SendError::Timeout),
            }
        }
        Err(SendError::Unsent)
    }
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
struct Failure {
    cause: h2::Error,
    /// The instance has surely not begun with the request.
    was_unsent: bool,
}

impl Connection {
    /// Sends a request and waits for the response's head. The request is dropped at the instance,
    /// too, when its caller goes.
    async fn send(self, head: Request<()>, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let sent = async {
            let mut requests = self.requests.ready().await?;
            let (response, mut message) = requests.send_request(head, body.is_empty())?;
            if !body.is_empty() {
                message.send_data(body, true)?;
            }
            Ok(response)
        };
        let response = match sent.await {
            Ok(response) => response,
            Err(cause) => {
                self.ended.cancel();
                return Err(Failure { cause, was_unsent: true });
            }
        };
        match response.await {
            Ok(response) => Ok(response.map(|stream| Incoming { stream, is_at_trailers: false })),
            Err(cause) => Err(Failure { was_unsent: was_refused(&cause), cause }),
        }
    }
}

impl Channel {
    /// The connection that is open, or one that is being opened, for all who wait for it.
    fn get(&self, instance: &Arc<Instance>, limit: Duration) -> Connecting {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = |known: &&Connecting| {
            known
                .peek()
                .is_none_or(|opened| opened.as_ref().is_ok_and(|open| !open.ended.is_cancelled()))
        };
        if let Some(known) = slot.as_ref().filter(usable) {
            return known.clone();
        }
        // By a task, so that it goes on when nobody waits any more.
        let opening = tokio::spawn(open(instance.clone(), limit));
        let opened = async { opening.await.map_err(io::Error::other).flatten().map_err(Arc::new) };
        let connecting = opened.boxed().shared();
        *slot = Some(connecting.clone());
        connecting
    }
}

async fn open(instance: Arc<Instance>, limit: Duration) -> io::Result<Connection> {
    let stream = instance.connect(limit).await?;
    drop(instance);
    let (requests, mut connection) = Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .handshake(stream)
        .await
        .map_err(io::Error::other)?;
    let ended = CancellationToken::new();
    let end = ended.clone().drop_guard();
    let ping = connection.ping_pong();
    tokio::spawn(async move {
        let _end = end;
        let silence = async {
            match ping {
                Some(ping) => silence(ping).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            result = connection => if let Err(error) = result {
                tracing::debug!(%error, "a connection to a service ended badly");
            },
            () = silence => tracing::debug!("a connection to a service is silent"),
        }
    });
    Ok(Connection { requests, ended })
}

/// Asks for signs of life, until one does not come.
async fn silence(mut ping: PingPong) {
    loop {
        sleep(KEEP_ALIVE_INTERVAL).await;
        if !matches!(timeout(KEEP_ALIVE_TIMEOUT, ping.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// Whether the service has not begun with a request: it refused it, or it said that the last request
/// that it has begun with came before. That is what an orderly end of a connection looks like.
fn was_refused(error: &h2::Error) -> bool {
    error.is_remote()
        && (error.reason() == Some(Reason::REFUSED_STREAM)
            || (error.is_go_away() && error.reason() == Some(Reason::NO_ERROR)))
}

/// The body of a response.
pub(crate) struct Incoming {
    stream: RecvStream,
    /// All messages have come, only the trailers have not.
    is_at_trailers: bool,
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let Self { stream, is_at_trailers } = &mut *self;
        if !*is_at_trailers {
            if let Some(data) = ready!(stream.poll_data(context)) {
                return Poll::Ready(Some(data.and_then(|data| {
                    stream.flow_control().release_capacity(data.len())?;
                    Ok(Frame::data(data))
                })));
            }
            *is_at_trailers = true;
        }
        let trailers = ready!(stream.poll_trailers(context)).transpose();
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)))
    }
}
