//! Reading more than fits: a stream holds a few rows, however many there are. A test program of
//! its own, since it looks at the memory of the whole process.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use futures_util::StreamExt as _;
use gozon_store::{Migration, Reader, migrate, select};
use gozon_testkit::{TestDb, on_both_databases};

on_both_databases!(stream_stays_small);

const ROWS: i64 = 10_000;
const ROW_BYTES: usize = 10_000;

const TABLE: Migration = Migration {
    component: "test",
    version: 1,
    postgres: "create table big (n bigint primary key, text text not null)",
    sqlite: "create table big (n integer primary key, text text not null) strict",
};

async fn stream_stays_small(test: TestDb) {
    migrate(&test.db(), &[TABLE]).await.unwrap();
    let mut tx = test.db().begin().await.unwrap();
    tx.query(
        "with recursive counted(n) as (select 1 union all select n + 1 from counted where n < $1)
         insert into big (n, text) select n, replace($2, 'x', '0123456789') from counted",
    )
    .bind(ROWS)
    .bind("x".repeat(ROW_BYTES / 10).as_str())
    .execute()
    .await
    .unwrap();
    tx.commit().await.unwrap();

    let mut snapshot = test.db().snapshot().await.unwrap();
    let before = resident_bytes();
    let mut most = 0;
    let mut expected = 0;
    let in_order = snapshot.query(select!("select n, text from big order by n"));
    let mut stream = in_order.stream::<(i64, String)>().unwrap();
    while let Some(row) = stream.next().await {
        let (n, body) = row.unwrap();
        expected += 1;
        assert_eq!((n, body.len()), (expected, ROW_BYTES));
        most = most.max(resident_bytes());
    }
    assert_eq!(expected, ROWS);
    let all = usize::try_from(ROWS).unwrap() * ROW_BYTES;
    assert!(most.saturating_sub(before) < all / 3, "{} of {all} bytes", most - before);

    // Given up half-way, its connection is as good as before.
    drop(stream);
    let again = snapshot.query(select!("select n, text from big"));
    let mut stream = again.stream::<(i64, String)>().unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    assert_eq!(count(&mut snapshot).await, ROWS);
}

async fn count(reader: &mut Reader) -> i64 {
    reader.query(select!("select count(*) from big")).fetch_one::<(i64,)>().await.unwrap().0
}

/// What the process holds in memory.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
