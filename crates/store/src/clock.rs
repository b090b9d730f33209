//! The time of a database, which is the time of everything that is stored in it.
//!
//! Machines disagree about the time, and some are wrong by days. All that is stored, compared or
//! purged uses the time of the one database that all instances of a service share, plus a correction
//! that is stored in it. A process measures it when it starts and every few seconds, and goes on by
//! its own monotonic clock in between.
//!
//! The database's time can jump too: its host's clock is set, or a host with another clock takes
//! over. A process that sees a jump puts it into the correction, so that the service's time goes on
//! as if nothing had happened: no lease ends early, and nothing is purged before its time. A process
//! that sees another correction than before follows it: it was made by one that knew the time before
//! the jump, or by an operator, who may set it to 0.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use gozon_contract::{Clock, Timestamp};
use gozon_seam::mutation;
use tokio::time::{Instant, sleep};

use crate::{Db, Error, Migration, Result, select};

/// The table of a database that has a time.
pub const CLOCK_MIGRATIONS: &[Migration] = &[Migration {
    component: "clock",
    version: 1,
    postgres: "create table service_clock (
            one bigint primary key check (one = 1),
            correction bigint not null
        );
        insert into service_clock values (1, 0)",
    sqlite: "create table service_clock (
            one integer primary key check (one = 1),
            correction integer not null
        ) strict;
        insert into service_clock values (1, 0)",
}];

/// How often the time is measured.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);
/// A measurement that took longer is too inexact to be used.
const MAX_ROUND_TRIP: Duration = Duration::from_millis(500);
/// A larger difference between two measurements and the monotonic clock is a jump of the database's
/// clock. Smaller ones are followed.
const MAX_DRIFT: Duration = Duration::from_secs(2);

/// A measurement: the service's time at an instant of this process, and what is in it.
struct Measured {
    now: Timestamp,
    correction: i64,
    at: Instant,
}

/// A clock that follows the time of a migrated database.
pub struct DatabaseClock {
    db: Db,
    clock: Clock,
    /// The correction that was measured last.
    correction: AtomicI64,
}

impl DatabaseClock {
    /// Measures the time of `db`.
    ///
    /// # Errors
    /// As the database says.
    pub async fn start(db: Db) -> Result<Self> {
        let measured = measure(&db).await?;
        let mut clock = Clock::following(measured.now.plus(measured.at.elapsed()));
        if mutation!("each machine goes by its own clock") {
            clock = Clock::system();
        }
        Ok(Self { db, clock, correction: AtomicI64::new(measured.correction) })
    }

    /// The clock to use.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Measures again and again. Never returns.
    pub async fn follow(&self) {
        loop {
            sleep(MEASURE_INTERVAL).await;
            if let Err(error) = self.step().await {
                tracing::debug!(%error, "can't measure the database's time");
            }
        }
    }

    /// Measures once, and corrects the clock or, after a jump, the database's correction.
    ///
    /// # Errors
    /// As the database says; the clock goes on as before.
    pub async fn step(&self) -> Result<()> {
        let before = Instant::now();
        let measured = measure(&self.db).await?;
        if before.elapsed() > MAX_ROUND_TRIP {
            return Ok(());
        }
        let expected = self.clock.now().minus(measured.at.elapsed());
        let ahead = measured.now.micros().saturating_sub(expected.micros());
        let known = self.correction.swap(measured.correction, Ordering::Relaxed);
        let jumped =
            ahead.unsigned_abs() > u64::try_from(MAX_DRIFT.as_micros()).unwrap_or(u64::MAX);
        if !jumped || known != measured.correction || mutation!("jumps of the time are followed") {
            if jumped {
                tracing::warn!(seconds = ahead / 1_000_000, "another process has set the time");
            }
            self.clock.set(measured.now.plus(measured.at.elapsed()));
            return Ok(());
        }
        tracing::warn!(seconds = ahead / 1_000_000, "the database's clock has jumped; corrected");
        let mut tx = self.db.begin().await?;
        let correction = measured.correction.saturating_sub(ahead);
        let corrected = tx
            .query("update service_clock set correction = $1 where one = 1 and correction = $2")
            .bind(correction)
            .bind(measured.correction)
            .execute()
            .await?;
        if corrected == 0 {
            return Err(Error::conflict("another process has corrected the jump"));
        }
        tx.commit().await?;
        self.correction.store(correction, Ordering::Relaxed);
        Ok(())
    }
}

async fn measure(db: &Db) -> Result<Measured> {
    let mut reader = db.read().await?;
    let sent = Instant::now();
    let select = if db.is_postgres() {
        select!(
            "select cast(extract(epoch from clock_timestamp()) * 1000000 as bigint), correction
             from service_clock where one = 1"
        )
    } else {
        select!(
            "select cast(unixepoch('subsec') * 1000000 as integer), correction
             from service_clock where one = 1"
        )
    };
    let (now, correction): (i64, i64) = reader.query(select).fetch_one().await?;
    #[cfg(feature = "simulation")]
    let now = db.simulated_time().unwrap_or(now);
    let at = sent + sent.elapsed() / 2;
    Ok(Measured { now: Timestamp::from_micros(now.saturating_add(correction)), correction, at })
}
