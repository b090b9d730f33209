//! Whose fault a failure is, told from real servers; and that what the environment broke is well
//! again as soon as the environment is, without a restart.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::str::FromStr as _;

use gozon_contract::RandomSource;
use gozon_store::{Db, Error, Migration, Result, Statement, migrate, select};
use gozon_testkit::{TestDb, on_both_databases, postgres_url};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions,
};

on_both_databases!(missing_table_is_unavailable_until_it_is_made, wrong_data_is_its_own_fault);

const NOTES: Migration = Migration {
    component: "test",
    version: 1,
    postgres: "create table note (n bigint primary key check (n < 1000), text text not null)",
    sqlite: "create table note (n integer primary key check (n < 1000), text text not null) strict",
};

async fn with_notes(test: &TestDb) -> Db {
    migrate(&test.db(), &[NOTES]).await.unwrap();
    test.db()
}

fn note(n: i64, text: &str) -> Statement {
    Statement::new("insert into note (n, text) values ($1, $2)").bind(n).bind(text)
}

/// In a transaction.
async fn write(db: &Db, n: i64, text: &str) -> Result<()> {
    let mut tx = db.begin().await?;
    tx.run_all(vec![note(n, text)]).await?;
    tx.commit().await
}

/// As one statement, where the database knows that.
async fn write_optimistically(db: &Db, n: i64, text: &str) -> Result<()> {
    db.optimistic().await?.commit(vec![note(n, text)]).await
}

async fn read(db: &Db) -> Result<Vec<(i64, String)>> {
    db.read().await?.query(select!("select n, text from note order by n")).fetch_all().await
}

/// Every connection that the pool may hold is open and has prepared what the test runs.
async fn warmed_up(db: &Db) {
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut tx = db.begin().await.unwrap();
        let notes = tx.query("select n, text from note order by n");
        notes.fetch_all::<(i64, String)>().await.unwrap();
        open.push(tx);
    }
}

/// Runs a statement of an administrator: on the server, or in one of its databases.
async fn administer(url: &str, sql: &str) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
    connection.close().await
}

fn name_of(test: &TestDb) -> String {
    PgConnectOptions::from_str(test.url()).unwrap().get_database().unwrap().to_owned()
}

async fn missing_table_is_unavailable_until_it_is_made(test: TestDb) {
    let db = test.db();
    for _ in 0..2 {
        assert!(read(&db).await.unwrap_err().is_unavailable());
        assert!(write(&db, 1, "").await.unwrap_err().is_unavailable());
        assert!(write_optimistically(&db, 1, "").await.unwrap_err().is_unavailable());
    }
    migrate(&test.another(), &[NOTES]).await.unwrap();
    write(&db, 1, "a").await.unwrap();
    write_optimistically(&db, 2, "b").await.unwrap();
    assert_eq!(read(&db).await.unwrap().len(), 2);
}

async fn wrong_data_is_its_own_fault(test: TestDb) {
    let db = with_notes(&test).await;
    for _ in 0..3 {
        for refused in [write(&db, 1000, "").await, write_optimistically(&db, 1000, "").await] {
            assert!(matches!(refused, Err(Error::Other(_))), "{refused:?}");
        }
    }
    if test.is_postgres() {
        let refused = write(&db, 1, "nul\0").await;
        assert!(matches!(refused, Err(Error::Other(_))), "{refused:?}");
    }
    write(&db, 1, "").await.unwrap();
    let taken = write_optimistically(&db, 1, "").await;
    assert!(matches!(taken, Err(Error::Conflict(_))), "{taken:?}");
    assert_eq!(read(&db).await.unwrap().len(), 1);
}

