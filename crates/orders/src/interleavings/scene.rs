//! A scene: two orders, and what some processes do with them and at the same time.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use gozon_api::orders::Placed;
use gozon_contract::{
    CancelReason, Clock, Description, Money, Order, OrderId, OrderStatus, Outcome, PAYMENT_SETTLED,
    PAYMENTS_SOURCE, PaymentSettled, RandomSource, Timestamp, TraceParent, UserId,
};
use gozon_http::Answer;
use gozon_messaging::{Batch, BrokerError, Context, Event, Inbox, Subscriber, broker::Memory};
use gozon_service::{GroupCommit, KeyedRequest};
use gozon_store::{Db, migrate, select};
use gozon_testkit::{Explored, Interleaving, Process, Rewrite, Story, TestDb};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    apply::ApplyResults,
    place::{PlaceOrders, Placement},
    recent::Recent,
    sql,
    stream::{StreamLimits, Subscriptions},
    unsettled::Intake,
};

/// Two orders: the first is paid, the second declined.
const ORDERS: usize = 2;

/// With faults, or more than two processes, another process goes on at most so many times although
/// the one before could.
const MAX_SWITCHES: usize = 2;

/// What one process does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// Receives a delivery, with this id, of the results of these orders.
    Apply(&'static str, &'static [usize]),
    /// The same, by the instance that placed the orders and remembers them as NEW.
    ApplyRemembering(&'static str, &'static [usize]),
    /// The same, by an instance that has met a conflict a moment ago, so that it locks what it reads.
    ApplyLocking(&'static str, &'static [usize]),
    /// Places an order with an idempotency key that all such processes share.
    Place,
}

struct Stage {
    processes: &'static [Act],
    db: Db,
    dbs: Vec<Db>,
    run: u64,
    clock: Clock,
    records: Vec<Arc<Record>>,
    /// How many instances the run has had.
    instances: AtomicU64,
    _test: TestDb,
}

/// What became of what a process did.
#[derive(Default)]
struct Record {
    acknowledged: AtomicBool,
    answer: Mutex<Option<Answer<Placed>>>,
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

/// Plays it in every order, on a database that `ddl` has changed.
pub(super) async fn explore(
    processes: &'static [Act],
    faults: usize,
    ddl: &'static str,
    rewrites: &'static [Rewrite],
) -> Explored {
    let test = TestDb::postgres().await;
    let db = test.db();
    let migrations =
        [gozon_messaging::MIGRATIONS, gozon_service::MIGRATIONS, crate::MIGRATIONS].concat();
    migrate(&db, &migrations).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    tx.query("insert into inbox (id, received_at) values ('known', 0)").execute().await.unwrap();
    tx.query(ddl).execute().await.unwrap();
    tx.commit().await.unwrap();
    let interleaving = Interleaving::of(&test, processes.len()).await;
    let many = faults > 0 || processes.len() > 2;
    let switches = if many { MAX_SWITCHES } else { usize::MAX };
    let interleaving = interleaving.with_faults(faults).with_switches(switches);
    let mut interleaving = interleaving.rewriting(rewrites);
    let dbs = interleaving.dbs().to_vec();
    let clock = Clock::system();
    let mut stage = Stage {
        processes,
        db,
        dbs,
        run: 0,
        clock,
        records: Vec::new(),
        instances: AtomicU64::new(0),
        _test: test,
    };
    interleaving.explore(&mut stage).await
}

impl Stage {
    fn user(&self) -> UserId {
        Uuid::from_u128(u128::from(self.run + 1) << 32).into()
    }

    fn order_id(&self, n: usize) -> OrderId {
        Uuid::from_u128((u128::from(self.run + 1) << 32) | (1 << 16) | n as u128).into()
    }

    fn order(&self, n: usize) -> Order {
        let now = self.clock.now();
        Order {
            id: self.order_id(n),
            user_id: self.user(),
            amount: Money::try_from(9_900).unwrap(),
            description: Description::try_from("A red kettle".to_owned()).unwrap(),
            status: OrderStatus::New,
            cancel_reason: None,
            version: 1,
            created_at: now,
            updated_at: now,
        }
    }

    fn outcome(n: usize) -> Outcome {
        if n == 0 {
            Outcome::Paid
        } else {
            Outcome::Declined { reason: CancelReason::InsufficientFunds }
        }
    }

