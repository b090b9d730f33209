//! `gozon why` through its command line, on both databases.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Command, Output};

use gozon_store::Arg;
use gozon_testkit::{TestDb, on_both_databases};
use serde_json::{Value, json};
use uuid::Uuid;

on_both_databases!(
    an_order_that_nobody_knows,
    a_paid_order,
    a_declined_order,
    an_order_whose_request_waits_in_the_outbox,
    an_order_whose_request_fails_in_payments,
    an_order_whose_result_is_a_dead_letter,
    an_order_whose_message_is_in_neither_database,
    an_order_that_contradicts_its_payment,
);

const ORDER: Uuid = Uuid::from_u128(0x019a_0000_0000_7000_8000_0000_0000_0001);
const USER: Uuid = Uuid::from_u128(7);

struct Shop {
    orders: TestDb,
    payments: TestDb,
}

impl Shop {
    async fn new(orders: TestDb) -> Self {
        let payments =
            if orders.is_postgres() { TestDb::postgres().await } else { TestDb::sqlite() };
        let shop = Self { orders, payments };
        assert!(shop.gozon(&["migrate"]).status.success());
        shop
    }

    fn gozon(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_gozon"))
            .args(arguments)
            .env("GOZON_ORDERS_DATABASE_URL", self.orders.url())
            .env("GOZON_PAYMENTS_DATABASE_URL", self.payments.url())
            .env("GOZON_LOG", "warn")
            .output()
            .unwrap()
    }

    /// What is said for people, and for programs.
    fn why(&self) -> (String, Value) {
        let id = ORDER.to_string();
        let text = self.gozon(&["why", &id]);
        let json = self.gozon(&["why", &id, "--json"]);
        assert!(text.status.success() && json.status.success(), "{text:?} {json:?}");
        assert!(text.stderr.is_empty() && json.stderr.is_empty(), "{text:?} {json:?}");
        let text = String::from_utf8(text.stdout).unwrap();
        (text, serde_json::from_slice(&json.stdout).unwrap())
    }

    async fn place(&self, status: &str, reason: Option<&str>) {
        let sql = "insert into orders values ($1, $2, 100, 'a hat', $3, $4, 1, 1, 2)";
        let values = [USER.into(), ORDER.into(), status.into(), reason.into()];
        run(&self.orders, sql, values).await;
    }

    async fn decide(&self, reason: Option<&str>) {
        let sql = "insert into payments values ($1, $2, 100, $3, 3)";
        run(&self.payments, sql, [ORDER.into(), USER.into(), reason.into()]).await;
        let sql = "insert into accounts values ($1, 20, 3, 1)";
        run(&self.payments, sql, [USER.into()]).await;
        if reason.is_none() {
            let sql = "insert into entries values ($1, 2, 'payment', -100, 20, $2, 3)";
            run(&self.payments, sql, [USER.into(), ORDER.into()]).await;
        }
    }
}

async fn run<const N: usize>(test: &TestDb, sql: &'static str, values: [Arg; N]) {
    let mut tx = test.db().begin().await.unwrap();
    let query = values.into_iter().fold(tx.query(sql), gozon_store::Query::bind);
    assert_eq!(query.execute().await.unwrap(), 1);
    tx.commit().await.unwrap();
}

fn event(topic: &str) -> Value {
    json!({
        "specversion": "1.0", "id": format!("{ORDER}:{topic}"), "type": topic,
        "subject": ORDER, "data": {"order_id": ORDER, "user_id": USER},
    })
}

