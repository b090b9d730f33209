//! All faults, mixed from a seed, while customers keep ordering.
//!
//! Fifteen seconds by default. With `GOZON_SOAK=1` five minutes, or `GOZON_SOAK_SECONDS`, with up to
//! `GOZON_SOAK_RATE` orders per second. `GOZON_TEST_SEED` repeats the faults.

use std::{collections::HashMap, sync::Arc, time::Duration};

use gozon_contract::RandomSource;
use tokio::time::Instant;

use super::chaos::{Faults, Pace};
use crate::{
    fleet::{Customers, Seen},
    harness::{Combo, Servers, Shop, User, Watcher, eventually, soaking},
};

/// How many orders each watched user places: fewer than a snapshot has, so that the socket's last
/// word must be all of the truth.
const WATCHED_ORDERS: usize = 90;
/// Users whose orders nobody watches.
const OTHER_USERS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_rabbit() {
    everything_at_once(Combo::PostgresRabbit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_kafka() {
    everything_at_once(Combo::PostgresKafka).await;
}

fn number_of(variable: &str, default: u64) -> u64 {
    let value = std::env::var(variable).ok();
    value.map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{variable}={value}")))
}

async fn everything_at_once(combo: Combo) {
    let soak = soaking();
    let seconds = number_of("GOZON_SOAK_SECONDS", if soak { 300 } else { 15 });
    let rate = number_of("GOZON_SOAK_RATE", if soak { 100 } else { 40 });
    let seed = number_of("GOZON_TEST_SEED", RandomSource::system().next_u64());
    println!("GOZON_TEST_SEED={seed}");
    let pace = if soak {
        Pace { between: Duration::from_secs(7), longest: 60 }
    } else {
        Pace { between: Duration::from_millis(800), longest: 6 }
    };

    let servers = Servers::of(combo).await;
    let plan = servers.plan().await.instances(2, 2, 2).setting("GOZON_RESEND_AFTER", "5");
    let mut shop = plan.prepare().await;
    let random = RandomSource::seeded(seed);
    let mut faults = Faults::new(&mut shop, Arc::clone(&servers), random, pace);
    faults.shop.start().await;
    let doors = faults.shop.doors();
    let orders = usize::try_from(seconds * rate).expect("small");
    let watched = if soak { 100 } else { 5 };
    let mut users = Vec::new();
    for _ in 0..watched + OTHER_USERS {
        users.push(doors[0].new_user().with_balance(100_000).await);
    }
    let mut watchers = Vec::new();
    for (user, door) in users[..watched].iter().zip(doors.iter().cycle()) {
        watchers.push(Watcher::start(&user.at(door)).await);
    }

    let until = Instant::now() + Duration::from_secs(seconds);
    let rate = u32::try_from(rate).expect("a small rate");
    let customers = Customers { doors, rate, user_of: user_of(users, watched, orders) };
    let (answers, ()) = tokio::join!(customers.order_until(until), faults.happen_until(until));
    let ended = Instant::now();
    let happened = faults.end().await;
    let total: usize = happened.values().sum();
    let kinds: Vec<_> = happened.iter().map(|(name, count)| format!("{count} × {name}")).collect();
    println!("{combo:?}: {} s, {total} faults: {}", seconds, kinds.join(", "));
    println!("{combo:?}: {}", answers.summary());
    judge(combo, shop, answers, watchers).await;
    println!("{combo:?}: all final {:.1?} after the last fault", ended.elapsed());
}

/// Which user places the order with this number, of about so many. The orders of the watched ones
/// are spread over the run.
fn user_of(users: Vec<User>, watched: usize, orders: usize) -> impl Fn(usize) -> User {
    let share = (orders / (watched * WATCHED_ORDERS)).max(2);
    move |number| {
        let turn = number / share;
        let is_watched = number.is_multiple_of(share) && turn < watched * WATCHED_ORDERS;
        let (seen, others) = users.split_at(watched);
        if is_watched { &seen[turn % watched] } else { &others[number % others.len()] }.clone()
    }
}

async fn judge(combo: Combo, mut shop: Shop, seen: Seen, watchers: Vec<Watcher>) {
    shop.start().await;
    let truth = shop.quiet_within(Duration::from_mins(5)).await;
    let mut stored: HashMap<&str, usize> = HashMap::new();
    for order in &truth.orders {
        *stored.entry(&order.description).or_default() += 1;
    }
    let twice: Vec<_> = stored.iter().filter(|(_, count)| **count > 1).collect();
    let lost = seen.lost(&truth);
    println!(
        "{combo:?}: {} orders stored ({} FINISHED, {} CANCELLED), {} lost, {} placed twice",
        truth.orders.len(),
        truth.with_status("FINISHED"),
        truth.with_status("CANCELLED"),
        lost.len(),
        twice.len(),
    );
    assert!(twice.is_empty(), "placed more than once: {twice:?}");
    assert!(lost.is_empty(), "accepted and lost: {lost:?}");
    let (count, mut sockets) = (watchers.len(), 0);
    for watcher in watchers {
        eventually("each socket's last word is the truth", async || {
            watcher.seen().await.agrees(&truth, &watcher.user).then_some(())
        })
        .await;
        sockets += watcher.stop().await;
    }
    println!("{combo:?}: {count} users watched through {sockets} sockets; each saw the truth");
    println!("{combo:?}: {}", shop.audit().await.trim());
    let truth = shop.close().await;
    assert!(truth.with_status("FINISHED") > 0);
}
