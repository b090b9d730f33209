//! `GET /orders/stream`: the user's orders, live.

mod handshake;
mod hub;
mod listen;
mod socket;

use std::time::Duration;

pub(crate) use handshake::{__path_stream, stream};
pub(crate) use hub::Hub;
pub(crate) use listen::listen;

/// What sockets may cost an instance.
#[derive(Clone, Debug)]
pub struct StreamLimits {
    /// The most sockets on one instance.
    pub sockets: usize,
    /// The most sockets of one user on one instance.
    pub sockets_per_user: usize,
    /// Origins (such as `https://shop.example`) whose pages may connect, beside the page that the
    /// server itself serves. `*` lets every page.
    pub origins: Vec<String>,
    /// How often a client is asked for a sign of life; one that misses two in a row is cut off.
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
