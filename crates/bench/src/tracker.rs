//! Follows each order from its 201 to its settled frame, and counts.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use uuid::Uuid;

/// Longer latencies are recorded as this one.
const MAX_LATENCY: Duration = Duration::from_mins(2);

/// What clients and sockets report to.
pub(crate) struct Tracker(Mutex<State>);

/// Latencies, in microseconds.
pub(crate) type Latencies = Histogram<u64>;

/// What is known so far.
pub(crate) struct State {
    /// Orders of which only the 201 or only the settled frame was received.
    pending: HashMap<Uuid, Pending>,
    /// Number of pending orders whose 201 was received.
    pub unsettled: usize,
    pub accepted: u64,
    pub finished: u64,
    pub cancelled: u64,
    /// Number of requests without a 201, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Number of times that a socket was closed during the run.
    pub sockets_lost: u64,
    pub last_settled: Option<Instant>,
    /// From an order's due time to its 201.
    pub to_accept: Latencies,
    /// From the 201 to the settled frame.
    pub to_settle: Latencies,
    second: Second,
    pub seconds: Vec<Sample>,
}

enum Pending {
    Accepted {
        user: usize,
        at: Instant,
    },
    /// The frame came before the 201.
    Settled(Outcome),
}

struct Second {
    accepted: u64,
    settled: u64,
    to_accept: Latencies,
    to_settle: Latencies,
}

/// One second of the run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    /// Seconds since the start.
    pub at: f64,
    /// Orders per second.
    pub accepted: f64,
    /// Orders per second.
    pub settled: f64,
    /// Latencies in milliseconds: the median and the 99th percentile.
    pub accept_p50: f64,
    pub accept_p99: f64,
    pub settle_p50: f64,
    pub settle_p99: f64,
}

/// The final status of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Finished,
    Cancelled,
}

impl Outcome {
    /// The outcome that a status stands for; `None` while the order is NEW.
    pub fn of(status: &str) -> Option<Self> {
        match status {
            "FINISHED" => Some(Self::Finished),
            "CANCELLED" => Some(Self::Cancelled),
            _ => None,
        }
    }
}

fn latencies() -> Latencies {
    let max = u64::try_from(MAX_LATENCY.as_micros()).unwrap_or(u64::MAX);
    Histogram::new_with_max(max, 3).expect("the bounds are valid")
}

fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1)
}

/// A quantile in milliseconds.
pub(crate) fn millis(latencies: &Latencies, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1000.0
}

impl Default for Tracker {
    fn default() -> Self {
        let second =
            Second { accepted: 0, settled: 0, to_accept: latencies(), to_settle: latencies() };
        Self(Mutex::new(State {
            pending: HashMap::new(),
            unsettled: 0,
            accepted: 0,
            finished: 0,
            cancelled: 0,
            failed: BTreeMap::new(),
            sockets_lost: 0,
            last_settled: None,
            to_accept: latencies(),
            to_settle: latencies(),
            second,
            seconds: Vec::new(),
        }))
    }
}

impl Tracker {
    /// Locks the state, to read it.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An order of a user was answered 201. Latency counts from `due`.
    pub fn accepted(&self, id: Uuid, user: usize, due: Instant) {
        let now = Instant::now();
        let mut state = self.state();
        state.accepted += 1;
        state.second.accepted += 1;
        state.to_accept.saturating_record(micros(now - due));
        state.second.to_accept.saturating_record(micros(now - due));
        if let Some(Pending::Settled(outcome)) = state.pending.remove(&id) {
            state.to_settle.saturating_record(1);
            state.second.to_settle.saturating_record(1);
            state.count(outcome, now);
        } else {
            state.pending.insert(id, Pending::Accepted { user, at: now });
            state.unsettled += 1;
        }
    }

    /// A request was not answered 201, for this reason.
    pub fn failed(&self, reason: String) {
        *self.state().failed.entry(reason).or_default() += 1;
    }

    /// A socket was closed.
    pub fn lost_socket(&self) {
        self.state().sockets_lost += 1;
    }

    /// A frame has an order as settled. It counts once the order is accepted: a frame may come
    /// before the 201, and a snapshot repeats older orders.
    pub fn settled(&self, id: Uuid, outcome: Outcome) {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(&Pending::Accepted { at, .. }) = state.pending.get(&id) {
            state.pending.remove(&id);
            state.unsettled -= 1;
            state.to_settle.saturating_record(micros(now - at));
            state.second.to_settle.saturating_record(micros(now - at));
            state.count(outcome, now);
        } else {
            state.pending.insert(id, Pending::Settled(outcome));
        }
    }

    /// An order was found settled when it was looked up, so the time it took is not known. Returns
    /// whether it was not known to be settled.
    pub fn found_settled(&self, id: Uuid, outcome: Outcome) -> bool {
        let mut state = self.state();
        if !matches!(state.pending.get(&id), Some(Pending::Accepted { .. })) {
            return false;
        }
        state.pending.remove(&id);
        state.unsettled -= 1;
        state.count(outcome, Instant::now());
        true
    }

    /// The number of accepted orders not known to be settled, by user.
    pub fn unsettled_by_user(&self) -> HashMap<usize, usize> {
        let mut unsettled = HashMap::new();
        for pending in self.state().pending.values() {
            if let Pending::Accepted { user, .. } = pending {
                *unsettled.entry(*user).or_default() += 1;
            }
        }
        unsettled
    }

    /// Keeps what happened since the last call as a sample of the run that began at `start`.
    pub fn sample(&self, start: Instant, length: Duration) {
        let mut state = self.state();
        let Second { accepted, settled, to_accept, to_settle } = &mut state.second;
        let sample = Sample {
            at: start.elapsed().as_secs_f64(),
            accepted: *accepted as f64 / length.as_secs_f64(),
            settled: *settled as f64 / length.as_secs_f64(),
            accept_p50: millis(to_accept, 0.5),
            accept_p99: millis(to_accept, 0.99),
            settle_p50: millis(to_settle, 0.5),
            settle_p99: millis(to_settle, 0.99),
        };
        (*accepted, *settled) = (0, 0);
        to_accept.reset();
        to_settle.reset();
        state.seconds.push(sample);
    }
}

impl State {
    /// Number of settled orders.
    pub fn settled(&self) -> u64 {
        self.finished + self.cancelled
    }

    fn count(&mut self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Finished => self.finished += 1,
            Outcome::Cancelled => self.cancelled += 1,
        }
        self.second.settled += 1;
        self.last_settled = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_counts_once_in_any_order_of_answers() {
        let (tracker, due) = (Tracker::default(), Instant::now());
        let [early, late, lost] = [1, 2, 3].map(Uuid::from_u128);
        tracker.settled(early, Outcome::Finished);
        tracker.settled(early, Outcome::Finished);
        tracker.accepted(early, 0, due);
        tracker.accepted(late, 0, due);
        tracker.settled(late, Outcome::Cancelled);
        tracker.accepted(lost, 7, due);
        assert_eq!(tracker.unsettled_by_user(), HashMap::from([(7, 1)]));
        assert!(tracker.found_settled(lost, Outcome::Finished));
        assert!(!tracker.found_settled(lost, Outcome::Finished));
        let state = tracker.state();
        assert_eq!((state.unsettled, state.pending.len()), (0, 0));
        drop(state);
        // A snapshot has it again.
        tracker.settled(late, Outcome::Cancelled);

        let state = tracker.state();
        assert_eq!((state.accepted, state.finished, state.cancelled), (3, 2, 1));
        assert_eq!(state.unsettled, 0);
        assert_eq!((state.to_accept.len(), state.to_settle.len()), (3, 2));
    }
}
