//! What is known of each order, and the figures made of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use uuid::Uuid;

/// The longest latency that is told apart.
const LONGEST: Duration = Duration::from_mins(2);

/// The book that clients and sockets write into.
pub(crate) struct Book(Mutex<Pages>);

/// Latencies, in microseconds.
pub(crate) type Latencies = Histogram<u64>;

/// What is known so far.
pub(crate) struct Pages {
    /// Orders that were accepted or settled, but not yet both.
    half: HashMap<Uuid, Half>,
    /// How many of them were accepted.
    pub unsettled: usize,
    pub accepted: u64,
    pub finished: u64,
    pub cancelled: u64,
    /// Requests that were answered otherwise, or not at all, and how.
    pub failed: BTreeMap<String, u64>,
    /// How often a socket ended before the run did.
    pub sockets_lost: u64,
    pub last_settled: Option<Instant>,
    /// From the instant an order was due to its 201.
    pub to_accept: Latencies,
    /// From the 201 to the settled frame.
    pub to_settle: Latencies,
    second: Second,
    pub seconds: Vec<Sample>,
}

enum Half {
    Accepted {
        user: usize,
        at: Instant,
    },
    /// The frame was here before the 201.
    Settled(End),
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

/// How an order ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Finished,
    Cancelled,
}

impl End {
    /// What a status says; `None` while the order is NEW.
    pub fn of(status: &str) -> Option<Self> {
        match status {
            "FINISHED" => Some(Self::Finished),
            "CANCELLED" => Some(Self::Cancelled),
            _ => None,
        }
    }
}

fn latencies() -> Latencies {
    let longest = u64::try_from(LONGEST.as_micros()).unwrap_or(u64::MAX);
    Histogram::new_with_max(longest, 3).expect("the bounds are valid")
}

fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1)
}

/// A quantile in milliseconds.
pub(crate) fn millis(latencies: &Latencies, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1000.0
}

impl Default for Book {
    fn default() -> Self {
        let second =
            Second { accepted: 0, settled: 0, to_accept: latencies(), to_settle: latencies() };
        Self(Mutex::new(Pages {
            half: HashMap::new(),
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

impl Book {
    /// The pages, to read them.
    pub fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An order of a user was answered 201; it had been due since then.
    pub fn accepted(&self, id: Uuid, user: usize, due: Instant) {
        let now = Instant::now();
        let mut pages = self.pages();
        pages.accepted += 1;
        pages.second.accepted += 1;
        pages.to_accept.saturating_record(micros(now - due));
        pages.second.to_accept.saturating_record(micros(now - due));
        if let Some(Half::Settled(end)) = pages.half.remove(&id) {
            pages.to_settle.saturating_record(1);
            pages.second.to_settle.saturating_record(1);
            pages.count(end, now);
        } else {
            pages.half.insert(id, Half::Accepted { user, at: now });
            pages.unsettled += 1;
        }
    }

    /// A request was not answered 201.
    pub fn failed(&self, how: String) {
        *self.pages().failed.entry(how).or_default() += 1;
    }

    /// A socket ended.
    pub fn lost_socket(&self) {
        self.pages().sockets_lost += 1;
    }

    /// A frame told that an order is settled. It counts once that order is accepted: a frame may
    /// be early, and a snapshot tells of old ones again.
    pub fn settled(&self, id: Uuid, end: End) {
        let now = Instant::now();
        let mut pages = self.pages();
        if let Some(&Half::Accepted { at, .. }) = pages.half.get(&id) {
            pages.half.remove(&id);
            pages.unsettled -= 1;
            pages.to_settle.saturating_record(micros(now - at));
            pages.second.to_settle.saturating_record(micros(now - at));
            pages.count(end, now);
        } else {
            pages.half.insert(id, Half::Settled(end));
        }
    }

    /// An order was found settled, however long ago; whether that was news.
    pub fn found_settled(&self, id: Uuid, end: End) -> bool {
        let mut pages = self.pages();
        if !matches!(pages.half.get(&id), Some(Half::Accepted { .. })) {
            return false;
        }
        pages.half.remove(&id);
        pages.unsettled -= 1;
        pages.count(end, Instant::now());
        true
    }

    /// The users with accepted orders that are not known to be settled, and how many each has.
    pub fn waiting(&self) -> HashMap<usize, usize> {
        let mut waiting = HashMap::new();
        for half in self.pages().half.values() {
            if let Half::Accepted { user, .. } = half {
                *waiting.entry(*user).or_default() += 1;
            }
        }
        waiting
    }

    /// Ends a second of the run, which began at `start`.
    pub fn tick(&self, start: Instant, length: Duration) {
        let mut pages = self.pages();
        let Second { accepted, settled, to_accept, to_settle } = &mut pages.second;
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
        pages.seconds.push(sample);
    }
}

impl Pages {
    /// How many orders were settled.
    pub fn settled(&self) -> u64 {
        self.finished + self.cancelled
    }

    fn count(&mut self, end: End, now: Instant) {
        match end {
            End::Finished => self.finished += 1,
            End::Cancelled => self.cancelled += 1,
        }
        self.second.settled += 1;
        self.last_settled = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_counts_once_whatever_comes_first_and_however_often() {
        let (book, due) = (Book::default(), Instant::now());
        let [early, late, lost] = [1, 2, 3].map(Uuid::from_u128);
        book.settled(early, End::Finished);
        book.settled(early, End::Finished);
        book.accepted(early, 0, due);
        book.accepted(late, 0, due);
        book.settled(late, End::Cancelled);
        book.accepted(lost, 7, due);
        assert_eq!(book.waiting(), HashMap::from([(7, 1)]));
        assert!(book.found_settled(lost, End::Finished));
        assert!(!book.found_settled(lost, End::Finished));
        let pages = book.pages();
        assert_eq!((pages.unsettled, pages.half.len()), (0, 0));
        drop(pages);
        // A snapshot tells of it again.
        book.settled(late, End::Cancelled);

        let pages = book.pages();
        assert_eq!((pages.accepted, pages.finished, pages.cancelled), (3, 2, 1));
        assert_eq!(pages.unsettled, 0);
        assert_eq!((pages.to_accept.len(), pages.to_settle.len()), (3, 2));
    }
}