/// SQLite locks the whole file: everybody waits for it, and it is nobody's conflict.
#[tokio::test]
async fn a_locked_file_is_unavailable_until_released() {
    let test = TestDb::sqlite();
    let db = with_notes(&test).await;
    write(&db, 1, "one").await.unwrap();
    let holder = test.another().begin().await.unwrap();
    for refused in [write(&db, 2, "two").await, write_optimistically(&db, 2, "two").await] {
        assert!(matches!(&refused, Err(error) if error.is_unavailable()), "{refused:?}");
    }
    assert!(db.check().await.is_err());
    assert_eq!(read(&db).await.unwrap(), [(1, "one".to_owned())]);
    drop(holder);
    write(&db, 2, "two").await.unwrap();
    assert_eq!(read(&db).await.unwrap().len(), 2);
}

/// What the connections have prepared is for the table as it was.
#[tokio::test]
async fn changed_column_type_heals_without_restart() {
    let test = TestDb::postgres().await;
    let db = with_notes(&test).await;
    write(&db, 1, "one").await.unwrap();
    for kind in ["varchar(50)", "text", "varchar(99)"] {
        warmed_up(&db).await;
        let sql = format!("alter table note alter column text type {kind}");
        administer(test.url(), &sql).await.unwrap();
        // The first to meet it may fail. It warns all the others.
        if let Err(error) = read(&db).await {
            assert!(error.is_unavailable(), "{error}");
        }
        for _ in 0..10 {
            assert_eq!(read(&db).await.unwrap(), [(1, "one".to_owned())]);
        }
        warmed_up(&db).await;
    }
}

/// A type that this program can't read is no fault of the row's.
#[tokio::test]
async fn foreign_column_type_is_unavailable_until_changed_back() {
    let test = TestDb::postgres().await;
    let db = with_notes(&test).await;
    write(&db, 1, "one").await.unwrap();
    warmed_up(&db).await;
    administer(test.url(), "alter table note alter column n type numeric").await.unwrap();
    for _ in 0..3 {
        let error = read(&db).await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
    }
    administer(test.url(), "alter table note alter column n type bigint").await.unwrap();
    if let Err(error) = read(&db).await {
        assert!(error.is_unavailable(), "{error}");
    }
    assert_eq!(read(&db).await.unwrap(), [(1, "one".to_owned())]);
}

