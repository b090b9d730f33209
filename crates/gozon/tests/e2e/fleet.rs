//! A fleet on a bad day: processes are killed every few seconds, the broker and the databases go
//! down one after the other, and customers keep ordering.
//!
//! Twenty seconds by default, three minutes with `GOZON_SOAK=1`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gozon_contract::RandomSource;
use reqwest::Method;
use serde_json::json;
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use crate::harness::{Combo, Door, Process, Servers, User, send, soaking};

/// Orders per second.
const RATE: u32 = 320;
/// The most orders under way at once; customers beyond that don't come in.
const IN_FLIGHT: usize = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_rabbit() {
    bad_day(Combo::PostgresRabbit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_kafka() {
    bad_day(Combo::PostgresKafka).await;
}

/// What customers saw.
#[derive(Default)]
struct Seen {
    accepted: Mutex<Vec<String>>,
    placed: AtomicUsize,
    /// Answers that something is away for now.
    trouble: AtomicUsize,
    /// Connections that ended, to a gateway that was killed.
    cut: AtomicUsize,
    gave_up: AtomicUsize,
}

async fn bad_day(combo: Combo) {
    let length = Duration::from_secs(if soaking() { 180 } else { 20 });
    let servers = Servers::of(combo).await;
    let mut shop = servers.plan().await.instances(2, 3, 3).start().await;
    let doors = shop.doors();
    let mut users = Vec::new();
    for _ in 0..50 {
        users.push(doors[0].new_user().with_balance(100_000).await);
    }

    let seen = Arc::new(Seen::default());
    let until = Instant::now() + length;
    let customers = order_steadily(users, doors, Arc::clone(&seen), until);
    let killed = kill_processes(&mut shop.processes, until);
    let outages = take_servers_down(&servers, length);
    let ((), killed, ()) = tokio::join!(customers, killed, outages);

    let ended = Instant::now();
    shop.start().await;
    let truth = shop.quiet().await;
    let caught_up = ended.elapsed();
    let accepted = seen.accepted.lock().await;
    let stored: std::collections::HashSet<_> =
        truth.orders.iter().map(|order| order.id.to_string()).collect();
    let lost: Vec<_> = accepted.iter().filter(|id| !stored.contains(*id)).collect();
    assert!(lost.is_empty(), "accepted and lost: {lost:?}");
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    println!(
        "{combo:?}: {} of {} orders accepted in {length:?} ({} refusals, {} cut connections, {} \
         gave up), {killed} processes killed, all final {caught_up:.1?} after the load",
        accepted.len(),
        count(&seen.placed),
        count(&seen.trouble),
        count(&seen.cut),
        count(&seen.gave_up),
    );
    assert!(truth.with_status("FINISHED") > 0);
    if soaking() {
        assert!(caught_up < Duration::from_secs(30), "final only after {caught_up:?}");
    }
    drop(accepted);
    shop.close().await;
}

/// Customers come in at a steady rate, however long the others take.
async fn order_steadily(users: Vec<User>, doors: Vec<Door>, seen: Arc<Seen>, until: Instant) {
    let mut ticks = interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut customers = JoinSet::new();
    for number in 0.. {
        ticks.tick().await;
        if Instant::now() >= until {
            break;
        }
        while let Some(done) = customers.try_join_next() {
            done.expect("a customer");
        }
        if customers.len() < IN_FLIGHT {
            let user = users[number % users.len()].clone();
            customers.spawn(order(user, number, doors.clone(), Arc::clone(&seen)));
        }
    }
    while let Some(done) = customers.join_next().await {
        done.expect("a customer");
    }
}

/// One order, tried with one key at one gateway after the other until it is answered.
async fn order(user: User, number: usize, doors: Vec<Door>, seen: Arc<Seen>) {
    seen.placed.fetch_add(1, Ordering::Relaxed);
    let body = json!({"amount": 1 + number % 40, "description": format!("order {number}")});
    for attempt in 0..60 {
        let user = user.at(&doors[(number + attempt) % doors.len()]);
        let request = user.request(Method::POST, "/orders").json(&body);
        match send(request.header("idempotency-key", format!("order-{number}"))).await {
            Ok(reply) if reply.status == 201 => {
                let id = reply.ok(201)["id"].as_str().expect("an id").to_owned();
                return seen.accepted.lock().await.push(id);
            }
            Ok(reply) => {
                reply.trouble_on_the_way();
                seen.trouble.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                seen.cut.fetch_add(1, Ordering::Relaxed);
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
    seen.gave_up.fetch_add(1, Ordering::Relaxed);
}

/// Kills a random process every two to five seconds and starts it again at once.
async fn kill_processes(processes: &mut [Process], until: Instant) -> usize {
    let random = RandomSource::system();
    let mut killed = 0;
    loop {
        let next = Instant::now() + Duration::from_millis(2_000 + random.next_u64() % 3_000);
        if next >= until {
            return killed;
        }
        sleep_until(next).await;
        let victim = usize::try_from(random.next_u64()).unwrap_or(0) % processes.len();
        processes[victim].kill().await;
        processes[victim].start();
        killed += 1;
    }
}

/// The broker goes down twice and each database once, one after the other.
async fn take_servers_down(servers: &Servers, length: Duration) {
    let plan = [servers.broker(), "postgres", servers.broker(), "postgres2"];
    for name in plan {
        sleep(length / 6).await;
        servers.kill(name).await;
        sleep(Duration::from_secs(1)).await;
        servers.up(name).await;
    }
}
