//! A service to test with: its tables, a broker and a use case that fail when told to, and a clock
//! that is moved by hand.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use gozon_contract::{Clock, Delivery, RandomSource, Timestamp, Topic};
use gozon_messaging::{
    Added, Batch, BrokerError, Context, DeadLetters, Event, HandOver, Inbox, MIGRATIONS, Message,
    Outbox, Outgoing, Relay, Subscriber,
};
use gozon_store::{Db, Migration, Rows, Select, migrate, select};
use gozon_testkit::TestDb;

use crate::{broker::FakeBroker, use_case::FakeUseCase};

pub(crate) const THING: Topic = Topic { name: "thing", delivery: Delivery::Competing };
pub(crate) const NEWS: Topic = Topic { name: "news", delivery: Delivery::Broadcast };

/// What the use case does: an effect that shows every repeat, a reference that is checked only by
/// the commit, and the guard of its own that it may be told to keep.
const EFFECTS: Migration = Migration {
    component: "test",
    version: 1,
    postgres: "create table parent (n bigint primary key);
        insert into parent values (1);
        create table done (id text primary key);
        create table effect (
            id text not null,
            parent bigint not null references parent (n) deferrable initially deferred
        )",
    sqlite: "create table parent (n integer primary key) strict;
        insert into parent values (1);
        create table done (id text primary key) strict;
        create table effect (
            id text not null,
            parent integer not null references parent (n) deferrable initially deferred
        ) strict",
};

pub(crate) struct Service {
    pub(crate) test: TestDb,
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    pub(crate) broker: Arc<FakeBroker>,
    pub(crate) use_case: FakeUseCase,
    pub(crate) context: Context,
    hand_over: Option<HandOver>,
}

impl Service {
    pub(crate) async fn new(test: TestDb) -> Self {
        migrate(&test.db(), MIGRATIONS).await.unwrap();
        Self::on_migrated(test).await
    }

    /// A service whose messaging tables the test has made.
    pub(crate) async fn on_migrated(test: TestDb) -> Self {
        let db = test.db();
        migrate(&db, &[EFFECTS]).await.unwrap();
        let clock = Clock::manual(Timestamp::from_micros(1_763_683_200_000_000));
        let broker = Arc::<FakeBroker>::default();
        let random = RandomSource::seeded(7);
        let (context, hand_over) =
            Context::new("test", db.clone(), Arc::clone(&broker) as _, clock.clone(), random);
        let use_case = FakeUseCase::default();
        Self { test, db, clock, broker, use_case, context, hand_over: Some(hand_over) }
    }

    /// The relay of this process.
    pub(crate) fn relay(&mut self) -> Relay {
        let hand_over = self.hand_over.take().unwrap();
        Relay::new(self.elsewhere(), hand_over)
    }

    /// The relay of another process, or of this one after a restart.
    pub(crate) fn another_relay(&self) -> Relay {
        let Context { clock, random, .. } = self.context.clone();
        Relay::new(self.elsewhere(), Outbox::new(clock, random).1)
    }

    /// The service as another process has it, with connections of its own.
    pub(crate) fn elsewhere(&self) -> Context {
        Context { db: self.test.another(), ..self.context.clone() }
    }

    pub(crate) fn inbox(&self) -> Inbox<FakeUseCase> {
        self.inbox_in(self.context.clone())
    }

    pub(crate) fn inbox_in(&self, context: Context) -> Inbox<FakeUseCase> {
        Inbox::new(context, THING, self.use_case.clone())
    }

