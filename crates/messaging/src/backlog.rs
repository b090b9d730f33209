//! How long messages have been waiting, as metrics. An age says at once whether all is well, where
//! a count would need a look at the whole table and a guess at the rate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use gozon_contract::Timestamp;
use gozon_store::Result;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{Context, sql};

/// How often the gauges are set.
const INTERVAL: Duration = Duration::from_secs(5);
/// Dead letters are counted only this far: more is not worse.
const MAX_COUNTED: i64 = 10_000;

/// Sets `gozon_outbox_oldest_age_seconds`, `gozon_inbox_oldest_age_seconds` (0 when nothing waits)
/// and `gozon_dead_letters` (10,000 stands for that many or more) of one service.
pub struct BacklogMetrics {
    context: Context,
    low_water: Arc<AtomicI64>,
}

impl BacklogMetrics {
    /// The gauges of a service, with the [`Relay::low_water`](crate::Relay::low_water) of its relay,
    /// so that what was already sent need not be passed over.
    pub fn new(context: Context, low_water: Arc<AtomicI64>) -> Self {
        Self { context, low_water }
    }

    /// Sets the gauges every 5 s until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            gozon_seam::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.step().await {
                tracing::debug!(service = self.context.service, %error, "can't look at what waits");
            }
        }
    }

    /// Sets the gauges once.
    ///
    /// # Errors
    /// As the database says; the gauges stay as they were.
    pub async fn step(&self) -> Result<()> {
        let from = Timestamp::from_micros(self.low_water.load(Ordering::Relaxed));
        let mut reader = self.context.db.read().await?;
        let outbox = sql::outbox::oldest(&mut reader, from).await?;
        let inbox = sql::pending::oldest(&mut reader).await?;
        let dead = sql::dead_letters::count(&mut reader, MAX_COUNTED).await?;
        drop(reader);
        let now = self.context.clock.now();
        let age = |oldest: Option<Timestamp>| oldest.map_or(0.0, |at| now.since(at).as_secs_f64());
        let gauge = |name: &'static str| metrics::gauge!(name, "service" => self.context.service);
        gauge("gozon_outbox_oldest_age_seconds").set(age(outbox));
        gauge("gozon_inbox_oldest_age_seconds").set(age(inbox));
        gauge("gozon_dead_letters").set(f64::from(u32::try_from(dead).unwrap_or(u32::MAX)));
        Ok(())
    }
}
