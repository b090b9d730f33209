//! All faults, mixed from a seed, while customers keep ordering.
//!
//! Twenty seconds by default. With `GOZON_SOAK=1` five minutes, or `GOZON_SOAK_SECONDS`, with up to
//! `GOZON_SOAK_RATE` orders per second. `GOZON_TEST_SEED` repeats the faults.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use gozon_contract::RandomSource;
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    fleet::{Customers, Seen},
    harness::{Combo, Postgres, Servers, Shop, User, Watcher, eventually, soaking},
};

/// Users whose live orders are watched, and how many orders each of them places: fewer than a
/// snapshot has, so that the socket's last word must be all of the truth.
const WATCHED_USERS: usize = 5;
const WATCHED_ORDERS: usize = 90;
/// One of so many orders is of a watched user, until they have theirs.
const WATCHED_SHARE: usize = 8;

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
    let length = number_of("GOZON_SOAK_SECONDS", if soak { 300 } else { 15 });
    let rate = number_of("GOZON_SOAK_RATE", if soak { 100 } else { 40 });
    let seed = number_of("GOZON_TEST_SEED", RandomSource::system().next_u64());
    println!("GOZON_TEST_SEED={seed}");
    let length = Duration::from_secs(length);

    let servers = Servers::of(combo).await;
    let plan = servers.plan().await.instances(2, 2, 2).setting("GOZON_RESEND_AFTER", "5");
    let mut shop = plan.prepare().await;
    let mut faults = Faults::new(&mut shop, &servers, RandomSource::seeded(seed), soak);
    faults.shop.start().await;
    let doors = faults.shop.doors();
    let mut users = Vec::new();
    for _ in 0..30 {
        users.push(doors[0].new_user().with_balance(100_000).await);
    }
    let mut watchers = Vec::new();
    for user in &users[..WATCHED_USERS] {
        watchers.push(Watcher::start(user).await);
    }

    let until = Instant::now() + length;
    let rate = u32::try_from(rate).expect("a small rate");
    let customers = Customers { doors, rate, user_of: user_of(users) };
    let (answers, ()) = tokio::join!(customers.order_until(until), faults.happen_until(until));
    let ended = Instant::now();
    let happened = faults.end().await;
    judge(combo, shop, answers, watchers).await;
    let happened: Vec<_> =
        happened.iter().map(|(name, count)| format!("{count} × {name}")).collect();
    println!("{combo:?}: {}; all final {:.1?} after", happened.join(", "), ended.elapsed());
}

/// Which user places the order with this number.
fn user_of(users: Vec<User>) -> impl Fn(usize) -> User {
    move |number| {
        let turn = number / WATCHED_SHARE;
        let watched = number.is_multiple_of(WATCHED_SHARE) && turn < WATCHED_USERS * WATCHED_ORDERS;
        let others = &users[WATCHED_USERS..];
        if watched { &users[turn % WATCHED_USERS] } else { &others[number % others.len()] }.clone()
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
    assert!(twice.is_empty(), "placed more than once: {twice:?}");
    let lost = seen.lost(&truth);
    assert!(lost.is_empty(), "accepted and lost: {lost:?}");
    for watcher in watchers {
        eventually("each socket's last word is the truth", async || {
            watcher.seen().await.agrees(&truth, &watcher.user).then_some(())
        })
        .await;
        watcher.stop().await;
    }
    println!("{combo:?}: {}", seen.summary());
    let truth = shop.close().await;
    assert!(truth.with_status("FINISHED") > 0);
}

/// What goes wrong.
struct Faults<'s> {
    shop: &'s mut Shop,
    servers: &'s Servers,
    random: RandomSource,
    /// The longest that a process stands still, or a lock is held.
    longest: u64,
    /// A file per process that says how wrong its clock is.
    clocks: TempDir,
    under_way: JoinSet<()>,
    happened: BTreeMap<&'static str, usize>,
}

