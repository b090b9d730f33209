//! How long messages have been waiting, as metrics. An age says at once whether all is well, where
//! a count would need a look at the whole table and a guess at the rate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use gozon_contract::{Clock, Timestamp};
use gozon_store::{Db, Result};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::sql;

/// How often the gauges are set.
const EVERY: Duration = Duration::from_secs(5);
/// Dead letters are counted only this far: more is not worse.
const MOST: i64 = 10_000;

/// Sets `gozon_outbox_oldest_age_seconds`, `gozon_inbox_oldest_age_seconds` (0 when nothing waits)
/// and `gozon_dead_letters` (10,000 stands for that many or more) of one service.
pub struct Waiting {
    service: &'static str,
    db: Db,
    clock: Clock,
    low_water: Arc<AtomicI64>,
}

impl Waiting {
    /// The gauges of `service` in `db`, with the [`Relay::low_water`](crate::Relay::low_water) of
    /// its relay, so that what was already sent need not be passed over.
    pub fn new(service: &'static str, db: Db, clock: Clock, low_water: Arc<AtomicI64>) -> Self {
        Self { service, db, clock, low_water }
    }

    /// Sets the gauges every 5 s until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.step().await {
                tracing::debug!(service = self.service, %error, "can't look at what waits");
            }
        }
    }

    /// Sets the gauges once.
    ///
    /// # Errors
    /// As the database says; the gauges stay as they were.
    pub async fn step(&self) -> Result<()> {
        let from = Timestamp::from_micros(self.low_water.load(Ordering::Relaxed));
        let mut tx = self.db.read().await?;
        let outbox = sql::outbox::oldest(&mut tx, from).await?;
        let inbox = sql::inbox::oldest(&mut tx).await?;
        let dead = sql::dead_letters::count(&mut tx, MOST).await?;
        drop(tx);
        let now = self.clock.now();
        let age = |oldest: Option<Timestamp>| oldest.map_or(0.0, |at| now.since(at).as_secs_f64());
        let gauge = |name: &'static str| metrics::gauge!(name, "service" => self.service);
        gauge("gozon_outbox_oldest_age_seconds").set(age(outbox));
        gauge("gozon_inbox_oldest_age_seconds").set(age(inbox));
        gauge("gozon_dead_letters").set(f64::from(u32::try_from(dead).unwrap_or(u32::MAX)));
        Ok(())
    }
}
