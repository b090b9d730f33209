//! Rows and tables that somebody has locked and forgotten.

use gozon_store::{Db, select};
use serde_json::json;

use super::{id_of, try_to_place, until_ready};
use crate::harness::{Combo, Plan, Postgres, Shop, User, at_once, eventually};

/// Backends that wait for a lock for longer than any of ours may: the limit is 250 ms.
const WAITING: &str = "select count(*) from pg_stat_activity
    where datname = '{database}' and wait_event_type = 'Lock'
      and clock_timestamp() - query_start > interval '5 seconds'";

async fn shop_with_users() -> (Shop, Vec<User>) {
    let shop = Plan::on(Combo::PostgresRabbit).instances(1, 1, 2).start().await;
    let mut users = Vec::new();
    for _ in 0..6 {
        users.push(shop.new_user().with_balance(1_000).await);
    }
    (shop, users)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_account_is_its_users_problem_alone() {
    let (shop, users) = shop_with_users().await;
    let (locked, others) = users.split_first().expect("users");
    let mut holder = Postgres::on(&shop.payments_url).await;
    let mut watcher = Postgres::on(&shop.payments_url).await;
    holder
        .run(&format!("begin; select 1 from accounts where user_id = '{}' for update", locked.id))
        .await;

    let waiting = locked.place(10).await;
    for round in 0..4 {
        locked
            .post("/accounts/deposit", &json!({"amount": 1}))
            .await
            .problem(503, "service_unavailable");
        let placed = at_once(5, others, |user| async move {
            user.deposit(1).await;
            (user, user.place(10).await)
        })
        .await;
        // In one batch with those, or not.
        let more = locked.place(10).await;
        for (user, order) in placed {
            assert_eq!(user.settled(&id_of(&order)).await["status"], "FINISHED", "round {round}");
        }
        assert_eq!(locked.order(&id_of(&more)).await["status"], "NEW");
        assert_eq!(watcher.number(WAITING).await, 0, "a backend waits for a lock");
    }
    assert_eq!(locked.order(&id_of(&waiting)).await["status"], "NEW");

    holder.close().await;
    assert_eq!(locked.settled(&id_of(&waiting)).await["status"], "FINISHED");
    watcher.close().await;
    let truth = shop.close().await;
    assert_eq!(truth.with_status("FINISHED"), 4 * 5 + 5);
    assert_eq!(truth.balance(locked.id), 1_000 - 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_order_holds_up_no_other() {
    let (shop, users) = shop_with_users().await;
    let mut holder = Postgres::on(&shop.orders_url).await;
    let mut watcher = Postgres::on(&shop.orders_url).await;
    // Its lock is held before its result comes.
    let mut payments = Postgres::on(&shop.payments_url).await;
    payments.run("begin; lock table payments in access exclusive mode").await;
    let waiting = users[0].place(10).await;
    let lock = format!("begin; select 1 from orders where id = '{}' for update", id_of(&waiting));
    holder.run(&lock).await;
    payments.close().await;

    for _ in 0..4 {
        let placed = at_once(5, &users, |user| async move { (user, user.place(10).await) }).await;
        for (user, order) in placed {
            assert_eq!(user.settled(&id_of(&order)).await["status"], "FINISHED");
        }
        assert_eq!(watcher.number(WAITING).await, 0, "a backend waits for a lock");
    }
    assert_eq!(users[0].order(&id_of(&waiting)).await["status"], "NEW");
    holder.close().await;
    assert_eq!(users[0].settled(&id_of(&waiting)).await["status"], "FINISHED");
    watcher.close().await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_table_is_waited_for() {
    let (shop, users) = shop_with_users().await;
    let mut holder = Postgres::on(&shop.payments_url).await;
    let mut watcher = Postgres::on(&shop.payments_url).await;
    holder.run("begin; lock table accounts, entries, payments in access exclusive mode").await;
    let placed = at_once(6, &users, |user| async move {
        user.post("/accounts/deposit", &json!({"amount": 1}))
            .await
            .problem(503, "service_unavailable");
        user.get("/accounts/balance").await.problem(503, "service_unavailable");
        (user, user.place(10).await)
    })
    .await;
    eventually("payments has tried, and left them for later", async || {
        let pending = "select count(*) from inbox_pending";
        (watcher.number(pending).await >= 6).then_some(())
    })
    .await;
    assert_eq!(watcher.number(WAITING).await, 0, "a backend waits for a lock");
    holder.close().await;
    for (user, order) in placed {
        assert_eq!(user.settled(&id_of(&order)).await["status"], "FINISHED");
    }
    watcher.close().await;
    until_ready(&shop.process("payments-1").url(), true).await;
    shop.close().await;
}

/// Another program holds the file of orders, and then that of payments.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_sqlite_file_is_503_and_heals() {
    let shop = Shop::on(Combo::SqliteMemory).await;
    let user = shop.new_user().with_balance(1_000).await;
    let url = shop.processes[0].url();

    let orders = Db::open(&shop.orders_url, 1).expect("a file");
    let holder = orders.begin().await.expect("a lock");
    for _ in 0..2 {
        try_to_place(&user, "in vain").await.problem(503, "service_unavailable");
        user.get("/orders").await.ok(200);
    }
    until_ready(&url, false).await;
    drop(holder);
    until_ready(&url, true).await;
    orders.close().await;

    let payments = Db::open(&shop.payments_url, 1).expect("a file");
    let holder = payments.begin().await.expect("a lock");
    let waiting = user.place(10).await;
    for _ in 0..2 {
        user.post("/accounts/deposit", &json!({"amount": 1}))
            .await
            .problem(503, "service_unavailable");
    }
    assert_eq!(user.order(&id_of(&waiting)).await["status"], "NEW");
    drop(holder);
    assert_eq!(user.settled(&id_of(&waiting)).await["status"], "FINISHED");
    // It was the environment's fault, and no attempt of the event's.
    let spent = select!("select count(*) from inbox_pending");
    let (spent,): (i64,) =
        payments.read().await.expect("a file").query(spent).fetch_one().await.expect("a count");
    assert_eq!(spent, 0);
    payments.close().await;
    let truth = shop.close().await;
    assert_eq!((truth.orders.len(), truth.balance(user.id)), (1, 990));
}
