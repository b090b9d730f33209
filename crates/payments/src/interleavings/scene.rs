//! A scene: accounts, orders, and what some processes do with them at the same time.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use gozon_api::payments::{Deposit, ToppedUp};
use gozon_contract::{
    Balance, Clock, Money, ORDERS_SOURCE, OrderId, PAYMENT_REQUESTED, PaymentRequested,
    RandomSource, Timestamp, UserId,
};
use gozon_http::Answer;
use gozon_messaging::{
    Batch, BrokerError, Context, DeadLetters, Event, Inbox, Message, Subscriber, broker::Memory,
    dead_letters::Filter,
};
use gozon_service::{GroupCommit, KeyedRequest};
use gozon_store::{Db, migrate};
use gozon_testkit::{Explored, Interleaving, Process, Story, TestDb};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::books;
use crate::{
    deposit::Deposits,
    ledger::{Account, Ledger},
    settle::Settle,
    sql,
};

/// What one process does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// Receives a delivery with the requests for these orders.
    Settle(Delivery),
    /// The same, by an instance that has met a conflict a moment ago, so that it locks what it reads.
    SettleLocking(Delivery),
    /// Tops up the first account by so much.
    Deposit(i64),
    /// The same, with an idempotency key that all such processes share.
    DepositWithKey(i64),
    /// An operator has all dead letters tried again, and this process does it.
    RetryDeadLetters,
    /// Makes the attempts at pending events that are due.
    RetryPending,
    /// The same, by an instance that takes all leases for over: its own time is a minute ahead.
    RetryPendingLate,
}

/// A delivery: its id, and the places of its orders in the scene.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery(pub &'static str, pub &'static [usize]);

/// Where the request for the scene's last order is at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Nowhere,
    DeadLetter,
    Pending,
}

/// What there is, and what is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene {
    /// What each account holds at the start.
    pub accounts: &'static [i64],
    /// The account and amount of each order.
    pub orders: &'static [(usize, i64)],
    pub start: Start,
    pub processes: &'static [Act],
}

/// A scene on a stage.
pub(super) struct Stage {
    scene: Scene,
    test: TestDb,
    dbs: Vec<Db>,
    db: Db,
    run: u64,
    clock: Clock,
    records: Vec<Arc<Record>>,
    /// How many instances the run has had.
    instances: AtomicU64,
}

/// What became of what a process did.
#[derive(Default)]
struct Record {
    acknowledged: AtomicBool,
    answer: Mutex<Option<Answer<ToppedUp>>>,
}

/// A delivery on its way. Given back, it is gone from this process.
struct Queue(Arc<Record>);

#[async_trait]
impl Subscriber for Queue {
    async fn receive(&mut self, _: usize) -> Result<Vec<Batch>, BrokerError> {
        std::future::pending().await
    }

    async fn ack(&mut self) -> Result<(), BrokerError> {
        self.0.acknowledged.store(true, SeqCst);
        Ok(())
    }

    async fn nack(&mut self) -> Result<(), BrokerError> {
        Err(BrokerError::Away("the delivery is given back".to_owned()))
    }
}

impl Scene {
    /// Plays the scene in every order of its steps, on a database that `ddl` has changed and with
    /// what `prepare` does to the processes.
    pub async fn explore(
        self,
        ddl: &'static [&'static str],
        prepare: impl FnOnce(Interleaving) -> Interleaving,
    ) -> Explored {
        let test = TestDb::postgres().await;
        let migrations =
            [gozon_messaging::MIGRATIONS, gozon_service::MIGRATIONS, crate::MIGRATIONS];
        migrate(&test.db(), &migrations.concat()).await.unwrap();
        let mut tx = test.db().begin().await.unwrap();
        for ddl in ddl {
            tx.query(ddl).execute().await.unwrap();
        }
        tx.query("insert into inbox (id, received_at) values ('known', 0)")
            .execute()
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let mut interleaving = prepare(Interleaving::of(&test, self.processes.len()).await);
        let mut stage = Stage {
            scene: self,
            db: test.db(),
            dbs: interleaving.dbs().to_vec(),
            test,
            run: 0,
            clock: Clock::system(),
            records: Vec::new(),
            instances: AtomicU64::new(0),
        };
        interleaving.explore(&mut stage).await
    }
}

impl Stage {
    fn user(&self, n: usize) -> UserId {
        Uuid::from_u128((u128::from(self.run + 1) << 32) | n as u128).into()
    }

    fn users(&self) -> Vec<UserId> {
        (0..self.scene.accounts.len()).map(|n| self.user(n)).collect()
    }

    fn order(&self, n: usize) -> OrderId {
        Uuid::from_u128((u128::from(self.run + 1) << 32) | (1 << 16) | n as u128).into()
    }

    fn request(&self, n: usize) -> Message {
        let (account, amount) = self.scene.orders[n];
        let (order_id, user_id) = (self.order(n), self.user(account));
        let amount = Money::try_from(amount).unwrap();
        Event {
            topic: PAYMENT_REQUESTED.name,
            source: ORDERS_SOURCE,
            subject: order_id,
            partition_key: user_id,
            time: self.clock.now(),
            traceparent: None,
            data: PaymentRequested { order_id, user_id, amount },
        }
        .to_message()
    }

