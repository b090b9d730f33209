//! Orders that stay NEW are asked for again.
//!
//! Nothing of ours loses a request. But a broker may lose its data, an operator may purge a queue, and
//! both databases may be restored to an instant. In each case payments answers a request again
//! that it has answered before, and pays one that it has never seen.
//!
//! Each order is looked at once, when it has reached the age; those that are NEW then are asked for,
//! and again with growing waits while they stay NEW. How many at a time depends on what comes of it:
//! where most of those asked for are settled by the next look, the answers were lost, and more are
//! asked for; where they are not, payments has a backlog, and asking again would only make it longer.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use gozon_contract::{
    Clock, Order, OrderId, OrderStatus, PAYMENT_REQUESTED, RandomSource, Timestamp, UserId,
};
use gozon_messaging::{Context, Outbox, Outgoing};
use gozon_seam::mutation;
use gozon_store::{Db, Result};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{place::payment_requested, sql, stretch::Stretch};

/// How often to look.
const INTERVAL: Duration = Duration::from_secs(5);
/// How far back the first look goes. What is older is for `gozon audit --repair`.
const FIRST_LOOK_BACK: Duration = Duration::from_hours(24);
/// The shortest stretch of time whose orders are read at once.
const SHORTEST_STRETCH: Duration = Duration::from_mins(5);
/// The least and the most orders asked for at a time.
const MIN_ASKED: usize = 50;
const MAX_ASKED: usize = 2_000;
/// The most orders that are remembered until they are settled.
const MAX_WAITING: usize = 20_000;
/// The longest wait between two requests for one order.
const MAX_WAIT: Duration = Duration::from_hours(1);

/// Asks again for the payment of orders that stay NEW.
pub(crate) struct Resend {
    context: Context,
    after: Duration,
    /// Orders up to this one, by creation and id, were looked at.
    looked_until: (Timestamp, Uuid),
    stretch: Stretch,
    /// How many to ask for at a time.
    limit: usize,
    waiting: VecDeque<Asked>,
}

/// An order that is asked for, and when to look at it again.
struct Asked {
    user: UserId,
    order: OrderId,
    /// How long to wait once it is asked for.
    wait: Duration,
    again_at: Timestamp,
}

impl Resend {
    /// Asks for orders that are NEW for longer than `after`.
    pub(crate) fn new(context: Context, after: Duration) -> Self {
        let looked_until = (context.clock.now().minus(FIRST_LOOK_BACK), Uuid::nil());
        Self {
            context,
            after,
            looked_until,
            stretch: Stretch::new(SHORTEST_STRETCH),
            limit: MIN_ASKED,
            waiting: VecDeque::new(),
        }
    }

    /// Looks again and again until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            gozon_seam::select! {
                () = stop.cancelled() => return,
                () = sleep(self.context.random.jitter(INTERVAL)) => {}
            }
            if let Err(error) = self.step().await {
                tracing::debug!(%error, "can't look for orders that stay NEW");
            }
        }
    }

    /// Looks once; how many orders were asked for. What can't be asked for now is due again at the
    /// next look.
    ///
    /// # Errors
    /// As the database says.
    pub(crate) async fn step(&mut self) -> Result<usize> {
        let now = self.context.clock.now();
        let mut due = self.still_new(now).await?;
        let late = now.minus(self.after);
        while due.len() < self.limit
            && self.waiting.len() < MAX_WAITING
            && self.looked_until.0 < late
        {
            let room = self.limit - due.len();
            let until = self.looked_until.0.plus(self.stretch.length()).min(late);
            let mut reader = self.context.db.read().await?;
            let look = sql::new_orders(&mut reader, self.looked_until, until, room);
            let found = self.stretch.read(look).await?;
            drop(reader);
            self.looked_until = match found.last() {
                Some(last) if found.len() == room => (last.created_at, last.id.uuid()),
                _ => self.looked_until.max((until, Uuid::max())),
            };
            for order in found {
                if !self.waiting.iter().any(|asked| asked.order == order.id) {
                    let (user, id) = (order.user_id, order.id);
                    self.waiting.push_back(Asked {
                        user,
                        order: id,
                        wait: self.after,
                        again_at: now,
                    });
                    due.push(order);
                }
            }
        }
        if due.is_empty() || mutation!("what the broker lost is not asked for again") {
            return Ok(0);
        }
        self.ask(&due).await?;
        let asked_for: HashSet<_> = due.iter().map(|order| order.id).collect();
        for asked in self.waiting.iter_mut().filter(|asked| asked_for.contains(&asked.order)) {
            asked.again_at = now.plus(self.context.random.jitter(asked.wait));
            asked.wait = (asked.wait * 2).min(MAX_WAIT);
        }
        Ok(due.len())
    }

    /// Those whose wait is over and which are still NEW. Those that are not are forgotten, and their
    /// share says whether to ask for more or for fewer at a time.
    async fn still_new(&mut self, now: Timestamp) -> Result<Vec<Order>> {
        let limit = self.limit;
        let over = self.waiting.iter().filter(|asked| asked.again_at <= now).take(limit);
        let mut keys: Vec<_> = over.map(|asked| (asked.user, asked.order)).collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        keys.sort_unstable();
        let mut reader = self.context.db.read().await?;
        let mut orders = sql::orders_of(&mut reader, &keys).await?;
        drop(reader);
        orders.retain(|_, order| order.status == OrderStatus::New);
        let looked_at: HashSet<_> = keys.iter().map(|(_, order)| *order).collect();
        self.waiting
            .retain(|asked| orders.contains_key(&asked.order) || !looked_at.contains(&asked.order));
        let settled = keys.len() - orders.len();
        self.limit = if settled * 10 >= keys.len() * 9 {
            (self.limit * 2).min(MAX_ASKED)
        } else if settled * 2 < keys.len() {
            MIN_ASKED
        } else {
            self.limit
        };
        let still_new = keys.iter().filter_map(|(_, order)| orders.get(order));
        Ok(still_new.map(|order| Order::clone(order)).collect())
    }

    async fn ask(&self, orders: &[Order]) -> Result<()> {
        ask(&self.context.db, &self.context.outbox, orders.iter()).await?;
        tracing::warn!(
            orders = orders.len(),
            first = %orders[0].id,
            topic = PAYMENT_REQUESTED.name,
            "orders stay NEW; asked for their payment again"
        );
        metrics::counter!("gozon_orders_asked_again_total").increment(orders.len() as u64);
        Ok(())
    }
}

