//! One live client, from its snapshot to its end, over a WebSocket or server-sent events.

use std::{collections::VecDeque, convert::Infallible};

use futures_util::StreamExt as _;
use gozon_contract::{Order, OrderId, Timestamp};
use gozon_http::Problem;
use gozon_seam::mutation;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{Frame, Live, Update, Watch, restarting, too_slow};

/// The most heartbeats in a row that a client may miss.
const MAX_MISSED_HEARTBEATS: u32 = 2;
/// Number of orders of which a client's newest sent version is kept.
const REMEMBERED_ORDERS: usize = 256;

/// Close codes of RFC 6455, section 7.4, and its registry.
pub(super) mod code {
    pub const PROTOCOL_ERROR: u16 = 1002;
    pub const INVALID_DATA: u16 = 1007;
    pub const TOO_LARGE: u16 = 1009;
    pub const INTERNAL_ERROR: u16 = 1011;
    pub const SERVICE_RESTART: u16 = 1012;
    pub const TRY_AGAIN_LATER: u16 = 1013;
}

/// How a client's connection ends.
pub(super) enum End {
    /// The client left, or is not there any more.
    Gone,
    /// The server ends it, with a code and the reason.
    Close(u16, &'static str),
}

/// The way to one client. What is sent has the instant up to which, as far as is known, the client
/// has got everything then.
pub(super) trait Client {
    /// Whether the client answers pings, so that missing answers mean that it is gone.
    const ANSWERS_PINGS: bool;

    /// Sends the first frame, which may be large.
    async fn snapshot(&mut self, text: &str, as_of: Timestamp) -> Result<(), End>;

    /// Adds a frame to what is sent with the next [`Client::flush`]. Waits for a slow client.
    async fn feed(&mut self, text: &Utf8Bytes, as_of: Timestamp) -> Result<(), End>;

    /// Sends what was fed.
    async fn flush(&mut self) -> Result<(), End>;

    /// Asks for a sign of life.
    async fn ping(&mut self) -> Result<(), End>;

    /// Waits for a sign of life, or the client's end. Cancel-safe.
    async fn receive(&mut self) -> Result<(), End>;
}

#[derive(Serialize)]
struct Snapshot<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    orders: &'a [Order],
}

/// One client's session: what it watches, and what it was sent.
pub(super) struct Session {
    pub live: Live,
    watch: Watch,
    sent: SentVersions,
    /// The client has had its snapshot, or resumes where it was.
    begun: bool,
}

impl Session {
    pub(super) fn new(watch: Watch, live: Live) -> Self {
        Self { live, watch, sent: SentVersions::default(), begun: false }
    }

    /// Serves the client until either side ends it. The watch ends with this.
    pub(super) async fn run<C: Client>(mut self, client: &mut C) -> End {
        let (overflow, live) = (self.watch.overflow.clone(), self.live.clone());
        let end = gozon_seam::select! {
            ended = self.serve(client) => ended.map_or_else(|end| end, |never| match never {}),
            () = overflow.cancelled() => end_of(&too_slow()),
            () = live.stopping() => end_of(&restarting()),
        };
        if let End::Close(code, _) = end {
            let labels = [("code", code.to_string())];
            metrics::counter!("gozon_stream_closed_total", &labels).increment(1);
        }
        end
    }

    async fn serve<C: Client>(&mut self, client: &mut C) -> Result<Infallible, End> {
        let pause = self.live.heartbeat;
        let mut heartbeat = interval_at(Instant::now() + pause, pause);
        // After a pause of this process, a client has its time to answer too.
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut missed = 0;
        loop {
            gozon_seam::select! {
                // A busy user's frames leave together, in one write.
                updates = self.watch.updates.next() => {
                    let Some(updates) = updates else { return Err(End::Gone) };
                    let updates = updates.map_err(|problem| end_of(&problem))?;
                    self.feed(client, updates).await?;
                    client.flush().await?;
                }
                alive = client.receive() => {
                    alive?;
                    missed = 0;
                }
                _ = heartbeat.tick() => {
                    missed += 1;
                    if C::ANSWERS_PINGS && missed > MAX_MISSED_HEARTBEATS {
                        return Err(End::Gone);
                    }
                    client.ping().await?;
                }
            }
        }
    }

    /// Feeds the client with updates.
    async fn feed<C: Client>(&mut self, client: &mut C, updates: Vec<Update>) -> Result<(), End> {
        for update in updates {
            match update {
                Update::Change(frame) => self.feed_frame(client, &frame).await?,
                // What is seldom needed is boxed, since there are many sockets.
                Update::Snapshot { orders, as_of } => {
                    Box::pin(self.snapshot(client, orders, as_of)).await?;
                }
                Update::UpToDate(_) => {}
            }
            self.begun = true;
        }
        Ok(())
    }

    /// A client gets one snapshot. What another one holds is sent as far as it is news.
    async fn snapshot<C: Client>(
        &mut self,
        client: &mut C,
        orders: Vec<Order>,
        as_of: Timestamp,
    ) -> Result<(), End> {
        if self.begun {
            for order in orders.into_iter().rev() {
                self.feed_frame(client, &Frame::new(order, None, as_of)).await?;
            }
            return Ok(());
        }
        for order in orders.iter().rev().filter(|_| !mutation!("a snapshot is not remembered")) {
            self.sent.is_news(order.id, order.version);
        }
        let snapshot = Snapshot { kind: "snapshot", orders: &orders };
        let text = serde_json::to_string(&snapshot).unwrap_or_default();
        client.snapshot(&text, as_of).await
    }

    async fn feed_frame<C: Client>(&mut self, client: &mut C, frame: &Frame) -> Result<(), End> {
        if self.sent.is_news(frame.order.id, frame.order.version) {
            client.feed(frame.text(), frame.as_of).await?;
        }
        Ok(())
    }
}

/// How a client is told that its watch has ended.
fn end_of(problem: &Problem) -> End {
    match (problem.code.as_ref(), problem.status) {
        ("restarting", _) => End::Close(code::SERVICE_RESTART, "restarting; connect again"),
        ("too_slow", _) => End::Close(code::TRY_AGAIN_LATER, "too slow; connect again"),
        (_, 429 | 502..=504) => {
            End::Close(code::TRY_AGAIN_LATER, "the service is away; connect again")
        }
        _ => End::Close(code::INTERNAL_ERROR, "internal error"),
    }
}

/// The newest version that was sent of each of the user's latest orders, so that a repeat or a late
/// message is not.
#[derive(Debug, Default)]
pub(super) struct SentVersions(VecDeque<(OrderId, i64)>);

impl SentVersions {
    /// Whether this is newer than what was sent; if so, it counts as sent.
    fn is_news(&mut self, order: OrderId, version: i64) -> bool {
        if mutation!("late frames are sent") {
            return true;
        }
        if let Some((_, sent)) = self.0.iter_mut().rev().find(|(known, _)| *known == order) {
            let news = *sent < version;
            *sent = version.max(*sent);
            return news;
        }
        if self.0.len() == REMEMBERED_ORDERS {
            self.0.pop_front();
        }
        self.0.push_back((order, version));
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
        let mut sent = SentVersions::default();
        assert!(sent.is_news(id, 2));
        assert!(!sent.is_news(id, 1) && !sent.is_news(id, 2));
        assert!(sent.is_news(id, 3));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (random, mut sent) = (RandomSource::seeded(1), SentVersions::default());
        for micros in 0..10_000 {
            sent.is_news(OrderId::new(Timestamp::from_micros(micros), &random), 1);
        }
        assert_eq!(sent.0.len(), REMEMBERED_ORDERS);
    }
}
