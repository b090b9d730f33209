//! A service put together: its loops, its health, and the order in which all of it starts.

use std::sync::Arc;

use gozon_contract::{RandomSource, Topic};
use gozon_http::{Answer, Health, Reply};
use gozon_messaging::{
    BacklogMetrics, Broker, Context, Expiring, HandOver, Inbox, Received, Relay, Retention, UseCase,
};
use gozon_store::{DatabaseClock, Db};
use serde::de::DeserializeOwned;

use crate::{EXPIRING, GroupCommit, Stage, Tasks, attached, health::service_health};

/// A service being put together. Its loops run on `tasks` and stop with them.
pub struct Wiring<'a> {
    /// What its loops share.
    pub context: Context,
    /// Whether it can do its work.
    pub health: Health,
    tasks: &'a Tasks,
    hand_over: HandOver,
}

impl<'a> Wiring<'a> {
    /// A service that has a database and a broker, and no loops yet.
    pub fn new(
        service: &'static str,
        db: Db,
        broker: Arc<dyn Broker>,
        time: DatabaseClock,
        random: RandomSource,
        tasks: &'a Tasks,
    ) -> Self {
        let health = service_health(service, &db, &broker);
        let (context, hand_over) = Context::new(service, db, broker, time.clock(), random);
        let stop = tasks.stop_token(Stage::Inboxes);
        tasks.spawn(Stage::Inboxes, "clock", async move {
            gozon_seam::select! {
                () = time.follow() => {}
                () = stop.cancelled() => {}
            }
        });
        Self { context, health, tasks, hand_over }
    }

    /// Commits requests to `use_case` in groups, known as `name` in metrics.
    pub fn group_commit<C: Send + Sync + 'static, R: Reply>(
        &self,
        name: &'static str,
        use_case: impl UseCase<Command = C, Reply = Answer<R>>,
    ) -> GroupCommit<C, R> {
        let stop = self.tasks.stop_token(Stage::Requests);
        let (requests, run) = GroupCommit::new(name, self.context.clone(), use_case, stop);
        self.tasks.spawn(Stage::Requests, name, run);
        requests
    }

    /// Receives `topic` and has `use_case` deal with its events.
    pub fn inbox<T, U>(&mut self, topic: Topic, use_case: U)
    where
        T: DeserializeOwned + Send + Sync + 'static,
        U: UseCase<Command = Received<T>, Reply = ()>,
    {
        let inbox = Inbox::new(self.context.clone(), topic, use_case);
        let part = format!("{}.{}", self.context.service, topic.name);
        self.health = std::mem::take(&mut self.health).with(part, attached(inbox.attached()));
        let stop = self.tasks.stop_token(Stage::Inboxes);
        self.tasks.spawn(Stage::Inboxes, topic.name, inbox.run(stop));
    }

    /// Starts the loops that every service has: the relay, the one that deletes what has expired, and
    /// the one that measures what waits.
    pub fn start(self) -> Health {
        let Self { context, health, tasks, hand_over } = self;
        let relay = Relay::new(context.clone(), hand_over);
        let expiring = vec![Expiring::inbox(Retention::INBOX), EXPIRING];
        let retention = Retention::new(context.clone(), expiring);
        let backlog = BacklogMetrics::new(context, relay.low_water());
        let stop = || tasks.stop_token(Stage::Inboxes);
        tasks.spawn(Stage::Inboxes, "retention", retention.run(stop()));
        tasks.spawn(Stage::Inboxes, "backlog metrics", backlog.run(stop()));
        tasks.spawn(Stage::Relays, "relay", relay.run(tasks.stop_token(Stage::Relays)));
        health
    }
}
