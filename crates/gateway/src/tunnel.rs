//! A WebSocket's two halves, joined.

use axum::http::Response;
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, copy_buf, split},
    time::timeout,
    try_join,
};
use tokio_util::sync::CancellationToken;

use crate::instance::Lease;

/// Buffers per socket, small because most sockets are idle most of the time.
const FROM_CLIENT: usize = 512;
const FROM_SERVICE: usize = 4096;
/// How long the two ends may take to switch, and to close.
const PATIENCE: Duration = Duration::from_secs(5);

/// Joins the client's connection with the service's as soon as both have switched. When one end
/// closes, or the gateway stops, both are closed.
pub(crate) fn open(
    client: OnUpgrade,
    response: &mut Response<Incoming>,
    lease: Lease,
    stop: CancellationToken,
) {
    let service = hyper::upgrade::on(response);
    tokio::spawn(async move {
        let both = timeout(PATIENCE, async { try_join!(client, service) });
        if let Ok(Ok((client, service))) = both.await {
            tokio::select! {
                () = join(client, service) => {}
                () = stop.cancelled() => {}
            }
        }
        drop(lease);
    });
}

async fn join(client: Upgraded, service: Upgraded) {
    let (from_client, mut to_client) = split(TokioIo::new(client));
    let (from_service, mut to_service) = split(TokioIo::new(service));
    tokio::select! {
        () = pump(from_client, &mut to_service, FROM_CLIENT) => {}
        () = pump(from_service, &mut to_client, FROM_SERVICE) => {}
    }
    let closing = async { tokio::join!(to_client.shutdown(), to_service.shutdown()) };
    let _ = timeout(PATIENCE, closing).await;
}

/// Copies until the end or an error: either way this connection is over.
async fn pump(from: impl AsyncRead + Unpin, to: &mut (impl AsyncWrite + Unpin), buffer: usize) {
    let _ = copy_buf(&mut BufReader::with_capacity(buffer, from), to).await;
}
