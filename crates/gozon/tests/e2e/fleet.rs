//! A fleet on a bad day: processes are killed every few seconds, the broker and the databases go
//! down one after the other, and customers keep ordering.
//!
//! Twenty seconds by default, three minutes with `GOZON_SOAK=1`.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gozon_contract::RandomSource;
use reqwest::Method;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use crate::harness::{Combo, Door, Process, Servers, Truth, User, send, soaking};

/// Orders per second.
const RATE: u32 = 320;
/// The most orders under way at once; customers beyond that don't come in.
const IN_FLIGHT: usize = 2_000;
/// How long a customer waits for an answer before they try the next gateway with the same key.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_rabbit() {
    bad_day(Combo::PostgresRabbit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_kafka() {
    bad_day(Combo::PostgresKafka).await;
}

/// Customers who come in at a steady rate, however long the others take.
pub struct Customers<F> {
    pub doors: Vec<Door>,
    /// Orders per second.
    pub rate: u32,
    /// Who places the order with this number.
    pub user_of: F,
}

/// What customers saw.
#[derive(Default)]
pub struct Seen {
    accepted: Mutex<Vec<String>>,
    placed: AtomicUsize,
    /// Answers that something is away for now.
    trouble: AtomicUsize,
    /// Connections that ended, to a gateway that was killed, or had no answer for too long.
    cut: AtomicUsize,
    gave_up: AtomicUsize,
}

impl Seen {
    /// Orders that were accepted and are not stored.
    pub fn lost(&self, truth: &Truth) -> Vec<String> {
        let stored: HashSet<_> = truth.orders.iter().map(|order| order.id.to_string()).collect();
        let accepted = self.accepted.lock().expect("a list");
        accepted.iter().filter(|id| !stored.contains(*id)).cloned().collect()
    }

    /// In one line.
    pub fn summary(&self) -> String {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        format!(
            "{} of {} orders accepted ({} refusals, {} cut connections, {} gave up)",
            self.accepted.lock().expect("a list").len(),
            count(&self.placed),
            count(&self.trouble),
            count(&self.cut),
            count(&self.gave_up),
        )
    }
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

    let until = Instant::now() + length;
    let user_of = move |number: usize| users[number % users.len()].clone();
    let customers = Customers { doors, rate: RATE, user_of };
    let killed = kill_processes(&mut shop.processes, until);
    let outages = take_servers_down(&servers, length);
    let (seen, killed, ()) = tokio::join!(customers.order_until(until), killed, outages);

    let ended = Instant::now();
    shop.start().await;
    let truth = shop.quiet().await;
    let caught_up = ended.elapsed();
    let lost = seen.lost(&truth);
    assert!(lost.is_empty(), "accepted and lost: {lost:?}");
    println!(
        "{combo:?}: in {length:?} {}, {killed} processes killed, all final {caught_up:.1?} after \
         the load",
        seen.summary(),
    );
    assert!(truth.with_status("FINISHED") > 0);
    if soaking() {
        assert!(caught_up < Duration::from_secs(30), "final only after {caught_up:?}");
    }
    shop.close().await;
}

impl<F: Fn(usize) -> User> Customers<F> {
    /// Orders until then; what was seen once the last one is answered.
    pub async fn order_until(self, until: Instant) -> Seen {
        let seen = Arc::new(Seen::default());
        let mut ticks = interval(Duration::from_secs(1) / self.rate);
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
                let user = (self.user_of)(number);
                customers.spawn(order(user, number, self.doors.clone(), Arc::clone(&seen)));
            }
        }
        while let Some(done) = customers.join_next().await {
            done.expect("a customer");
        }
        Arc::into_inner(seen).expect("no customer is left")
    }
}

/// One order, tried with one key at one gateway after the other until it is answered.
async fn order(user: User, number: usize, doors: Vec<Door>, seen: Arc<Seen>) {
    seen.placed.fetch_add(1, Ordering::Relaxed);
    let body = json!({"amount": 1 + number % 40, "description": format!("order {number}")});
    for attempt in 0..60 {
        let user = user.at(&doors[(number + attempt) % doors.len()]);
        let request = user.request(Method::POST, "/orders").json(&body).timeout(ANSWER_TIMEOUT);
        match send(request.header("idempotency-key", format!("order-{number}"))).await {
            Ok(reply) if reply.status == 201 => {
                let id = reply.ok(201)["id"].as_str().expect("an id").to_owned();
                return seen.accepted.lock().expect("a list").push(id);
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
