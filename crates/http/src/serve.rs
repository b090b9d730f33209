//! Serving HTTP with limits on what a client may cost, and stopping without dropping anyone.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, time::Duration};

use axum::{Router, extract::ConnectInfo};
use gozon_contract::RandomSource;
use gozon_seam::net::{TcpListener, TcpStream};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;

use crate::{http2, refusal::ExplainRefusals};

/// The default maximum number of headers; hyper's own.
const MAX_HEADERS: usize = 100;

/// For so long a stopping server leaves idle connections open. A client may be sending a request on
/// one; closed in that moment, it could not know whether the request was done. What is answered meanwhile
/// says that the connection ends, so that only those that nobody uses are closed after it.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// What a client may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest that a request's head may take to arrive; the connection is closed after it.
    /// An idle kept-alive connection is closed after this long too.
    pub head_timeout: Duration,
    /// The most bytes that a request's head may have, and the response's buffer; at least 8192. The
    /// gateway lets less through, so that what it adds is never too much for a service.
    pub head_bytes: usize,
    /// The most headers that a request may have.
    pub headers: usize,
    /// The longest that a client may take nothing of what is sent to it, on a WebSocket too; the
    /// connection is closed after it.
    pub write_timeout: Duration,
    /// How long requests under way may take to finish once the server stops.
    pub drain: Duration,
    /// Whether HTTP/2 (with prior knowledge) is served besides HTTP/1, for gRPC.
    pub http2: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(30),
            head_bytes: 64 * 1024,
            headers: MAX_HEADERS,
            write_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(10),
            http2: false,
        }
    }
}

/// Serves `app` on `listener` until `stop`, then takes no new connection and lets requests under
/// way finish.
pub async fn serve(listener: TcpListener, app: Router, limits: Limits, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let server =
        Server { http1: http1(&limits), app, limits, random: RandomSource::system(), stop };
    loop {
        let accepted = gozon_seam::select! {
            () = server.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = server.clone().connection(stream, peer);
                gozon_seam::spawn(connections.track_future(connection));
            }
            Err(error) => pause_after(&error).await,
        }
    }
    drop(listener);
    connections.close();
    if timeout(limits.drain, connections.wait()).await.is_err() {
        tracing::warn!("stopped with requests still under way");
    }
}

fn http1(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(limits.head_bytes.max(8192))
        .max_header_size(limits.head_bytes);
    // Asking for hyper's own bound would cost an allocation per request.
    if limits.headers != MAX_HEADERS {
        http.max_headers(limits.headers);
    }
    http
}

#[derive(Clone)]
struct Server {
    http1: http1::Builder,
    app: Router,
    limits: Limits,
    /// For the ids of requests that never reach the application, and for jitter.
    random: RandomSource,
    stop: CancellationToken,
}

impl Server {
    /// Serves a connection to its end.
    async fn connection(self, stream: TcpStream, peer: SocketAddr) {
        let _ = stream.set_nodelay(true);
        let http2 = self.limits.http2 && {
            let first = timeout(self.limits.head_timeout, http2::is_preface(&stream)).await;
            let Ok(Ok(is_preface)) = first else { return };
            is_preface
        };
        let (app, stop) = (self.app.clone(), self.stop.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            let (is_last, answer) = (stop.is_cancelled() && !http2, app.clone().call(request));
            async move {
                let mut response = answer.await?;
                if is_last {
                    end_connection(&mut response);
                }
                Ok::<_, Infallible>(response)
            }
        });
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.limits.write_timeout));
        let stream = Box::pin(stream);
        let ended = if http2 {
            // Boxed, since it is large, and most connections that stay are sockets of HTTP/1.
            Box::pin(http2::serve(stream, service, &self.limits, &self.random, &self.stop)).await
        } else {
            let io = TokioIo::new(ExplainRefusals::new(stream, self.random));
            let connection = self.http1.serve_connection(io, service).with_upgrades();
            let mut connection = pin!(connection);
            let stopped = async {
                self.stop.cancelled().await;
                sleep(IDLE_GRACE).await;
            };
            gozon_seam::select! {
                ended = connection.as_mut() => ended,
                () = stopped => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection ended badly");
        }
    }
}

/// Says that this is the connection's last response, unless it becomes a WebSocket.
fn end_connection<B>(response: &mut Response<B>) {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Out of file descriptors, most likely: waiting lets some be closed.
async fn pause_after(error: &io::Error) {
    if !matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted) {
        tracing::warn!(%error, "can't accept a connection");
        sleep(Duration::from_millis(200)).await;
    }
}
