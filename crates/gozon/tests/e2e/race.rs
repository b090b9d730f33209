//! Many clients, one account.

use futures_util::future::join;

use serde_json::json;

use crate::harness::{Combo, Shop, at_once};

on_every_combo!(exactly_what_is_covered_is_paid, deposits_in_between);

const ORDERS: usize = 1_000;
const CLIENTS: usize = 64;

async fn exactly_what_is_covered_is_paid(combo: Combo) {
    let shop = Shop::on(combo).await;
    let user = shop.new_user().with_balance(5_000).await;

    at_once(CLIENTS, 0..ORDERS, |_| user.place(10)).await;

    let truth = shop.close().await;
    assert_eq!((truth.with_status("FINISHED"), truth.with_status("CANCELLED")), (500, 500));
    assert_eq!(truth.balance(user.id), 0);
}

async fn deposits_in_between(combo: Combo) {
    let shop = Shop::on(combo).await;
    let user = shop.new_user().with_balance(3_000).await;

    let orders = at_once(CLIENTS / 2, 0..ORDERS, |_| user.place(10));
    let (user, body) = (&user, json!({"amount": 5}));
    // On a busy machine the account may be locked for longer than a deposit waits.
    let deposits = at_once(CLIENTS / 2, 0..400, |n| {
        let body = &body;
        async move { user.insist("/accounts/deposit", &format!("deposit-{n}"), body, 200).await }
    });
    join(orders, deposits).await;

    let truth = shop.close().await;
    let paid = i64::try_from(truth.with_status("FINISHED")).expect("a count");
    assert_eq!(truth.with_status("CANCELLED") + truth.with_status("FINISHED"), ORDERS);
    assert_eq!(truth.balance(user.id), 3_000 + 400 * 5 - 10 * paid);
    // What was there at first is spent whenever the deposits come.
    assert!((300..=500).contains(&paid), "{paid} orders were paid");
}
