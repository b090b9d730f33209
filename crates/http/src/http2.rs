//! HTTP/2 with prior knowledge, on the port of HTTP/1, for gRPC.

use std::{convert::Infallible, io, pin::pin, time::Duration};

use axum::{body::Body, http::Response};
use gozon_contract::RandomSource;
use gozon_seam::net::TcpStream;
use hyper::{Request, body::Incoming, server::conn::http2, service::Service};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::Limits;

/// What a connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// This many bytes of it are enough: no method of HTTP/1 begins so.
const ENOUGH_OF_PREFACE: usize = 3;
/// Pause before looking again whether there are enough bytes.
const PEEK_INTERVAL: Duration = Duration::from_millis(5);
/// The most streams of a connection at once. A call beyond it would wait without a word, and hyper's
/// own limit of 200 is soon reached: each watch is a stream. What is too much is refused by a limit
/// that gives an answer.
const MAX_CONCURRENT_STREAMS: u32 = 100_000;
/// How often a silent peer is asked for a sign of life, and how long that may take.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Mean age at which a connection takes no more calls. Its client connects again, perhaps to an
/// instance that was not there before.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(40);
/// How long calls that are under way then, watches among them, may go on.
const MAX_CONNECTION_AGE_GRACE: Duration = Duration::from_secs(600);

/// Whether a connection begins as one of HTTP/2. Nothing is taken from it.
pub(crate) async fn is_preface(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; ENOUGH_OF_PREFACE];
    loop {
        let count = stream.peek(&mut first).await?;
        if count == 0 || !PREFACE.starts_with(&first[..count]) {
            return Ok(false);
        }
        if count == ENOUGH_OF_PREFACE {
            return Ok(true);
        }
        sleep(PEEK_INTERVAL).await;
    }
}

/// Serves a connection until its end, its age or `stop`; calls under way may finish.
pub(crate) async fn serve<S>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    service: S,
    limits: &Limits,
    random: &RandomSource,
    stop: &CancellationToken,
) -> hyper::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        // A process that was paused finds many calls that were given up meanwhile.
        .max_pending_accept_reset_streams(MAX_CONCURRENT_STREAMS as usize)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop.cancelled() => {}
        () = sleep(random.jitter(MAX_CONNECTION_AGE)) => {}
    }
    connection.as_mut().graceful_shutdown();
    // What is cut off then is watched again elsewhere.
    timeout(MAX_CONNECTION_AGE_GRACE, connection).await.unwrap_or(Ok(()))
}
