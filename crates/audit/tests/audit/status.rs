//! Orders against their payments: check 4.

use gozon_audit::Kind::{
    CancelledButPaid, CancelledWithoutPayment, FinishedButDeclined, FinishedWithoutPayment,
    ReasonMismatch, UnknownStatus,
};
use gozon_testkit::{TestDb, on_both_databases};

use crate::shop::{ANNA, BORIS, CLARA, Shop, about, args};

async fn finished_without_a_payment(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.order(ANNA, 99, 10, "FINISHED", None).await;
    shop.expect(&[about(FinishedWithoutPayment, ANNA, 99)]).await;
}

async fn finished_but_declined(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "update orders set status = 'FINISHED', cancel_reason = null where id = $1";
    shop.in_orders(sql, args([], [3])).await;
    shop.expect(&[about(FinishedButDeclined, BORIS, 3)]).await;
}

async fn cancelled_without_a_payment(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.in_payments("delete from payments where order_id = $1", args([], [4])).await;
    shop.expect(&[about(CancelledWithoutPayment, CLARA, 4)]).await;
}

async fn cancelled_but_paid(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "update orders set status = 'CANCELLED', cancel_reason = 'no_account' where id = $1";
    shop.in_orders(sql, args([], [1])).await;
    shop.expect(&[about(CancelledButPaid, ANNA, 1)]).await;
}

async fn cancelled_for_another_reason(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "update orders set cancel_reason = 'insufficient_funds' where id = $1";
    shop.in_orders(sql, args([], [4])).await;
    shop.expect(&[about(ReasonMismatch, CLARA, 4)]).await;
}

async fn a_status_that_does_not_exist(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.without_checks().await;
    shop.in_orders("update orders set status = 'LOST' where id = $1", args([], [1])).await;
    shop.expect(&[about(UnknownStatus, ANNA, 1)]).await;
}

on_both_databases!(
    finished_without_a_payment,
    finished_but_declined,
    cancelled_without_a_payment,
    cancelled_but_paid,
    cancelled_for_another_reason,
    a_status_that_does_not_exist,
);
