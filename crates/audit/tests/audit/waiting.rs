//! Orders that are still NEW: check 5.

use gozon_audit::Kind::{DeadRequest, DeadResult, RequestLost, ResultLost};
use gozon_testkit::{TestDb, on_both_databases};

use crate::shop::{
    ANNA, BORIS, JUST_NOW, LONG_AGO, REQUEST, RESULT, Shop, about, args, bury, receive, send,
};

async fn a_request_that_nobody_has(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.in_orders("delete from outbox", vec![]).await;
    shop.in_payments("delete from inbox_pending", vec![]).await;
    shop.expect(&[about(RequestLost, ANNA, 5), about(RequestLost, ANNA, 6)]).await;
}

async fn a_result_that_nobody_has(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.in_payments("delete from outbox", vec![]).await;
    shop.in_orders("delete from inbox_pending", vec![]).await;
    shop.expect(&[about(ResultLost, BORIS, 7), about(ResultLost, BORIS, 8)]).await;
}

async fn a_young_order_grows_old(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "update orders set created_at = $1 where id = $2";
    shop.in_orders(sql, args([JUST_NOW - 50_000_001], [9])).await;
    shop.expect(&[about(RequestLost, ANNA, 9)]).await;
    let sql = "update payments set created_at = $1 where order_id = $2";
    shop.in_payments(sql, args([LONG_AGO], [10])).await;
    shop.expect(&[about(RequestLost, ANNA, 9), about(ResultLost, BORIS, 10)]).await;
}

async fn a_request_does_not_explain_a_missing_result(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.in_payments("delete from outbox", vec![]).await;
    send(&shop.orders.db(), 7, REQUEST).await;
    receive(&shop.payments.db(), 7, REQUEST).await;
    shop.expect(&[about(ResultLost, BORIS, 7)]).await;
}

async fn dead_letters_are_warned_of(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.in_orders("delete from outbox", vec![]).await;
    bury(&shop.payments.db(), 5, REQUEST).await;
    shop.in_orders("delete from inbox_pending", vec![]).await;
    bury(&shop.orders.db(), 8, RESULT).await;
    shop.expect(&[about(DeadRequest, ANNA, 5), about(DeadResult, BORIS, 8)]).await;
}

async fn messages_of_strangers_explain_nothing(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "update outbox set id = $1";
    for id in ["zzz", "", "000:payment.requested", "ZZ:payment.settled"] {
        shop.in_orders(sql, vec![id.into()]).await;
        shop.expect(&[about(RequestLost, ANNA, 5)]).await;
    }
}

on_both_databases!(
    a_request_that_nobody_has,
    a_result_that_nobody_has,
    a_young_order_grows_old,
    a_request_does_not_explain_a_missing_result,
    dead_letters_are_warned_of,
    messages_of_strangers_explain_nothing,
);
