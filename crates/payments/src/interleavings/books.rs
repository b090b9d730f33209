//! The books of some users and orders, as they must be whatever has happened.

use gozon_contract::{OrderId, UserId};
use gozon_store::{Rows, select};
use gozon_testkit::TestDb;
use uuid::Uuid;

/// Checks them; the balance of each user, and whether each order is paid.
pub(super) async fn check(
    test: &TestDb,
    users: &[UserId],
    orders: &[OrderId],
) -> Result<(Vec<i64>, Vec<bool>), String> {
    let mut tx = test.db().begin().await.unwrap();
    let reader = tx.reader();
    let of_users = || Rows::of(users).uuid("user_id", |user| user.uuid()).done();
    let of_orders = || Rows::of(orders).uuid("order_id", |order| order.uuid()).done();

    let wrong: Vec<(String,)> = reader
        .query(select!(
            "select 'a balance is not the sum of its entries' from accounts
             where user_id {among} and balance <>
                (select sum(amount) from entries where entries.user_id = accounts.user_id)
             union all
             select 'a version is not the number of its entries' from accounts
             where user_id {among} and version <> 1 +
                (select count(*) from entries where entries.user_id = accounts.user_id)
             union all
             select 'an entry is missing, or has another balance than those before it come to' from (
                select seq, balance_after, row_number() over chain as place,
                    sum(amount) over chain as sum
                from entries where user_id {among} window chain as (partition by user_id order by seq)
             ) as chain where seq <> place or balance_after <> sum
             union all
             select 'an entry for a payment that is not paid' from entries
             where user_id {among} and order_id is not null and not exists (
                select from payments where payments.order_id = entries.order_id
                    and payments.user_id = entries.user_id and payments.amount = -entries.amount
                    and decline_reason is null)"
        ))
        .rows(of_users())
        .fetch_all()
        .await
        .unwrap();
    if let Some((wrong,)) = wrong.into_iter().next() {
        return Err(wrong);
    }

    let balances: Vec<(i64,)> = reader
        .query(select!("select balance from accounts where user_id {among} order by user_id"))
        .rows(of_users())
        .fetch_all()
        .await
        .unwrap();
    let payments: Vec<(Uuid, bool, i64)> = reader
        .query(select!(
            "select order_id, decline_reason is null,
                (select count(*) from entries where entries.order_id = payments.order_id)
             from payments where order_id {among} order by order_id"
        ))
        .rows(of_orders())
        .fetch_all()
        .await
        .unwrap();
    let ids: Vec<_> = payments.iter().map(|(order, ..)| *order).collect();
    if ids != orders.iter().map(|order| order.uuid()).collect::<Vec<_>>() {
        return Err(format!("orders {orders:?} have the payments {payments:?}"));
    }
    let answers: Vec<(String, String)> = reader
        .query(select!(
            "select event.value ->> 'subject', event.value -> 'data' ->> 'outcome'
             from outbox_batches {each_event}"
        ))
        .fetch_all()
        .await
        .unwrap();
    for (order, paid, entries) in &payments {
        if *entries != i64::from(*paid) {
            return Err(format!("order {order}: paid {paid}, and debited {entries} times"));
        }
        let mut answers = answers.iter().filter(|(subject, _)| *subject == order.to_string());
        let first = answers.next().ok_or_else(|| format!("no answer to order {order}"))?;
        let outcome = if *paid { "paid" } else { "declined" };
        if first.1 != outcome || answers.any(|answer| answer != first) {
            return Err(format!("order {order} is {outcome}, and another answer is in the outbox"));
        }
    }
    let left: Vec<(String,)> = reader
        .query(select!("select id from inbox_pending union all select id from dead_letters"))
        .fetch_all()
        .await
        .unwrap();
    if !left.is_empty() {
        return Err(format!("{left:?} still wait"));
    }
    tx.query("delete from outbox_batches").execute().await.unwrap();
    tx.commit().await.unwrap();
    let balances = balances.into_iter().map(|(balance,)| balance).collect();
    Ok((balances, payments.into_iter().map(|(_, paid, ..)| paid).collect()))
}