    fn batch(&self, id: &str, orders: &[usize]) -> Batch {
        let result = |n: &usize| {
            let (order_id, user_id) = (self.order_id(*n), self.user());
            let event = Event {
                topic: PAYMENT_SETTLED.name,
                source: PAYMENTS_SOURCE,
                subject: order_id,
                partition_key: user_id,
                time: self.clock.now(),
                traceparent: None,
                data: PaymentSettled { order_id, user_id, outcome: Self::outcome(*n) },
            };
            String::from_utf8(event.to_message().body.to_vec()).unwrap()
        };
        let events: Vec<_> = orders.iter().map(result).collect();
        let body = format!("[{}]", events.join(",")).into_bytes().into();
        Batch { id: format!("{id}-{}", self.run), topic: PAYMENT_SETTLED.name.to_owned(), body }
    }

    fn context(&self, db: &Db) -> Context {
        // Each instance has random numbers of its own.
        let instance = self.instances.fetch_add(1, SeqCst);
        let random = RandomSource::seeded((self.run << 8) | instance);
        let broker = Arc::new(Memory::new(crate::TOPICS, random.clone()));
        Context::new("orders", db.clone(), broker, self.clock.clone(), random).0
    }

    fn inbox(&self, db: &Db, recent: Recent) -> Inbox<ApplyResults> {
        let apply = ApplyResults {
            clock: self.clock.clone(),
            recent,
            subscriptions: Subscriptions::new(StreamLimits::default()),
            intake: Intake::default(),
        };
        Inbox::new(self.context(db), PAYMENT_SETTLED, apply)
    }

    fn applying(inbox: Inbox<ApplyResults>, batch: Batch, record: &Arc<Record>) -> Process {
        let mut queue = Queue(Arc::clone(record));
        async move {
            let _ = inbox.step(&mut queue, vec![batch]).await;
        }
        .boxed()
    }

    /// Places an order; each request for it makes an id of its own.
    fn placing(&self, db: &Db, id: usize, record: &Arc<Record>) -> Process {
        let (user, record) = (self.user(), Arc::clone(record));
        let key = "the-key".parse().unwrap();
        let key = Some(KeyedRequest::new(key, "POST /orders", &"a red kettle"));
        let place = PlaceOrders {
            recent: Recent::new(),
            subscriptions: Subscriptions::new(StreamLimits::default()),
        };
        let order = Arc::new(self.order(id));
        let trace = TraceParent::start(&RandomSource::seeded(self.run));
        let context = self.context(db);
        let (queue, run) = GroupCommit::new("orders", context, place, CancellationToken::new());
        async move {
            tokio::select! {
                () = run => {}
                answered = queue.submit(user, key, Placement { order, trace }) => {
                    *record.answer.lock().unwrap() = answered.ok().map(|answered| answered.answer);
                }
            }
        }
        .boxed()
    }

    async fn process(&self, n: usize, db: &Db, record: &Arc<Record>) -> Process {
        match self.processes[n] {
            Act::Apply(id, orders) => {
                Self::applying(self.inbox(db, Recent::new()), self.batch(id, orders), record)
            }
            Act::ApplyRemembering(id, orders) => {
                let recent = Recent::new();
                let placed: Vec<_> = orders.iter().map(|n| Arc::new(self.order(*n))).collect();
                recent.remember(&placed);
                Self::applying(self.inbox(db, recent), self.batch(id, orders), record)
            }
            Act::ApplyLocking(id, orders) => {
                let inbox = self.inbox(db, Recent::new());
                let known = Batch { id: "known".to_owned(), ..self.batch("", &[]) };
                inbox.step(&mut Queue(Arc::default()), vec![known]).await.unwrap();
                Self::applying(inbox, self.batch(id, orders), record)
            }
            Act::Place => self.placing(db, ORDERS + n, record),
        }
    }

    /// What was not acknowledged comes again, and a client without an answer asks again.
    async fn finish(&self) {
        for (n, record) in self.records.iter().enumerate() {
            match self.processes[n] {
                Act::Apply(id, orders)
                | Act::ApplyRemembering(id, orders)
                | Act::ApplyLocking(id, orders) => {
                    let batch = self.batch(id, orders);
                    if !record.acknowledged.load(SeqCst) {
                        Self::applying(self.inbox(&self.db, Recent::new()), batch, record).await;
                    }
                }
                Act::Place if record.answer.lock().unwrap().is_none() => {
                    self.placing(&self.db, 2 * ORDERS + n, record).await;
                }
                Act::Place => {}
            }
        }
        for _ in 0..3 {
            self.clock.advance(Duration::from_mins(2));
            self.inbox(&self.db, Recent::new()).retry_step().await.unwrap();
        }
    }

