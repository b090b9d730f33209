//! Two or three processes at one database, in every order of their statements on PostgreSQL. After
//! each order the books must hold, and what came out must be what comes of doing the same one by one.
//!
//! The second half puts faults back that other systems had, by changing the text of a statement on
//! its way or by dropping a key: each must be found.

mod books;
mod scene;

use gozon_testkit::{Explored, Interleaving};
use scene::{Act, Delivery, Scene, Start};

/// The orders of the scenes. The first account covers either of its two, or one of them twice.
const ORDERS: &[(usize, i64)] = &[(0, 70), (0, 90), (1, 50)];
const FIRST: Delivery = Delivery("first", &[0]);
const SECOND: Delivery = Delivery("second", &[1]);
/// The first order again, in a delivery of its own, as when orders asks again.
const FIRST_AGAIN: Delivery = Delivery("again", &[0]);

const fn scene(processes: &'static [Act]) -> Scene {
    Scene { accounts: &[150, 100], orders: ORDERS, start: Start::Nowhere, processes }
}

/// With faults, or more than two processes, another process goes on at most so many times although
/// the one before could.
const MAX_SWITCHES: usize = 2;

/// Plays it in every order, and shows how many there are.
async fn play(name: &str, scene: Scene, faults: usize) -> Explored {
    let many = faults > 0 || scene.processes.len() > 2;
    let switches = if many { MAX_SWITCHES } else { usize::MAX };
    play_with_switches(name, scene, faults, switches).await
}

async fn play_with_switches(name: &str, scene: Scene, faults: usize, switches: usize) -> Explored {
    let prepare = |all: Interleaving| all.with_faults(faults).with_switches(switches);
    let explored = scene.explore(&[], prepare).await.all_good();
    let Explored { orders, with_waits, steps, .. } = explored;
    println!("{name}: {orders} orders of steps, {with_waits} with waits, {steps} steps");
    explored
}

const TWO_SETTLE: Scene = scene(&[Act::Settle(FIRST), Act::Settle(SECOND)]);
const TWO_SETTLE_LOCKING: Scene = scene(&[Act::SettleLocking(FIRST), Act::SettleLocking(SECOND)]);
const SAME_ORDER: Scene = scene(&[Act::Settle(FIRST), Act::Settle(FIRST_AGAIN)]);
const SAME_ORDER_LOCKING: Scene =
    scene(&[Act::SettleLocking(FIRST), Act::SettleLocking(FIRST_AGAIN)]);
const SAME_DEPOSIT: Scene = scene(&[Act::DepositWithKey(25), Act::DepositWithKey(25)]);
const OPPOSITE_ORDER: Scene = scene(&[
    Act::SettleLocking(Delivery("there", &[0, 2])),
    Act::SettleLocking(Delivery("back", &[2, 1])),
]);
/// The first holds the account that one of the others wants first, and the other last.
const OPPOSITE_ORDER_BEHIND_ANOTHER: Scene = scene(&[
    Act::SettleLocking(SECOND),
    Act::SettleLocking(Delivery("there", &[0, 2])),
    Act::SettleLocking(Delivery("back", &[2, 0])),
]);
const DEAD_LETTER_AND_DUPLICATE: Scene = Scene {
    orders: &[(0, 70)],
    start: Start::DeadLetter,
    ..scene(&[Act::RetryDeadLetters, Act::Settle(FIRST_AGAIN)])
};

#[tokio::test]
async fn two_settle_on_one_account() {
    play("settle, settle", TWO_SETTLE, 0).await;
    let mixed = scene(&[Act::Settle(FIRST), Act::SettleLocking(SECOND)]);
    play("settle, settle locking", mixed, 0).await;
    let explored = play("settle locking, settle locking", TWO_SETTLE_LOCKING, 0).await;
    assert!(explored.with_waits > 0);
}

#[tokio::test]
async fn two_settle_and_any_one_fault() {
    play("settle, settle, a fault", TWO_SETTLE, 1).await;
}

#[tokio::test]
async fn two_settle_locking_and_any_one_fault() {
    play("settle locking, settle locking, a fault", TWO_SETTLE_LOCKING, 1).await;
}

#[tokio::test]
async fn two_settle_and_a_deposit() {
    let three = scene(&[Act::Settle(FIRST), Act::Settle(SECOND), Act::Deposit(25)]);
    play("settle, settle, deposit", three, 0).await;
}

#[tokio::test]
async fn settle_and_a_deposit_and_any_one_fault() {
    let two = scene(&[Act::Settle(FIRST), Act::DepositWithKey(25)]);
    play("settle, deposit, a fault", two, 1).await;
}

