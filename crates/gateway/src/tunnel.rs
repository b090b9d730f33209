//! The tunnel of a WebSocket: the client's connection joined with the service's.

use axum::http::Response;
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use std::{pin::pin, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, copy_buf, split},
    time::timeout,
    try_join,
};
use tokio_util::sync::CancellationToken;

use crate::instance::Lease;

/// Buffers per socket, small because most sockets are idle most of the time.
const CLIENT_BUFFER_BYTES: usize = 512;
const SERVICE_BUFFER_BYTES: usize = 4096;
/// How long the two ends may take to switch, and to close.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Joins the client's connection with the service's as soon as both have switched. When one end
/// closes, or the gateway stops, both are closed.
pub(crate) fn open(
    client: OnUpgrade,
    response: &mut Response<Incoming>,
    lease: Lease,
    stop: CancellationToken,
) {
    let service = hyper::upgrade::on(response);
    gozon_seam::spawn(async move {
        let both = timeout(SWITCH_TIMEOUT, async { try_join!(client, service) });
        if let Ok(Ok((client, service))) = both.await {
            gozon_seam::select! {
                () = join(client, service) => {}
                () = stop.cancelled() => {}
            }
        }
        drop(lease);
    });
}

/// A client that has nothing more to send may still be answered: its Close frame is.
async fn join(client: Upgraded, service: Upgraded) {
    let (from_client, mut to_client) = split(TokioIo::new(client));
    let (from_service, mut to_service) = split(TokioIo::new(service));
    {
        let mut back = pin!(pump(from_service, &mut to_client, SERVICE_BUFFER_BYTES));
        gozon_seam::select! {
            () = pump(from_client, &mut to_service, CLIENT_BUFFER_BYTES) => {
                let rest = async { tokio::join!(to_service.shutdown(), back) };
                let _ = timeout(SWITCH_TIMEOUT, rest).await;
            }
            () = back.as_mut() => {}
        }
    }
    let closing = async { tokio::join!(to_client.shutdown(), to_service.shutdown()) };
    let _ = timeout(SWITCH_TIMEOUT, closing).await;
}

/// Copies until the end or an error: either way this connection is over.
async fn pump(from: impl AsyncRead + Unpin, to: &mut (impl AsyncWrite + Unpin), buffer: usize) {
    let _ = copy_buf(&mut BufReader::with_capacity(buffer, from), to).await;
}
