//! `gozon audit` through its command line, on both databases.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Command, Output};

use gozon_testkit::{TestDb, on_both_databases};
use serde_json::Value;
use uuid::Uuid;

on_both_databases!(
    a_report_for_people_and_one_for_programs,
    a_database_that_was_never_migrated,
    a_lost_order_is_asked_for_again_once,
);

fn gozon(command: &str, orders_url: &str, payments_url: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gozon"))
        .arg(command)
        .args(arguments)
        .env("GOZON_ORDERS_DATABASE_URL", orders_url)
        .env("GOZON_PAYMENTS_DATABASE_URL", payments_url)
        .env("GOZON_LOG", "warn")
        .output()
        .unwrap()
}

async fn a_second(first: &TestDb) -> TestDb {
    if first.is_postgres() { TestDb::postgres().await } else { TestDb::sqlite() }
}

/// The one line that says why it could not run.
fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

async fn a_report_for_people_and_one_for_programs(orders: TestDb) {
    let payments = a_second(&orders).await;
    let run =
        |command: &str, arguments: &[&str]| gozon(command, orders.url(), payments.url(), arguments);
    assert!(run("migrate", &[]).status.success());

    let clean = run("audit", &[]);
    assert_eq!(clean.status.code(), Some(0), "{clean:?}");
    assert!(clean.stderr.is_empty(), "{clean:?}");
    let text = String::from_utf8(clean.stdout).unwrap();
    assert!(text.contains("1 ok") && text.contains("Everything holds."), "{text}");

    let mut tx = payments.db().begin().await.unwrap();
    for user in 1..=3 {
        tx.query("insert into accounts values ($1, 7, 1, 0)")
            .bind(Uuid::from_u128(user))
            .execute()
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();

    let wrong = run("audit", &["--max-findings", "2"]);
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    let text = String::from_utf8(wrong.stdout).unwrap();
    for expected in [
        "1 VIOLATED",
        "accounts hold 21: +21 than they should",
        "3 × balance_mismatch",
        "balance_mismatch user 00000000-0000-0000-0000-000000000001",
        "and 1 more",
        "4 ok",
        "Not everything holds.",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }

    let wrong = run("audit", &["--json", "--max-findings", "1"]);
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    let report: Value = serde_json::from_slice(&wrong.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["sums"]["balances"], "21");
    let check = &report["checks"][1];
    assert_eq!((&check["number"], &check["ok"]), (&2.into(), &false.into()));
    assert_eq!(check["counts"]["balance_mismatch"], 3);
    assert_eq!(check["findings"].as_array().unwrap().len(), 1);
    assert_eq!(check["findings"][0]["user_id"], "00000000-0000-0000-0000-000000000001");
}

async fn a_lost_order_is_asked_for_again_once(orders: TestDb) {
    let payments = a_second(&orders).await;
    let run =
        |command: &str, arguments: &[&str]| gozon(command, orders.url(), payments.url(), arguments);
    assert!(run("migrate", &[]).status.success());
    let mut tx = orders.db().begin().await.unwrap();
    let sql = "insert into orders
                   (user_id, id, amount, description, status, version, created_at, updated_at)
               values ($1, $2, 10, 'A red kettle', 'NEW', 1, 1, 1)";
    let (user, order) = (Uuid::from_u128(1), Uuid::from_u128((7 << 76) + (2 << 62) + 1));
    tx.query(sql).bind(user).bind(order).execute().await.unwrap();
    tx.commit().await.unwrap();

    // A plain audit writes nothing.
    assert_eq!(run("audit", &[]).status.code(), Some(1));
    let first = run("audit", &["--repair"]);
    assert_eq!(first.status.code(), Some(1), "{first:?}");
    let said = String::from_utf8(first.stderr).unwrap();
    assert!(said.contains("asked again for the payment of 1 orders"), "{said}");
    // Its request waits now.
    let second = run("audit", &["--repair"]);
    assert_eq!(second.status.code(), Some(0), "{second:?}");
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("asked again for the payment of 0 orders"), "{said}");
    let sql = "select topic, body from outbox_batches";
    let mut tx = orders.db().begin().await.unwrap();
    let sent: Vec<(String, String)> = tx.query(sql).fetch_all().await.unwrap();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0, "payment.requested");
    assert!(sent[0].1.contains(&order.to_string()), "{sent:?}");
}

async fn a_database_that_was_never_migrated(orders: TestDb) {
    let payments = a_second(&orders).await;
    for db in [&orders, &payments] {
        // So that SQLite has a file.
        db.db().ping().await.unwrap();
    }
    let said = refusal(&gozon("audit", orders.url(), payments.url(), &[]));
    assert!(said.contains("orders database") && said.contains("gozon migrate"), "{said}");
}

#[test]
fn a_database_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| format!("sqlite:{}", folder.path().join(name).display());
    let said = refusal(&gozon("audit", &file("orders.db"), &file("payments.db"), &[]));
    assert!(said.contains("no orders database") && said.contains("--data-dir"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "an audit makes no files");

    let nobody = "postgres://gozon:secret@127.0.0.1:1/orders";
    let said = refusal(&gozon("audit", nobody, nobody, &[]));
    assert!(said.contains("check that it runs"), "{said}");
    assert!(!said.contains("secret"), "{said}");

    let said = refusal(&gozon("audit", "mysql://there", "mysql://there", &[]));
    assert!(said.contains("postgres://"), "{said}");
}
