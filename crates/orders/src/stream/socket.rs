//! One socket, from its snapshot to its end.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::SinkExt as _;
use gozon_contract::{Order, OrderId, Timestamp, UserId};
use serde::Serialize;
use tokio::time::{Instant, interval_at, sleep_until, timeout};

use super::hub::{Frame, Note, Seat};
use crate::{
    service::App,
    sql::{self, Filter},
};

/// How many of the user's orders a snapshot holds.
const SNAPSHOT: usize = 100;
/// How many heartbeats in a row it may miss.
const MISSES: u32 = 2;
/// How long a client may take to receive the reason for its being cut off.
const FAREWELL: Duration = Duration::from_secs(30);
/// How many notes are taken at once.
const AT_ONCE: usize = 64;
/// How long a frame of a new order may wait for company. Whoever placed it has its answer already;
/// for the others a write by itself would cost more than all the rest. A result never waits.
const COMPANY: Duration = Duration::from_millis(50);
/// Of how many orders a socket remembers which version it has sent.
const MEMORY: usize = 256;

/// Why a socket ends (RFC 6455, section 7.4, and its registry).
mod code {
    pub const GOING_AWAY: u16 = 1001;
    pub const INTERNAL_ERROR: u16 = 1011;
    pub const TRY_AGAIN_LATER: u16 = 1013;
}

enum End {
    /// The client left, or is not there any more.
    Gone,
    /// We end it, and say why.
    Close(u16, &'static str),
}

#[derive(Serialize)]
struct Snapshot<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    orders: &'a [Order],
}

/// Serves a socket until either side ends it.
pub(crate) async fn run(mut socket: WebSocket, user: UserId, mut seat: Seat, app: App) {
    let overflow = seat.overflow.clone();
    let end = tokio::select! {
        end = serve(&mut socket, user, &mut seat, &app) => end,
        () = overflow.cancelled() => End::Close(code::TRY_AGAIN_LATER, "too slow; connect again"),
        () = app.sockets_stop.cancelled() => End::Close(code::GOING_AWAY, "shutting down"),
    };
    drop(seat);
    if let End::Close(code, reason) = end {
        let labels = [("code", code.to_string())];
        metrics::counter!("gozon_stream_closed_total", &labels).increment(1);
        let frame = CloseFrame { code, reason: reason.into() };
        let farewell = async {
            if socket.send(Message::Close(Some(frame))).await.is_ok() {
                while let Some(Ok(_)) = socket.recv().await {}
            }
        };
        let patience = if code == code::GOING_AWAY { Duration::from_secs(2) } else { FAREWELL };
        let _ = timeout(patience, farewell).await;
    }
}

async fn serve(socket: &mut WebSocket, user: UserId, seat: &mut Seat, app: &App) -> End {
    let mut known = Sent::default();
    // The seat was taken before this reads: a change is in the snapshot, or told after it, or both.
    let orders = match read(app, user, Filter::default()).await {
        Ok(orders) => orders,
        Err(end) => return end,
    };
    for order in orders.iter().rev() {
        known.is_news(order.id, order.version);
    }
    let snapshot = Snapshot { kind: "snapshot", orders: &orders };
    let text = serde_json::to_string(&snapshot).unwrap_or_default();
    drop(orders);
    if socket.send(Message::Text(text.into())).await.is_err() {
        return End::Gone;
    }

    let pause = app.hub.limits().heartbeat;
    let mut heartbeat = interval_at(Instant::now() + pause, pause);
    let mut missed = 0;
    let (mut notes, mut flush_at) = (Vec::new(), None);
    loop {
        let flush = flush_at.unwrap_or_else(Instant::now);
        tokio::select! {
            // A busy user's frames leave together, in one write.
            count = seat.notes.recv_many(&mut notes, AT_ONCE) => {
                if count == 0 {
                    return End::Gone;
                }
                match feed(socket, user, &mut notes, &mut known, app).await {
                    Ok(true) => flush_at = None,
                    Ok(false) => flush_at = flush_at.or(Some(Instant::now() + COMPANY)),
                    Err(end) => return end,
                }
            }
            () = sleep_until(flush), if flush_at.is_some() => {
                flush_at = None;
                if socket.flush().await.is_err() {
                    return End::Gone;
                }
            }
            message = socket.recv() => match message {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return End::Gone,
                Some(Ok(_)) => missed = 0,
            },
            _ = heartbeat.tick() => {
                missed += 1;
                if missed > MISSES || socket.send(Message::Ping(Vec::new().into())).await.is_err() {
                    return End::Gone;
                }
            }
        }
    }
}