#[tokio::test]
async fn renamed_database_is_unavailable_until_renamed_back() {
    let test = TestDb::postgres().await;
    let db = with_notes(&test).await;
    warmed_up(&db).await;
    let name = name_of(&test);
    let rename = async |from: &str, to: &str| {
        // Connections that were told to end may still be there for a moment.
        for _ in 0..100 {
            test.end_connections().await;
            let sql = format!("alter database {from} rename to {to}");
            if administer(&postgres_url(), &sql).await.is_ok() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the database is still in use");
    };
    rename(&name, &format!("{name}_away")).await;
    for _ in 0..3 {
        assert!(read(&db).await.unwrap_err().is_unavailable());
        assert!(write(&db, 1, "").await.unwrap_err().is_unavailable());
        assert!(write_optimistically(&db, 1, "").await.unwrap_err().is_unavailable());
    }
    rename(&format!("{name}_away"), &name).await;
    write(&db, 1, "").await.unwrap();
    write_optimistically(&db, 2, "").await.unwrap();
    assert_eq!(read(&db).await.unwrap().len(), 2);
}

#[tokio::test]
async fn missing_rights_are_unavailable_until_granted() {
    let test = TestDb::postgres().await;
    with_notes(&test).await;
    let role = format!("gozon_test_{:016x}", RandomSource::system().next_u64());
    let admin = async |sql: &str| administer(test.url(), sql).await.unwrap();
    admin(&format!("create role {role} login password 'secret'")).await;
    let options = PgConnectOptions::from_str(test.url()).unwrap();
    let url = options.username(&role).password("secret").to_url_lossy().to_string();
    let db = Db::open(&url, 5).unwrap();

    assert!(write(&db, 1, "").await.unwrap_err().is_unavailable());
    admin(&format!("grant select, insert on note to {role}")).await;
    write(&db, 1, "").await.unwrap();
    write_optimistically(&db, 2, "").await.unwrap();

    admin(&format!("alter role {role} nologin")).await;
    test.end_connections().await;
    for _ in 0..2 {
        let error = write(&db, 3, "").await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        assert!(read(&db).await.unwrap_err().is_unavailable());
    }
    admin(&format!("alter role {role} login")).await;
    write(&db, 3, "").await.unwrap();
    assert_eq!(read(&db).await.unwrap().len(), 3);

    db.close().await;
    admin(&format!("drop owned by {role}; drop role {role}")).await;
}

/// As after a failover to a server that is not promoted yet.
#[tokio::test]
async fn read_only_server_is_unavailable_until_it_takes_writes() {
    let test = TestDb::postgres().await;
    let db = with_notes(&test).await;
    let name = name_of(&test);
    let read_only = async |setting: &str| {
        let sql = format!("alter database {name} {setting}");
        administer(&postgres_url(), &sql).await.unwrap();
    };
    read_only("set default_transaction_read_only = on").await;
    test.end_connections().await;
    for n in 0..6 {
        let refused = if n % 2 == 0 {
            write(&db, 1, "").await
        } else {
            write_optimistically(&db, 1, "").await
        };
        assert!(refused.unwrap_err().is_unavailable());
        assert_eq!(read(&db).await.unwrap(), []);
    }
    read_only("reset default_transaction_read_only").await;
    // Connections made meanwhile stay read-only. Each shows itself once and is closed.
    let mut failures = 0;
    while let Err(error) = write_optimistically(&db, 1, "").await {
        assert!(error.is_unavailable(), "{error}");
        failures += 1;
        assert!(failures <= 5, "still read-only: {error}");
    }
    write(&db, 2, "").await.unwrap();
}

/// Who waits for a row for too long gets [`Error::Locked`], and may have it afterwards.
#[tokio::test]
async fn row_held_by_another_session_is_locked() {
    let test = TestDb::postgres().await;
    let db = with_notes(&test).await;
    write(&db, 1, "one").await.unwrap();
    let other = test.another();
    let mut holder = other.begin().await.unwrap();
    holder.query("select n from note {for_update}").execute().await.unwrap();
    let change = || Statement::new("update note set text = 'two'").expecting(1);
    for locking in [false, true] {
        let work = if locking { db.locking().await } else { db.optimistic().await };
        let refused = work.unwrap().commit(vec![change()]).await;
        assert!(matches!(refused, Err(Error::Locked(_))), "{refused:?}");
    }
    holder.commit().await.unwrap();
    db.optimistic().await.unwrap().commit(vec![change()]).await.unwrap();
    assert_eq!(read(&db).await.unwrap(), [(1, "two".to_owned())]);
}

/// No page of the file is left: code 13, as when the disk is full.
#[tokio::test]
async fn full_sqlite_disk_spoils_no_later_write() {
    let test = TestDb::sqlite();
    let db = with_notes(&test).await;
    write(&db, 1, "before").await.unwrap();
    let long = "x".repeat(1_000_000);
    for round in 0..3 {
        let mut tx = db.begin().await.unwrap();
        tx.query("pragma max_page_count = 20").execute().await.unwrap();
        tx.commit().await.unwrap();
        let full = match round {
            0 => write(&db, 2, &long).await,
            1 => write_optimistically(&db, 2, &long).await,
            // Its owner takes no notice.
            _ => {
                let mut tx = db.begin().await.unwrap();
                tx.run_all(vec![note(2, &long)]).await.unwrap_err();
                tx.commit().await
            }
        };
        let error = full.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        // There is room again.
        let n = 10 + i64::from(round);
        write(&db, n, "after").await.unwrap();
        write_optimistically(&test.another(), n + 10, "elsewhere").await.unwrap();
    }
    let numbers: Vec<_> = read(&db).await.unwrap().into_iter().map(|(n, _)| n).collect();
    assert_eq!(numbers, [1, 10, 11, 12, 20, 21, 22]);
}
