//! How long the oldest order has been waiting, to take no new ones while that is too long.
//!
//! Once a second a place moves along the orders by their creation, over all that are settled, and
//! stops at the first that is NEW. That costs the rows of a second, or of a stretch of a backlog, but
//! never the whole backlog.
//!
//! An order that waits by itself (its account is locked, its message is a dead letter) does not close
//! the shop: it is passed over once an order has been settled that was placed so much later that the
//! limit is not exceeded for that one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::http::StatusCode;
use gozon_contract::{Order, Timestamp};
use gozon_http::Problem;
use gozon_messaging::Context;
use gozon_store::Result;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{sql, stretch::Stretch};

/// How often to look.
const INTERVAL: Duration = Duration::from_secs(1);
/// How far back the first look goes.
const FIRST_LOOK_BACK: Duration = Duration::from_hours(1);
/// The shortest stretch of time whose orders are read at once.
const SHORTEST_STRETCH: Duration = Duration::from_secs(30);
/// What a client is told to wait, in seconds.
const RETRY_AFTER: u32 = 5;

/// Whether new orders are taken. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Intake(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// For how long the oldest order has waited, in seconds, if that is too long; otherwise 0.
    waited: AtomicU64,
    /// When the latest order that was settled here was created, in microseconds since the epoch.
    newest_settled: AtomicI64,
}

impl Intake {
    /// Whether a new order may be placed.
    ///
    /// # Errors
    /// 503 `too_many_unsettled` while the oldest order has waited for too long.
    pub(crate) fn check(&self) -> std::result::Result<(), Problem> {
        let waited = self.0.waited.load(Relaxed);
        if waited == 0 {
            return Ok(());
        }
        let detail = format!("orders have waited up to {waited} s for their payment; try again");
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Err(Problem::new(status, "too_many_unsettled", detail).retry_after(RETRY_AFTER))
    }

    /// Takes note of settled orders.
    pub(crate) fn settled<'a>(&self, orders: impl Iterator<Item = &'a Order>) {
        if let Some(newest) = orders.map(|order| order.created_at.micros()).max() {
            self.0.newest_settled.fetch_max(newest, Relaxed);
        }
    }
}

/// Looks for the oldest order that waits.
pub(crate) struct Unsettled {
    context: Context,
    limit: Duration,
    intake: Intake,
    /// All orders from before are settled, or wait by themselves.
    place: Timestamp,
    stretch: Stretch,
}

impl Unsettled {
    /// Closes `intake` while the oldest order has waited longer than `limit`.
    pub(crate) fn new(context: Context, limit: Duration, intake: Intake) -> Self {
        let place = context.clock.now().minus(FIRST_LOOK_BACK.max(limit));
        Self { context, limit, intake, place, stretch: Stretch::new(SHORTEST_STRETCH) }
    }

