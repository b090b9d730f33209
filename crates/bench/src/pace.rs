//! When the next order is due.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

/// How often the open loop looks at the clock, at most.
const TICK: Duration = Duration::from_micros(500);

/// Hands out orders to be placed.
pub(crate) struct Pace {
    start: Instant,
    until: Option<Instant>,
    orders: u64,
    taken: AtomicU64,
    rate: Option<f64>,
    due: Arc<Semaphore>,
}

impl Pace {
    /// Starts now. Without `rate`, an order is due whenever somebody asks.
    pub fn start(rate: Option<f64>, seconds: Option<f64>, orders: Option<u64>) -> Self {
        let start = Instant::now();
        let until = seconds.map(|seconds| start + Duration::from_secs_f64(seconds));
        let orders = orders.unwrap_or(u64::MAX);
        let due = Arc::new(Semaphore::new(0));
        if let Some(rate) = rate {
            let due = Arc::clone(&due);
            // The runtime's timers tick by the millisecond, too coarse for latencies of a few.
            thread::spawn(move || keep_time(start, until, orders, rate, &due));
        }
        Self { start, until, orders, taken: AtomicU64::new(0), rate, due }
    }

    /// Waits until an order is due: since when. `None` when there are no more.
    pub async fn next(&self) -> Option<Instant> {
        if self.rate.is_some() {
            self.due.acquire().await.ok()?.forget();
        }
        let index = self.taken.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        if index >= self.orders || self.until.is_some_and(|until| now >= until) {
            self.due.close();
            return None;
        }
        Some(match self.rate {
            None => now,
            Some(rate) => self.start + Duration::from_secs_f64(index as f64 / rate),
        })
    }

    /// How many orders were due that nobody was free to place before the time was over.
    pub fn missed(&self) -> u64 {
        self.due.available_permits() as u64
    }
}

fn keep_time(start: Instant, until: Option<Instant>, orders: u64, rate: f64, due: &Semaphore) {
    let tick = TICK.max(Duration::from_secs_f64(0.5 / rate));
    let mut released = 0;
    while released < orders && !due.is_closed() {
        let now = until.map_or_else(Instant::now, |until| until.min(Instant::now()));
        #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "positive")]
        let total = ((now - start).as_secs_f64() * rate).ceil() as u64;
        let more = total.min(orders).saturating_sub(released);
        due.add_permits(usize::try_from(more).unwrap_or(0));
        released += more;
        if until == Some(now) {
            break;
        }
        thread::sleep(tick);
    }
    // Whoever takes this one finds that there are no more.
    due.add_permits(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn orders_are_due_at_even_intervals_however_late_they_are_taken() {
        let pace = Pace::start(Some(1000.0), None, Some(3));
        let mut due = Vec::new();
        while let Some(at) = pace.next().await {
            due.push(at - pace.start);
        }
        assert_eq!(due, [0, 1, 2].map(Duration::from_millis));
    }

    #[tokio::test]
    async fn the_closed_loop_ends_with_the_last_order() {
        let pace = Pace::start(None, None, Some(2));
        assert!(pace.next().await.is_some() && pace.next().await.is_some());
        assert!(pace.next().await.is_none());
    }
}
