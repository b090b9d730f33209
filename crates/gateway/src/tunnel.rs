//! The tunnel of each live client: of a WebSocket, the client's connection joined with the service's;
//! of a stream of events, the response.

use std::{pin::pin, time::Duration};

use axum::{body::Body, http::Response};
use gozon_api::live::{closing_turn, wait_for_clients};
use gozon_contract::RandomSource;
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{
        self, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, copy_buf,
        split,
    },
    time::timeout,
    try_join,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{events, frame::FramePosition, instance::Lease};

/// Buffers per socket, small because most sockets are idle most of the time.
const CLIENT_BUFFER_BYTES: usize = 512;
const SERVICE_BUFFER_BYTES: usize = 4096;
/// How long the two ends may take to switch, and to close.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(5);
/// A Close frame with code 1012, service restart (RFC 6455, section 5.5.1).
const SERVICE_RESTART: [u8; 4] = [0x88, 2, 0x03, 0xf4];

/// The open tunnels of a gateway. Clones are the same tunnels.
#[derive(Clone)]
pub(crate) struct Tunnels {
    stop: CancellationToken,
    open: TaskTracker,
    random: RandomSource,
}

impl Tunnels {
    /// None yet. `stop` closes those that are open then.
    pub(crate) fn new(stop: CancellationToken, random: RandomSource) -> Self {
        Self { stop, open: TaskTracker::new(), random }
    }

    /// Joins the client's connection with the service's as soon as both have switched. When one end
    /// closes, both are closed. When the gateway stops, the client gets a Close frame.
    pub(crate) fn open(&self, client: OnUpgrade, response: &mut Response<Incoming>, lease: Lease) {
        let service = hyper::upgrade::on(response);
        let tunnels = self.clone();
        gozon_seam::spawn(self.open.track_future(async move {
            let both = timeout(SWITCH_TIMEOUT, async { try_join!(client, service) });
            if let Ok(Ok((client, service))) = both.await {
                join(client, service, tunnels.stopping()).await;
            }
            drop(lease);
        }));
    }

    /// Passes a stream of events on. When the gateway stops, it ends after a whole event.
    pub(crate) fn open_events(&self, events: Incoming, lease: Lease) -> Body {
        let tunnels = self.clone();
        let stopping = async move { tunnels.stopping().await };
        events::until(stopping, events, (lease, self.open.token()))
    }

    /// Waits until the gateway stops, and then for this tunnel's turn.
    async fn stopping(&self) {
        self.stop.cancelled().await;
        closing_turn(self.open.len(), &self.random).await;
    }

    /// Waits until the gateway stops, and then until every tunnel is closed.
    pub(crate) async fn closed(&self) {
        self.stop.cancelled().await;
        self.open.close();
        wait_for_clients(self.open.wait()).await;
    }
}

/// The end of one direction is the end of the other, a little later: a Close frame may still be
/// answered.
async fn join(client: Upgraded, service: Upgraded, stopping: impl Future<Output = ()>) {
    let (from_client, to_client) = split(TokioIo::new(client));
    let (from_service, to_service) = split(TokioIo::new(service));
    let mut there = pin!(to_the_service(from_client, to_service));
    let mut back = pin!(to_the_client(from_service, to_client, stopping));
    let _ = gozon_seam::select! {
        () = there.as_mut() => timeout(SWITCH_TIMEOUT, back).await,
        () = back.as_mut() => timeout(SWITCH_TIMEOUT, there).await,
    };
}

/// Copies until the end or an error: either way this direction is over.
async fn to_the_service(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let _ = copy_buf(&mut BufReader::with_capacity(CLIENT_BUFFER_BYTES, from), &mut to).await;
    let _ = to.shutdown().await;
}

/// The same. Once `stopping` ends, the frame under way is the last one before a Close frame.
async fn to_the_client(
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    stopping: impl Future<Output = ()>,
) {
    let _ = copy_frames(from, &mut to, stopping).await;
    let _ = to.shutdown().await;
}

async fn copy_frames(
    from: impl AsyncRead + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
    stopping: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut from = BufReader::with_capacity(SERVICE_BUFFER_BYTES, from);
    let (mut frame, mut stopped, mut stopping) = (FramePosition::default(), false, pin!(stopping));
    while !(stopped && frame.is_at_end()) {
        let bytes = gozon_seam::select! {
            () = stopping.as_mut(), if !stopped => {
                stopped = true;
                continue;
            }
            bytes = from.fill_buf() => bytes?,
        };
        if bytes.is_empty() {
            return Ok(());
        }
        let mut count = frame.advance(bytes);
        while !stopped && count < bytes.len() {
            count += frame.advance(&bytes[count..]);
        }
        to.write_all(&bytes[..count]).await?;
        from.consume(count);
    }
    // The service may have said goodbye itself.
    if frame.was_close() { Ok(()) } else { to.write_all(&SERVICE_RESTART).await }
}
