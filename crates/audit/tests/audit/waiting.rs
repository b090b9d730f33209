//! Orders that are still NEW: check 5.

use gozon_audit::Kind::{
    DeadRequest, DeadResult, RequestLost, ResultLost, StuckRequest, StuckResult,
};
use gozon_testkit::{TestDb, on_both_databases};

use crate::shop::{
    ANNA, BORIS, JUST_NOW, LONG_AGO, NOW, REQUEST, RESULT, Shop, about, args, bury, event, leave,
    receive, send, send_batch,
};

async fn lost_request_is_found(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.in_orders("delete from outbox_batches", vec![]).await;
    shop.in_payments("delete from inbox_pending", vec![]).await;
    shop.expect(&[about(RequestLost, ANNA, 5), about(RequestLost, ANNA, 6)]).await;
}

async fn lost_result_is_found(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.in_payments("delete from outbox_batches", vec![]).await;
    shop.in_orders("delete from inbox_pending", vec![]).await;
    shop.expect(&[about(ResultLost, BORIS, 7), about(ResultLost, BORIS, 8)]).await;
}

async fn young_order_is_suspect_when_it_is_old(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "update orders set created_at = $1 where id = $2";
    shop.in_orders(sql, args([JUST_NOW - 50_000_001], [9])).await;
    shop.expect(&[about(RequestLost, ANNA, 9)]).await;
    let sql = "update payments set created_at = $1 where order_id = $2";
    shop.in_payments(sql, args([LONG_AGO], [10])).await;
    shop.expect(&[about(RequestLost, ANNA, 9), about(ResultLost, BORIS, 10)]).await;
}

async fn request_does_not_explain_a_missing_result(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.in_payments("delete from outbox_batches", vec![]).await;
    send(&shop.orders.db(), 7, REQUEST).await;
    receive(&shop.payments.db(), 7, REQUEST).await;
    shop.expect(&[about(ResultLost, BORIS, 7)]).await;
}

async fn dead_letters_are_warnings(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.in_orders("delete from outbox_batches", vec![]).await;
    bury(&shop.payments.db(), 5, REQUEST).await;
    shop.in_orders("delete from inbox_pending", vec![]).await;
    bury(&shop.orders.db(), 8, RESULT).await;
    shop.expect(&[about(DeadRequest, ANNA, 5), about(DeadResult, BORIS, 8)]).await;
}

async fn foreign_events_explain_nothing(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "update outbox_batches set body = $1";
    for body in [
        r#"{"id": "zzz"}"#,
        r#"{"id": ""}"#,
        r#"{"id": "000:payment.requested"}"#,
        r#"{"id": "ZZ:payment.settled"}"#,
        r#"[{"id": 7}, {}]"#,
        "[]",
    ] {
        shop.in_orders(sql, vec![body.into()]).await;
        shop.expect(&[about(RequestLost, ANNA, 5)]).await;
    }
}

/// In a batch of several, or in the table of the release before.
async fn event_waits_wherever_it_is_kept(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.in_orders("delete from outbox_batches", vec![]).await;
    shop.expect(&[about(RequestLost, ANNA, 5)]).await;
    leave(&shop.orders.db(), 5, REQUEST).await;
    shop.expect(&[]).await;
    shop.in_orders("delete from outbox", vec![]).await;
    let several = [event(1, REQUEST), event(5, REQUEST), event(2, REQUEST)].join(", ");
    send_batch(&shop.orders.db(), REQUEST, &format!("[{several}]"), 3).await;
    shop.expect(&[]).await;
}

async fn message_that_waits_too_long_is_stuck(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let hours_ago = || vec![(NOW - 3 * 3_600_000_000).into()];
    shop.in_orders("update outbox_batches set created_at = $1", hours_ago()).await;
    shop.in_payments("update inbox_pending set received_at = $1", hours_ago()).await;
    shop.expect(&[about(StuckRequest, ANNA, 5), about(StuckRequest, ANNA, 6)]).await;
    // A younger copy does not bring the old one on its way.
    send(&shop.orders.db(), 6, REQUEST).await;
    shop.in_payments("update outbox_batches set created_at = $1", hours_ago()).await;
    shop.in_orders("update inbox_pending set received_at = $1", hours_ago()).await;
    shop.expect(&[
        about(StuckRequest, ANNA, 5),
        about(StuckRequest, ANNA, 6),
        about(StuckResult, BORIS, 7),
        about(StuckResult, BORIS, 8),
    ])
    .await;
    let report = shop.audit().await;
    let said = report.checks[4].findings.iter().map(|finding| finding.detail.as_str());
    assert!(said.clone().any(|detail| detail.contains("10800 s in orders.outbox")));
    assert!(said.clone().any(|detail| detail.contains("10800 s in payments.inbox_pending")));
}

on_both_databases!(
    lost_request_is_found,
    lost_result_is_found,
    young_order_is_suspect_when_it_is_old,
    request_does_not_explain_a_missing_result,
    dead_letters_are_warnings,
    foreign_events_explain_nothing,
    event_waits_wherever_it_is_kept,
    message_that_waits_too_long_is_stuck,
);
