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
//!
//! A process that stood still together with its monotonic clock, as on a machine that was suspended,
//! sees the same as after a jump. So the instant of the latest measurement is kept in the database: if
//! another process has measured a moment ago by the database's clock, that clock has not jumped. And if
//! it lies in the future, the clock has jumped back, which a process that has just started can't see
//! otherwise.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use gozon_contract::{Clock, Timestamp};
use gozon_seam::mutation;
use tokio::time::{Instant, sleep};

use crate::{Db, Error, Migration, Result, select};

/// The table of a database that has a time.
pub const CLOCK_MIGRATIONS: &[Migration] = &[
    Migration {
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
    },
    Migration {
        component: "clock",
        version: 2,
        postgres: "alter table service_clock add column measured_at bigint not null default 0",
        sqlite: "alter table service_clock add column measured_at integer not null default 0",
    },
];

/// How often the time is measured.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);
/// A measurement that took longer is too inexact to be used.
const MAX_ROUND_TRIP: Duration = Duration::from_millis(500);
/// A larger difference between two measurements and the monotonic clock is a jump of the database's
/// clock. Smaller ones are followed.
const MAX_DRIFT: Duration = Duration::from_secs(2);
/// A measurement of another process that is no older shows that the database's clock has not jumped by
/// more than this since.
const RECENT: Duration = Duration::from_secs(10);
/// A process that has just started does not know whether the database's clock has just jumped.
const NEWCOMER: Duration = Duration::from_secs(30);
/// How often a process that has just started looks whether another has corrected a jump.
const JUMP_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// A measurement: the service's time at an instant of this process, and what is in it.
struct Measured {
    now: Timestamp,
    correction: i64,
    /// When, by the database's clock, a process has measured that knew the time before; 0 if none has.
    known_at: i64,
    at: Instant,
}

/// A clock that follows the time of a migrated database.
pub struct DatabaseClock {
    db: Db,
    clock: Clock,
    /// The correction that was measured last.
    correction: AtomicI64,
    started_at: Instant,
}

impl DatabaseClock {
    /// Measures the time of `db`. If it stands before the latest measurement, the database's clock has
    /// jumped back: then this waits for a process that knows how far, and after ten seconds makes the
    /// time go on from that measurement.
    ///
    /// # Errors
    /// As the database says.
    pub async fn start(db: Db) -> Result<Self> {
        let measured = measure_after_a_jump(&db).await?;
        let mut clock = Clock::following(measured.now.plus(measured.at.elapsed()));
        if mutation!("each machine goes by its own clock") {
            clock = Clock::system();
        }
        let correction = AtomicI64::new(measured.correction);
        let this = Self { db, clock, correction, started_at: measured.at };
        if measured.is_first()
            && let Err(error) = this.keep(&measured).await
        {
            tracing::debug!(%error, "can't keep the first measurement");
        }
        Ok(this)
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
        let jumped = ahead.unsigned_abs() > micros(MAX_DRIFT).unsigned_abs();
        let stood_still = ahead > micros(RECENT) && measured.is_known();
        let is_followed = mutation!("jumps of the time are followed");
        if !jumped || stood_still || known != measured.correction || is_followed {
            if stood_still {
                tracing::warn!(seconds = ahead / 1_000_000, "this process stood still");
            } else if jumped {
                tracing::warn!(seconds = ahead / 1_000_000, "another process has set the time");
            }
            self.clock.set(measured.now.plus(measured.at.elapsed()));
            return self.tell(&measured).await;
        }
        tracing::warn!(seconds = ahead / 1_000_000, "the database's clock has jumped; corrected");
        let correction = measured.correct(&self.db, ahead).await?;
        self.correction.store(correction, Ordering::Relaxed);
        Ok(())
    }

    /// Keeps the instant of this measurement for the others, unless it may be one after a jump that
    /// nobody has corrected yet, or another has just kept one.
    async fn tell(&self, measured: &Measured) -> Result<()> {
        let is_newcomer = self.started_at.elapsed() < NEWCOMER;
        if is_newcomer || measured.was_just_told() { Ok(()) } else { self.keep(measured).await }
    }

