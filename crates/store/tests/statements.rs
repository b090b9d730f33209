//! What one SQL text does on both databases.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use gozon_contract::RandomSource;
use gozon_store::{
    Db, Error, Migration, Reader, Retry, Rows, Select, Statement, Tx, migrate, select,
};
use gozon_testkit::{TestDb, on_both_databases};
use uuid::Uuid;

on_both_databases!(
    every_type_reads_back,
    batch_has_any_size,
    single_parameters_read_back,
    conflicting_row_is_passed_over_or_merged,
    returning_tells_what_changed,
    keys_are_looked_up_in_any_number,
    statements_run_together,
    one_failing_statement_undoes_all,
    unexpected_row_count_is_a_conflict_that_undoes_all,
    of_two_decisions_on_a_row_one_is_made_again,
    bytes_read_back_from_a_batch,
    every_event_of_a_body_is_a_row,
    dropped_transaction_leaves_nothing,
    failed_statement_forbids_the_commit,
    failed_read_forbids_the_work,
    snapshot_stands_still,
);

const TABLE: Migration = Migration {
    component: "test",
    version: 1,
    postgres: "create table thing (
        n bigint primary key, id uuid not null, maybe_id uuid, text text not null, maybe_text text,
        bytes bytea)",
    sqlite: "create table thing (
        n integer primary key, id blob not null, maybe_id blob, text text not null,
        maybe_text text, bytes blob) strict",
};

type Thing = (i64, Uuid, Option<Uuid>, String, Option<String>);

async fn with_table(test: &TestDb) -> Db {
    migrate(&test.db(), &[TABLE]).await.unwrap();
    test.db()
}

fn rows(things: &[Thing]) -> Rows {
    Rows::of(things)
        .int("n", |thing| thing.0)
        .uuid("id", |thing| thing.1)
        .maybe_uuid("maybe_id", |thing| thing.2)
        .text("text", |thing| thing.3.clone())
        .maybe_text("maybe_text", |thing| thing.4.clone())
        .done()
}

async fn insert(tx: &mut Tx, things: &[Thing]) -> gozon_store::Result<u64> {
    tx.query(
        "insert into thing (n, id, maybe_id, text, maybe_text)
         select n, id, maybe_id, text, maybe_text from {rows}",
    )
    .rows(rows(things))
    .execute()
    .await
}

async fn all(reader: &mut Reader) -> Vec<Thing> {
    reader
        .query(select!("select n, id, maybe_id, text, maybe_text from thing order by n"))
        .fetch_all()
        .await
        .unwrap()
}

fn plain(n: i64) -> Thing {
    (n, Uuid::from_u128(u128::try_from(n).unwrap_or(0)), None, format!("text {n}"), None)
}

async fn every_type_reads_back(test: TestDb) {
    let db = with_table(&test).await;
    let texts = [
        "",
        "plain",
        "it's \"quoted\" \\ and \\u0041 {rows} $1",
        "line\nbreak\ttab \u{1} \u{7f} \u{2028}",
        "Привет, 你好, 🛒, e\u{301}",
        "[\"json\", {\"a\": null}]",
        "NULL",
        "{}",
    ];
    let things: Vec<Thing> = texts
        .iter()
        .zip([i64::MIN, -1, 0, 1, (1 << 53) + 1, i64::MAX - 1, i64::MAX, 7])
        .map(|(text, n)| {
            let null = n % 2 == 0;
            let id = Uuid::from_u128(u128::MAX - u128::from(n.unsigned_abs()));
            (n, id, (!null).then_some(id), (*text).to_owned(), null.then(|| (*text).to_owned()))
        })
        .collect();
    let mut tx = db.begin().await.unwrap();
    assert_eq!(insert(&mut tx, &things).await.unwrap(), things.len() as u64);
    tx.commit().await.unwrap();

    let mut expected = things;
    expected.sort();
    assert_eq!(all(&mut db.read().await.unwrap()).await, expected);
}

async fn batch_has_any_size(test: TestDb) {
    let db = with_table(&test).await;
    let mut tx = db.begin().await.unwrap();
    assert_eq!(insert(&mut tx, &[]).await.unwrap(), 0);
    assert_eq!(insert(&mut tx, &[plain(0)]).await.unwrap(), 1);
    let thousand: Vec<_> = (1..=1000).map(plain).collect();
    assert_eq!(insert(&mut tx, &thousand).await.unwrap(), 1000);
    // A batch and parameters beside it, to pick rows by a key of two columns.
    let changed = tx
        .query(
            "update thing set text = $1
             where (n, id) in (select n, id from {rows}) and n > $2",
        )
        .bind("changed")
        .bind(500)
        .rows(rows(&thousand))
        .execute()
        .await
        .unwrap();
    assert_eq!(changed, 500);
    tx.commit().await.unwrap();
    let things = all(&mut db.read().await.unwrap()).await;
    assert_eq!(things.iter().filter(|thing| thing.3 == "changed").count(), 500);
}