/// Each of these is somewhere in the text.
fn assert_says(text: &str, expected: &[&str]) {
    for expected in expected {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
}

async fn an_order_that_nobody_knows(orders: TestDb) {
    let shop = Shop::new(orders).await;
    let output = shop.gozon(&["why", &ORDER.to_string()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_says(&String::from_utf8(output.stdout).unwrap(), &["neither database knows this order"]);
    assert_eq!(shop.gozon(&["why", "17"]).status.code(), Some(2));
}

async fn a_paid_order(orders: TestDb) {
    let shop = Shop::new(orders).await;
    shop.place("FINISHED", None).await;
    shop.decide(None).await;
    let (text, report) = shop.why();
    assert_says(
        &text,
        &["status    FINISHED", "entry     2: -100, balance 20", "nothing: the order"],
    );
    assert_eq!(report["order"]["status"], "FINISHED");
    assert_eq!(report["payment"]["decline_reason"], Value::Null);
    assert_eq!(report["entries"][0]["balance_after"], 20);
    assert_eq!(report["balance"], 20);
    assert_eq!(report["messages"], json!([]));
}

async fn a_declined_order(orders: TestDb) {
    let shop = Shop::new(orders).await;
    shop.place("CANCELLED", Some("insufficient_funds")).await;
    shop.decide(Some("insufficient_funds")).await;
    let (text, _) = shop.why();
    assert_says(&text, &["declined (insufficient_funds)", "balance was below 100", "may top up"]);
}

async fn an_order_whose_request_waits_in_the_outbox(orders: TestDb) {
    let shop = Shop::new(orders).await;
    shop.place("NEW", None).await;
    let other = json!({"id": "other:x", "subject": "other"});
    let batch = json!([other, event("payment.requested")]).to_string();
    let sql = "insert into outbox_batches
            (available_at, id, topic, body, events, created_at, attempts)
         values (9, 'batch', 'payment.requested', $1, 2, 4, 0)";
    run(&shop.orders, sql, [batch.as_str().into()]).await;
    let (text, report) = shop.why();
    assert_says(&text, &["in the outbox of orders", "check that orders runs", "account   none"]);
    assert_eq!(report["messages"].as_array().unwrap().len(), 1);
    assert_eq!(report["messages"][0]["place"], "outbox");
    assert_eq!(report["messages"][0]["id"], format!("{ORDER}:payment.requested"));
}

async fn an_order_whose_request_fails_in_payments(orders: TestDb) {
    let shop = Shop::new(orders).await;
    shop.place("NEW", None).await;
    let sql = "insert into inbox_pending
            (id, topic, partition_key, body, received_at, attempts, next_attempt_at, error)
         values ('x', 'payment.requested', 'user', $1, 4, 3, 5, 'no\u{1b}room')";
    let body = event("payment.requested").to_string();
    run(&shop.payments, sql, [body.as_bytes().into()]).await;
    let (text, report) = shop.why();
    let expected = ["payments.inbox_pending", "handle it 3 times: no\\u{1b}room", "tried again at"];
    assert_says(&text, &expected);
    assert_eq!(report["messages"][0]["database"], "payments");
}

async fn an_order_whose_result_is_a_dead_letter(orders: TestDb) {
    let shop = Shop::new(orders).await;
    shop.place("NEW", None).await;
    shop.decide(None).await;
    let id = format!("{ORDER}:payment.settled");
    let sql = "insert into dead_letters
            (id, origin, topic, partition_key, body, received_at, attempts, died_at, error)
         values ($1, 'inbox', 'payment.settled', 'user', $2, 4, 8, 5, 'it broke')";
    run(&shop.orders, sql, [id.as_str().into(), b"{}".as_slice().into()]).await;
    let (text, report) = shop.why();
    let command = format!("gozon dead-letters retry {id} --database orders");
    assert_says(&text, &["after 8 attempts", "it broke", &command]);
    assert!(report["advice"].as_str().unwrap().ends_with(&command), "{report}");
}

async fn an_order_whose_message_is_in_neither_database(orders: TestDb) {
    let shop = Shop::new(orders).await;
    shop.place("NEW", None).await;
    let expected = ["its payment request was sent", "check that payments runs", "gozon audit"];
    assert_says(&shop.why().0, &expected);
    shop.decide(None).await;
    assert_says(&shop.why().0, &["its payment's result was sent", "check that orders runs"]);
}

async fn an_order_that_contradicts_its_payment(orders: TestDb) {
    let shop = Shop::new(orders).await;
    shop.place("CANCELLED", Some("no_account")).await;
    shop.decide(None).await;
    assert_says(&shop.why().0, &["CANCELLED, but it was paid", "run `gozon audit`"]);
}
