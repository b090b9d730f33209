//! A PostgreSQL server that restarts, goes away or falls silent.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use gozon_store::{Db, Error, Result, Statement};
use gozon_testkit::{TestDb, Wire};

async fn write(db: &Db) -> Result<()> {
    let mut tx = db.begin().await?;
    tx.query("select 1").execute().await?;
    tx.commit().await
}

async fn read(db: &Db) -> Result<()> {
    db.read().await?.query("select 1").execute().await.map(drop)
}

async fn write_at_once(db: &Db) -> Result<()> {
    let statement = Statement::new("update written set n = n + 1").expecting(1);
    db.at_once().await?.commit_with(vec![statement]).await
}

async fn snapshot(db: &Db) -> Result<()> {
    db.snapshot().await?.query("select 1").execute().await.map(drop)
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
async fn of_dead_connections_one_surfaces_at_the_most() {
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
            match write_at_once(&db).await {
                Ok(()) => written += 1,
                Err(error) => {
                    assert!(error.is_unavailable(), "{error}");
                    failed += 1;
                }
            }
        }
        assert!(failed <= 1, "{failed} failed");
    }
    let (n,): (i64,) =
        db.read().await.unwrap().query("select n from written").fetch_one().await.unwrap();
    assert_eq!(n, written);
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable_and_comes_back() {
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
        assert!(write_at_once(&db).await.unwrap_err().is_unavailable());
        assert!(db.ping().await.unwrap_err().is_unavailable());
    }
    wire.mend();
    write(&db).await.unwrap();
    db.ping().await.unwrap();
}

#[tokio::test]
async fn a_commit_that_is_cut_off_is_unavailable() {
    let test = TestDb::postgres().await;
    let (wire, db) = wired(&test).await;
    let tx = db.begin().await.unwrap();
    wire.cut();
    assert!(tx.commit().await.unwrap_err().is_unavailable());
}

#[tokio::test]
async fn a_refused_connection_is_unavailable() {
    let db = Db::open("postgres://nobody@127.0.0.1:1/nothing", 2).unwrap();
    assert!(write(&db).await.unwrap_err().is_unavailable());
    let error = db.ping().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
}

/// A server that is frozen, or behind a network that swallows everything, closes no connection.
#[tokio::test]
async fn a_silent_server_is_unavailable_and_comes_back() {
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

/// A plan made while a table was empty must not be kept until it holds millions of rows, and what
/// is written is not looked for by reading a whole table.
#[tokio::test]
async fn every_statement_is_planned_for_its_data() {
    let test = TestDb::postgres().await;
    let db = test.db();
    let mut tx = db.begin().await.unwrap();
    let mut at_once = db.at_once().await.unwrap();
    let mut snapshot = db.snapshot().await.unwrap();
    for way in ["show enable_seqscan", "show enable_hashjoin", "show enable_mergejoin"] {
        for (tx, expected) in [(&mut tx, "off"), (&mut at_once, "off"), (&mut snapshot, "on")] {
            let (allowed,): (String,) = tx.query(way).fetch_one().await.unwrap();
            assert_eq!(allowed, expected, "{way}");
        }
    }
    drop((tx, at_once, snapshot));
    for mut tx in
        [db.begin().await.unwrap(), db.read().await.unwrap(), db.snapshot().await.unwrap()]
    {
        let (mode,): (String,) = tx.query("show plan_cache_mode").fetch_one().await.unwrap();
        assert_eq!(mode, "force_custom_plan");
    }
}

/// A transaction that nobody goes on with must not hold its locks for ever.
#[tokio::test]
async fn an_abandoned_transaction_is_ended_by_the_server() {
    let test = TestDb::postgres().await;
    let mut tx = test.db().begin().await.unwrap();
    let (limit,): (String,) =
        tx.query("show idle_in_transaction_session_timeout").fetch_one().await.unwrap();
    assert_eq!(limit, "30s");
}

#[test]
fn a_url_of_another_kind_is_refused() {
    for bad in ["", "mysql://x", "sqlite:", "sqlite::memory:", "postgres://h:x/db", "data.db"] {
        assert!(Db::open(bad, 1).is_err(), "{bad}");
    }
}
