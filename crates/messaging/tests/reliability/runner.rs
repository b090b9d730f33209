//! The batch protocol: together, with locks, each by itself.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use gozon_contract::{Clock, RandomSource, Timestamp};
use gozon_messaging::{
    Context, Decision, Done, Failure, Guard, Job, MIGRATIONS, Mode, Outcome, Runner, UseCase,
};
use gozon_store::{Db, Error, Migration, Reader, Rows, Statement, migrate, select};
use gozon_testkit::{TestDb, on_both_databases};

use crate::broker::FakeBroker;

on_both_databases!(
    first_attempt_is_optimistic_the_next_locks,
    failing_batch_is_run_job_by_job,
    after_commit_runs_after_the_commit_only,
    panic_after_the_commit_loses_nothing,
    job_and_its_repeat_in_one_batch_are_done_once,
    job_done_before_gets_its_replies_again,
    jobs_without_a_key_are_each_done,
    panic_fails_only_its_own_job,
    missing_reply_is_refused_and_writes_nothing,
    unavailable_database_fails_all_without_more_attempts,
);

const TABLES: Migration = Migration {
    component: "counters",
    version: 1,
    postgres: "create table counter (name text primary key, n bigint not null check (n < 1000));
        create table request (key text primary key, reply bigint not null)",
    sqlite:
        "create table counter (name text primary key, n integer not null check (n < 1000)) strict;
        create table request (key text primary key, reply integer not null) strict",
};

/// Adds to a counter; the reply is what it counts then.
#[derive(Clone, Copy)]
struct Add {
    name: &'static str,
    amount: i64,
}

/// Meets trouble as the test has told it.
#[derive(Default)]
struct Counting {
    calls: Mutex<Vec<(Mode, usize)>>,
    /// The counter that it panics on.
    panics_on: Mutex<Option<&'static str>>,
    /// The counter for which it has no reply.
    forgets: Mutex<Option<&'static str>>,
    /// How often it meets a conflict.
    conflicts: AtomicU32,
    /// Somebody who is faster, once: between what it reads and what it writes.
    rival: Mutex<Option<Db>>,
    committed: Arc<AtomicU32>,
    panics_after_commit: AtomicBool,
}

#[async_trait]
impl UseCase for Counting {
    type Command = Add;
    type Reply = i64;

    async fn decide(
        &self,
        reader: &mut Reader,
        mode: Mode,
        commands: &[&Add],
    ) -> Result<Decision<i64>, Failure> {
        self.calls.lock().unwrap().push((mode, commands.len()));
        let names = Rows::of(commands).text("name", |add| add.name.to_owned()).done();
        let counters: Vec<(String, i64)> = reader
            .query(select!(
                "select name, n from counter where name {among} order by name {for_update}"
            ))
            .rows(names)
            .fetch_all()
            .await?;
        let rival = self.rival.lock().unwrap().take();
        if let Some(rival) = rival {
            let faster = Statement::new("update counter set n = n + 100");
            rival.optimistic().await?.commit(vec![faster]).await?;
        }
        let one_less = |conflicts: u32| conflicts.checked_sub(1);
        if self.conflicts.fetch_update(Relaxed, Relaxed, one_less).is_ok() {
            return Err(Error::conflict("as told").into());
        }
        let before: BTreeMap<_, _> = counters.into_iter().collect();
        let (mut after, mut replies) = (before.clone(), Vec::new());
        for add in commands {
            assert!(*self.panics_on.lock().unwrap() != Some(add.name), "as the test wants it");
            let n = after.get_mut(add.name).ok_or_else(|| Failure::Refused(add.name.to_owned()))?;
            *n += add.amount;
            if *self.forgets.lock().unwrap() != Some(add.name) {
                replies.push(*n);
            }
        }
        let update = |(name, n): (&String, &i64)| {
            Statement::new("update counter set n = $3 where name = $1 and n = $2")
                .bind(name.as_str())
                .bind(before[name])
                .bind(*n)
                .expecting(1)
        };
        let committed = Arc::clone(&self.committed);
        let panics = self.panics_after_commit.load(Relaxed);
        Ok(Decision {
            writes: after.iter().map(update).collect(),
            after_commit: Some(Box::new(move || {
                committed.fetch_add(1, Relaxed);
                assert!(!panics, "as the test wants it");
            })),
            ..Decision::replies(replies)
        })
    }
}

