//! Several transactions, instances and processes at once.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use gozon_contract::RandomSource;
use gozon_store::{Db, Error, Migration, Result, Retry, migrate, select};
use gozon_testkit::{TestDb, on_both_databases};

on_both_databases!(
    claims_share_the_work,
    taken_unique_key_is_a_conflict,
    compare_and_swap_loses_no_increment,
    instances_migrate_an_empty_database_together,
    migrating_again_does_nothing,
    failing_migration_leaves_nothing,
    retry_gives_up_on_what_will_not_change,
);

const TABLE: Migration = Migration {
    component: "test",
    version: 1,
    postgres: "create table job (n bigint primary key, taken bigint not null)",
    sqlite: "create table job (n integer primary key, taken integer not null) strict",
};

async fn with_jobs(test: &TestDb, count: i64) -> Db {
    let db = test.db();
    migrate(&db, &[TABLE]).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    for n in 0..count {
        tx.query("insert into job (n, taken) values ($1, 0)").bind(n).execute().await.unwrap();
    }
    tx.commit().await.unwrap();
    db
}

async fn claim(tx: &mut gozon_store::Tx, limit: i64) -> Vec<i64> {
    tx.query(
        "with due as materialized (
            select n from job where taken = 0 order by n limit $1 {skip_locked}
         )
         update job set taken = taken + 1 where n in (select n from due) returning n",
    )
    .bind(limit)
    .fetch_all::<(i64,)>()
    .await
    .unwrap()
    .into_iter()
    .map(|(n,)| n)
    .collect()
}

async fn taken(db: &Db) -> Vec<i64> {
    let mut reader = db.read().await.unwrap();
    let rows: Vec<(i64,)> =
        reader.query(select!("select taken from job order by n")).fetch_all().await.unwrap();
    rows.into_iter().map(|(taken,)| taken).collect()
}

async fn claims_share_the_work(test: TestDb) {
    let db = with_jobs(&test, 200).await;
    if test.is_postgres() {
        // Two at the same time, in one task: neither waits for the other.
        let (mut one, mut two) = (db.begin().await.unwrap(), db.begin().await.unwrap());
        let (first, second) = (claim(&mut one, 3).await, claim(&mut two, 3).await);
        assert_eq!((first.len(), second.len()), (3, 3));
        assert!(first.iter().all(|n| !second.contains(n)));
        two.commit().await.unwrap();
        drop(one);
    }
    let workers = (0..4).map(|_| {
        let db = test.another();
        tokio::spawn(async move {
            let mut count = 0;
            loop {
                let mut tx = db.begin().await.unwrap();
                let claimed = claim(&mut tx, 7).await.len();
                tx.commit().await.unwrap();
                if claimed == 0 {
                    return count;
                }
                count += claimed;
            }
        })
    });
    let mut all = 0;
    for worker in workers.collect::<Vec<_>>() {
        all += worker.await.unwrap();
    }
    assert_eq!(all, if test.is_postgres() { 197 } else { 200 });
    assert!(taken(&db).await.iter().all(|taken| *taken == 1));
}

async fn taken_unique_key_is_a_conflict(test: TestDb) {
    let db = with_jobs(&test, 1).await;
    let mut tx = db.begin().await.unwrap();
    let insert = tx.query("insert into job (n, taken) values (0, 0)").execute().await;
    assert!(matches!(insert, Err(Error::Conflict(_))), "{insert:?}");
    drop(tx);
    let mut tx = db.begin().await.unwrap();
    let wrong = tx.query("insert into job (n, taken) values (1, null)").execute().await;
    assert!(matches!(wrong, Err(Error::Other(_))), "{wrong:?}");
    drop(tx);
    let mut tx = db.begin().await.unwrap();
    let wrong = tx.query("select nonsense from job").execute().await;
    assert!(matches!(wrong, Err(Error::Unavailable(_))), "{wrong:?}");
}

