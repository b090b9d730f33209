//! A PostgreSQL server that restarts, goes away or falls silent.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use gozon_store::{Db, Error, Reader, Result, Statement, select};
use gozon_testkit::{TestDb, Wire};

async fn write(db: &Db) -> Result<()> {
    let mut tx = db.begin().await?;
    tx.query("select 1").execute().await?;
    tx.commit().await
}

async fn read(db: &Db) -> Result<()> {
    db.read().await?.query(select!("select 1")).execute().await.map(drop)
}

async fn write_optimistically(db: &Db) -> Result<()> {
    let statement = Statement::new("update written set n = n + 1").expecting(1);
    db.optimistic().await?.commit(vec![statement]).await
}

async fn snapshot(db: &Db) -> Result<()> {
    db.snapshot().await?.query(select!("select 1")).execute().await.map(drop)
}

/// Opens every connection that the pool may hold.
async fn fill_pool(db: &Db) {
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(db.begin().await.unwrap());
    }
    drop(held);
    for _ in 0..5 {
        write(db).await.unwrap();
    }
}

/// A pool of 5 over a wire that the test may cut.
async fn wired(test: &TestDb) -> (Wire, Db) {
    let (wire, url) = Wire::through(test.url()).await;
    (wire, Db::open(&url, 5).unwrap())
}

#[tokio::test]
async fn dead_connections_do_not_surface() {
    let test = TestDb::postgres().await;
    let db = test.db();
    for round in 0..9 {
        fill_pool(&db).await;
        test.end_connections().await;
        match round % 3 {
            0 => write(&db).await.unwrap(),
            1 => read(&db).await.unwrap(),
            _ => snapshot(&db).await.unwrap(),
        }
    }
}

/// Nobody asks a connection that was used a moment ago whether it is alive. One batch may find out,
/// and that is a warning to all the others.
#[tokio::test]
async fn at_most_one_dead_connection_surfaces() {
    let test = TestDb::postgres().await;
    let db = test.db();
    let mut tx = db.begin().await.unwrap();
    tx.query("create table written (n bigint)").execute().await.unwrap();
    tx.query("insert into written values (0)").execute().await.unwrap();
    tx.commit().await.unwrap();
    let mut written = 0;
    for _ in 0..3 {
        fill_pool(&db).await;
        test.end_connections().await;
        let mut failed = 0;
        for _ in 0..10 {
            match write_optimistically(&db).await {
                Ok(()) => written += 1,
                Err(error) => {
                    assert!(error.is_unavailable(), "{error}");
                    failed += 1;
                }
            }
        }
        assert!(failed <= 1, "{failed} failed");
    }
    let mut reader = db.read().await.unwrap();
    let (n,): (i64,) = reader.query(select!("select n from written")).fetch_one().await.unwrap();
    assert_eq!(n, written);
}

#[tokio::test]
async fn server_that_is_away_is_unavailable_until_it_is_back() {
    let test = TestDb::postgres().await;
    let (wire, db) = wired(&test).await;
    fill_pool(&db).await;
    let mut cut_off = db.begin().await.unwrap();
    wire.cut();
    assert!(cut_off.query("select 1").execute().await.unwrap_err().is_unavailable());
    assert!(cut_off.commit().await.is_err());
    for _ in 0..3 {
        assert!(write(&db).await.unwrap_err().is_unavailable());
        assert!(read(&db).await.unwrap_err().is_unavailable());
        assert!(write_optimistically(&db).await.unwrap_err().is_unavailable());
        assert!(db.ping().await.unwrap_err().is_unavailable());
    }
    wire.mend();
    write(&db).await.unwrap();
    db.ping().await.unwrap();
}

#[tokio::test]
async fn commit_that_is_cut_off_is_unavailable() {
    let test = TestDb::postgres().await;
    let (wire, db) = wired(&test).await;
    let tx = db.begin().await.unwrap();
    wire.cut();
    assert!(tx.commit().await.unwrap_err().is_unavailable());
}

#[tokio::test]
async fn refused_connection_is_unavailable() {
    let db = Db::open("postgres://nobody@127.0.0.1:1/nothing", 2).unwrap();
    assert!(write(&db).await.unwrap_err().is_unavailable());
    let error = db.ping().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
}

/// A server that is frozen, or behind a network that swallows everything, closes no connection.
#[tokio::test]
async fn silent_server_is_unavailable_until_it_is_back() {
    let test = TestDb::postgres().await;
    let (wire, db) = wired(&test).await;
    fill_pool(&db).await;
    wire.freeze();
    for _ in 0..2 {
        let answer = tokio::time::timeout(Duration::from_secs(20), write(&db)).await;
        assert!(answer.expect("an answer in time").unwrap_err().is_unavailable());
    }
    wire.mend();
    // What was frozen is dead for good; the pool must not be full of it.
    let mut last = Ok(());
    for _ in 0..10 {
        last = write(&db).await;
        if last.is_ok() {
            break;
        }
    }
    last.unwrap();
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(db.begin().await.unwrap());
    }
}

/// Statements are planned once and by key only, however large their tables become. A snapshot may
/// read whole tables, and plans for what is in them.
#[tokio::test]
async fn statements_are_planned_once_and_by_key() {
    let test = TestDb::postgres().await;
    let db = test.db();
    let mut tx = db.begin().await.unwrap();
    let mut optimistic = db.optimistic().await.unwrap();
    let mut locking = db.locking().await.unwrap();
    let mut snapshot = db.snapshot().await.unwrap();
    for name in ["enable_seqscan", "enable_hashjoin", "enable_mergejoin"] {
        assert_eq!(setting(tx.reader(), name).await, "off", "{name}");
        assert_eq!(setting(optimistic.reader(), name).await, "off", "{name}");
        assert_eq!(setting(locking.reader(), name).await, "off", "{name}");
        assert_eq!(setting(&mut snapshot, name).await, "on", "{name}");
    }
    drop((optimistic, locking));
    let mut read = db.read().await.unwrap();
    for reader in [tx.reader(), &mut read] {
        assert_eq!(setting(reader, "plan_cache_mode").await, "force_generic_plan");
        assert_eq!(setting(reader, "jit").await, "off");
    }
    assert_eq!(setting(&mut snapshot, "plan_cache_mode").await, "force_custom_plan");
}

async fn setting(reader: &mut Reader, name: &str) -> String {
    let setting = reader.query(select!("select current_setting($1)")).bind(name);
    setting.fetch_one::<(String,)>().await.unwrap().0
}

/// A process that is frozen or cut off must not hold its locks for ever, nor wait for others'. A
/// snapshot may read for as long as it takes.
#[tokio::test]
async fn server_limits_what_a_transaction_holds() {
    let test = TestDb::postgres().await;
    let db = test.db();
    let mut tx = db.begin().await.unwrap();
    let mut optimistic = db.optimistic().await.unwrap();
    let mut snapshot = db.snapshot().await.unwrap();
    for (name, limit) in [
        ("idle_in_transaction_session_timeout", "30s"),
        ("statement_timeout", "25s"),
        ("lock_timeout", "250ms"),
    ] {
        assert_eq!(setting(tx.reader(), name).await, limit, "{name}");
        assert_eq!(setting(optimistic.reader(), name).await, limit, "{name}");
        assert_eq!(setting(&mut snapshot, name).await, "0", "{name}");
    }
}

#[test]
fn url_of_another_kind_is_refused() {
    for bad in ["", "mysql://x", "sqlite:", "sqlite::memory:", "postgres://h:x/db", "data.db"] {
        assert!(Db::open(bad, 1).is_err(), "{bad}");
    }
}