/// A key, stored with the reply.
struct Key(Option<&'static str>);

#[async_trait]
impl Guard for Key {
    type Reply = i64;
    type Key = &'static str;

    fn key(&self) -> Option<&'static str> {
        self.0
    }

    async fn find(
        reader: &mut Reader,
        guards: &[&Self],
    ) -> gozon_store::Result<Vec<Option<Done<i64>>>> {
        let keys = Rows::of(guards).text("key", |guard| guard.0.unwrap_or("").to_owned()).done();
        let stored = reader.query(select!("select key, reply from request where key {among}"));
        let stored: Vec<(String, i64)> = stored.rows(keys).fetch_all().await?;
        let found = |guard: &&Self| {
            let (_, reply) = stored.iter().find(|(key, _)| Some(key.as_str()) == guard.0)?;
            Some(Done { replies: vec![*reply], repeated: true })
        };
        Ok(guards.iter().map(found).collect())
    }

    fn mark(done: &[(&Self, &[i64])], _: Timestamp) -> Vec<Statement> {
        let keyed: Vec<_> =
            done.iter().filter_map(|(guard, replies)| Some((guard.0?, replies[0]))).collect();
        if keyed.is_empty() {
            return Vec::new();
        }
        let rows = Rows::of(&keyed).text("key", |(key, _)| (*key).to_owned());
        let rows = rows.int("reply", |(_, reply)| *reply).done();
        let insert = "insert into request (key, reply) select key, reply from {rows}";
        vec![Statement::new(insert).rows(rows)]
    }
}

/// A runner, and counters `a`, `b` and `c` at 0.
struct Rig {
    test: TestDb,
    counting: Arc<Counting>,
    runner: Runner<Counting, Key>,
}

impl Rig {
    async fn new(test: TestDb) -> Self {
        let db = test.db();
        migrate(&db, MIGRATIONS).await.unwrap();
        migrate(&db, &[TABLES]).await.unwrap();
        let zero =
            Statement::new("insert into counter (name, n) values ('a', 0), ('b', 0), ('c', 0)");
        db.optimistic().await.unwrap().commit(vec![zero]).await.unwrap();
        let clock = Clock::manual(Timestamp::from_micros(1_763_683_200_000_000));
        let broker = Arc::new(FakeBroker::default());
        let (context, _) = Context::new("test", db, broker, clock, RandomSource::seeded(7));
        let counting = Arc::<Counting>::default();
        let runner = Runner::new(context, Arc::clone(&counting));
        Self { test, counting, runner }
    }

    async fn run(&self, jobs: &[Job<Key, Add>]) -> Vec<Outcome<i64>> {
        self.runner.run(jobs).await
    }

    async fn counters(&self) -> [i64; 3] {
        let mut reader = self.test.another().read().await.unwrap();
        let counters = reader.query(select!("select n from counter order by name"));
        let counters: Vec<(i64,)> = counters.fetch_all().await.unwrap();
        [counters[0].0, counters[1].0, counters[2].0]
    }

    fn calls(&self) -> Vec<(Mode, usize)> {
        std::mem::take(&mut self.counting.calls.lock().unwrap())
    }

    fn committed(&self) -> u32 {
        self.counting.committed.swap(0, Relaxed)
    }
}

fn job(key: Option<&'static str>, name: &'static str) -> Job<Key, Add> {
    Job { guard: Key(key), commands: vec![Add { name, amount: 1 }] }
}

/// One for each counter.
fn three() -> [Job<Key, Add>; 3] {
    [job(Some("1"), "a"), job(Some("2"), "b"), job(Some("3"), "c")]
}

/// The replies of jobs that are done, with whether each is a repeat.
fn done(outcomes: Vec<Outcome<i64>>) -> Vec<(i64, bool)> {
    let done = outcomes.into_iter().map(Result::unwrap);
    done.map(|done| (done.replies[0], done.repeated)).collect()
}

async fn first_attempt_is_optimistic_the_next_locks(test: TestDb) {
    let rig = Rig::new(test).await;
    rig.counting.conflicts.store(2, Relaxed);
    assert_eq!(done(rig.run(&three()).await), [(1, false); 3]);
    let locking = (Mode::Locking, 3);
    assert_eq!(rig.calls(), [(Mode::Optimistic, 3), locking, locking]);
    assert_eq!(rig.counters().await, [1; 3]);
}

/// What was read is no longer so when it is written.
#[tokio::test]
async fn faster_rival_makes_the_batch_decide_again() {
    let rig = Rig::new(TestDb::postgres().await).await;
    *rig.counting.rival.lock().unwrap() = Some(rig.test.another());
    assert_eq!(done(rig.run(&three()).await), [(101, false); 3]);
    assert_eq!(rig.calls(), [(Mode::Optimistic, 3), (Mode::Locking, 3)]);
    assert_eq!(rig.committed(), 1);
}

async fn failing_batch_is_run_job_by_job(test: TestDb) {
    let rig = Rig::new(test).await;
    let [one, _, three] = three();
    let unknown = job(Some("2"), "no such counter");
    // More than the counter may hold: what it writes fails, not what it decides.
    let large = Job { guard: Key(Some("4")), commands: vec![Add { name: "b", amount: 1000 }] };
    let outcomes = rig.run(&[one, unknown, three, large]).await;
    assert!(matches!(&outcomes[1], Err(Failure::Refused(why)) if why == "no such counter"));
    assert!(matches!(&outcomes[3], Err(Failure::Store(Error::Other(_)))), "{:?}", outcomes[3]);
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert_eq!(rig.calls(), [&[(Mode::Optimistic, 4)][..], &[(Mode::Locking, 1); 4]].concat());
    assert_eq!(rig.counters().await, [1, 0, 1]);
}