    fn check_orders(&self, orders: &[(Uuid, String, i64)]) -> Result<(), String> {
        let applied = |n: usize| {
            self.processes.iter().any(|act| match act {
                Act::Apply(_, orders)
                | Act::ApplyRemembering(_, orders)
                | Act::ApplyLocking(_, orders) => orders.contains(&n),
                Act::Place => false,
            })
        };
        for n in 0..ORDERS {
            let expected = match (applied(n), n) {
                (false, _) => ("NEW", 1),
                (true, 0) => ("FINISHED", 2),
                (true, _) => ("CANCELLED", 2),
            };
            let id = self.order_id(n).uuid();
            let found = orders.iter().find(|(order, ..)| *order == id);
            if found.is_none_or(|(_, status, version)| (status.as_str(), *version) != expected) {
                return Err(format!("order {n} is {found:?}, and should be {expected:?}"));
            }
        }
        let places = self.processes.iter().any(|act| matches!(act, Act::Place));
        if orders.len() != ORDERS + usize::from(places) {
            return Err(format!("one key, and these orders: {orders:?}"));
        }
        let answers: Vec<_> = self
            .records
            .iter()
            .zip(self.processes)
            .filter(|(_, act)| matches!(act, Act::Place))
            .map(|(record, _)| record.answer.lock().unwrap().clone())
            .collect();
        if answers.windows(2).any(|two| two[0] != two[1]) || answers.contains(&None) {
            return Err(format!("the same key, and other answers: {answers:?}"));
        }
        Ok(())
    }

    /// Each change is announced once, and each placed order is asked for once.
    fn check_events(
        &self,
        orders: &[(Uuid, String, i64)],
        events: &[(String,)],
    ) -> Result<(), String> {
        let count = |id: &Uuid, topic: &str| {
            let event = format!("{id}:{topic}");
            events.iter().filter(|(id,)| *id == event).count()
        };
        let known: Vec<_> = (0..ORDERS).map(|n| self.order_id(n).uuid()).collect();
        for (id, _, version) in orders {
            let changes = count(id, "order.changed");
            if changes != usize::from(*version == 2) {
                return Err(format!("order {id} was announced {changes} times"));
            }
            let requests = count(id, "payment.requested");
            if !known.contains(id) && requests != 1 {
                return Err(format!("the payment of order {id} is asked for {requests} times"));
            }
        }
        Ok(())
    }
}

impl Story for Stage {
    async fn begin(&mut self, run: u64) -> Vec<Process> {
        self.run = run;
        self.instances = AtomicU64::new(0);
        self.clock = Clock::manual(Timestamp::from_micros(1_763_683_200_000_000));
        self.records = self.processes.iter().map(|_| Arc::default()).collect();
        let orders: Vec<_> = (0..ORDERS).map(|n| Arc::new(self.order(n))).collect();
        let mut tx = self.db.begin().await.unwrap();
        tx.run_all(vec![sql::insert_orders(&orders)]).await.unwrap();
        tx.commit().await.unwrap();
        let mut processes = Vec::new();
        for (n, (db, record)) in self.dbs.iter().zip(&self.records).enumerate() {
            processes.push(self.process(n, db, record).await);
        }
        processes
    }

    async fn check(&mut self) -> Result<(), String> {
        self.finish().await;
        let mut tx = self.db.begin().await.unwrap();
        let reader = tx.reader();
        let orders: Vec<(Uuid, String, i64)> = reader
            .query(select!("select id, status, version from orders where user_id = $1"))
            .bind(self.user().uuid())
            .fetch_all()
            .await
            .unwrap();
        let events: Vec<(String,)> = reader
            .query(select!("select event.value ->> 'id' from outbox_batches {each_event}"))
            .fetch_all()
            .await
            .unwrap();
        let left: Vec<(String,)> = reader
            .query(select!("select id from inbox_pending union all select id from dead_letters"))
            .fetch_all()
            .await
            .unwrap();
        tx.query("delete from outbox_batches").execute().await.unwrap();
        tx.commit().await.unwrap();
        if !left.is_empty() {
            return Err(format!("{left:?} still wait"));
        }
        self.check_orders(&orders)?;
        self.check_events(&orders, &events)
    }
}
