//! `GET /orders/stream`: the user's orders, live, over WebSocket or as server-sent events.
//!
//! [`endpoint`] decides who may connect and how. A client gets a [`subscriptions::Subscription`],
//! and [`serve`] sends it first a snapshot and then every change, over one of two transports:
//! [`websocket`] or [`events`]. Changes come from this instance's own commits and, through
//! [`listen`], from every other instance's.

mod endpoint;
mod events;
mod heartbeat;
mod listen;
mod origin;
mod serve;
mod subscriptions;
mod websocket;

use std::time::Duration;

pub(crate) use endpoint::{__path_stream, stream};
pub(crate) use listen::Listener;
pub(crate) use serve::all_closed;
pub(crate) use subscriptions::Subscriptions;

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
