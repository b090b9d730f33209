//! When each order is due.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

/// Shortest time between two wake-ups while no client is free, to leave the processors to the shop.
const BUSY_INTERVAL: Duration = Duration::from_millis(1);

/// The schedule of a running load, shared by its clients.
pub(crate) struct Schedule {
    start: Instant,
    end: Option<Instant>,
    plan: Plan,
    /// Number of orders that a client asked for.
    taken: AtomicU64,
    /// Number of orders that a client got.
    placed: AtomicU64,
    /// The open loop's permits, one per order that is due and not taken.
    due: Arc<Semaphore>,
}

/// What the load consists of.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Orders per second in the open loop; `None` in the closed loop.
    rate: Option<f64>,
    /// Number of orders.
    orders: u64,
}

impl Plan {
    /// The plan for `orders` orders, or as many as are due in `seconds`: the smaller number.
    fn new(rate: Option<f64>, seconds: Option<f64>, orders: Option<u64>) -> Self {
        let orders = orders.unwrap_or(u64::MAX);
        #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "positive")]
        let in_time = rate.zip(seconds).map(|(rate, seconds)| (rate * seconds).ceil() as u64);
        Self { rate, orders: in_time.map_or(orders, |in_time| in_time.min(orders)) }
    }

    /// When an order of the open loop is due, counted from the start.
    fn due(rate: f64, index: u64) -> Duration {
        Duration::from_secs_f64(index as f64 / rate)
    }
}

impl Schedule {
    /// Starts the load. Without `rate` an order is due whenever a client asks for one.
    pub fn start(rate: Option<f64>, seconds: Option<f64>, orders: Option<u64>) -> Self {
        let start = Instant::now();
        let end = seconds.map(|seconds| start + Duration::from_secs_f64(seconds));
        let plan = Plan::new(rate, seconds, orders);
        let due = Arc::new(Semaphore::new(0));
        if let Some(rate) = rate {
            let due = Arc::clone(&due);
            // A thread, because the runtime's timers have a resolution of a millisecond.
            thread::spawn(move || release(start, rate, plan.orders, &due));
        }
        Self { start, end, plan, taken: AtomicU64::new(0), placed: AtomicU64::new(0), due }
    }

    /// Waits until an order is due, and returns since when it is. `None` after the last order.
    pub async fn next(&self) -> Option<Instant> {
        if self.plan.rate.is_some() {
            self.due.acquire().await.ok()?.forget();
        }
        let index = self.taken.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        if index >= self.plan.orders || self.end.is_some_and(|end| now >= end) {
            self.due.close();
            return None;
        }
        self.placed.fetch_add(1, Ordering::Relaxed);
        Some(match self.plan.rate {
            None => now,
            Some(rate) => self.start + Plan::due(rate, index),
        })
    }

    /// Number of orders that were due before the end while no client was free to place them.
    pub fn missed(&self) -> u64 {
        match self.plan.rate {
            None => 0,
            Some(_) => self.plan.orders.saturating_sub(self.placed.load(Ordering::Relaxed)),
        }
    }
}

/// Adds a permit at the instant at which each order is due.
fn release(start: Instant, rate: f64, orders: u64, due: &Semaphore) {
    // The permit after the last order's tells the clients that there are no more orders.
    for index in 0..=orders {
        let early = Plan::due(rate, index).saturating_sub(start.elapsed());
        if !early.is_zero() {
            let all_busy = due.available_permits() > 0;
            thread::sleep(if all_busy { early.max(BUSY_INTERVAL) } else { early });
        }
        if due.is_closed() {
            return;
        }
        due.add_permits(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The instants at which the orders of a load are due, counted from its start.
    async fn all(schedule: &Schedule) -> Vec<Duration> {
        let mut due = Vec::new();
        while let Some(at) = schedule.next().await {
            assert!(Instant::now() >= at, "an order is handed out before it is due");
            due.push(at - schedule.start);
        }
        due
    }

    #[test]
    fn orders_are_due_at_even_intervals_at_every_rate() {
        for (rate, interval_ns) in [(20.0, 50_000_000), (2400.0, 416_667), (10_000.0, 100_000)] {
            for index in [0, 1, 2, 999, 100_000] {
                let (due, next) = (Plan::due(rate, index), Plan::due(rate, index + 1));
                let interval = next.abs_diff(due).as_nanos();
                assert!(u128::abs_diff(interval, interval_ns) <= 1, "{interval} ns at {rate}/s");
            }
            assert_eq!(Plan::due(rate, 0), Duration::ZERO);
        }
    }

    #[test]
    fn time_and_number_both_limit_the_orders() {
        let orders = |rate, seconds, orders| Plan::new(rate, seconds, orders).orders;
        assert_eq!(orders(Some(20.0), Some(8.0), None), 160);
        assert_eq!(orders(Some(1.5), Some(1.0), None), 2);
        assert_eq!(orders(Some(20.0), Some(8.0), Some(7)), 7);
        assert_eq!(orders(Some(20.0), None, Some(7)), 7);
        assert_eq!(orders(None, Some(8.0), Some(7)), 7);
        assert_eq!(orders(None, Some(8.0), None), u64::MAX);
    }

    #[tokio::test]
    async fn each_order_is_handed_out_at_its_due_time() {
        for (rate, interval_us, orders) in [(20.0, 50_000, 3), (10_000.0, 100, 500)] {
            let schedule = Schedule::start(Some(rate), None, Some(orders));
            let expected: Vec<_> =
                (0..orders).map(|index| Duration::from_micros(index * interval_us)).collect();
            assert_eq!(all(&schedule).await, expected);
            assert_eq!(schedule.missed(), 0);
        }
    }

    #[tokio::test]
    async fn a_late_order_counts_from_when_it_was_due() {
        let schedule = Schedule::start(Some(1000.0), None, Some(3));
        thread::sleep(Duration::from_millis(20));
        assert_eq!(all(&schedule).await, [0, 1, 2].map(Duration::from_millis));
    }

    #[tokio::test]
    async fn orders_that_no_client_takes_in_time_are_missed() {
        let schedule = Schedule::start(Some(40.0), Some(0.5), None);
        assert!(schedule.next().await.is_some());
        thread::sleep(Duration::from_millis(500));
        assert!(schedule.next().await.is_none());
        assert_eq!(schedule.missed(), 19);
    }

    #[tokio::test]
    async fn the_closed_loop_ends_with_the_last_order() {
        let schedule = Schedule::start(None, None, Some(2));
        assert_eq!(all(&schedule).await.len(), 2);
        assert_eq!(schedule.missed(), 0);
    }
}
