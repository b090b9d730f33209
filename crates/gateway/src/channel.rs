//! HTTP/2 connections to an instance, for gRPC.
//!
//! hyper-util's pool keeps a single one to a host, and lets requests that wait for it try to connect
//! one after the other. Here there are a few, since each has a lock that all its calls take in turn,
//! and calls that wait for a connection share the outcome.

use std::{
    error::Error as _,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    body::Bytes,
    http::{Request, Response},
};
use futures_util::{FutureExt as _, future::BoxFuture, future::Shared};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, timeout_at};

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

type Connection = SendRequest<Full<Bytes>>;
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
        mut request: Request<Bytes>,
        limit: Duration,
        deadline: Instant,
    ) -> Result<Response<Incoming>, SendError> {
        *request.uri_mut() = instance.uri(&request).ok_or(SendError::Unsent)?;
        let (parts, body) = request.into_parts();
        let channels = match load {
            Load::Requests => &self.calls,
            Load::Sockets => &self.watches,
        };
        let channel = &channels[self.next.fetch_add(1, Relaxed) % CONNECTIONS];
        for _ in 0..ATTEMPTS {
            let mut connection = match timeout_at(deadline, channel.get(instance, limit)).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => {
                    tracing::debug!(%instance, %error, "can't connect");
                    return Err(SendError::Unsent);
                }
                Err(_) => return Err(SendError::Timeout),
            };
            let attempt = Request::from_parts(parts.clone(), Full::new(body.clone()));
            match timeout_at(deadline, connection.send_request(attempt)).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => {
                    tracing::debug!(%instance, source = ?error.source(), "{error}");
                    if was_sent(&error) {
                        return Err(SendError::Broken);
                    }
                }
                Err(_) => return Err(SendError::Timeout),
            }
        }
        Err(SendError::Unsent)
    }
}

impl Channel {
    /// The connection that is open, or one that is being opened, for all who wait for it.
    fn get(&self, instance: &Arc<Instance>, limit: Duration) -> Connecting {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = |known: &&Connecting| {
            known.peek().is_none_or(|opened| opened.as_ref().is_ok_and(|open| !open.is_closed()))
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
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a service ended badly");
        }
    });
    Ok(sender)
}

/// Whether the service may have begun with a request. It has not if the connection never took it, if
/// the service refused it, or if the service said that the last request that it has begun with came
/// before: that is what an orderly end of a connection looks like.
fn was_sent(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    let refused = cause.filter(|cause| cause.is_remote()).is_some_and(|cause| {
        let reason = cause.reason();
        reason == Some(h2::Reason::REFUSED_STREAM)
            || (cause.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
    });
    !error.is_canceled() && !refused
}
