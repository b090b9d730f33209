//! One live client, from its snapshot to its end, over a WebSocket or server-sent events.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use gozon_contract::{Order, OrderId, Timestamp, UserId};
use gozon_seam::mutation;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;

use super::subscriptions::{Frame, Subscription, Subscriptions, Update};
use crate::{
    service::App,
    sql::{self, Filter},
};

/// The most orders in a snapshot, and in a page of catching up.
const PAGE_ORDERS: usize = 100;
/// The most heartbeats in a row that a client may miss.
const MAX_MISSED_HEARTBEATS: u32 = 2;
/// The most updates taken from the queue at once.
const MAX_BATCH: usize = 64;
/// How long a frame of a new order may wait to share a write with others. The client that placed the order
/// has the answer already; for the others a write by itself would cost more than all the rest. A
/// result never waits.
const NEW_ORDER_DELAY: Duration = Duration::from_millis(50);
/// The most tries of a read of the user's orders, and the mean wait after the first one that failed;
/// it doubles each time. After a pause of this process, connections to the database are gone.
const MAX_READS: u32 = 6;
const READ_RETRY_DELAY: Duration = Duration::from_millis(200);
/// No try is made when this has passed since the first one failed: the client is not served so long.
const READ_RETRY_TIMEOUT: Duration = Duration::from_secs(15);
/// Mean pause before a client catches up: all of an instance do it at once.
const CATCH_UP_DELAY: Duration = Duration::from_millis(500);
/// Number of orders of which a client's newest sent version is kept.
const REMEMBERED_ORDERS: usize = 256;
/// A stopping instance closes one client in this time, so that they do not come back all at once,
const CLOSE_INTERVAL: Duration = Duration::from_millis(1);
/// and all of them within this.
const MAX_CLOSE_SPREAD: Duration = Duration::from_secs(5);
/// How long a stopping instance waits for all clients to be closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(8);

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

/// One client's session: who it is, and what it was sent.
pub(super) struct Session {
    pub user: UserId,
    /// Where to go on, if the client was connected before.
    pub resume_from: Option<Timestamp>,
    pub subscription: Subscription,
    pub app: App,
    sent: SentVersions,
}

impl Session {
    pub(super) fn new(
        user: UserId,
        resume_from: Option<Timestamp>,
        subscription: Subscription,
        app: App,
    ) -> Self {
        Self { user, resume_from, subscription, app, sent: SentVersions::default() }
    }

    /// Serves the client until either side ends it. The subscription ends with this.
    pub(super) async fn run<C: Client>(mut self, client: &mut C) -> End {
        let (overflow, app) = (self.subscription.overflow.clone(), self.app.clone());
        let end = gozon_seam::select! {
            ended = self.serve(client) => ended.map_or_else(|end| end, |never| match never {}),
            () = overflow.cancelled() => {
                End::Close(code::TRY_AGAIN_LATER, "too slow; connect again")
            }
            () = stopping(&app) => End::Close(code::SERVICE_RESTART, "restarting; connect again"),
        };
        if let End::Close(code, _) = end {
            let labels = [("code", code.to_string())];
            metrics::counter!("gozon_stream_closed_total", &labels).increment(1);
        }
        end
    }

