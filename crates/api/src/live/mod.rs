//! `GET /orders/stream`: the user's orders, live, over WebSocket or as server-sent events.
//!
//! [`endpoint`] decides who may connect and how. A client gets a [`Watch`], and [`session`] sends it
//! first a snapshot and then every change, over one of two transports: [`websocket`] or [`events`].

mod endpoint;
mod events;
mod origin;
mod session;
mod watch;
mod websocket;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use gozon_contract::RandomSource;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use endpoint::{__path_stream, stream};
pub use watch::{
    Frame, RESUME_WINDOW, Update, Watch, WatchOrders, no_room, restarting, shutting_down, too_slow,
};

/// A stopping process closes one client in this time, so that they do not come back all at once,
const CLOSE_INTERVAL: Duration = Duration::from_millis(3);
/// and all of them within this.
const MAX_CLOSE_SPREAD: Duration = Duration::from_secs(8);
/// How long a stopping process waits for all clients to be closed, and how often it looks.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
const CLOSED_CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Waits for the turn of one of so many clients of a stopping process to be closed.
pub async fn closing_turn(clients: usize, random: &RandomSource) {
    let clients = u32::try_from(clients).unwrap_or(u32::MAX);
    let spread = CLOSE_INTERVAL.saturating_mul(clients).min(MAX_CLOSE_SPREAD);
    // Anywhere between nothing and all of it.
    sleep(random.jitter(spread / 2).saturating_sub(spread / 4) * 2).await;
}

/// Waits until all clients of a stopping process are closed, but not for ever.
pub async fn wait_for_clients(closed: impl Future<Output = ()>) {
    if timeout(CLOSE_TIMEOUT, closed).await.is_err() {
        tracing::warn!("stopped with live clients still connected");
    }
}

/// What the live clients of a process share. Clones are the same.
#[derive(Clone, Debug)]
pub struct Live {
    /// Origins (such as `https://shop.example`) whose pages may connect, beside the page that the
    /// server itself serves. `*` lets every page.
    pub origins: Arc<[String]>,
    /// How often a client is pinged; one that misses two in a row is closed.
    pub heartbeat: Duration,
    /// For jitter.
    pub random: RandomSource,
    /// Closes every client.
    pub stop: CancellationToken,
    /// How many clients there are.
    clients: Arc<AtomicUsize>,
}

impl Live {
    /// No clients yet.
    pub fn new(
        origins: Vec<String>,
        heartbeat: Duration,
        random: RandomSource,
        stop: CancellationToken,
    ) -> Self {
        Self { origins: origins.into(), heartbeat, random, stop, clients: Arc::default() }
    }

    /// Waits until the process stops, and then for a client's turn.
    async fn stopping(&self) {
        self.stop.cancelled().await;
        closing_turn(self.clients.load(Relaxed), &self.random).await;
    }

    /// Waits until the process stops, and then until every client is closed.
    pub async fn closed(&self) {
        self.stop.cancelled().await;
        wait_for_clients(async {
            while self.clients.load(Relaxed) > 0 {
                sleep(CLOSED_CHECK_INTERVAL).await;
            }
        })
        .await;
    }

    fn count_client(&self) -> Counted {
        self.clients.fetch_add(1, Relaxed);
        Counted(self.clients.clone())
    }
}

/// A client that is counted until this is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