/// Puts a request for the payment of each order into the outbox.
async fn ask(db: &Db, outbox: &Outbox, orders: impl Iterator<Item = &Order>) -> Result<()> {
    let mut outgoing = Outgoing::default();
    for order in orders {
        outgoing.push(&payment_requested(order, None));
    }
    let added = outbox.add(outgoing);
    let writes = added.statement().into_iter().collect();
    db.optimistic().await?.commit(writes).await?;
    added.committed();
    Ok(())
}

/// Asks again for the payment of those of these orders that are still NEW, from outside the service;
/// how many they are. A running instance sends the requests within seconds. To ask more often than
/// needed is no harm: an order is paid for once.
///
/// # Errors
/// As the database says. The requests of earlier orders are on their way then.
pub async fn ask_again(
    db: &Db,
    clock: &Clock,
    random: &RandomSource,
    keys: &[(UserId, OrderId)],
) -> Result<usize> {
    let (outbox, _) = Outbox::new(clock.clone(), random.clone());
    let mut asked = 0;
    for keys in keys.chunks(MAX_ASKED) {
        let mut reader = db.read().await?;
        let orders = sql::orders_of(&mut reader, keys).await?;
        drop(reader);
        let new = orders.values().filter(|order| order.status == OrderStatus::New);
        let new: Vec<&Order> = new.map(|order| &**order).collect();
        if !new.is_empty() {
            ask(db, &outbox, new.iter().copied()).await?;
            asked += new.len();
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gozon_contract::{Description, Money};
    use gozon_messaging::broker::Memory;
    use gozon_store::migrate;
    use gozon_testkit::{TestDb, on_both_databases};

    use super::*;
    use crate::{MIGRATIONS, TOPICS};

    on_both_databases!(
        an_order_that_stays_new_is_asked_for_again,
        a_settled_order_is_left_alone,
        lost_answers_raise_the_number_and_a_backlog_does_not,
        orders_of_one_instant_are_all_found,
        what_could_not_be_asked_for_is_due_again,
    );

    const AFTER: Duration = Duration::from_mins(1);

    struct Shop {
        _test: TestDb,
        context: Context,
        resend: Resend,
    }

    async fn shop(test: TestDb) -> Shop {
        let db = test.db();
        migrate(&db, &[gozon_messaging::MIGRATIONS, MIGRATIONS].concat()).await.unwrap();
        let clock = Clock::manual(Timestamp::from_micros(1_763_683_200_000_000));
        let random = RandomSource::seeded(1);
        let broker = Arc::new(Memory::new(TOPICS, random.clone()));
        let (context, _) = Context::new("orders", db, broker, clock, random);
        let resend = Resend::new(context.clone(), AFTER);
        Shop { _test: test, context, resend }
    }

    impl Shop {
        async fn place(&self, count: usize) -> Vec<Arc<Order>> {
            let now = self.context.clock.now();
            let user: UserId = "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e".parse().unwrap();
            let order = |_| {
                Arc::new(Order {
                    id: OrderId::new(now, &self.context.random),
                    user_id: user,
                    amount: Money::try_from(9_900).unwrap(),
                    description: Description::try_from("A red kettle".to_owned()).unwrap(),
                    status: OrderStatus::New,
                    cancel_reason: None,
                    version: 1,
                    created_at: now,
                    updated_at: now,
                })
            };
            let orders: Vec<_> = (0..count).map(order).collect();
            let work = self.context.db.optimistic().await.unwrap();
            work.commit(vec![sql::insert_orders(&orders)]).await.unwrap();
            orders
        }

        async fn settle(&self, orders: &[Arc<Order>]) {
            let moved: Vec<_> = orders
                .iter()
                .map(|order| {
                    let (status, version) = (OrderStatus::Finished, 2);
                    (Order { status, version, ..(**order).clone() }, ())
                })
                .collect();
            let work = self.context.db.optimistic().await.unwrap();
            work.commit(vec![sql::move_orders(&moved)]).await.unwrap();
        }

        async fn execute(&self, sql: &'static str) {
            let mut tx = self.context.db.begin().await.unwrap();
            tx.query(sql).execute().await.unwrap();
            tx.commit().await.unwrap();
        }

        /// Looks once, after so much time has passed.
        async fn asked_after(&mut self, time: Duration) -> usize {
            self.context.clock.advance(time);
            self.resend.step().await.unwrap()
        }
    }

    async fn an_order_that_stays_new_is_asked_for_again(test: TestDb) {
        let mut shop = shop(test).await;
        shop.place(1).await;
        assert_eq!(shop.asked_after(AFTER / 2).await, 0);
        assert_eq!(shop.asked_after(AFTER).await, 1);
        assert_eq!(shop.asked_after(Duration::from_secs(1)).await, 0, "it has just been asked for");
        assert_eq!(shop.asked_after(AFTER * 2).await, 1);
        let mut reader = shop.context.db.read().await.unwrap();
        let (events,): (i64,) = reader
            .query(gozon_store::select!(
                "select cast(sum(events) as bigint) from outbox_batches
                 where topic = 'payment.requested'"
            ))
            .fetch_one()
            .await
            .unwrap();
        assert_eq!(events, 2);
    }

    async fn a_settled_order_is_left_alone(test: TestDb) {
        let mut shop = shop(test).await;
        let orders = shop.place(2).await;
        shop.settle(&orders[..1]).await;
        assert_eq!(shop.asked_after(AFTER * 2).await, 1);
        shop.settle(&orders[1..]).await;
        assert_eq!(shop.asked_after(AFTER * 4).await, 0);
        assert!(shop.resend.waiting.is_empty());
    }

    async fn lost_answers_raise_the_number_and_a_backlog_does_not(test: TestDb) {
        let mut shop = shop(test).await;
        let orders = shop.place(5 * MIN_ASKED).await;
        assert_eq!(shop.asked_after(AFTER * 2).await, MIN_ASKED);
        let asked: Vec<_> = shop.resend.waiting.iter().map(|asked| asked.order).collect();
        let settled: Vec<_> =
            orders.iter().filter(|order| asked.contains(&order.id)).cloned().collect();
        shop.settle(&settled).await;
        assert_eq!(shop.asked_after(AFTER * 2).await, 2 * MIN_ASKED);
        // None of these is settled: payments is behind.
        assert_eq!(shop.asked_after(AFTER * 8).await, 2 * MIN_ASKED);
        assert_eq!(shop.resend.limit, MIN_ASKED);
    }

    async fn orders_of_one_instant_are_all_found(test: TestDb) {
        let mut shop = shop(test).await;
        shop.place(2 * MIN_ASKED).await;
        let mut asked = shop.asked_after(AFTER * 2).await;
        asked += shop.asked_after(Duration::from_secs(5)).await;
        assert_eq!((asked, shop.resend.waiting.len()), (2 * MIN_ASKED, 2 * MIN_ASKED));
    }

    async fn what_could_not_be_asked_for_is_due_again(test: TestDb) {
        let mut shop = shop(test).await;
        shop.place(1).await;
        for _ in 0..2 {
            shop.execute("alter table outbox_batches rename to away").await;
            shop.context.clock.advance(AFTER * 4);
            shop.resend.step().await.unwrap_err();
            shop.execute("alter table away rename to outbox_batches").await;
            assert_eq!(shop.asked_after(Duration::ZERO).await, 1);
        }
    }
}
