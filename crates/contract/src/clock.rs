//! Time and randomness as arguments. This file is the one home of both globals; `clippy.toml`
//! bans them everywhere else.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

#[cfg(feature = "simulation")]
use gozon_seam::Instant;
#[cfg(not(feature = "simulation"))]
use std::time::Instant;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An instant: microseconds since the Unix epoch, UTC. As JSON it is an RFC 3339 string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The instant `micros` microseconds after the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// This instant, `by` later.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This instant, `by` earlier.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instant = jiff::Timestamp::from_microsecond(self.0).map_err(|_| fmt::Error)?;
        write!(f, "{instant:.6}")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let instant: jiff::Timestamp = text.parse().map_err(de::Error::custom)?;
        Ok(Self(instant.as_microsecond()))
    }
}

/// Where the time comes from: the system's clock, one that follows another, or one that a test moves
/// by hand. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Following(Arc<Following>),
    Manual(Arc<AtomicI64>),
}

/// A clock that was set once or more, and goes on by the monotonic clock, which nobody sets.
#[derive(Debug)]
struct Following {
    started: Instant,
    /// What to add to the microseconds since `started`.
    offset: AtomicI64,
}

impl Following {
    fn elapsed(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}

impl Clock {
    /// The system's wall clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that shows `now`, and goes on from there, even when the system's clock is set, until
    /// [`Clock::set`] corrects it.
    pub fn following(now: Timestamp) -> Self {
        let following = Following { started: Instant::now(), offset: AtomicI64::new(now.micros()) };
        Self(Source::Following(Arc::new(following)))
    }

    /// A clock that stands still at `start` until [`Clock::advance`] moves it.
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start.micros()))))
    }

    /// What time it is.
    #[allow(clippy::disallowed_methods, reason = "the one home of the wall clock")]
    pub fn now(&self) -> Timestamp {
        Timestamp(match &self.0 {
            #[cfg(not(feature = "simulation"))]
            Source::System => jiff::Timestamp::now().as_microsecond(),
            #[cfg(feature = "simulation")]
            Source::System => gozon_seam::world(|world| world.machine_time()).unwrap_or_default(),
            Source::Following(following) => {
                following.offset.load(Ordering::SeqCst).saturating_add(following.elapsed())
            }
            Source::Manual(manual) => manual.load(Ordering::SeqCst),
        })
    }

    /// Sets a clock that follows another or is moved by hand; the system's clock stays as it is.
    pub fn set(&self, now: Timestamp) {
        match &self.0 {
            Source::System => {}
            Source::Following(following) => following
                .offset
                .store(now.micros().saturating_sub(following.elapsed()), Ordering::SeqCst),
            Source::Manual(manual) => manual.store(now.micros(), Ordering::SeqCst),
        }
    }

    /// Moves a manual clock forward; no other one can be moved.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(manual) = &self.0 {
            manual.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}

/// Where randomness comes from: the system's entropy, or a seed that makes a run repeatable.
/// Clones share one sequence.
#[derive(Clone)]
pub struct RandomSource(Arc<Mutex<StdRng>>);

impl RandomSource {
    /// Seeded once from the system's entropy.
    #[allow(clippy::disallowed_methods, reason = "the one home of randomness")]
    pub fn system() -> Self {
        #[cfg(feature = "simulation")]
        if let Some(seed) = gozon_seam::world(|world| world.random()) {
            return Self::seeded(seed);
        }
        Self(Arc::new(Mutex::new(rand::make_rng())))
    }

    /// The same sequence for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// The next 64 random bits.
    pub fn next_u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    /// A duration between half of `around` and one and a half of it, so that many that wait for
    /// the same thing do not come back together.
    pub fn jitter(&self, around: Duration) -> Duration {
        let thousandths = 500 + u32::try_from(self.next_u64() % 1001).unwrap_or(500);
        around * thousandths / 1000
    }
}

impl fmt::Debug for RandomSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RandomSource")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_back_what_it_wrote() {
        let now = Timestamp::from_micros(1_763_683_200_123_456);
        let json = serde_json::to_string(&now).unwrap();
        assert_eq!(json, "\"2025-11-21T00:00:00.123456Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), now);
    }

    #[test]
    fn a_manual_clock_moves_only_by_hand() {
        let clock = Clock::manual(Timestamp::from_micros(5));
        assert_eq!(clock.now(), clock.now());
        clock.clone().advance(Duration::from_micros(3));
        assert_eq!(clock.now(), Timestamp::from_micros(8));
    }

    #[test]
    fn a_following_clock_goes_on_from_where_it_is_set() {
        let clock = Clock::following(Timestamp::from_micros(1_000));
        assert!(clock.now() >= Timestamp::from_micros(1_000));
        clock.set(Timestamp::from_micros(500_000_000));
        let later = clock.clone().now();
        assert!(later >= Timestamp::from_micros(500_000_000));
        clock.set(Timestamp::from_micros(5));
        assert!(clock.now() < later);
    }

    #[test]
    fn the_same_seed_gives_the_same_sequence() {
        let (a, b) = (RandomSource::seeded(7), RandomSource::seeded(7));
        assert!((0..100).all(|_| a.next_u64() == b.next_u64()));
        let around = Duration::from_millis(100);
        assert!((0..1000).all(|_| {
            let wait = a.jitter(around);
            wait >= around / 2 && wait <= around * 3 / 2
        }));
    }
}