#[tokio::test]
async fn the_same_order_twice() {
    let duplicate = scene(&[Act::Settle(FIRST), Act::Settle(FIRST)]);
    play("one delivery twice", duplicate, 0).await;
    play("one order in two deliveries", SAME_ORDER, 0).await;
    play("the same, locking", SAME_ORDER_LOCKING, 0).await;
    let mixed = scene(&[Act::Settle(FIRST), Act::SettleLocking(FIRST)]);
    play("one delivery twice, one locking", mixed, 0).await;
}

#[tokio::test]
async fn the_same_order_twice_and_any_one_fault() {
    play("one order in two deliveries, a fault", SAME_ORDER, 1).await;
}

#[tokio::test]
async fn the_same_order_three_times() {
    let three = scene(&[Act::Settle(FIRST), Act::Settle(FIRST), Act::Settle(FIRST_AGAIN)]);
    play("one order three times", three, 0).await;
}

#[tokio::test]
async fn batches_over_the_same_accounts() {
    play("two batches over two accounts", OPPOSITE_ORDER, 0).await;
    let optimistic =
        scene(&[Act::Settle(Delivery("there", &[0, 2])), Act::Settle(Delivery("back", &[2, 1]))]);
    play("the same, optimistic", optimistic, 0).await;
}

#[tokio::test]
async fn batches_over_the_same_accounts_behind_another() {
    play_with_switches("two batches behind another", OPPOSITE_ORDER_BEHIND_ANOTHER, 0, 1).await;
}

#[tokio::test]
async fn the_same_deposit_twice() {
    play("one key twice", SAME_DEPOSIT, 0).await;
    play("one key twice, a fault", SAME_DEPOSIT, 1).await;
}

#[tokio::test]
async fn a_dead_letter_and_a_late_duplicate() {
    play("dead letter, duplicate", DEAD_LETTER_AND_DUPLICATE, 0).await;
    let two_operators = Scene {
        processes: &[Act::RetryDeadLetters, Act::RetryDeadLetters],
        ..DEAD_LETTER_AND_DUPLICATE
    };
    play_with_switches("two operators", two_operators, 0, 1).await;
}

#[tokio::test]
async fn a_dead_letter_a_duplicate_and_any_one_fault() {
    play_with_switches("dead letter, duplicate, a fault", DEAD_LETTER_AND_DUPLICATE, 1, 1).await;
}

#[tokio::test]
async fn an_attempt_after_its_lease() {
    let late = Scene {
        orders: &[(0, 70)],
        start: Start::Pending,
        ..scene(&[Act::RetryPending, Act::RetryPendingLate])
    };
    play("attempt, late attempt", late, 0).await;
    play_with_switches("attempt, late attempt, a fault", late, 1, 1).await;
}

// Faults that must be found.

async fn found(
    scene: Scene,
    ddl: &'static [&'static str],
    prepare: impl FnOnce(Interleaving) -> Interleaving,
    what: &str,
) {
    let failure = scene.explore(ddl, prepare).await.found();
    println!("{failure}");
    assert!(failure.what.contains(what), "{failure}");
}

/// A balance that is read, changed and written back, with nothing to notice another writer.
#[tokio::test]
async fn an_account_without_version_and_lock_is_found() {
    let unguarded = |all: Interleaving| {
        all.rewriting(&[
            (" and accounts.version = rows.was", ""),
            ("order by user_id for update", "order by user_id"),
        ])
    };
    let ddl = &["alter table entries drop constraint entries_pkey"];
    found(TWO_SETTLE, ddl, unguarded, "a balance is not the sum").await;
    // The key of the entries is a guard of its own.
    let explored = TWO_SETTLE.explore(&[], unguarded).await.all_good();
    assert!(explored.orders > 1);
}

/// The payment is there already, nobody looks, and the account is debited.
#[tokio::test]
async fn an_ignored_conflict_is_found() {
    let ignored = |all: Interleaving| {
        all.rewriting(&[(
            "order by order_id return",
            "order by order_id on conflict do nothing return",
        )])
    };
    found(SAME_ORDER, &[], ignored, "debited 2 times").await;
}

/// Only the payment's key knows an order that comes in another delivery.
#[tokio::test]
async fn payments_without_their_key_are_found() {
    let ddl = &["alter table payments drop constraint payments_pkey"];
    found(SAME_ORDER, ddl, |all| all, "").await;
}

#[tokio::test]
async fn idempotency_keys_without_their_key_are_found() {
    let ddl = &["alter table idempotency_keys drop constraint idempotency_keys_pkey"];
    found(SAME_DEPOSIT, ddl, |all| all, "it came to").await;
}

/// Two who lock accounts in opposite orders wait for each other.
#[tokio::test]
async fn locks_in_opposite_orders_are_found() {
    let opposite = |all: Interleaving| {
        let back = ("order by user_id for update", "order by user_id desc for update");
        all.rewriting_of(2, &[back]).with_switches(MAX_SWITCHES)
    };
    found(OPPOSITE_ORDER_BEHIND_ANOTHER, &[], opposite, "a deadlock").await;
}
