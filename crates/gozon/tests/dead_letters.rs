//! `gozon dead-letters` through its command line, on both databases.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Command, Output};

use gozon_store::{Select, migrate};
use gozon_testkit::{TestDb, on_both_databases};
use serde_json::Value;

on_both_databases!(letters_are_listed_shown_retried_and_discarded);

/// One command line on a pair of databases.
fn gozon(orders: &TestDb, payments: &TestDb, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gozon"))
        .arg("dead-letters")
        .args(arguments)
        .env("GOZON_ORDERS_DATABASE_URL", orders.url())
        .env("GOZON_PAYMENTS_DATABASE_URL", payments.url())
        .env("GOZON_LOG", "error")
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&text(output)).unwrap()
}

async fn with_letters(test: &TestDb, letters: &[(&str, &str)]) {
    let db = test.db();
    migrate(&db, gozon_messaging::MIGRATIONS).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    for (died_at, (id, origin)) in (1..).zip(letters) {
        tx.query(
            "insert into dead_letters
                (id, origin, topic, partition_key, body, received_at, attempts, died_at, error)
             values ($1, $2, 'thing', 'user', $3, 0, 8, $4, $5)",
        )
        .bind(*id)
        .bind(*origin)
        .bind(br#"{"n":1}"#.as_slice())
        .bind(died_at)
        .bind(format!("it broke\nin {id}").as_str())
        .execute()
        .await
        .unwrap();
    }
    tx.commit().await.unwrap();
}

async fn count(test: &TestDb, sql: &'static str) -> i64 {
    let mut reader = test.db().read().await.unwrap();
    reader.query(Select::new(sql)).fetch_one::<(i64,)>().await.unwrap().0
}

async fn letters_are_listed_shown_retried_and_discarded(orders: TestDb) {
    let payments = TestDb::sqlite();
    with_letters(&orders, &[("a", "inbox"), ("b", "outbox"), ("c", "inbox")]).await;
    with_letters(&payments, &[("p", "inbox")]).await;
    let run = |arguments: &[&str]| gozon(&orders, &payments, arguments);

    let table = text(&run(&["list"]));
    for expected in ["orders", "payments", "outbox", "it broke in b", "DIED AT"] {
        assert!(table.contains(expected), "{expected} in\n{table}");
    }
    let page = json(&run(&["list", "--json", "--limit", "2"]));
    let ids: Vec<_> = page["items"].as_array().unwrap().iter().map(|item| &item["id"]).collect();
    assert_eq!(ids, ["c", "b", "p"]);
    let cursor = page["next_cursor"]["orders"].as_str().unwrap();
    let page = json(&run(&["list", "--json", "--database", "orders", "--cursor", cursor]));
    assert_eq!(page["items"][0]["id"], "a");
    assert_eq!(page["next_cursor"], serde_json::json!({}));

    let shown = text(&run(&["show", "b"]));
    assert!(shown.contains("after 8 attempts") && shown.contains("\"n\": 1"), "{shown}");
    assert_eq!(json(&run(&["show", "p", "--json"]))["items"][0]["body"]["n"], 1);
    assert!(!run(&["show", "nothing"]).status.success());

    // What is not said is not done.
    assert!(!run(&["retry"]).status.success());
    assert!(!run(&["discard", "--all", "--topic", "thing"]).status.success());
    assert_eq!(count(&orders, "select count(*) from dead_letters").await, 3);

    let done = json(&run(&["retry", "--error", "in b", "--json"]));
    assert_eq!(done, serde_json::json!({"orders": 1, "payments": 0}));
    assert_eq!(count(&orders, "select count(*) from outbox_batches where attempts = 0").await, 1);
    assert_eq!(text(&run(&["retry", "a"])), "orders: 1 put back\npayments: 0 put back\n");
    assert_eq!(count(&orders, "select count(*) from inbox_pending").await, 1);
    assert_eq!(text(&run(&["discard", "--all"])), "orders: 1 discarded\npayments: 1 discarded\n");
    assert_eq!(text(&run(&["list"])), "no dead letters\n");
}

#[tokio::test]
async fn control_characters_of_a_message_are_escaped() {
    let (orders, payments) = (TestDb::sqlite(), TestDb::sqlite());
    with_letters(&orders, &[("clear\u{1b}[2J\u{9b}", "inbox")]).await;
    with_letters(&payments, &[]).await;
    let run = |arguments: &[&str]| text(&gozon(&orders, &payments, arguments));
    for output in [
        run(&["list"]),
        run(&["list", "--json"]),
        run(&["show", "clear\u{1b}[2J\u{9b}"]),
        run(&["show", "clear\u{1b}[2J\u{9b}", "--json"]),
    ] {
        let raw = output.contains(|c: char| c.is_control() && c != '\n');
        assert!(!raw && output.contains("clear\\u"), "{output:?}");
    }
}

#[tokio::test]
async fn database_without_tables_is_a_clear_error() {
    let (orders, payments) = (TestDb::sqlite(), TestDb::sqlite());
    let output = gozon(&orders, &payments, &["list"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("orders database"), "{said}");
}