impl<'s> Faults<'s> {
    /// For a shop that is not started yet.
    fn new(shop: &'s mut Shop, servers: &'s Servers, random: RandomSource, soak: bool) -> Self {
        let clocks = tempfile::tempdir().expect("a temporary folder");
        for process in &mut shop.processes {
            let clock = clocks.path().join(&process.name);
            std::fs::write(&clock, "+0").expect("a clock");
            process.with_clock_of(&clock);
        }
        let longest = if soak { 60 } else { 5 };
        let (under_way, happened) = (JoinSet::new(), BTreeMap::new());
        Self { shop, servers, random, longest, clocks, under_way, happened }
    }

    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.random.next_u64() % bound as u64).expect("small")
    }

    async fn happen_until(&mut self, until: Instant) {
        while Instant::now() < until {
            let name = self.next().await;
            *self.happened.entry(name).or_default() += 1;
            sleep(Duration::from_millis(300 + self.random.next_u64() % 1_200)).await;
        }
    }

    /// One more fault; what it was.
    async fn next(&mut self) -> &'static str {
        let victim = self.below(self.shop.processes.len());
        let seconds = 1 + self.below(usize::try_from(self.longest).expect("small")) as u64;
        let lasting = Duration::from_secs(seconds);
        match self.below(12) {
            0..=3 => {
                let process = &mut self.shop.processes[victim];
                process.kill().await;
                process.start();
                "kill"
            }
            4 | 5 => {
                let process = &self.shop.processes[victim];
                process.pause();
                let id = process.id().to_string();
                self.under_way.spawn(async move {
                    sleep(lasting).await;
                    // It may have been killed in the meantime.
                    let _ = tokio::process::Command::new("kill")
                        .args(["-CONT", &id])
                        .stderr(std::process::Stdio::null())
                        .status()
                        .await;
                });
                "pause"
            }
            6 => {
                let names = self.servers.names();
                let name = names[self.below(names.len())];
                self.servers.kill(name).await;
                sleep(Duration::from_secs(1)).await;
                self.servers.up(name).await;
                "server crash"
            }
            7 => {
                let hours = self.below(96).cast_signed() - 48;
                let clock = self.clocks.path().join(&self.shop.processes[victim].name);
                std::fs::write(clock, format!("{hours:+}h")).expect("a clock");
                "clock"
            }
            8 | 9 => {
                let locks = [
                    (&self.shop.payments_url, "select 1 from accounts limit 3 for update"),
                    (&self.shop.orders_url, "select 1 from orders limit 100 for update"),
                    (&self.shop.payments_url, "lock table payments in access exclusive mode"),
                    (&self.shop.orders_url, "lock table outbox_batches in exclusive mode"),
                ];
                let (url, lock) = locks[self.below(locks.len())];
                let (url, lasting) = (url.clone(), lasting / 2);
                self.under_way.spawn(async move {
                    let mut holder = Postgres::on(&url).await;
                    // The server may crash in the meantime.
                    let _ = holder.try_run(&format!("begin; {lock}")).await;
                    sleep(lasting).await;
                    holder.close().await;
                });
                "lock"
            }
            10 => {
                let urls = [&self.shop.orders_url, &self.shop.payments_url];
                let mut server = Postgres::beside(urls[self.below(2)]).await;
                server.end_sessions().await;
                server.close().await;
                "cut connections"
            }
            _ if self.servers.broker() == "rabbitmq" => {
                let (_, prefix) = self.shop.broker_url.split_once("prefix=").expect("a prefix");
                let topic = ["payment.requested", "payment.settled"][self.below(2)];
                self.servers.rabbitmqctl(&["purge_queue", &format!("{prefix}{topic}")]).await;
                "purged queue"
            }
            _ => {
                self.servers.kill("kafka").await;
                self.servers.up("kafka").await;
                "server crash"
            }
        }
    }

    /// Everything that is still wrong is put right; what has happened, and how often.
    async fn end(mut self) -> BTreeMap<&'static str, usize> {
        while let Some(ended) = self.under_way.join_next().await {
            ended.expect("a fault");
        }
        self.happened
    }
}
