//! The orders service put together.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use axum::{Router, middleware::from_fn};
use gozon_api::{Live, OrdersApi, orders::Placed};
use gozon_contract::{
    Clock, ORDER_CHANGED, PAYMENT_REQUESTED, PAYMENT_SETTLED, RandomSource, Topic,
};
use gozon_http::{Edge, Health, edge, health_routes};
use gozon_messaging::Broker;
use gozon_service::{GroupCommit, Stage, Tasks, Wiring, attached, database_timing};
use gozon_store::{DatabaseClock, Db, Migration};
use tokio_util::sync::CancellationToken;

use crate::{
    apply::ApplyResults,
    place::{PlaceOrders, Placement},
    recent::Recent,
    resend::Resend,
    stream::{self, Listener, StreamLimits, Subscriptions},
    unsettled::{Intake, Unsettled},
};

const NAME: &str = "orders";

/// The service's own tables.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        component: "orders",
        version: 1,
        postgres: include_str!("../migrations/postgres/1_orders.sql"),
        sqlite: include_str!("../migrations/sqlite/1_orders.sql"),
    },
    Migration {
        component: "orders",
        version: 2,
        postgres: include_str!("../migrations/postgres/2_orders_created_at.sql"),
        sqlite: include_str!("../migrations/sqlite/2_orders_created_at.sql"),
    },
];

/// The topics that the service reads or writes.
pub const TOPICS: &[Topic] = &[PAYMENT_REQUESTED, PAYMENT_SETTLED, ORDER_CHANGED];

/// What the calls share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    pub(crate) random: RandomSource,
    pub(crate) place: GroupCommit<Placement, Placed>,
    /// Whether new orders are taken.
    pub(crate) intake: Intake,
    pub(crate) subscriptions: Subscriptions,
    /// Closes the live clients.
    pub(crate) streams_stop: CancellationToken,
}

/// The settings of the service.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What live sockets may cost.
    pub stream: StreamLimits,
    /// How long an order stays NEW until its payment is asked for again; `None` for ever.
    pub resend_after: Option<Duration>,
    /// No new orders are taken while the oldest one has waited longer for its payment.
    pub max_unsettled: Option<Duration>,
}

/// A running orders service.
pub struct Orders {
    /// REST and gRPC.
    pub routes: Router,
    /// Whether it can do its work.
    pub health: Health,
}

impl Orders {
    /// Starts the service's loops on a migrated database; they stop with `tasks`.
    pub fn start(
        db: Db,
        broker: Arc<dyn Broker>,
        settings: Settings,
        time: DatabaseClock,
        random: RandomSource,
        tasks: &Tasks,
    ) -> Self {
        let live = settings.stream;
        let (subscriptions, recent) = (Subscriptions::new(live.clone()), Recent::new());
        let clock = time.clock();
        let mut wiring =
            Wiring::new(NAME, db.clone(), Arc::clone(&broker), time, random.clone(), tasks);
        let place = PlaceOrders { recent: recent.clone(), subscriptions: subscriptions.clone() };
        let place = wiring.group_commit("orders", place);
        let intake = Intake::default();
        let apply = ApplyResults {
            clock: clock.clone(),
            recent,
            subscriptions: subscriptions.clone(),
            intake: intake.clone(),
        };
        wiring.inbox(PAYMENT_SETTLED, apply);
        let listening = Arc::new(AtomicBool::new(false));
        let listener = Listener {
            broker,
            subscriptions: subscriptions.clone(),
            clock: clock.clone(),
            random: random.clone(),
            receiving: Arc::clone(&listening),
        };
        let listener = listener.run(tasks.stop_token(Stage::Inboxes));
        tasks.spawn(Stage::Inboxes, ORDER_CHANGED.name, listener);
        let streams_stop = tasks.stop_token(Stage::Streams);
        let closed = stream::all_closed(subscriptions.clone(), streams_stop.clone());
        tasks.spawn(Stage::Streams, "streams", closed);
        if let Some(after) = settings.resend_after {
            let resend = Resend::new(wiring.context.clone(), after);
            let stop = tasks.stop_token(Stage::Requests);
            tasks.spawn(Stage::Requests, "resend", resend.run(stop));
        }
        if let Some(limit) = settings.max_unsettled {
            let unsettled = Unsettled::new(wiring.context.clone(), limit, intake.clone());
            let stop = tasks.stop_token(Stage::Requests);
            tasks.spawn(Stage::Requests, "unsettled", unsettled.run(stop));
        }
        let health =
            wiring.start().with(format!("{NAME}.{}", ORDER_CHANGED.name), attached(listening));

        let live = Live::new(live.origins, live.heartbeat, random.clone(), streams_stop.clone());
        let orders: Arc<dyn OrdersApi> = Arc::new(App {
            db,
            clock,
            random: random.clone(),
            place,
            intake,
            subscriptions,
            streams_stop,
        });
        let grpc = gozon_rpc::orders(orders.clone(), health.clone(), live.stop.clone());
        let routes =
            gozon_api::orders::rest(orders, live).merge(health_routes(health.clone())).merge(grpc);
        let routes = routes.layer(from_fn(database_timing));
        Self { routes: edge(routes, Edge { service: NAME, random }), health }
    }
}