async fn single_parameters_read_back(test: TestDb) {
    let db = with_table(&test).await;
    let id = Uuid::from_u128(7);
    let mut tx = db.begin().await.unwrap();
    tx.query("insert into thing (n, id, text, maybe_text, bytes) values ($1, $2, $3, $4, $5)")
        .bind(i64::MIN)
        .bind(id)
        .bind("it's")
        .bind(None)
        .bind([0, 255, 10].as_slice())
        .execute()
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let mut reader = db.read().await.unwrap();
    let read: (i64, Uuid, String, Option<String>, Vec<u8>) = reader
        .query(select!("select n, id, text, maybe_text, bytes from thing where id = $1"))
        .bind(id)
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(read, (i64::MIN, id, "it's".to_owned(), None, vec![0, 255, 10]));
    let none = reader.query(select!("select n from thing where n = $1")).bind(1);
    let none: Option<(i64,)> = none.fetch_optional().await.unwrap();
    assert_eq!(none, None);
}

async fn conflicting_row_is_passed_over_or_merged(test: TestDb) {
    let db = with_table(&test).await;
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, &[plain(1), plain(3)]).await.unwrap();
    let three = [plain(1), plain(2), plain(3)];
    let new: Vec<(i64,)> = tx
        .query(
            "insert into thing (n, id, text) select n, id, 'passed over' from {rows} where true
             on conflict (n) do nothing returning n",
        )
        .rows(rows(&three))
        .fetch_all()
        .await
        .unwrap();
    assert_eq!(new, [(2,)]);
    let merged = tx
        .query(
            "insert into thing (n, id, text) select n, id, 'merged' from {rows} where true
             on conflict (n) do update set text = excluded.text",
        )
        .rows(rows(&three))
        .execute()
        .await
        .unwrap();
    assert_eq!(merged, 3);
    tx.commit().await.unwrap();
    let things = all(&mut db.read().await.unwrap()).await;
    assert!(things.iter().all(|thing| thing.3 == "merged"), "{things:?}");
}

async fn returning_tells_what_changed(test: TestDb) {
    let db = with_table(&test).await;
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, &[plain(1), plain(2)]).await.unwrap();
    let mut updated: Vec<(i64, String)> = tx
        .query("update thing set text = text || '!' returning n, text")
        .fetch_all()
        .await
        .unwrap();
    updated.sort();
    assert_eq!(updated, [(1, "text 1!".to_owned()), (2, "text 2!".to_owned())]);
    let deleted: Vec<(i64,)> =
        tx.query("delete from thing where n = $1 returning n").bind(2).fetch_all().await.unwrap();
    assert_eq!(deleted, [(2,)]);
}

async fn keys_are_looked_up_in_any_number(test: TestDb) {
    let db = with_table(&test).await;
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, &(0..20).map(plain).collect::<Vec<_>>()).await.unwrap();
    for wanted in [vec![], vec![3], vec![7, 3, 7, 100], (5..18).collect::<Vec<i64>>()] {
        let keys = Rows::of(&wanted).int("n", |n| *n).done();
        let mut found: Vec<(i64, String)> = tx
            .query("select n, text from thing where text <> $1 and n {among}")
            .bind("text 9")
            .rows(keys)
            .fetch_all()
            .await
            .unwrap();
        found.sort();
        let expected: Vec<_> = (0..20)
            .filter(|n| wanted.contains(n) && *n != 9)
            .map(|n| (n, format!("text {n}")))
            .collect();
        assert_eq!(found, expected);
    }
    let ids = [plain(4).1, plain(6).1];
    let deleted = tx.query("delete from thing where id {among}");
    assert_eq!(
        deleted.rows(Rows::of(&ids).uuid("id", |id| *id).done()).execute().await.unwrap(),
        2
    );
}

const INSERT: &str = "insert into thing (n, id, text) select n, id, $1 from {rows} where true
     on conflict (n) do nothing";

fn insert_as(text: &str, numbers: &[i64]) -> Statement {
    let rows = Rows::of(numbers).int("n", |n| *n).uuid("id", |n| plain(*n).1).done();
    Statement::new(INSERT).bind(text).rows(rows)
}