    pub(crate) fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(self.db.clone(), self.clock.clone())
    }

    pub(crate) fn message(&self, name: &str) -> Message {
        event(name, self.clock.now()).to_message()
    }

    pub(crate) fn messages(&self, names: &[&str]) -> Vec<Message> {
        names.iter().map(|name| self.message(name)).collect()
    }

    /// A delivery with this id, of the events with these names.
    pub(crate) fn delivery(&self, id: &str, names: &[&str]) -> Batch {
        batch(id, &self.messages(names))
    }

    /// A delivery of one event, with an id of its own.
    pub(crate) fn alone(&self, name: &str) -> Batch {
        self.delivery(&format!("of {name}"), &[name])
    }

    /// Commits events to the outbox without telling the relay, as a process does that crashes right
    /// after the commit.
    pub(crate) async fn leave_behind(&self, names: &[&str]) {
        drop(self.commit(names).await);
    }

    /// Commits events to the outbox.
    pub(crate) async fn commit(&self, names: &[&str]) -> Added {
        let mut outgoing = Outgoing::default();
        for name in names {
            outgoing.push(&event(name, self.clock.now()));
        }
        self.commit_all(outgoing).await
    }

    pub(crate) async fn commit_all(&self, outgoing: Outgoing) -> Added {
        let added = self.context.outbox.add(outgoing);
        let work = self.db.optimistic().await.unwrap();
        work.commit(added.statement().into_iter().collect()).await.unwrap();
        added
    }

    /// Lets the relay go on until something was published; the ids of those events.
    pub(crate) async fn sent_by(&self, relay: &mut Relay) -> Vec<String> {
        loop {
            relay.step().await;
            let sent = self.broker.take();
            if !sent.is_empty() {
                return sent;
            }
        }
    }

    /// Lets the relay go on until the outbox is empty.
    pub(crate) async fn emptied_by(&self, relay: &mut Relay) {
        while !self.unsent().await.is_empty() {
            relay.step().await;
        }
    }

    /// The ids of all effects, sorted; one that happened twice is there twice.
    pub(crate) async fn effects(&self) -> Vec<String> {
        self.ids(select!("select id from effect order by id")).await
    }

    /// The ids of the events in the outbox, sorted.
    pub(crate) async fn unsent(&self) -> Vec<String> {
        self.ids(select!(
            "select id from (
                select event.value ->> 'id' as id from outbox_batches {each_event}
                union all select id from outbox
             ) as unsent order by id"
        ))
        .await
    }

    pub(crate) async fn pending(&self) -> Vec<String> {
        self.ids(select!("select id from inbox_pending order by id")).await
    }

    pub(crate) async fn dead(&self) -> Vec<String> {
        self.ids(select!("select id from dead_letters order by id")).await
    }

    /// The deliveries that the inbox remembers.
    pub(crate) async fn marks(&self) -> Vec<String> {
        self.ids(select!("select id from inbox order by id")).await
    }

    async fn ids(&self, sql: Select) -> Vec<String> {
        let mut reader = self.test.another().read().await.unwrap();
        let ids: Vec<(String,)> = reader.query(sql).fetch_all().await.unwrap();
        ids.into_iter().map(|(id,)| id).collect()
    }

    /// The attempts that each pending event has used, by id.
    pub(crate) async fn attempts(&self) -> Vec<(String, i64)> {
        let mut reader = self.db.read().await.unwrap();
        let attempts = reader.query(select!("select id, attempts from inbox_pending order by id"));
        attempts.fetch_all().await.unwrap()
    }

    /// Runs statements of the test.
    pub(crate) async fn sql(&self, sql: &'static str) {
        let mut tx = self.db.begin().await.unwrap();
        tx.query(sql).execute().await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Gives up on received events with these names, now.
    pub(crate) async fn bury(&self, names: &[&str]) {
        let messages = self.messages(names);
        let rows = Rows::of(&messages)
            .text("id", |message| message.id.clone())
            .text("partition_key", |message| message.key.clone())
            .bytes("body", |message| message.body.to_vec())
            .done();
        let mut tx = self.db.begin().await.unwrap();
        let buried = tx
            .query(
                "insert into dead_letters (id, origin, topic, partition_key, body, received_at,
                    attempts, died_at, error)
                 select id, 'inbox', 'thing', partition_key, body, $1, 8, $1, 'no way' from {rows}",
            )
            .bind(self.clock.now().micros())
            .rows(rows);
        buried.execute().await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Makes later attempts until no event waits for one; how many there were.
    pub(crate) async fn settle_pending(&self, inbox: &Inbox<FakeUseCase>) -> usize {
        let mut attempts = 0;
        while !self.pending().await.is_empty() {
            attempts += inbox.retry_step().await.unwrap();
            self.clock.advance(A_WHILE);
        }
        attempts
    }
}

/// The event with this name.
pub(crate) fn event(name: &str, time: Timestamp) -> Event<'_, &str, &str, &str> {
    Event {
        topic: THING.name,
        source: "/test",
        subject: name,
        partition_key: name,
        time,
        traceparent: None,
        data: name,
    }
}

/// The id of the event with this name.
pub(crate) fn id(name: &str) -> String {
    format!("{name}:thing")
}

/// Messages of one topic as a batch.
pub(crate) fn batch(id: &str, messages: &[Message]) -> Batch {
    let bodies: Vec<_> = messages.iter().map(|message| &message.body[..]).collect();
    let body = match bodies[..] {
        [one] => one.to_vec(),
        _ => [b"[", &bodies.join(&b","[..])[..], b"]"].concat(),
    };
    Batch { id: id.to_owned(), topic: messages[0].topic.clone(), body: body.into() }
}

/// The ids of the events of batches, in order.
pub(crate) fn event_ids(batches: &[Batch]) -> Vec<String> {
    batches.iter().flat_map(Batch::split).map(|message| message.id).collect()
}

/// The receiving end that a test holds: it hands batches to the inbox and sees what becomes of
/// them.
#[derive(Default)]
struct FakeSubscriber {
    acked: usize,
    nacked: usize,
}

#[async_trait]
impl Subscriber for FakeSubscriber {
    async fn receive(&mut self, _: usize) -> Result<Vec<Batch>, BrokerError> {
        std::future::pending().await
    }

    async fn ack(&mut self) -> Result<(), BrokerError> {
        self.acked += 1;
        Ok(())
    }

    async fn nack(&mut self) -> Result<(), BrokerError> {
        self.nacked += 1;
        Ok(())
    }
}

/// Hands deliveries to an inbox, all at the same time; whether they were acknowledged.
pub(crate) async fn deliver(inbox: &Inbox<FakeUseCase>, batches: &[Batch]) -> bool {
    let mut subscriber = FakeSubscriber::default();
    inbox.step(&mut subscriber, batches.to_vec()).await.unwrap();
    assert_eq!(subscriber.acked + subscriber.nacked, 1);
    subscriber.acked == 1
}

/// A little longer than any lease or wait of the outbox.
pub(crate) const A_WHILE: Duration = Duration::from_mins(5);
pub(crate) const DAY: Duration = Duration::from_hours(24);
