//! Whether an instance is left alone for a while because it can't be reached.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use gozon_contract::RandomSource;

/// Broken or late answers in a row before an instance is left alone; one failed connect is enough.
const STRIKES: u32 = 3;

/// Whether an instance is in use, and if not, until when. Times are microseconds on a clock of
/// the caller's that never goes back and starts above 0.
#[derive(Default)]
pub(crate) struct Ejection {
    /// When it may be tried again; 0 while it is in use.
    until: AtomicU64,
    /// Ejections in a row.
    rounds: AtomicU32,
    /// Broken or late answers in a row.
    strikes: AtomicU32,
    failed_at: AtomicU64,
}

/// How an instance failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    /// It could not be reached.
    Unreachable,
    /// It did not finish what it had begun, or too late.
    Unfinished,
}

/// How long an instance is left alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Ejection {
    pub(crate) fn is_ejected(&self) -> bool {
        self.until.load(Relaxed) != 0
    }

    /// When it failed last.
    pub(crate) fn failed_at(&self) -> u64 {
        self.failed_at.load(Relaxed)
    }

    /// Whether the caller is the one to try an ejected instance whose time is up. All others stay
    /// away for the time of another first backoff, so a trial that is never heard of again costs
    /// nothing more.
    pub(crate) fn claim_trial(&self, now: u64, backoff: Backoff) -> bool {
        let until = self.until.load(Relaxed);
        let next = now + micros(backoff.first);
        until != 0
            && until <= now
            && self.until.compare_exchange(until, next, Relaxed, Relaxed).is_ok()
    }

    /// It answered: it is in use again.
    pub(crate) fn answered(&self) {
        if self.strikes.load(Relaxed) != 0 {
            self.strikes.store(0, Relaxed);
        }
        if self.until.load(Relaxed) != 0 {
            self.rounds.store(0, Relaxed);
            self.until.store(0, Relaxed);
        }
    }

    /// It failed. Whether that ejects an instance that was in use.
    pub(crate) fn failed(
        &self,
        strike: Strike,
        now: u64,
        backoff: Backoff,
        random: &RandomSource,
    ) -> bool {
        self.failed_at.store(now, Relaxed);
        let strikes = self.strikes.fetch_add(1, Relaxed) + 1;
        if strike == Strike::Unfinished && strikes < STRIKES && !self.is_ejected() {
            return false;
        }
        let rounds = self.rounds.fetch_add(1, Relaxed).min(16);
        let pause = backoff.first.saturating_mul(1 << rounds).min(backoff.longest);
        self.until.swap(now + micros(random.jitter(pause)), Relaxed) == 0
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff =
        Backoff { first: Duration::from_micros(100), longest: Duration::from_millis(1) };

    #[test]
    fn an_unreachable_instance_is_tried_by_one_at_a_time() {
        let (ejection, random) = (Ejection::default(), RandomSource::seeded(1));
        assert!(ejection.failed(Strike::Unreachable, 1, BACKOFF, &random));
        assert!(ejection.is_ejected());
        assert!(!ejection.claim_trial(2, BACKOFF));
        assert!(ejection.claim_trial(200, BACKOFF));
        assert!(!ejection.claim_trial(200, BACKOFF));
        ejection.answered();
        assert!(!ejection.is_ejected());
    }

    #[test]
    fn the_pause_grows_and_has_an_end() {
        let (ejection, random) = (Ejection::default(), RandomSource::seeded(1));
        for _ in 0..40 {
            ejection.failed(Strike::Unreachable, 1, BACKOFF, &random);
        }
        assert!(!ejection.claim_trial(500, BACKOFF));
        assert!(ejection.claim_trial(1502, BACKOFF));
    }

    #[test]
    fn one_broken_answer_is_forgiven() {
        let (ejection, random) = (Ejection::default(), RandomSource::seeded(1));
        assert!(!ejection.failed(Strike::Unfinished, 1, BACKOFF, &random));
        ejection.answered();
        assert!(!ejection.failed(Strike::Unfinished, 2, BACKOFF, &random));
        assert!(!ejection.failed(Strike::Unfinished, 3, BACKOFF, &random));
        assert!(ejection.failed(Strike::Unfinished, 4, BACKOFF, &random));
    }
}
