//! What a client that watches is sent, wherever it comes from.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::http::StatusCode;
use futures_util::stream::BoxStream;
use gozon_contract::{Order, Timestamp, TraceParent};
use gozon_http::Problem;
use serde::Serialize;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;

/// For how long a client that was connected gets what it missed instead of a snapshot.
pub const RESUME_WINDOW: Duration = Duration::from_secs(3600);

/// How to watch a user's orders.
#[derive(Clone, Copy, Debug, Default)]
pub struct WatchOrders {
    /// The instant as of which the client is up to date, if it was connected before: instead of the
    /// snapshot it gets the orders that changed since, if that is not longer ago than
    /// [`RESUME_WINDOW`].
    pub resume_from: Option<Timestamp>,
    /// How often to say [`Update::UpToDate`] while nothing changes; never if `None`.
    pub up_to_date: Option<Duration>,
}

/// A user's orders and their changes. It ends when this is dropped.
pub struct Watch {
    /// What the client gets: first the snapshot, unless it resumes. An error is the end.
    pub updates: BoxStream<'static, Result<Vec<Update>, Problem>>,
    /// Cancelled when the client can't keep up.
    pub overflow: CancellationToken,
}

/// What a client is sent.
#[derive(Clone, Debug)]
pub enum Update {
    /// The user's newest 100 orders, newest first.
    Snapshot {
        /// The orders.
        orders: Vec<Order>,
        /// As [`Frame::as_of`].
        as_of: Timestamp,
    },
    /// An order as it is now.
    Change(Arc<Frame>),
    /// The client has everything up to this instant.
    UpToDate(Timestamp),
}

/// An order as it is now, to be sent to any number of clients.
#[derive(Debug)]
pub struct Frame {
    /// The order.
    pub order: Order,
    /// The trace that the change is part of.
    pub traceparent: Option<TraceParent>,
    /// A client that has all frames up to this one has missed no change that was published before
    /// this instant.
    pub as_of: Timestamp,
    text: OnceLock<Utf8Bytes>,
}

#[derive(Serialize)]
struct OrderFrame<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    order: &'a Order,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<TraceParent>,
}

impl Frame {
    /// A frame of `order`.
    pub fn new(order: Order, traceparent: Option<TraceParent>, as_of: Timestamp) -> Self {
        Self { order, traceparent, as_of, text: OnceLock::new() }
    }

    /// Its JSON, made once for all clients.
    pub fn text(&self) -> &Utf8Bytes {
        self.text.get_or_init(|| {
            let Self { order, traceparent, .. } = self;
            let frame = OrderFrame { kind: "order", order, traceparent: *traceparent };
            serde_json::to_string(&frame).unwrap_or_default().into()
        })
    }
}

/// 503: this instance takes no new watch, since it stops.
pub fn shutting_down() -> Problem {
    Problem::unavailable("shutting down; connect again")
}

/// 503, the end of a watch: the instance stops.
pub fn restarting() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "restarting", "restarting; connect again")
}

/// 429, the end of a watch: the client has not taken what it was sent.
pub fn too_slow() -> Problem {
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_slow", "too slow; connect again")
}

/// 429 or 503: there is no room for another watch, of this user or at all.
pub fn no_room(of_this_user: bool) -> Problem {
    let (status, detail) = if of_this_user {
        (StatusCode::TOO_MANY_REQUESTS, "this user has too many sockets here")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "this instance has no room left")
    };
    Problem::new(status, "too_many_sockets", detail).retry_after(5)
}