async fn after_commit_runs_after_the_commit_only(test: TestDb) {
    let rig = Rig::new(test).await;
    rig.counting.conflicts.store(1, Relaxed);
    rig.run(&three()).await;
    assert_eq!(rig.committed(), 1);
    // A repeat finds its key when all is decided.
    rig.run(&three()).await;
    assert_eq!(rig.committed(), 0);
    let large = Job { guard: Key(None), commands: vec![Add { name: "b", amount: 1000 }] };
    rig.run(&[large]).await[0].as_ref().unwrap_err();
    assert_eq!(rig.committed(), 0);
}

async fn panic_after_the_commit_loses_nothing(test: TestDb) {
    let rig = Rig::new(test).await;
    rig.counting.panics_after_commit.store(true, Relaxed);
    assert_eq!(done(rig.run(&three()).await), [(1, false); 3]);
    assert_eq!(rig.committed(), 1);
    assert_eq!(rig.counters().await, [1; 3]);
    assert_eq!(done(rig.run(&three()).await), [(1, true); 3]);
}

async fn job_and_its_repeat_in_one_batch_are_done_once(test: TestDb) {
    let rig = Rig::new(test).await;
    let jobs = [job(Some("k"), "a"), job(Some("2"), "a"), job(Some("k"), "a"), job(Some("k"), "a")];
    assert_eq!(done(rig.run(&jobs).await), [(1, false), (2, false), (1, true), (1, true)]);
    assert_eq!(rig.counters().await, [2, 0, 0]);
}

async fn job_done_before_gets_its_replies_again(test: TestDb) {
    let rig = Rig::new(test).await;
    rig.run(&three()).await;
    rig.run(&[job(None, "a")]).await;
    let again = [job(Some("1"), "a"), job(Some("4"), "a")];
    assert_eq!(done(rig.run(&again).await), [(1, true), (3, false)]);
    assert_eq!(rig.counters().await, [3, 1, 1]);
}

async fn jobs_without_a_key_are_each_done(test: TestDb) {
    let rig = Rig::new(test).await;
    let jobs = [job(None, "a"), job(None, "a"), job(None, "b")];
    assert_eq!(done(rig.run(&jobs).await), [(1, false), (2, false), (1, false)]);
    assert_eq!(rig.counters().await, [2, 1, 0]);
}

async fn panic_fails_only_its_own_job(test: TestDb) {
    let rig = Rig::new(test).await;
    *rig.counting.panics_on.lock().unwrap() = Some("b");
    let outcomes = rig.run(&three()).await;
    assert!(matches!(outcomes[1], Err(Failure::Refused(_))), "{outcomes:?}");
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert_eq!(rig.counters().await, [1, 0, 1]);
}

async fn missing_reply_is_refused_and_writes_nothing(test: TestDb) {
    let rig = Rig::new(test).await;
    *rig.counting.forgets.lock().unwrap() = Some("b");
    let outcomes = rig.run(&three()).await;
    assert!(matches!(outcomes[1], Err(Failure::Refused(_))), "{outcomes:?}");
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert_eq!(rig.counters().await, [1, 0, 1]);
}

async fn unavailable_database_fails_all_without_more_attempts(test: TestDb) {
    let rig = Rig::new(test).await;
    let mut tx = rig.test.another().begin().await.unwrap();
    tx.query("alter table request rename to elsewhere").execute().await.unwrap();
    tx.commit().await.unwrap();
    let outcomes = rig.run(&three()).await;
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_err_and(Failure::is_unavailable)));
    assert!(rig.calls().len() <= 1);
    assert_eq!((rig.counters().await, rig.committed()), ([0; 3], 0));
}

/// A row that another session holds fails the jobs that need it; the others do not wait for it.
#[tokio::test]
async fn locked_row_fails_only_the_jobs_that_need_it() {
    let rig = Rig::new(TestDb::postgres().await).await;
    let other = rig.test.another();
    let mut holder = other.begin().await.unwrap();
    let hold = holder.query("select n from counter where name = 'b' {for_update}");
    hold.fetch_one::<(i64,)>().await.unwrap();
    let outcomes = rig.run(&three()).await;
    assert!(matches!(outcomes[1], Err(Failure::Store(Error::Locked(_)))), "{outcomes:?}");
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert_eq!(rig.counters().await, [1, 0, 1]);
    drop(holder);
    assert_eq!(done(rig.run(&three()).await), [(1, true), (1, false), (1, true)]);
    assert_eq!(rig.counters().await, [1; 3]);
}