/// Each with parameters and a batch of its own.
async fn statements_run_together(test: TestDb) {
    let db = with_table(&test).await;
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, &[plain(1), plain(2), plain(3)]).await.unwrap();
    let keys = Rows::of(&[2, 3]).int("n", |n| *n).done();
    let changed = tx
        .run_all(vec![
            insert_as("first", &[4, 5]),
            Statement::new("update thing set text = $1, bytes = $2 where n {among} and text <> $3")
                .bind("changed")
                .bind(&b"bytes"[..])
                .bind("text 3")
                .rows(keys),
            insert_as("second", &[1, 6]),
        ])
        .await
        .unwrap();
    assert_eq!(changed, [2, 1, 1]);
    tx.commit().await.unwrap();
    let texts: Vec<_> =
        all(&mut db.read().await.unwrap()).await.into_iter().map(|thing| thing.3).collect();
    assert_eq!(texts, ["text 1", "changed", "text 3", "first", "first", "second"]);
}

async fn one_failing_statement_undoes_all(test: TestDb) {
    let db = with_table(&test).await;
    let mut tx = db.begin().await.unwrap();
    let twice = Statement::new("insert into thing (n, id, text) select n, id, 'twice' from {rows}")
        .rows(Rows::of(&[7, 7]).int("n", |n| *n).uuid("id", |n| plain(*n).1).done());
    tx.run_all(vec![insert_as("fine", &[1]), twice]).await.unwrap_err();
    tx.commit().await.unwrap_err();
    assert_eq!(all(&mut db.read().await.unwrap()).await, []);
}

/// What was decided upon has changed: nothing is done, and the caller may decide again.
async fn unexpected_row_count_is_a_conflict_that_undoes_all(test: TestDb) {
    let db = with_table(&test).await;
    let change = |text, numbers: &[i64], expected| {
        Statement::new("update thing set text = $1 where n {among}")
            .bind(text)
            .rows(Rows::of(numbers).int("n", |n| *n).done())
            .expecting(expected)
    };
    let work = db.optimistic().await.unwrap();
    work.commit(vec![insert_as("first", &[1, 2]).expecting(2)]).await.unwrap();
    for locking in [false, true] {
        for expected in [1, 3] {
            let work = if locking { db.locking().await } else { db.optimistic().await };
            let statements = vec![insert_as("more", &[3]), change("other", &[1, 2], expected)];
            let answer = work.unwrap().commit(statements).await;
            assert!(matches!(answer, Err(Error::Conflict(_))), "{answer:?}");
        }
    }
    let texts = async || -> Vec<_> {
        all(&mut db.read().await.unwrap()).await.into_iter().map(|thing| thing.3).collect()
    };
    assert_eq!(texts().await, ["first", "first"]);
    let work = db.optimistic().await.unwrap();
    work.commit(vec![change("both", &[1, 2], 2), change("none", &[9], 0)]).await.unwrap();
    assert_eq!(texts().await, ["both", "both"]);
}

/// Reading, deciding and writing at once: a row that is written by two is written by one.
async fn of_two_decisions_on_a_row_one_is_made_again(test: TestDb) {
    let db = with_table(&test).await;
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, &[plain(1)]).await.unwrap();
    tx.commit().await.unwrap();
    let random = RandomSource::seeded(1);
    let count_up = async |db: &Db| {
        let mut retry = Retry::new(&random);
        loop {
            let mut work = db.optimistic().await.unwrap();
            let (was,): (i64,) = work
                .reader()
                .query(select!("select cast(length(text) as bigint) from thing where n = 1"))
                .fetch_one()
                .await
                .unwrap();
            let longer = Statement::new(
                "update thing set text = text || '.' where n = 1 and length(text) = $1",
            )
            .bind(was)
            .expecting(1);
            match work.commit(vec![longer]).await {
                Err(error) if retry.again(&error).await => {}
                done => return done,
            }
        }
    };
    let others = [test.another(), test.another(), test.another()];
    for _ in 0..10 {
        for counted in futures_util::future::join_all(others.iter().map(&count_up)).await {
            counted.unwrap();
        }
    }
    let counted = all(&mut db.read().await.unwrap()).await[0].3.clone();
    assert_eq!(counted, format!("text 1{}", ".".repeat(30)));
}

/// Outside a transaction a statement would be durable by itself. Most of this is the compiler's to
/// refuse; a text that is made later is refused when it is.
#[test]
fn reader_takes_queries_only() {
    for sql in ["", "sel", "insert into thing values (1)", " delete from thing", "with a as ()"] {
        assert!(std::panic::catch_unwind(|| Select::new(sql)).is_err(), "{sql}");
    }
    let _ = Select::new("\n  select 1");
}