    /// Keeps the instant of a measurement. On SQLite there are no others, except in the simulator.
    async fn keep(&self, measured: &Measured) -> Result<()> {
        let has_others = self.db.is_postgres() || cfg!(feature = "simulation");
        if !has_others {
            return Ok(());
        }
        let mut tx = self.db.begin().await?;
        let tell = "update service_clock set measured_at = $1 where one = 1";
        tx.query(tell).bind(measured.by_the_database()).execute().await?;
        tx.commit().await
    }
}

impl Measured {
    /// Makes the database's time go on as if it had not jumped `ahead`, and returns the correction.
    async fn correct(&self, db: &Db, ahead: i64) -> Result<i64> {
        let mut tx = db.begin().await?;
        let correction = self.correction.saturating_sub(ahead);
        let corrected = tx
            .query(
                "update service_clock set correction = $1, measured_at = $2
                 where one = 1 and correction = $3",
            )
            .bind(correction)
            .bind(self.by_the_database())
            .bind(self.correction)
            .execute()
            .await?;
        if corrected == 0 {
            return Err(Error::conflict("another process has corrected the jump"));
        }
        tx.commit().await?;
        Ok(correction)
    }

    /// Whether nobody has measured before: there was no time yet that could have jumped.
    fn is_first(&self) -> bool {
        self.known_at == 0
    }

    /// Whether the latest measurement seems to lie in the future.
    fn is_set_back(&self) -> bool {
        self.known_before() < -micros(MAX_DRIFT)
    }

    /// The instant by the database's own clock, in microseconds.
    fn by_the_database(&self) -> i64 {
        self.now.micros().saturating_sub(self.correction)
    }

    /// How long ago, by the database's own clock, a process has measured that knew the time before.
    fn known_before(&self) -> i64 {
        self.by_the_database().saturating_sub(self.known_at)
    }

    /// Whether another process has measured a moment ago, by the database's own clock.
    fn is_known(&self) -> bool {
        (0..=micros(RECENT)).contains(&self.known_before())
    }

    /// Whether that was so short a time ago that it need not be kept again.
    fn was_just_told(&self) -> bool {
        (0..micros(MEASURE_INTERVAL / 2)).contains(&self.known_before())
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

async fn measure_after_a_jump(db: &Db) -> Result<Measured> {
    let give_up = Instant::now() + RECENT;
    loop {
        let measured = measure(db).await?;
        if !measured.is_set_back() {
            return Ok(measured);
        }
        if Instant::now() < give_up {
            tracing::warn!("the database's clock has jumped back; waiting for its correction");
            sleep(JUMP_POLL_INTERVAL).await;
            continue;
        }
        let seconds = measured.known_before() / 1_000_000;
        tracing::warn!(seconds, "the database's clock has jumped back; corrected");
        match measured.correct(db, measured.known_before()).await {
            // Or another has just corrected it.
            Ok(_) | Err(Error::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
}

async fn measure(db: &Db) -> Result<Measured> {
    let mut reader = db.read().await?;
    let sent = Instant::now();
    let select = if db.is_postgres() {
        select!(
            "select cast(extract(epoch from clock_timestamp()) * 1000000 as bigint), correction,
                    measured_at
             from service_clock where one = 1"
        )
    } else {
        select!(
            "select cast(unixepoch('subsec') * 1000000 as integer), correction, measured_at
             from service_clock where one = 1"
        )
    };
    let (now, correction, known_at): (i64, i64, i64) = reader.query(select).fetch_one().await?;
    #[cfg(feature = "simulation")]
    let now = db.simulated_time().unwrap_or(now);
    let at = sent + sent.elapsed() / 2;
    let now = Timestamp::from_micros(now.saturating_add(correction));
    Ok(Measured { now, correction, known_at, at })
}
