//! The live orders of this instance's clients.
//!
//! A client gets a [`subscriptions::Subscription`]; [`watch`] makes of it first a snapshot and then
//! every change. Changes come from this instance's own commits and, through [`listen`], from every
//! other instance's.

mod heartbeat;
mod listen;
mod subscriptions;
mod watch;

use std::time::Duration;

use gozon_api::live::wait_for_clients;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub(crate) use listen::Listener;
pub(crate) use subscriptions::{Full, Subscriptions};
pub(crate) use watch::watch;

/// What live clients may cost an instance.
#[derive(Clone, Debug)]
pub struct StreamLimits {
    /// The most live clients on one instance.
    pub sockets: usize,
    /// The most live clients of one user on one instance.
    pub sockets_per_user: usize,
    /// Origins (such as `https://shop.example`) whose pages may connect, beside the page that the
    /// server itself serves. `*` lets every page.
    pub origins: Vec<String>,
    /// How often a client is pinged; one that misses two in a row is closed.
    pub heartbeat: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            sockets: 20_000,
            sockets_per_user: 50,
            origins: Vec::new(),
            heartbeat: Duration::from_secs(20),
        }
    }
}

/// Waits for `stop`, and then until every client is closed.
pub(crate) async fn all_closed(subscriptions: Subscriptions, stop: CancellationToken) {
    stop.cancelled().await;
    wait_for_clients(async {
        while subscriptions.count() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
        sleep(Duration::from_millis(100)).await;
    })
    .await;
}
