//! The payments service put together.

use std::sync::{Arc, LazyLock};

use axum::Router;
use gozon_contract::{Clock, PAYMENT_REQUESTED, PAYMENT_SETTLED, RandomSource, Topic, UserId};
use gozon_http::{Edge, Health, edge, health_routes, openapi_route};
use gozon_messaging::Broker;
use gozon_service::{GroupCommit, Tasks, Wiring};
use gozon_store::{DatabaseClock, Db, Migration};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    balance, deposit,
    deposit::{Deposit, Deposits},
    entries, open_account,
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

/// What the endpoints share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    pub(crate) open_account: GroupCommit<OpenAccount>,
    pub(crate) deposit: GroupCommit<(UserId, Deposit)>,
}

/// A running payments service.
pub struct Payments {
    /// Its HTTP side.
    pub routes: Router,
    /// Whether it can do its work.
    pub health: Health,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Gozon payments", description = "Accounts, top-ups and the ledger"),
    tags((name = "accounts", description = "An account for each user, with its ledger"))
)]
struct Api;

/// The endpoints, and the document that describes them: the same for every start.
static ROUTES: LazyLock<(Router<App>, Router)> = LazyLock::new(|| {
    let (api, document) = endpoints().split_for_parts();
    (api, openapi_route(document))
});

fn endpoints() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(open_account::open_account))
        .routes(routes!(deposit::deposit))
        .routes(routes!(balance::balance))
        .routes(routes!(entries::entries))
}

/// The service's OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    endpoints().into_openapi()
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

        let app = App { db, clock, open_account, deposit };
        let (api, document) = ROUTES.clone();
        let routes = api.with_state(app).merge(health_routes(health.clone())).merge(document);
        Self { routes: edge(routes, Edge { service: NAME, random }), health }
    }
}
