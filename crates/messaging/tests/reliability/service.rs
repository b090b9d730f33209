//! A service to test with: its tables, a broker and a handler that fail when told to, and a clock
//! that is moved by hand.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use gozon_contract::{Clock, Delivery, RandomSource, Timestamp, Topic};
use gozon_messaging::{
    Added, Broker, BrokerError, DeadLetters, Decision, Event, Handed, HandleError, Handler, Inbox,
    MIGRATIONS, Message, Outbox, Relay, Subscriber,
};
use gozon_store::{Db, Error, Migration, Rows, Statement, Tx, migrate};
use gozon_testkit::TestDb;

pub(crate) const THING: Topic = Topic { name: "thing", delivery: Delivery::Competing };
pub(crate) const NEWS: Topic = Topic { name: "news", delivery: Delivery::Broadcast };

/// What the handler does: an effect that shows every repeat, and a reference that is checked only
/// by the commit.
const EFFECTS: Migration = Migration {
    component: "test",
    version: 1,
    postgres: "create table parent (n bigint primary key);
        insert into parent values (1);
        create table effect (
            id text not null,
            parent bigint not null references parent (n) deferrable initially deferred
        )",
    sqlite: "create table parent (n integer primary key) strict;
        insert into parent values (1);
        create table effect (
            id text not null,
            parent integer not null references parent (n) deferrable initially deferred
        ) strict",
};

pub(crate) struct Service {
    pub(crate) test: TestDb,
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    pub(crate) random: RandomSource,
    pub(crate) broker: Arc<FakeBroker>,
    pub(crate) handler: Arc<FakeHandler>,
    pub(crate) outbox: Outbox,
    handed: Option<Handed>,
}

impl Service {
    pub(crate) async fn new(test: TestDb) -> Self {
        let db = test.db();
        migrate(&db, MIGRATIONS).await.unwrap();
        migrate(&db, &[EFFECTS]).await.unwrap();
        let clock = Clock::manual(Timestamp::from_micros(1_763_683_200_000_000));
        let (outbox, handed) = Outbox::new(clock.clone());
        Self {
            test,
            db,
            clock,
            random: RandomSource::seeded(7),
            broker: Arc::default(),
            handler: Arc::default(),
            outbox,
            handed: Some(handed),
        }
    }

    /// The relay of this process.
    pub(crate) fn relay(&mut self) -> Relay {
        let handed = self.handed.take().unwrap();
        self.relay_of(handed)
    }

    /// The relay of another process, or of this one after a restart.
    pub(crate) fn another_relay(&self) -> Relay {
        self.relay_of(Outbox::new(self.clock.clone()).1)
    }

    fn relay_of(&self, handed: Handed) -> Relay {
        let broker: Arc<dyn Broker> = Arc::clone(&self.broker) as _;
        let (clock, random) = (self.clock.clone(), self.random.clone());
        Relay::new("test", self.test.another(), broker, handed, clock, random)
    }

    pub(crate) fn inbox(&self) -> Inbox {
        self.inbox_on(self.db.clone(), Arc::clone(&self.broker) as _)
    }

    pub(crate) fn inbox_on(&self, db: Db, broker: Arc<dyn Broker>) -> Inbox {
        Inbox::new(
            "test",
            THING,
            db,
            broker,
            self.outbox.clone(),
            Arc::clone(&self.handler) as _,
            self.clock.clone(),
            self.random.clone(),
        )
    }

    pub(crate) fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(self.db.clone(), self.clock.clone())
    }

    pub(crate) fn message(&self, name: &str) -> Message {
        message(name, self.clock.now())
    }

    /// Commits messages to the outbox without telling the relay, as a process does that crashes
    /// right after the commit.
    pub(crate) async fn leave_behind(&self, messages: Vec<Message>) {
        drop(self.commit(messages).await);
    }

    /// Commits messages to the outbox.
    pub(crate) async fn commit(&self, messages: Vec<Message>) -> Added {
        let added = self.outbox.add(messages);
        let tx = self.db.at_once().await.unwrap();
        tx.commit_with(added.statement().into_iter().collect()).await.unwrap();
        added
    }

    /// Lets the relay go on until something was published; what.
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
        ids(&self.test.another(), "select id from effect order by id").await
    }

    pub(crate) async fn unsent(&self) -> Vec<String> {
        ids(&self.test.another(), "select id from outbox order by id").await
    }

    pub(crate) async fn pending(&self) -> Vec<String> {
        ids(&self.test.another(), "select id from inbox_pending order by id").await
    }

    pub(crate) async fn dead(&self) -> Vec<String> {
        ids(&self.test.another(), "select id from dead_letters order by id").await
    }
}

pub(crate) async fn ids(db: &Db, sql: &'static str) -> Vec<String> {
    let mut tx = db.read().await.unwrap();
    let ids: Vec<(String,)> = tx.query(sql).fetch_all().await.unwrap();
    ids.into_iter().map(|(id,)| id).collect()
}

pub(crate) fn message(name: &str, now: Timestamp) -> Message {
    Event::about(name, THING.name, "/test", name, now, None, name).into_message()
}

/// The id of the message with this name.
pub(crate) fn id(name: &str) -> String {
    format!("{name}:thing")
}

/// A broker that remembers what it was given and does as it is told.
#[derive(Default)]
pub(crate) struct FakeBroker {
    pub(crate) published: Mutex<Vec<String>>,
    pub(crate) mood: Mutex<Mood>,
}