    fn batch(&self, Delivery(id, orders): Delivery) -> Batch {
        let bodies: Vec<_> = orders
            .iter()
            .map(|order| String::from_utf8(self.request(*order).body.to_vec()).unwrap())
            .collect();
        let body = format!("[{}]", bodies.join(",")).into_bytes().into();
        Batch { id: format!("{id}-{}", self.run), topic: PAYMENT_REQUESTED.name.to_owned(), body }
    }

    fn context(&self, db: &Db, clock: &Clock) -> Context {
        // Each instance has random numbers of its own.
        let instance = self.instances.fetch_add(1, SeqCst);
        let random = RandomSource::seeded((self.run << 8) | instance);
        let broker = Arc::new(Memory::new(crate::TOPICS, random.clone()));
        Context::new("payments", db.clone(), broker, clock.clone(), random).0
    }

    fn inbox(&self, db: &Db, clock: &Clock) -> Inbox<Settle> {
        let settle = Settle { clock: clock.clone() };
        Inbox::new(self.context(db, clock), PAYMENT_REQUESTED, settle)
    }

    /// Opens the accounts and tops them up.
    async fn open_accounts(&self) {
        let now = self.clock.now();
        let account =
            |user_id| Account { user_id, balance: Balance::ZERO, version: 1, created_at: now };
        let accounts: Vec<_> = self.users().into_iter().map(account).collect();
        let mut tx = self.db.begin().await.unwrap();
        tx.run_all(vec![sql::insert_accounts(&accounts)]).await.unwrap();
        let mut ledger = Ledger::open(accounts.iter().copied(), now);
        for (account, amount) in accounts.iter().zip(self.scene.accounts) {
            ledger.deposit(account.user_id, Money::try_from(*amount).unwrap()).unwrap();
        }
        tx.run_all(sql::store(&[], &ledger.close(), now)).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Puts the request for the last order where the scene says.
    async fn put_request(&self) {
        let sql = match self.scene.start {
            Start::Nowhere => return,
            Start::DeadLetter => {
                "insert into dead_letters
                    (id, origin, topic, partition_key, body, received_at, attempts, died_at, error)
                 values ($1, 'inbox', $2, $3, $4, $5, 8, $5, 'a fault that was mended')"
            }
            Start::Pending => {
                "insert into inbox_pending
                    (id, topic, partition_key, body, received_at, attempts, next_attempt_at, error)
                 values ($1, $2, $3, $4, $5, 0, $5, 'a fault that was mended')"
            }
        };
        let message = self.request(self.scene.orders.len() - 1);
        let mut tx = self.db.begin().await.unwrap();
        tx.query(sql)
            .bind(message.id.as_str())
            .bind(message.topic.as_str())
            .bind(message.key.as_str())
            .bind(&*message.body)
            .bind(self.clock.now().micros())
            .execute()
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    fn settling(&self, delivery: Delivery, inbox: Inbox<Settle>, record: &Arc<Record>) -> Process {
        let (batch, mut queue) = (self.batch(delivery), Queue(Arc::clone(record)));
        async move {
            let _ = inbox.step(&mut queue, vec![batch]).await;
        }
        .boxed()
    }

    fn depositing(&self, db: &Db, amount: i64, with_key: bool, record: &Arc<Record>) -> Process {
        let (user, record) = (self.user(0), Arc::clone(record));
        let request = Deposit { amount: Money::try_from(amount).unwrap() };
        let key = with_key.then(|| "the-key".parse().unwrap());
        let key = key.map(|key| KeyedRequest::new(key, "POST /accounts/deposit", &request));
        let stop = CancellationToken::new();
        let deposits = Deposits { clock: self.clock.clone() };
        let context = self.context(db, &self.clock);
        let (queue, run) = GroupCommit::new("deposits", context, deposits, stop);
        async move {
            tokio::select! {
                () = run => {}
                answered = queue.submit(user, key, (user, request)) => {
                    *record.answer.lock().unwrap() = answered.ok().map(|answered| answered.answer);
                }
            }
        }
        .boxed()
    }

    async fn process(&self, act: Act, db: &Db, record: &Arc<Record>) -> Process {
        let clock = self.clock.clone();
        match act {
            Act::Settle(delivery) => self.settling(delivery, self.inbox(db, &clock), record),
            Act::SettleLocking(delivery) => {
                let inbox = self.inbox(db, &clock);
                let known = Batch { id: "known".to_owned(), ..self.batch(Delivery("", &[])) };
                inbox.step(&mut Queue(Arc::default()), vec![known]).await.unwrap();
                self.settling(delivery, inbox, record)
            }
            Act::Deposit(amount) => self.depositing(db, amount, false, record),
            Act::DepositWithKey(amount) => self.depositing(db, amount, true, record),
            Act::RetryDeadLetters => {
                let letters = DeadLetters::new(db.clone(), clock.clone());
                let inbox = self.inbox(db, &clock);
                async move {
                    let _ = letters.retry(&Filter::default()).await;
                    let _ = inbox.retry_step().await;
                }
                .boxed()
            }
            Act::RetryPending | Act::RetryPendingLate => {
                let late = Clock::manual(clock.now().plus(Duration::from_mins(1)));
                let clock = if matches!(act, Act::RetryPending) { clock } else { late };
                let inbox = self.inbox(db, &clock);
                async move {
                    let _ = inbox.retry_step().await;
                }
                .boxed()
            }
        }
    }

    /// What the world around does in the end: what was not acknowledged comes again, a client without
    /// an answer asks again, and what waits is tried again.
    async fn finish(&self) -> Result<(), String> {
        for (act, record) in self.scene.processes.iter().zip(&self.records) {
            match *act {
                Act::Settle(delivery) | Act::SettleLocking(delivery)
                    if !record.acknowledged.load(SeqCst) =>
                {
                    self.settling(delivery, self.inbox(&self.db, &self.clock), record).await;
                }
                Act::DepositWithKey(amount) if record.answer.lock().unwrap().is_none() => {
                    self.depositing(&self.db, amount, true, record).await;
                }
                _ => {}
            }
        }
        let letters = DeadLetters::new(self.db.clone(), self.clock.clone());
        letters.retry(&Filter::default()).await.map_err(|error| error.to_string())?;
        for _ in 0..3 {
            self.clock.advance(Duration::from_mins(2));
            let inbox = self.inbox(&self.db, &self.clock);
            inbox.retry_step().await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// The requests and deposits, each once.
    fn units(&self) -> BTreeSet<Unit> {
        let mut units = BTreeSet::new();
        for act in self.scene.processes {
            match *act {
                Act::Settle(Delivery(_, orders)) | Act::SettleLocking(Delivery(_, orders)) => {
                    units.extend(orders.iter().map(|order| Unit::Pay(*order)));
                }
                Act::Deposit(amount) | Act::DepositWithKey(amount) => {
                    units.insert(Unit::Deposit(amount));
                }
                Act::RetryDeadLetters | Act::RetryPending | Act::RetryPendingLate => {}
            }
        }
        if self.scene.start != Start::Nowhere {
            units.insert(Unit::Pay(self.scene.orders.len() - 1));
        }
        units
    }

    /// The orders whose payment is asked for.
    fn asked_for(&self) -> Vec<usize> {
        let order = |unit| if let Unit::Pay(order) = unit { Some(order) } else { None };
        self.units().into_iter().filter_map(order).collect()
    }

    /// What may come out: what comes of some order of the requests and deposits, one by one.
    fn serial_results(&self) -> BTreeSet<(Vec<i64>, Vec<bool>)> {
        let mut units: Vec<_> = self.units().into_iter().collect();
        let orders = self.asked_for();
        let mut results = BTreeSet::new();
        permute(&mut units, 0, &mut |units| {
            let mut balances = self.scene.accounts.to_vec();
            let mut paid = vec![false; self.scene.orders.len()];
            for unit in units {
                match *unit {
                    Unit::Deposit(amount) => balances[0] += amount,
                    Unit::Pay(order) => {
                        let (account, amount) = self.scene.orders[order];
                        paid[order] = balances[account] >= amount;
                        balances[account] -= if paid[order] { amount } else { 0 };
                    }
                }
            }
            results.insert((balances, orders.iter().map(|order| paid[*order]).collect()));
        });
        results
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Deposit(i64),
    Pay(usize),
}

fn permute(units: &mut [Unit], from: usize, visit: &mut impl FnMut(&[Unit])) {
    if from == units.len() {
        return visit(units);
    }
    for i in from..units.len() {
        units.swap(from, i);
        permute(units, from + 1, visit);
        units.swap(from, i);
    }
}

impl Story for Stage {
    async fn begin(&mut self, run: u64) -> Vec<Process> {
        self.run = run;
        self.instances = AtomicU64::new(0);
        self.clock = Clock::manual(Timestamp::from_micros(1_763_683_200_000_000));
        self.records = self.scene.processes.iter().map(|_| Arc::default()).collect();
        self.open_accounts().await;
        self.put_request().await;
        let mut processes = Vec::new();
        for ((act, db), record) in self.scene.processes.iter().zip(&self.dbs).zip(&self.records) {
            processes.push(self.process(*act, db, record).await);
        }
        processes
    }

    async fn check(&mut self) -> Result<(), String> {
        self.finish().await?;
        let orders: Vec<_> = self.asked_for().into_iter().map(|n| self.order(n)).collect();
        let result = books::check(&self.test, &self.users(), &orders).await?;
        let possible = self.serial_results();
        if !possible.contains(&result) {
            return Err(format!("it came to {result:?}, and may come to {possible:?}"));
        }
        let answers: Vec<_> = self
            .records
            .iter()
            .zip(self.scene.processes)
            .filter(|(_, act)| matches!(act, Act::DepositWithKey(_)))
            .map(|(record, _)| record.answer.lock().unwrap().clone())
            .collect();
        if answers.windows(2).any(|two| two[0] != two[1]) || answers.contains(&None) {
            return Err(format!("the same key, and other answers: {answers:?}"));
        }
        Ok(())
    }
}
