//! The rate limit: a token bucket per user.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use axum::http::HeaderMap;
use gozon_contract::Timestamp;
use lru::LruCache;
use uuid::Uuid;

use crate::config::RateLimit;

/// A token bucket per user, kept as the one number it needs: the time, in microseconds, at which
/// the bucket is full again (the generic cell rate algorithm). Users seen longest ago are
/// forgotten; a forgotten bucket is full.
pub(crate) struct TokenBuckets {
    /// Microseconds per token.
    interval: i64,
    /// How far ahead of now a bucket's time may run, in microseconds.
    depth: i64,
    full_at: Mutex<LruCache<u128, i64>>,
}

impl TokenBuckets {
    pub(crate) fn new(limit: RateLimit) -> Self {
        let interval = (1_000_000 / i64::from(limit.per_second.max(1))).max(1);
        let users = NonZeroUsize::new(limit.users).unwrap_or(NonZeroUsize::MIN);
        Self {
            interval,
            depth: interval * i64::from(limit.burst.max(1)),
            full_at: Mutex::new(LruCache::new(users)),
        }
    }

    /// Takes a token of the request's user, or says how many seconds to wait for the next one. A
    /// request without a user passes: no service does anything for it.
    pub(crate) fn take(&self, headers: &HeaderMap, now: Timestamp) -> Result<(), u32> {
        let user = headers.get("x-user-id");
        let Some(user) = user.and_then(|id| Uuid::try_parse_ascii(id.as_bytes()).ok()) else {
            return Ok(());
        };
        let now = now.micros();
        let mut users = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let last = users.get(&user.as_u128()).copied().unwrap_or(now);
        let full_at = last.max(now) + self.interval;
        let wait = full_at - now - self.depth;
        if wait > 0 {
            let seconds = wait.saturating_add(999_999) / 1_000_000;
            return Err(u32::try_from(seconds).unwrap_or(u32::MAX));
        }
        users.put(user.as_u128(), full_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn user(n: u128) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-user-id", Uuid::from_u128(n).to_string().parse().unwrap());
        headers
    }

    #[test]
    fn a_bucket_refills_with_time_and_no_other() {
        let buckets = TokenBuckets::new(RateLimit { per_second: 2, burst: 3, users: 10 });
        let start = Timestamp::from_micros(1_000_000);
        for _ in 0..3 {
            assert_eq!(buckets.take(&user(1), start), Ok(()));
        }
        assert_eq!(buckets.take(&user(1), start), Err(1));
        assert_eq!(buckets.take(&user(2), start), Ok(()));
        let later = start.plus(Duration::from_millis(500));
        assert_eq!(buckets.take(&user(1), later), Ok(()));
        assert_eq!(buckets.take(&user(1), later), Err(1));
        assert_eq!(buckets.take(&HeaderMap::new(), later), Ok(()));
    }

    #[test]
    fn memory_is_bounded() {
        let buckets = TokenBuckets::new(RateLimit { per_second: 1, burst: 1, users: 100 });
        for n in 0..10_000 {
            assert_eq!(buckets.take(&user(n), Timestamp::from_micros(0)), Ok(()));
        }
        assert_eq!(buckets.full_at.lock().unwrap().len(), 100);
        assert_eq!(buckets.take(&user(9_999), Timestamp::from_micros(0)), Err(1));
    }
}