#[derive(Clone, Default)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Takes everything and then is gone, so that nobody knows.
    Away,
    /// Never answers.
    Silent,
    /// Takes all but these.
    Rejecting(Vec<String>),
}

impl FakeBroker {
    pub(crate) fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// What was published since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.published.lock().unwrap())
    }
}

#[async_trait]
impl Broker for FakeBroker {
    async fn publish(&self, messages: &[Message]) -> Result<(), BrokerError> {
        let mood = self.mood.lock().unwrap().clone();
        let rejected = match mood {
            Mood::Away => return Err(BrokerError::Away("gone".to_owned())),
            Mood::Silent => std::future::pending().await,
            Mood::Well => Vec::new(),
            Mood::Rejecting(ids) => ids,
        };
        let (bad, good): (Vec<_>, Vec<_>) =
            messages.iter().map(|message| message.id.clone()).partition(|id| rejected.contains(id));
        self.published.lock().unwrap().extend(good);
        if bad.is_empty() {
            return Ok(());
        }
        Err(BrokerError::Rejected { ids: bad, reason: "too\0large".to_owned() })
    }

    async fn subscribe(&self, _: Topic) -> Result<Box<dyn Subscriber>, BrokerError> {
        Err(BrokerError::Away("publishes only".to_owned()))
    }

    async fn ping(&self) -> Result<(), BrokerError> {
        Ok(())
    }
}

/// The receiving end that a test holds: it hands batches to the inbox and sees what becomes of
/// them.
#[derive(Default)]
pub(crate) struct FakeSubscriber {
    pub(crate) acked: usize,
    pub(crate) nacked: usize,
}

#[async_trait]
impl Subscriber for FakeSubscriber {
    async fn receive(&mut self, _: usize) -> Result<Vec<Message>, BrokerError> {
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

/// Hands one batch to an inbox; whether it was acknowledged.
pub(crate) async fn deliver(inbox: &Inbox, batch: &[Message]) -> bool {
    let mut subscriber = FakeSubscriber::default();
    inbox.step(&mut subscriber, batch.to_vec()).await.unwrap();
    assert_eq!(subscriber.acked + subscriber.nacked, 1);
    subscriber.acked == 1
}

/// Writes down each message as an effect, replies to those named `ask…`, and meets the fate that
/// the test has set for a message. It panics when it is told that a reply to `ask-loud…` is
/// committed.
#[derive(Default)]
pub(crate) struct FakeHandler {
    fates: Mutex<HashMap<String, (Fate, u32)>>,
    /// The sizes of the batches it was called with, and whether it was to be careful.
    pub(crate) batches: Mutex<Vec<(usize, bool)>>,
    /// The ids of the replies that it was told are committed.
    pub(crate) committed: Mutex<Vec<String>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    Fails,
    Panics,
    IsInvalid,
    MeetsConflict,
    /// Its effect is refused by the commit.
    BreaksCommit,
    /// The statement of its effect fails, and the handler makes nothing of it.
    SwallowsError,
}

impl FakeHandler {
    /// The next `times` times that the message with this name is dealt with, it meets `fate`.
    pub(crate) fn will(&self, name: &str, fate: Fate, times: u32) {
        self.fates.lock().unwrap().insert(id(name), (fate, times));
    }

    fn fate_of(&self, message: &Message) -> Option<Fate> {
        let mut fates = self.fates.lock().unwrap();
        let (fate, times) = fates.get_mut(&message.id)?;
        *times = times.checked_sub(1)?;
        Some(*fate)
    }
}

#[async_trait]
impl Handler for FakeHandler {
    async fn handle(
        &self,
        tx: &mut Tx,
        messages: &[Message],
        careful: bool,
    ) -> Result<Decision, HandleError> {
        self.batches.lock().unwrap().push((messages.len(), careful));
        let (mut effects, mut replies) = (Vec::new(), Vec::new());
        for message in messages {
            let mut parent = 1;
            match self.fate_of(message) {
                None => {}
                Some(Fate::Fails) => return Err(HandleError::Failed("no\0way".to_owned())),
                Some(Fate::Panics) => panic!("as the test wants it"),
                Some(Fate::IsInvalid) => {
                    let broken = Message { body: b"{".as_slice().into(), ..message.clone() };
                    Event::<String>::read(&broken)?;
                }
                Some(Fate::MeetsConflict) => return Err(Error::conflict("as told").into()),
                Some(Fate::BreaksCommit) => parent = 2,
                Some(Fate::SwallowsError) => {
                    let _ = tx.query("select nonsense").execute().await;
                    continue;
                }
            }
            let event = Event::<String>::read(message)?;
            effects.push((message.id.clone(), parent));
            if event.data.starts_with("ask") {
                let reply = format!("re-{}", event.data);
                replies.push(super::service::message(&reply, event.time));
            }
        }
        let rows = Rows::of(&effects)
            .text("id", |(id, _)| id.clone())
            .int("parent", |(_, parent)| *parent)
            .done();
        let write = "insert into effect (id, parent) select id, parent from {rows}";
        let statements =
            if effects.is_empty() { Vec::new() } else { vec![Statement::new(write).rows(rows)] };
        Ok(Decision { statements, messages: replies })
    }

    fn committed(&self, sent: &mut dyn Iterator<Item = &Message>) {
        for message in sent {
            self.committed.lock().unwrap().push(message.id.clone());
            assert!(!message.id.contains("loud"), "as the test wants it");
        }
    }
}

/// A little longer than any lease or wait of the outbox.
pub(crate) const A_WHILE: Duration = Duration::from_mins(5);
