//! Relays of several processes at one outbox, in many orders of their statements on PostgreSQL: no
//! batch is lost, and none is sent more often than it must be.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use futures_util::FutureExt as _;
use gozon_contract::{Clock, Delivery, RandomSource, Topic};
use gozon_store::{migrate, select};
use gozon_testkit::{Explored, Interleaving, Process, Rewrite, Story, TestDb};

use super::*;
use crate::{Batch, MIGRATIONS, Outbox, broker::Memory};

const NEWS: Topic = Topic { name: "news", delivery: Delivery::Broadcast };
const ROWS: i64 = 2;
/// Another process goes on at most so many times although the one before could.
const MAX_SWITCHES: usize = 2;

/// What one process does.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Deletes the rows, which it has just published.
    Delete,
    /// Takes over what is due, publishes and deletes it.
    Sweep,
}

struct Stage {
    processes: &'static [Act],
    db: Db,
    dbs: Vec<Db>,
    run: u64,
    clock: Clock,
    /// How often each batch was published.
    published: Arc<Mutex<BTreeMap<String, usize>>>,
    /// How often a batch may be published.
    most: usize,
    _test: TestDb,
}

async fn explore(
    processes: &'static [Act],
    faults: usize,
    most: usize,
    rewrites: &'static [Rewrite],
) -> Explored {
    let test = TestDb::postgres().await;
    let db = test.db();
    migrate(&db, MIGRATIONS).await.unwrap();
    let interleaving = Interleaving::of(&test, processes.len()).await;
    let interleaving = interleaving.with_faults(faults).with_switches(MAX_SWITCHES);
    let mut interleaving = interleaving.rewriting(rewrites);
    let dbs = interleaving.dbs().to_vec();
    let (clock, published) = (Clock::system(), Arc::default());
    let mut stage = Stage { processes, db, dbs, run: 0, clock, published, most, _test: test };
    interleaving.explore(&mut stage).await
}

/// Plays it in these orders, and shows how many there are.
async fn play(name: &str, processes: &'static [Act], faults: usize, most: usize) {
    let explored = explore(processes, faults, most, &[]).await.all_good();
    let Explored { orders, with_waits, steps, .. } = explored;
    println!("{name}: {orders} orders of steps, {with_waits} with waits, {steps} steps");
}

impl Stage {
    fn rows(&self) -> Vec<OutboxRow> {
        let now = self.clock.now();
        let row = |n: i64| OutboxRow {
            available_at: now.minus(Duration::from_secs(1)),
            created_at: now.minus(Duration::from_secs(5)),
            attempts: 0,
            events: 1,
            batch: Batch {
                id: format!("{}-{n}", self.run),
                topic: NEWS.name.to_owned(),
                body: b"{}".as_slice().into(),
            },
        };
        (0..ROWS).map(row).collect()
    }

    fn relay(&self, db: &Db) -> Relay {
        let random = RandomSource::seeded(self.run);
        let broker = Arc::new(Memory::new(&[NEWS], random.clone()));
        let clock = self.clock.clone();
        let context = Context::new("test", db.clone(), broker, clock.clone(), random.clone()).0;
        Relay::new(context, Outbox::new(clock, random).1)
    }

    fn process(&self, act: Act, db: &Db) -> Process {
        match act {
            Act::Delete => {
                let (db, rows) = (db.clone(), self.rows());
                note(&self.published, &rows);
                async move {
                    let _ = delete_all(&db, &rows).await;
                }
                .boxed()
            }
            Act::Sweep => sweep(self.relay(db), Arc::clone(&self.published)).boxed(),
        }
    }
}

fn note(published: &Mutex<BTreeMap<String, usize>>, rows: &[OutboxRow]) {
    let mut published = published.lock().unwrap();
    for row in rows {
        *published.entry(row.batch.id.clone()).or_default() += 1;
    }
}

/// The part of a relay's loop that takes rows over.
async fn sweep(mut relay: Relay, published: Arc<Mutex<BTreeMap<String, usize>>>) {
    relay.sweep();
    let (pass, claimed) = finished(&mut relay.sweeping).await;
    let Ok(rows) = relay.swept(pass, claimed) else { return };
    let sent = relay.publish(rows).await.unwrap();
    note(&published, &sent);
    let _ = delete_all(&relay.context.db, &sent).await;
}

impl Story for Stage {
    async fn begin(&mut self, run: u64) -> Vec<Process> {
        self.run = run;
        self.clock = Clock::manual(Timestamp::from_micros(1_763_683_200_000_000));
        self.published = Arc::default();
        let mut tx = self.db.begin().await.unwrap();
        tx.run_all(vec![sql::outbox::insert(&self.rows())]).await.unwrap();
        tx.commit().await.unwrap();
        self.processes.iter().zip(&self.dbs).map(|(act, db)| self.process(*act, db)).collect()
    }

    async fn check(&mut self) -> std::result::Result<(), String> {
        // In the end, an instance takes over what others left behind.
        self.clock.advance(Duration::from_mins(1));
        sweep(self.relay(&self.db), Arc::clone(&self.published)).await;
        let mut reader = self.db.read().await.unwrap();
        let left: Vec<(String,)> =
            reader.query(select!("select id from outbox_batches")).fetch_all().await.unwrap();
        if !left.is_empty() {
            return Err(format!("{left:?} are still in the outbox"));
        }
        let published = self.published.lock().unwrap();
        for row in self.rows() {
            let times = published.get(&row.batch.id).copied().unwrap_or(0);
            if times == 0 || times > self.most {
                return Err(format!("batch {} was published {times} times", row.batch.id));
            }
        }
        Ok(())
    }
}

const TWO_SWEEP: &[Act] = &[Act::Sweep, Act::Sweep];

#[tokio::test]
async fn two_sweep_what_a_dead_process_left() {
    play("sweep, sweep", TWO_SWEEP, 0, 1).await;
}

#[tokio::test]
async fn two_sweep_and_any_one_fault() {
    play("sweep, sweep, a fault", TWO_SWEEP, 1, 2).await;
}

#[tokio::test]
async fn a_sweep_and_the_delete_of_a_slow_process() {
    play("delete, sweep", &[Act::Delete, Act::Sweep], 0, 2).await;
    play("delete, sweep, a fault", &[Act::Delete, Act::Sweep], 1, 3).await;
}

#[tokio::test]
async fn two_sweeps_and_the_delete_of_a_slow_process() {
    play("delete, sweep, sweep", &[Act::Delete, Act::Sweep, Act::Sweep], 0, 2).await;
}

/// Rows that are claimed without a lock go out twice.
#[tokio::test]
async fn a_claim_without_a_lock_is_found() {
    let unlocked = &[("for update skip locked", "")];
    let failure = explore(TWO_SWEEP, 0, 1, unlocked).await.found();
    assert!(failure.what.contains("was published 2 times"), "{failure}");
}

/// So do rows whose lease does not move.
#[tokio::test]
async fn a_claim_without_a_lease_is_found() {
    let unmoved = &[("set available_at = $2 where", "set available_at = $2 - $2 + $1 where")];
    let failure = explore(TWO_SWEEP, 0, 1, unmoved).await.found();
    assert!(failure.what.contains("was published"), "{failure}");
}