    /// Looks again and again until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.step().await {
                tracing::debug!(%error, "can't look for the oldest order that waits");
            }
            gozon_seam::select! {
                () = stop.cancelled() => return,
                () = sleep(self.context.random.jitter(INTERVAL)) => {}
            }
        }
    }

    /// Looks once, and opens or closes the intake.
    ///
    /// # Errors
    /// As the database says; the intake stays as it was.
    pub(crate) async fn step(&mut self) -> Result<()> {
        let now = self.context.clock.now();
        let late = now.minus(self.limit);
        let mut oldest = None;
        while oldest.is_none() && self.place < late {
            let until = self.place.plus(self.stretch.length()).min(late);
            let mut reader = self.context.db.read().await?;
            let look = sql::oldest_new(&mut reader, self.place, until);
            let found = self.stretch.read(look).await?;
            drop(reader);
            let overtaken = Timestamp::from_micros(self.intake.0.newest_settled.load(Relaxed))
                .minus(self.limit);
            match found {
                None => self.place = until,
                Some(created_at) if created_at < overtaken => {
                    self.place = created_at.plus(Duration::from_micros(1));
                }
                Some(created_at) => {
                    self.place = created_at;
                    oldest = Some(created_at);
                }
            }
        }
        let waited = oldest.map_or(0, |since| now.since(since).as_secs().max(1));
        let before = self.intake.0.waited.swap(waited, Relaxed);
        let limit = self.limit.as_secs();
        if before == 0 && waited > 0 {
            tracing::warn!(waited, limit, "orders wait for too long: new ones are refused");
        } else if before > 0 && waited == 0 {
            tracing::warn!(limit, "new orders are taken again");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use gozon_contract::{Clock, Description, Money, OrderId, OrderStatus, RandomSource, UserId};
    use gozon_messaging::broker::Memory;
    use gozon_store::migrate;
    use gozon_testkit::{TestDb, on_both_databases};

    use super::*;
    use crate::{MIGRATIONS, TOPICS};

    on_both_databases!(
        new_orders_are_refused_while_the_oldest_waits_too_long,
        an_order_that_waits_by_itself_closes_nothing,
        a_backlog_is_found_after_a_restart,
    );

    const LIMIT: Duration = Duration::from_secs(30);

    struct Shop {
        _test: TestDb,
        context: Context,
        intake: Intake,
        unsettled: Unsettled,
    }

    async fn shop(test: TestDb) -> Shop {
        let db = test.db();
        migrate(&db, &[gozon_messaging::MIGRATIONS, MIGRATIONS].concat()).await.unwrap();
        let clock = Clock::manual(Timestamp::from_micros(1_763_683_200_000_000));
        let random = RandomSource::seeded(1);
        let broker = Arc::new(Memory::new(TOPICS, random.clone()));
        let (context, _) = Context::new("orders", db, broker, clock, random);
        let intake = Intake::default();
        let unsettled = Unsettled::new(context.clone(), LIMIT, intake.clone());
        Shop { _test: test, context, intake, unsettled }
    }

    impl Shop {
        async fn place(&self) -> Arc<Order> {
            let now = self.context.clock.now();
            let user: UserId = "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e".parse().unwrap();
            let order = Arc::new(Order {
                id: OrderId::new(now, &self.context.random),
                user_id: user,
                amount: Money::try_from(9_900).unwrap(),
                description: Description::try_from("A red kettle".to_owned()).unwrap(),
                status: OrderStatus::New,
                cancel_reason: None,
                version: 1,
                created_at: now,
                updated_at: now,
            });
            let work = self.context.db.optimistic().await.unwrap();
            work.commit(vec![sql::insert_orders(&[Arc::clone(&order)])]).await.unwrap();
            order
        }

        async fn settle(&self, order: &Order) {
            let moved = Order { status: OrderStatus::Finished, version: 2, ..order.clone() };
            self.intake.settled([&moved].into_iter());
            let work = self.context.db.optimistic().await.unwrap();
            work.commit(vec![sql::move_orders(&[(moved, ())])]).await.unwrap();
        }

        /// Whether orders are taken after so much time.
        async fn open_after(&mut self, time: Duration) -> bool {
            self.context.clock.advance(time);
            self.unsettled.step().await.unwrap();
            self.intake.check().is_ok()
        }
    }

    async fn new_orders_are_refused_while_the_oldest_waits_too_long(test: TestDb) {
        let mut shop = shop(test).await;
        let first = shop.place().await;
        assert!(shop.open_after(LIMIT / 2).await);
        let second = shop.place().await;
        assert!(!shop.open_after(LIMIT).await);
        shop.settle(&first).await;
        assert!(
            !shop.open_after(Duration::from_secs(5)).await,
            "the second waits for too long too"
        );
        shop.settle(&second).await;
        assert!(shop.open_after(Duration::ZERO).await);
        assert!(shop.open_after(LIMIT * 100).await);
    }

    async fn an_order_that_waits_by_itself_closes_nothing(test: TestDb) {
        let mut shop = shop(test).await;
        shop.place().await;
        assert!(!shop.open_after(LIMIT * 2).await);
        let later = shop.place().await;
        shop.settle(&later).await;
        assert!(shop.open_after(Duration::from_secs(1)).await);
        let stuck_too = shop.place().await;
        assert!(!shop.open_after(LIMIT * 2).await);
        shop.settle(&stuck_too).await;
        assert!(shop.open_after(Duration::ZERO).await);
    }

    async fn a_backlog_is_found_after_a_restart(test: TestDb) {
        let mut shop = shop(test).await;
        let order = shop.place().await;
        shop.context.clock.advance(LIMIT * 20);
        shop.unsettled = Unsettled::new(shop.context.clone(), LIMIT, shop.intake.clone());
        assert!(!shop.open_after(Duration::ZERO).await);
        shop.settle(&order).await;
        assert!(shop.open_after(Duration::ZERO).await);
    }
}
