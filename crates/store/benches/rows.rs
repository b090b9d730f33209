//! A batch on its way into SQLite: put into the form that the statement reads, and inserted. The
//! transaction is rolled back, so no disk is measured.

use divan::{Bencher, counter::ItemsCount};
use gozon_store::{Db, Migration, Rows, migrate};
use uuid::Uuid;

fn main() {
    divan::main();
}

const TABLE: Migration = Migration {
    component: "bench",
    version: 1,
    postgres: "",
    sqlite: "create table things (
        id blob primary key, owner blob not null, name text not null, note text,
        size integer not null
     ) strict, without rowid;",
};

struct Thing {
    id: Uuid,
    owner: Uuid,
    name: String,
    size: i64,
}

fn things(count: u32) -> Vec<Thing> {
    let thing = |index: u32| Thing {
        id: Uuid::from_u128(u128::from(index)),
        owner: Uuid::from_u128(u128::from(index % 50)),
        name: "A red kettle, with a \"whistle\"".to_owned(),
        size: i64::from(index),
    };
    (0..count).map(thing).collect()
}

fn rows(things: &[Thing]) -> Rows {
    Rows::of(things)
        .uuid("id", |thing| thing.id)
        .uuid("owner", |thing| thing.owner)
        .text("name", |thing| thing.name.clone())
        .maybe_text("note", |_| None)
        .int("size", |thing| thing.size)
        .done()
}

/// Taking the columns out of the items.
#[divan::bench(args = [1, 50, 500])]
fn columns(bencher: Bencher, count: u32) {
    let things = things(count);
    bencher.counter(ItemsCount::new(count)).bench_local(|| rows(&things));
}

/// That, and the insert.
#[divan::bench(args = [1, 50, 500])]
fn insert(bencher: Bencher, count: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("sqlite:{}", folder.path().join("bench.db").display());
    let db = runtime.block_on(async { Db::open(&url, 1) }).expect("a good URL");
    let things = things(count);
    runtime.block_on(migrate(&db, &[TABLE])).expect("the table is made");
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        runtime.block_on(async {
            let mut tx = db.begin().await.expect("it begins");
            let sql = "insert into things (id, owner, name, note, size)
                       select id, owner, name, note, size from {rows}";
            tx.query(sql).rows(rows(&things)).execute().await.expect("it is inserted")
        })
    });
    runtime.block_on(db.close());
}
