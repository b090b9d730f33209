//! Two or three processes at the orders database, in every order of their statements on PostgreSQL.
//! After each order there is one order to a key, each order has moved once and as its payment says,
//! and each change was announced once.
//!
//! The last tests put faults back, by changing the text of a statement on its way or by dropping a
//! key: each must be found.

mod scene;

use gozon_testkit::{Explored, Rewrite};
use scene::{Act, explore};

const APPLY_TWICE: &[Act] = &[Act::Apply("one", &[0]), Act::Apply("two", &[0])];
const APPLY_TWICE_REMEMBERING: &[Act] =
    &[Act::ApplyRemembering("one", &[0]), Act::ApplyRemembering("two", &[0])];
const PLACE_TWICE: &[Act] = &[Act::Place, Act::Place];

/// Plays it in every order, and shows how many there are.
async fn play(name: &str, processes: &'static [Act], faults: usize) -> Explored {
    let explored = explore(processes, faults, "select 1", &[]).await.all_good();
    let Explored { orders, with_waits, steps, .. } = explored;
    println!("{name}: {orders} orders of steps, {with_waits} with waits, {steps} steps");
    explored
}

#[tokio::test]
async fn one_result_applied_twice() {
    play("one delivery twice", &[Act::Apply("one", &[0]), Act::Apply("one", &[0])], 0).await;
    play("two deliveries", APPLY_TWICE, 0).await;
    let mixed = &[Act::Apply("one", &[0]), Act::ApplyLocking("one", &[0])];
    play("one delivery twice, one locking", mixed, 0).await;
    play("two that remember", APPLY_TWICE_REMEMBERING, 0).await;
    let locking = &[Act::ApplyLocking("one", &[0]), Act::ApplyLocking("two", &[0])];
    let explored = play("two that lock", locking, 0).await;
    assert!(explored.with_waits > 0);
}

#[tokio::test]
async fn one_result_applied_twice_and_any_one_fault() {
    play("two deliveries, a fault", APPLY_TWICE, 1).await;
    play("two that remember, a fault", APPLY_TWICE_REMEMBERING, 1).await;
}

#[tokio::test]
async fn one_result_applied_three_times() {
    const THREE: &[Act] = &[
        Act::ApplyRemembering("one", &[0]),
        Act::ApplyRemembering("two", &[0]),
        Act::ApplyRemembering("two", &[0]),
    ];
    play("three that remember", THREE, 0).await;
}

#[tokio::test]
async fn batches_of_the_same_orders() {
    const LOCKING: &[Act] =
        &[Act::ApplyLocking("there", &[0, 1]), Act::ApplyLocking("back", &[1, 0])];
    const REMEMBERING: &[Act] =
        &[Act::ApplyRemembering("there", &[0, 1]), Act::ApplyRemembering("back", &[1, 0])];
    play("two batches that lock", LOCKING, 0).await;
    play("two batches that remember", REMEMBERING, 0).await;
}

#[tokio::test]
async fn one_order_placed_twice() {
    play("one key twice", PLACE_TWICE, 0).await;
    play("one key three times", &[Act::Place, Act::Place, Act::Place], 0).await;
    play("one key twice, a fault", PLACE_TWICE, 1).await;
}

// Faults that must be found.

async fn found(
    processes: &'static [Act],
    ddl: &'static str,
    rewrites: &'static [Rewrite],
    what: &str,
) {
    let failure = explore(processes, 0, ddl, rewrites).await.found();
    println!("{failure}");
    assert!(failure.what.contains(what), "{failure}");
}

/// A late writer that does not look what the order has become.
#[tokio::test]
async fn an_order_moved_without_its_version_is_found() {
    let rewrites = &[(" and orders.version = rows.version - 1", "")];
    found(APPLY_TWICE_REMEMBERING, "select 1", rewrites, "was announced 2 times").await;
}

#[tokio::test]
async fn idempotency_keys_without_their_key_are_found() {
    let ddl = "alter table idempotency_keys drop constraint idempotency_keys_pkey";
    found(PLACE_TWICE, ddl, &[], "one key, and these orders").await;
}