/// Reads without a lock and writes only if nothing changed since: what loses tries again.
async fn compare_and_swap_loses_no_increment(test: TestDb) {
    let db = with_jobs(&test, 1).await;
    let workers = (0..4).map(|seed| {
        let db = test.another();
        tokio::spawn(async move {
            let random = RandomSource::seeded(seed);
            for _ in 0..25 {
                let mut retry = Retry::new(&random);
                while let Err(error) = increment(&db).await {
                    if !retry.again(&error).await {
                        assert!(matches!(error, Error::Conflict(_)), "{error}");
                        retry = Retry::new(&random);
                    }
                }
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    assert_eq!(taken(&db).await, [100]);
}

async fn increment(db: &Db) -> Result<()> {
    let mut tx = db.begin().await?;
    let (old,): (i64,) = tx.query("select taken from job where n = 0").fetch_one().await?;
    let changed = tx
        .query("update job set taken = $1 where n = 0 and taken = $2")
        .bind(old + 1)
        .bind(old)
        .execute()
        .await?;
    if changed == 0 {
        return Err(Error::conflict("somebody else was faster"));
    }
    tx.commit().await
}

async fn instances_migrate_an_empty_database_together(test: TestDb) {
    let second = Migration {
        version: 2,
        postgres: "create table more (n bigint); insert into more values (1)",
        sqlite: "create table more (n integer) strict; insert into more values (1)",
        ..TABLE
    };
    let instances = (0..8).map(|_| {
        let db = test.another();
        tokio::spawn(async move { migrate(&db, &[TABLE, second]).await })
    });
    for instance in instances.collect::<Vec<_>>() {
        instance.await.unwrap().unwrap();
    }
    let mut reader = test.db().read().await.unwrap();
    let count = reader.query(select!("select count(*) from more"));
    let (count,): (i64,) = count.fetch_one().await.unwrap();
    assert_eq!(count, 1);
}

async fn migrating_again_does_nothing(test: TestDb) {
    let db = with_jobs(&test, 3).await;
    migrate(&db, &[TABLE]).await.unwrap();
    assert_eq!(taken(&db).await, [0, 0, 0]);
}

async fn failing_migration_leaves_nothing(test: TestDb) {
    let db = test.db();
    let failing = Migration {
        version: 2,
        postgres: "create table more (n bigint); select nonsense",
        sqlite: "create table more (n integer); select nonsense",
        ..TABLE
    };
    assert!(migrate(&db, &[TABLE, failing]).await.unwrap_err().is_unavailable());
    let mut reader = db.read().await.unwrap();
    reader.query(select!("select 1 from gozon_migrations")).execute().await.unwrap_err();
    drop(reader);
    // Put right, it goes through.
    let right = Migration { postgres: "select 1", sqlite: "select 1", ..failing };
    migrate(&db, &[TABLE, right]).await.unwrap();
    assert_eq!(taken(&db).await, [0; 0]);
}

async fn retry_gives_up_on_what_will_not_change(test: TestDb) {
    let db = with_jobs(&test, 1).await;
    let random = RandomSource::seeded(1);
    let mut tx = db.begin().await.unwrap();
    let wrong = tx.query("insert into job (n, taken) values (7, null)").execute().await;
    let wrong = wrong.unwrap_err();
    assert!(matches!(wrong, Error::Other(_)), "{wrong}");
    assert!(!Retry::new(&random).again(&wrong).await);
    drop(tx);
    let mut tx = db.begin().await.unwrap();
    let away = tx.query("select nonsense").execute().await.unwrap_err();
    assert!(!Retry::new(&random).again(&away).await);

    let conflict = Error::conflict("always");
    let mut retry = Retry::new(&random);
    let mut attempts = 1;
    while retry.again(&conflict).await {
        attempts += 1;
    }
    assert_eq!(attempts, 10);
}

/// Two transactions that want what the other has: each ends soon, and nothing is half done.
#[tokio::test]
async fn deadlock_ends_without_half_a_write() {
    let test = TestDb::postgres().await;
    let db = with_jobs(&test, 2).await;
    // A session that waits for longer than the limit leaves; the server looks for deadlocks only later.
    let (one, two) = deadlock(&db, "250ms").await;
    let errors: Vec<_> = [&one, &two].into_iter().filter_map(|end| end.as_ref().err()).collect();
    assert!(!errors.is_empty());
    assert!(errors.iter().all(|error| matches!(error, Error::Locked(_))), "{errors:?}");
    let done = i64::from(one.is_ok() || two.is_ok());
    assert_eq!(taken(&db).await, [done, done]);

    // A server that finds the deadlock ends one of the two.
    let (one, two) = deadlock(&db, "20s").await;
    let lost = one.and(two).unwrap_err();
    assert!(matches!(lost, Error::Conflict(_)), "{lost}");
    assert_eq!(taken(&db).await, [done + 1, done + 1]);
}

async fn deadlock(db: &Db, lock_timeout: &'static str) -> (Result<()>, Result<()>) {
    let barrier = tokio::sync::Barrier::new(2);
    let lock = async |first: i64, second: i64| {
        let mut tx = db.begin().await?;
        let limit = tx.query("select set_config('lock_timeout', $1, true)").bind(lock_timeout);
        limit.execute().await?;
        let update = "update job set taken = taken + 1 where n = $1";
        tx.query(update).bind(first).execute().await?;
        barrier.wait().await;
        tx.query(update).bind(second).execute().await?;
        tx.commit().await
    };
    tokio::join!(lock(0, 1), lock(1, 0))
}

/// A SQLite file whose writer is another process: it is waited for.
#[tokio::test]
async fn locked_sqlite_file_is_waited_for() {
    let test = TestDb::sqlite();
    let db = with_jobs(&test, 1).await;
    let other = test.another();
    let mut writer = other.begin().await.unwrap();
    writer.query("update job set taken = 1").execute().await.unwrap();
    let waiting = tokio::spawn(async move { increment(&db).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    writer.commit().await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(taken(&other).await, [2]);
}
