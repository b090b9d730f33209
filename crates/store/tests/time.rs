//! The time of a database that jumps.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use gozon_store::{CLOCK_MIGRATIONS, DatabaseClock, Db, migrate, select};
use gozon_testkit::TestDb;

const HOUR: Duration = Duration::from_hours(1);

/// Sets the server's time for the sessions of this database. They see it by their search path.
async fn shift(test: &TestDb, hours: i64) {
    let mut tx = test.db().begin().await.unwrap();
    tx.query("update shift set hours = $1").bind(hours).execute().await.unwrap();
    tx.commit().await.unwrap();
}

async fn shifted_database() -> TestDb {
    let test = TestDb::postgres().await;
    migrate(&test.db(), CLOCK_MIGRATIONS).await.unwrap();
    let mut tx = test.db().begin().await.unwrap();
    for sql in [
        "create table shift (hours bigint not null)",
        "insert into shift values (0)",
        "create function public.clock_timestamp() returns timestamptz language sql as
            $$ select pg_catalog.clock_timestamp() + make_interval(hours => hours::int) from shift $$",
        "do $$ begin execute format(
            'alter database %I set search_path = public, pg_catalog', current_database()); end $$",
    ] {
        tx.query(sql).execute().await.unwrap();
    }
    tx.commit().await.unwrap();
    test.end_connections().await;
    test
}

async fn correction(db: &Db) -> i64 {
    let select = select!("select correction from service_clock");
    let (micros,): (i64,) = db.read().await.unwrap().query(select).fetch_one().await.unwrap();
    micros / 3_600_000_000
}

#[tokio::test]
async fn a_jump_is_corrected_once_and_for_all() {
    let test = shifted_database().await;
    let old = DatabaseClock::start(test.another()).await.unwrap();
    let other = DatabaseClock::start(test.another()).await.unwrap();
    let before = old.clock().now();
    shift(&test, 30).await;
    // One that starts before anybody has seen the jump takes it for the time.
    let new = DatabaseClock::start(test.another()).await.unwrap();
    assert!(new.clock().now().since(before) > HOUR);
    for _ in 0..3 {
        for clock in [&old, &new, &other] {
            clock.step().await.unwrap();
        }
    }
    for clock in [&old, &new, &other] {
        assert!(clock.clock().now().since(before) < HOUR);
        assert!(clock.clock().now() >= before);
    }
    let hours = correction(&test.db()).await;
    assert!((-30..=-29).contains(&hours), "{hours}");

    // And back.
    shift(&test, -5).await;
    for clock in [&other, &new, &old] {
        clock.step().await.unwrap();
        assert!(clock.clock().now().since(before) < HOUR && clock.clock().now() >= before);
    }
}

#[tokio::test]
async fn an_operator_may_set_the_time() {
    let test = shifted_database().await;
    let clock = DatabaseClock::start(test.another()).await.unwrap();
    let before = clock.clock().now();
    shift(&test, 3).await;
    clock.step().await.unwrap();
    assert!(clock.clock().now().since(before) < HOUR);
    let mut tx = test.db().begin().await.unwrap();
    tx.query("update service_clock set correction = 0").execute().await.unwrap();
    tx.commit().await.unwrap();
    clock.step().await.unwrap();
    assert!(clock.clock().now().since(before) > 2 * HOUR);
    assert_eq!(correction(&test.db()).await, 0);
}

/// Keeps the instant of a measurement `seconds` ago, as a process that has run for long does.
async fn measured(test: &TestDb, seconds: i64) {
    let mut tx = test.db().begin().await.unwrap();
    let measured = "update service_clock set measured_at =
        cast(extract(epoch from clock_timestamp()) * 1000000 as bigint) - $1 * 1000000";
    tx.query(measured).bind(seconds).execute().await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_newcomer_waits_for_one_who_knows_how_far_the_clock_jumped_back() {
    let test = shifted_database().await;
    let old = DatabaseClock::start(test.another()).await.unwrap();
    let before = old.clock().now();
    measured(&test, 3).await;
    shift(&test, -72).await;
    let starting = tokio::spawn(DatabaseClock::start(test.another()));
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!starting.is_finished());
    old.step().await.unwrap();
    let new = starting.await.unwrap().unwrap();
    for clock in [&old, &new] {
        assert!(clock.clock().now().since(before) < HOUR && clock.clock().now() >= before);
    }
    assert!((71..=72).contains(&correction(&test.db()).await));
}

#[tokio::test]
async fn after_a_jump_back_that_nobody_saw_time_goes_on_from_the_latest_measurement() {
    let test = shifted_database().await;
    // Who starts first keeps its measurement, since there was no time yet that could have jumped.
    let before = DatabaseClock::start(test.another()).await.unwrap().clock().now();
    shift(&test, -72).await;
    let new = DatabaseClock::start(test.another()).await.unwrap();
    assert!(new.clock().now().since(before) < HOUR && new.clock().now() >= before);
    // And it is the time for all who come later.
    new.step().await.unwrap();
    let newer = DatabaseClock::start(test.another()).await.unwrap();
    assert!(newer.clock().now().since(before) < HOUR && newer.clock().now() >= before);
    assert!((71..=72).contains(&correction(&test.db()).await));
}

/// As a machine that was suspended: to one of its processes, the rest of the world has jumped.
#[tokio::test]
async fn a_process_that_stood_still_corrects_nothing() {
    let test = shifted_database().await;
    let clock = DatabaseClock::start(test.another()).await.unwrap();
    let before = clock.clock().now();
    shift(&test, 2).await;
    // Another process was there all the time.
    measured(&test, 3).await;
    clock.step().await.unwrap();
    assert!(clock.clock().now().since(before) > HOUR);
    assert_eq!(correction(&test.db()).await, 0);
    clock.step().await.unwrap();
    assert_eq!(correction(&test.db()).await, 0);
}
