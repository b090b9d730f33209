//! Payments, their orders and their entries: check 3.

use gozon_audit::Kind::{
    BalanceMismatch, DeclinedWithEntry, EntryMismatch, EntryWithoutPayment, FinishedWithoutPayment,
    PaidWithoutEntry, PaymentAmountMismatch, PaymentUserMismatch, PaymentWithoutOrder, SeqGap,
    SeveralEntries, SeveralOrders, SeveralPayments, WrongBalanceAfter,
};
use gozon_testkit::{TestDb, on_both_databases};

use crate::shop::{ANNA, BORIS, CLARA, DORA, LONG_AGO, SUM, Shop, about, account, args, entry};

async fn a_second_payment(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.in_payments("create table copy as select * from payments", vec![]).await;
    shop.in_payments("drop table payments", vec![]).await;
    shop.in_payments("alter table copy rename to payments", vec![]).await;
    shop.payment(ANNA, 1, 300, None, LONG_AGO).await;
    shop.expect(&[SUM, about(SeveralPayments, ANNA, 1)]).await;
}

async fn a_second_debit(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.entry(ANNA, 5, -300, 350, Some(1)).await;
    let sql = "update accounts set balance = 350, version = 6 where user_id = $1";
    shop.in_payments(sql, vec![ANNA.into()]).await;
    shop.expect(&[SUM, about(SeveralEntries, ANNA, 1)]).await;
}

async fn a_payment_of_no_order(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.payment(CLARA, 99, 10, Some("no_account"), LONG_AGO).await;
    shop.expect(&[about(PaymentWithoutOrder, CLARA, 99)]).await;
}

async fn a_payment_by_somebody_else(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "update payments set user_id = $1 where order_id = $2";
    shop.in_payments(sql, vec![DORA.into(), crate::shop::order(4).into()]).await;
    shop.expect(&[about(PaymentUserMismatch, CLARA, 4)]).await;
}

async fn a_payment_of_another_amount(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.in_payments("update payments set amount = $1 where order_id = $2", args([11], [4])).await;
    shop.expect(&[about(PaymentAmountMismatch, CLARA, 4)]).await;
}

async fn paid_without_an_entry(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "delete from entries where order_id = $1";
    shop.in_payments(sql, args([], [1])).await;
    shop.expect(&[
        entry(SeqGap, ANNA, 3),
        account(BalanceMismatch, ANNA),
        about(PaidWithoutEntry, ANNA, 1),
    ])
    .await;
    // The same with a ledger that was made to look right.
    for seq in [3, 4] {
        let sql = "update entries set seq = seq - 1, balance_after = balance_after + 300
                   where seq = $1";
        shop.in_payments(sql, vec![seq.into()]).await;
    }
    let sql = "update accounts set balance = 950, version = 4 where user_id = $1";
    shop.in_payments(sql, vec![ANNA.into()]).await;
    shop.expect(&[SUM, about(PaidWithoutEntry, ANNA, 1)]).await;
}

async fn declined_with_an_entry(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.entry(BORIS, 2, -100, 400, Some(3)).await;
    let sql = "update accounts set balance = 400, version = 3 where user_id = $1";
    shop.in_payments(sql, vec![BORIS.into()]).await;
    shop.expect(&[SUM, about(DeclinedWithEntry, BORIS, 3)]).await;
}

async fn an_entry_of_another_amount(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "update entries set amount = $1 where order_id = $2";
    shop.in_payments(sql, args([-99], [2])).await;
    shop.expect(&[
        entry(WrongBalanceAfter, ANNA, 4),
        account(BalanceMismatch, ANNA),
        about(EntryMismatch, ANNA, 2),
    ])
    .await;
}

async fn an_entry_in_another_account(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.in_payments("delete from entries where order_id = $1", args([], [2])).await;
    let sql = "update accounts set balance = 750, version = 4 where user_id = $1";
    shop.in_payments(sql, vec![ANNA.into()]).await;
    shop.entry(BORIS, 2, -100, 400, Some(2)).await;
    let sql = "update accounts set balance = 400, version = 3 where user_id = $1";
    shop.in_payments(sql, vec![BORIS.into()]).await;
    shop.expect(&[about(EntryMismatch, ANNA, 2)]).await;
}

async fn an_entry_without_a_payment(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.in_payments("delete from payments where order_id = $1", args([], [2])).await;
    shop.expect(&[
        SUM,
        about(EntryWithoutPayment, ANNA, 2),
        about(FinishedWithoutPayment, ANNA, 2),
    ])
    .await;
}

async fn an_order_id_of_two_users(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.order(DORA, 1, 300, "FINISHED", None).await;
    shop.expect(&[about(SeveralOrders, ANNA, 1)]).await;
}

on_both_databases!(
    a_second_payment,
    a_second_debit,
    a_payment_of_no_order,
    a_payment_by_somebody_else,
    a_payment_of_another_amount,
    paid_without_an_entry,
    declined_with_an_entry,
    an_entry_of_another_amount,
    an_entry_in_another_account,
    an_entry_without_a_payment,
    an_order_id_of_two_users,
);