/// Puts what the socket is told into its buffer, and sends that if any of it must not wait; whether
/// it did.
async fn feed(
    socket: &mut WebSocket,
    user: UserId,
    notes: &mut Vec<Note>,
    known: &mut Sent,
    app: &App,
) -> Result<bool, End> {
    let mut urgent = false;
    for note in notes.drain(..) {
        let frames = match note {
            Note::Frame(frame) => vec![frame],
            Note::CatchUp(since) => catch_up(app, user, since).await?,
        };
        for frame in frames {
            urgent |= frame.version > 1;
            if known.is_news(frame.order, frame.version)
                && socket.feed(Message::Text(frame.text)).await.is_err()
            {
                return Err(End::Gone);
            }
        }
    }
    if urgent && socket.flush().await.is_err() {
        return Err(End::Gone);
    }
    Ok(urgent)
}

async fn read(app: &App, user: UserId, filter: Filter) -> Result<Vec<Order>, End> {
    let orders = async {
        let mut reader = app.db.read().await?;
        sql::list_orders(&mut reader, user, filter, SNAPSHOT).await
    };
    orders.await.map_err(|error| {
        tracing::warn!(%error, "can't read a snapshot");
        if error.is_unavailable() {
            End::Close(code::TRY_AGAIN_LATER, "the database is away; connect again")
        } else {
            End::Close(code::INTERNAL_ERROR, "internal error")
        }
    })
}

/// What changed since then, oldest first.
async fn catch_up(app: &App, user: UserId, since: Timestamp) -> Result<Vec<Frame>, End> {
    // Every socket of the instance does this at once; spread it over a second.
    tokio::time::sleep(app.random.jitter(Duration::from_millis(500))).await;
    let filter = Filter { changed_since: Some(since), ..Filter::default() };
    let orders = read(app, user, filter).await?;
    let frame = |order: &Order| Frame::new(order.id, order.version, order, None);
    Ok(orders.iter().rev().map(frame).collect())
}

/// Which version of the user's latest orders was sent, so that a repeat or a late message is not.
#[derive(Default)]
struct Sent {
    versions: HashMap<OrderId, i64>,
    oldest: VecDeque<OrderId>,
}

impl Sent {
    /// Whether this is newer than what was sent; if so, it counts as sent.
    fn is_news(&mut self, order: OrderId, version: i64) -> bool {
        if let Some(sent) = self.versions.get_mut(&order) {
            let news = *sent < version;
            *sent = version.max(*sent);
            return news;
        }
        if self.oldest.len() == MEMORY
            && let Some(forgotten) = self.oldest.pop_front()
        {
            self.versions.remove(&forgotten);
        }
        self.versions.insert(order, version);
        self.oldest.push_back(order);
        true
    }
}

#[cfg(test)]
mod tests {
    use gozon_contract::RandomSource;

    use super::*;

    #[test]
    fn a_late_or_repeated_version_is_no_news() {
        let id = OrderId::new(Timestamp::from_micros(0), &RandomSource::seeded(1));
        let mut sent = Sent::default();
        assert!(sent.is_news(id, 2));
        assert!(!sent.is_news(id, 1) && !sent.is_news(id, 2));
        assert!(sent.is_news(id, 3));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (random, mut sent) = (RandomSource::seeded(1), Sent::default());
        for micros in 0..10_000 {
            sent.is_news(OrderId::new(Timestamp::from_micros(micros), &random), 1);
        }
        assert_eq!(sent.versions.len(), MEMORY);
        assert_eq!(sent.oldest.len(), MEMORY);
    }
}
