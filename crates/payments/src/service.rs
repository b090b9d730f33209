//! The payments service put together.

use std::sync::Arc;

use axum::{Router, middleware::from_fn};
use gozon_api::{
    PaymentsApi,
    payments::{Deposit, Opened, ToppedUp},
};
use gozon_contract::{Clock, PAYMENT_REQUESTED, PAYMENT_SETTLED, RandomSource, Topic, UserId};
use gozon_http::{Edge, Health, edge, health_routes};
use gozon_messaging::Broker;
use gozon_service::{GroupCommit, Tasks, Wiring, database_timing};
use gozon_store::{DatabaseClock, Db, Migration};

use crate::{
    deposit::Deposits,
    open_account::{OpenAccount, OpenAccounts},
    settle::Settle,
};

const NAME: &str = "payments";

/// The service's own tables.
pub const MIGRATIONS: &[Migration] = &[Migration {
    component: "payments",
    version: 1,
    postgres: include_str!("../migrations/postgres/1_payments.sql"),
    sqlite: include_str!("../migrations/sqlite/1_payments.sql"),
}];

/// The topics that the service reads or writes.
pub const TOPICS: &[Topic] = &[PAYMENT_REQUESTED, PAYMENT_SETTLED];

/// What the calls share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    pub(crate) open_account: GroupCommit<OpenAccount, Opened>,
    pub(crate) deposit: GroupCommit<(UserId, Deposit), ToppedUp>,
}

/// A running payments service.
pub struct Payments {
    /// REST and gRPC.
    pub routes: Router,
    /// Whether it can do its work.
    pub health: Health,
}

impl Payments {
    /// Starts the service's loops on a migrated database; they stop with `tasks`.
    pub fn start(
        db: Db,
        broker: Arc<dyn Broker>,
        time: DatabaseClock,
        random: RandomSource,
        tasks: &Tasks,
    ) -> Self {
        let clock = time.clock();
        let mut wiring = Wiring::new(NAME, db.clone(), broker, time, random.clone(), tasks);
        let open_account = wiring.group_commit("accounts", OpenAccounts);
        let deposit = wiring.group_commit("deposits", Deposits { clock: clock.clone() });
        wiring.inbox(PAYMENT_REQUESTED, Settle { clock: clock.clone() });
        let health = wiring.start();

        let payments: Arc<dyn PaymentsApi> = Arc::new(App { db, clock, open_account, deposit });
        let grpc = gozon_rpc::payments(payments.clone(), health.clone());
        let routes =
            gozon_api::payments::rest(payments).merge(health_routes(health.clone())).merge(grpc);
        let routes = routes.layer(from_fn(database_timing));
        Self { routes: edge(routes, Edge { service: NAME, random }), health }
    }
}
