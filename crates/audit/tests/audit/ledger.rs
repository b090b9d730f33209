//! Balances and entries: checks 1 and 2.

use gozon_audit::{
    Kind::{
        BalanceMismatch, EntriesWithoutAccount, MalformedEntry, NegativeBalance, SeqGap,
        SeveralAccounts, WrongBalanceAfter,
    },
    Sums,
};
use gozon_testkit::{TestDb, on_both_databases};

use crate::shop::{ANNA, BORIS, CLARA, DORA, SUM, Shop, account, entry};

async fn a_healthy_shop_is_clean(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.expect(&[]).await;
    let report = shop.audit().await;
    assert_eq!(report.sums, Sums { deposits: 1550, paid: 400, balances: 1150 });
    let rows: Vec<u64> = report.checks.iter().map(|check| check.rows).collect();
    assert_eq!(rows, [3, 5, 7, 4, 6]);
}

async fn an_empty_shop_is_clean(db: TestDb) {
    Shop::empty(db).await.expect(&[]).await;
}

async fn a_balance_off_by_one(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "update accounts set balance = balance + 1 where user_id = $1";
    shop.in_payments(sql, vec![ANNA.into()]).await;
    shop.expect(&[SUM, account(BalanceMismatch, ANNA)]).await;
}

async fn balances_that_are_wrong_but_add_up(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "update accounts set balance = balance + $1 where user_id = $2";
    shop.in_payments(sql, vec![1.into(), ANNA.into()]).await;
    shop.in_payments(sql, vec![(-1).into(), BORIS.into()]).await;
    shop.expect(&[account(BalanceMismatch, ANNA), account(BalanceMismatch, BORIS)]).await;
}

async fn a_negative_balance(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.without_checks().await;
    shop.in_payments("update accounts set balance = -7 where user_id = $1", vec![DORA.into()])
        .await;
    shop.expect(&[SUM, account(NegativeBalance, DORA), account(BalanceMismatch, DORA)]).await;
}

async fn a_negative_balance_on_the_way(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.without_checks().await;
    let sql = "update entries set balance_after = -7 where user_id = $1 and seq = 2";
    shop.in_payments(sql, vec![ANNA.into()]).await;
    shop.expect(&[entry(NegativeBalance, ANNA, 2), entry(WrongBalanceAfter, ANNA, 2)]).await;
}

async fn a_missing_entry_in_the_middle(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "delete from entries where user_id = $1 and seq = 3";
    shop.in_payments(sql, vec![ANNA.into()]).await;
    shop.expect(&[SUM, entry(SeqGap, ANNA, 4), account(BalanceMismatch, ANNA)]).await;
}

async fn a_missing_entry_at_the_end(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.in_payments("delete from entries where user_id = $1", vec![BORIS.into()]).await;
    shop.expect(&[SUM, account(SeqGap, BORIS), account(BalanceMismatch, BORIS)]).await;
}

async fn a_gap_in_seq(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let entries = "update entries set seq = 5 where user_id = $1 and seq = 4";
    shop.in_payments(entries, vec![ANNA.into()]).await;
    let accounts = "update accounts set version = 6 where user_id = $1";
    shop.in_payments(accounts, vec![ANNA.into()]).await;
    shop.expect(&[entry(SeqGap, ANNA, 5)]).await;
}

async fn a_version_that_ran_ahead(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "update accounts set version = version + 1 where user_id = $1";
    shop.in_payments(sql, vec![DORA.into()]).await;
    shop.expect(&[account(SeqGap, DORA)]).await;
}

async fn a_wrong_balance_after(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "update entries set balance_after = balance_after - 1 where user_id = $1 and seq = 2";
    shop.in_payments(sql, vec![ANNA.into()]).await;
    shop.expect(&[entry(WrongBalanceAfter, ANNA, 2)]).await;
}

async fn a_chain_that_does_not_lead_to_the_balance(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "update entries set balance_after = balance_after - 1 where user_id = $1 and seq = 4";
    shop.in_payments(sql, vec![ANNA.into()]).await;
    shop.expect(&[entry(WrongBalanceAfter, ANNA, 4), account(BalanceMismatch, ANNA)]).await;
}

async fn a_deposit_of_another_amount(db: TestDb) {
    let shop = Shop::healthy(db).await;
    let sql = "update entries set amount = 51 where user_id = $1 and seq = 3";
    shop.in_payments(sql, vec![ANNA.into()]).await;
    shop.expect(&[SUM, entry(WrongBalanceAfter, ANNA, 3), account(BalanceMismatch, ANNA)]).await;
}

async fn a_deposit_that_takes(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.without_checks().await;
    shop.entry(ANNA, 5, -50, 600, None).await;
    let sql = "update accounts set balance = $1, version = $2 where user_id = $3";
    shop.in_payments(sql, vec![600.into(), 6.into(), ANNA.into()]).await;
    shop.expect(&[entry(MalformedEntry, ANNA, 5)]).await;
}

async fn a_payment_entry_without_an_order(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.without_checks().await;
    let sql = "update entries set kind = 'payment' where user_id = $1 and seq = 3";
    shop.in_payments(sql, vec![ANNA.into()]).await;
    shop.expect(&[SUM, entry(MalformedEntry, ANNA, 3)]).await;
}

async fn entries_without_an_account(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.entry(CLARA, 1, 10, 10, None).await;
    shop.expect(&[SUM, account(EntriesWithoutAccount, CLARA)]).await;
}

async fn a_second_account(db: TestDb) {
    let shop = Shop::healthy(db).await;
    shop.in_payments("create table copy as select * from accounts", vec![]).await;
    shop.in_payments("drop table accounts", vec![]).await;
    shop.in_payments("alter table copy rename to accounts", vec![]).await;
    shop.account(DORA, 0, 1).await;
    shop.expect(&[account(SeveralAccounts, DORA)]).await;
}

async fn sums_larger_than_any_integer_of_64_bits(db: TestDb) {
    let shop = Shop::empty(db).await;
    shop.without_checks().await;
    for user in [ANNA, BORIS, CLARA] {
        shop.account(user, i64::MAX, 2).await;
        shop.entry(user, 1, i64::MAX, i64::MAX, None).await;
    }
    shop.expect(&[]).await;
    let most = 3 * i128::from(i64::MAX);
    let report = shop.audit().await;
    assert_eq!(report.sums, Sums { deposits: most, paid: 0, balances: most });
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["sums"]["balances"], "27670116110564327421");
}

async fn findings_are_counted_beyond_those_named(db: TestDb) {
    let shop = Shop::empty(db).await;
    for number in 1..=101 {
        shop.order(ANNA, number, 10, "FINISHED", None).await;
    }
    let report = shop.audit().await;
    let check = &report.checks[3];
    assert_eq!((check.findings.len(), check.counts.values().sum::<u64>()), (100, 101));
    assert!(report.to_string().contains("and 1 more"), "{report}");
}

on_both_databases!(
    a_healthy_shop_is_clean,
    an_empty_shop_is_clean,
    a_balance_off_by_one,
    balances_that_are_wrong_but_add_up,
    a_negative_balance,
    a_negative_balance_on_the_way,
    a_missing_entry_in_the_middle,
    a_missing_entry_at_the_end,
    a_gap_in_seq,
    a_version_that_ran_ahead,
    a_wrong_balance_after,
    a_chain_that_does_not_lead_to_the_balance,
    a_deposit_of_another_amount,
    a_deposit_that_takes,
    a_payment_entry_without_an_order,
    entries_without_an_account,
    a_second_account,
    sums_larger_than_any_integer_of_64_bits,
    findings_are_counted_beyond_those_named,
);