/// A query may lock, or call what writes.
#[tokio::test]
async fn snapshot_refuses_a_query_that_locks() {
    let test = TestDb::postgres().await;
    let mut snapshot = with_table(&test).await.snapshot().await.unwrap();
    let locks = snapshot.query(select!("select n from thing for update"));
    let refused = locks.execute().await.unwrap_err();
    assert!(refused.to_string().contains("read-only"), "{refused}");
}

async fn bytes_read_back_from_a_batch(test: TestDb) {
    let db = with_table(&test).await;
    let bodies: [&[u8]; 3] = [b"", b"\0\xff", b"plain"];
    let numbered: Vec<(i64, &[u8])> = (1..).zip(bodies).collect();
    let rows = Rows::of(&numbered)
        .int("n", |(n, _)| *n)
        .uuid("id", |(n, _)| plain(*n).1)
        .bytes("bytes", |(_, body)| body.to_vec())
        .done();
    let insert = Statement::new(
        "insert into thing (n, id, text, bytes) select n, id, '', bytes from {rows}",
    );
    db.optimistic().await.unwrap().commit(vec![insert.rows(rows)]).await.unwrap();
    let mut reader = db.read().await.unwrap();
    let stored = reader.query(select!("select bytes from thing order by n"));
    let stored: Vec<(Vec<u8>,)> = stored.fetch_all().await.unwrap();
    assert_eq!(stored.iter().map(|(body,)| &body[..]).collect::<Vec<_>>(), bodies);
}

/// A body is one event, or an array of them.
async fn every_event_of_a_body_is_a_row(test: TestDb) {
    let db = with_table(&test).await;
    let bodies = [r#"{"id": "a"}"#, r#"[{"id": "b"}, {"id": "c"}]"#, r#"[{"id": "d"}]"#];
    let mut tx = db.begin().await.unwrap();
    for (n, body) in (1..).zip(bodies) {
        let insert = tx.query("insert into thing (n, id, text) values ($1, $2, $3)");
        insert.bind(n).bind(plain(n).1).bind(body).execute().await.unwrap();
    }
    let ids: Vec<(String,)> = tx
        .query(
            "select event.value ->> 'id' from (select n, text as body from thing) as outbox
             {each_event} order by n, 1",
        )
        .fetch_all()
        .await
        .unwrap();
    assert_eq!(ids.into_iter().map(|(id,)| id).collect::<String>(), "abcd");
}

async fn dropped_transaction_leaves_nothing(test: TestDb) {
    let db = with_table(&test).await;
    for _ in 0..20 {
        let mut tx = db.begin().await.unwrap();
        insert(&mut tx, &[plain(1)]).await.unwrap();
        drop(tx);
    }
    // Dropped in the middle of a statement, too.
    for n in 0..20 {
        let mut tx = db.begin().await.unwrap();
        let things: Vec<_> = (0..n * 10).map(plain).collect();
        tokio::select! {
            biased;
            result = insert(&mut tx, &things) => drop(result),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(all(&mut db.read().await.unwrap()).await, []);
}

/// A statement that fails ends the whole transaction on PostgreSQL, which then answers `commit`
/// with a rollback and no error.
async fn failed_statement_forbids_the_commit(test: TestDb) {
    let db = with_table(&test).await;
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, &[plain(1)]).await.unwrap();
    insert(&mut tx, &[plain(1)]).await.unwrap_err();
    tx.commit().await.unwrap_err();
    assert_eq!(all(&mut db.read().await.unwrap()).await, []);
}

/// Nor is work committed whose owner took no notice that it could not read.
async fn failed_read_forbids_the_work(test: TestDb) {
    let db = with_table(&test).await;
    for locking in [false, true] {
        let work = if locking { db.locking().await } else { db.optimistic().await };
        let mut work = work.unwrap();
        work.reader().query(select!("select nonsense")).execute().await.unwrap_err();
        work.commit(vec![insert_as("blind", &[1])]).await.unwrap_err();
        assert_eq!(all(&mut db.read().await.unwrap()).await, []);
    }
}

async fn snapshot_stands_still(test: TestDb) {
    let db = with_table(&test).await;
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, &[plain(1)]).await.unwrap();
    tx.commit().await.unwrap();

    let mut snapshot = db.snapshot().await.unwrap();
    assert_eq!(all(&mut snapshot).await.len(), 1);
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, &[plain(2)]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(all(&mut snapshot).await.len(), 1);
    assert_eq!(all(&mut db.snapshot().await.unwrap()).await.len(), 2);
}