    async fn serve<C: Client>(&mut self, client: &mut C) -> Result<Infallible, End> {
        // The subscription is older than what is read here: a change is in it, or comes after it,
        // or both. What is seldom needed is boxed, since there are many sockets.
        match self.resume_from {
            Some(since) => Box::pin(self.catch_up(client, since)).await?,
            None => Box::pin(self.snapshot(client)).await?,
        }
        let pause = self.app.subscriptions.limits().heartbeat;
        let mut heartbeat = interval_at(Instant::now() + pause, pause);
        // After a pause of this process, a client has its time to answer too.
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut missed = 0;
        let (mut updates, mut flush_at) = (Vec::new(), None);
        loop {
            let flush = flush_at.unwrap_or_else(Instant::now);
            gozon_seam::select! {
                // A busy user's frames leave together, in one write.
                count = self.subscription.updates.recv_many(&mut updates, MAX_BATCH) => {
                    if count == 0 {
                        return Err(End::Gone);
                    }
                    let urgent = self.feed(client, &mut updates).await?;
                    if updates.capacity() > 0 {
                        updates = Vec::new();
                    }
                    if urgent {
                        client.flush().await?;
                        flush_at = None;
                    } else {
                        flush_at = flush_at.or(Some(Instant::now() + NEW_ORDER_DELAY));
                    }
                }
                () = sleep_until(flush), if flush_at.is_some() => {
                    flush_at = None;
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

    async fn snapshot<C: Client>(&mut self, client: &mut C) -> Result<(), End> {
        let as_of = self.app.subscriptions.complete_until();
        let read = || async {
            let mut reader = self.app.db.read().await?;
            sql::list_orders(&mut reader, self.user, Filter::default(), PAGE_ORDERS).await
        };
        let orders = self.read(read).await?;
        if mutation!("a socket subscribes after its snapshot") {
            while self.subscription.updates.try_recv().is_ok() {}
        }
        for order in orders.iter().rev().filter(|_| !mutation!("a snapshot is not remembered")) {
            self.sent.is_news(order.id, order.version);
        }
        let snapshot = Snapshot { kind: "snapshot", orders: &orders };
        let text = serde_json::to_string(&snapshot).unwrap_or_default();
        client.snapshot(&text, as_of).await
    }

    /// Feeds the client with updates; whether any of them must not wait.
    async fn feed<C: Client>(
        &mut self,
        client: &mut C,
        updates: &mut Vec<Update>,
    ) -> Result<bool, End> {
        let mut urgent = false;
        for update in updates.drain(..) {
            match update {
                Update::Frame(frame) => {
                    urgent |= frame.version > 1;
                    self.feed_frame(client, &frame).await?;
                }
                Update::CatchUp(since) => {
                    urgent = true;
                    sleep(self.app.random.jitter(CATCH_UP_DELAY)).await;
                    Box::pin(self.catch_up(client, since)).await?;
                }
            }
        }
        Ok(urgent)
    }

    async fn feed_frame<C: Client>(&mut self, client: &mut C, frame: &Frame) -> Result<(), End> {
        if self.sent.is_news(frame.order, frame.version) {
            client.feed(&frame.text, frame.as_of).await?;
        }
        Ok(())
    }

    /// Sends all of the user's orders that changed at `since` or later, page by page.
    async fn catch_up<C: Client>(&mut self, client: &mut C, since: Timestamp) -> Result<(), End> {
        let mut after = None;
        loop {
            let read = || async {
                let mut reader = self.app.db.read().await?;
                sql::orders_changed_since(&mut reader, self.user, since, after, PAGE_ORDERS).await
            };
            let page = self.read(read).await?;
            for order in &page {
                let frame = Frame::new(order.id, order.version, order, None, since);
                self.feed_frame(client, &frame).await?;
            }
            client.flush().await?;
            match page.last() {
                Some(last) if page.len() == PAGE_ORDERS => after = Some(last.id),
                _ => return Ok(()),
            }
        }
    }

    /// Waits for a turn to read from the database, and reads; again, if the database is away or
    /// something is locked.
    async fn read<F>(&self, read: impl Fn() -> F) -> Result<Vec<Order>, End>
    where
        F: Future<Output = gozon_store::Result<Vec<Order>>>,
    {
        let mut delay = READ_RETRY_DELAY;
        let mut deadline = None;
        for tries in 1.. {
            let turn = self.app.subscriptions.reads().acquire().await;
            let error = match read().await {
                Ok(orders) => return Ok(orders),
                Err(error) => error,
            };
            drop(turn);
            tracing::warn!(%error, tries, "can't read a user's orders");
            if matches!(error, gozon_store::Error::Other(_)) {
                return Err(End::Close(code::INTERNAL_ERROR, "internal error"));
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + READ_RETRY_TIMEOUT);
            if tries == MAX_READS || Instant::now() + delay > deadline {
                break;
            }
            sleep(self.app.random.jitter(delay)).await;
            delay *= 2;
        }
        Err(End::Close(code::TRY_AGAIN_LATER, "the database is away; connect again"))
    }
}

/// Waits until the instance stops, and then for this client's turn.
async fn stopping(app: &App) {
    app.streams_stop.cancelled().await;
    let clients = u32::try_from(app.subscriptions.count()).unwrap_or(u32::MAX);
    let spread = CLOSE_INTERVAL.saturating_mul(clients).min(MAX_CLOSE_SPREAD);
    // Anywhere between nothing and all of it.
    sleep(app.random.jitter(spread / 2).saturating_sub(spread / 4) * 2).await;
}

/// Waits for `stop`, and then until every client is closed.
pub(crate) async fn all_closed(subscriptions: Subscriptions, stop: CancellationToken) {
    stop.cancelled().await;
    let closed = async {
        while subscriptions.count() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
        sleep(Duration::from_millis(100)).await;
    };
    if timeout(CLOSE_TIMEOUT, closed).await.is_err() {
        tracing::warn!("stopped with live clients still connected");
    }
}

/// The newest version that was sent of each of the user's latest orders, so that a repeat or a late
/// message is not.
#[derive(Default)]
struct SentVersions(VecDeque<(OrderId, i64)>);

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
