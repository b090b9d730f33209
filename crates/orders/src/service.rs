//! The orders service put together.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use axum::Router;
use gozon_contract::{
    Clock, ORDER_CHANGED, PAYMENT_REQUESTED, PAYMENT_SETTLED, RandomSource, Topic,
};
use gozon_http::{Edge, Health, edge, health_routes, openapi_route};
use gozon_messaging::{Broker, Inbox, Outbox, Relay};
use gozon_service::{Stage, Tasks, Writer, attached, service_health, upkeep};
use gozon_store::{Db, Migration};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    apply::ApplyResults,
    get, list, place,
    place::{PlaceOrders, Placement},
    recent::Recent,
    stream::{self, Hub, StreamLimits},
};

const NAME: &str = "orders";

/// The service's own tables.
pub const MIGRATIONS: &[Migration] = &[Migration {
    component: "orders",
    version: 1,
    postgres: include_str!("../migrations/postgres/1_orders.sql"),
    sqlite: include_str!("../migrations/sqlite/1_orders.sql"),
}];

/// The topics that the service reads or writes.
pub const TOPICS: &[Topic] = &[PAYMENT_REQUESTED, PAYMENT_SETTLED, ORDER_CHANGED];

/// What the endpoints share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    pub(crate) random: RandomSource,
    pub(crate) place: Writer<Placement>,
    pub(crate) hub: Hub,
    /// Tells the sockets to end.
    pub(crate) sockets_stop: CancellationToken,
}

/// A running orders service.
pub struct Orders {
    /// Its HTTP side.
    pub routes: Router,
    /// Whether it can do its work.
    pub health: Health,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Gozon orders", description = "Placing orders and following them"),
    tags((name = "orders", description = "Orders, and how their payment ends"))
)]
struct Api;

fn endpoints() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(place::place, list::list))
        .routes(routes!(stream::stream))
        .routes(routes!(get::get))
}

/// The service's OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    endpoints().into_openapi()
}

impl Orders {
    /// Starts the service's loops on a migrated database; they stop with `tasks`.
    #[allow(clippy::needless_pass_by_value, reason = "the service keeps what it is given")]
    pub fn start(
        db: Db,
        broker: Arc<dyn Broker>,
        limits: StreamLimits,
        clock: Clock,
        random: RandomSource,
        tasks: &Tasks,
    ) -> Self {
        let (outbox, handed) = Outbox::new(clock.clone());
        let relay = Relay::new(
            NAME,
            db.clone(),
            Arc::clone(&broker),
            handed,
            clock.clone(),
            random.clone(),
        );
        let (hub, recent) = (Hub::new(limits), Recent::default());
        let (place, placing) = Writer::new(
            "orders",
            db.clone(),
            clock.clone(),
            random.clone(),
            PlaceOrders { outbox: outbox.clone(), recent: recent.clone() },
            tasks.stop_token(Stage::Writers),
        );
        let inbox = Inbox::new(
            NAME,
            PAYMENT_SETTLED,
            db.clone(),
            Arc::clone(&broker),
            outbox,
            Arc::new(ApplyResults { clock: clock.clone(), recent, hub: hub.clone() }),
            clock.clone(),
            random.clone(),
        );
        let listening = Arc::new(AtomicBool::new(false));
        let listener = stream::listen(
            Arc::clone(&broker),
            hub.clone(),
            clock.clone(),
            random.clone(),
            Arc::clone(&listening),
            tasks.stop_token(Stage::Inboxes),
        );

        let health = service_health(NAME, &db, &broker)
            .with(format!("{NAME}.{}", PAYMENT_SETTLED.name), attached(inbox.attached()))
            .with(format!("{NAME}.{}", ORDER_CHANGED.name), attached(listening));
        let sockets_stop = tasks.stop_token(Stage::Writers);

        tasks.spawn(Stage::Writers, placing);
        tasks.spawn(Stage::Writers, sockets_closed(hub.clone(), sockets_stop.clone()));
        upkeep(NAME, &db, relay.low_water(), &clock, &random, tasks);
        tasks.spawn(Stage::Relays, relay.run(tasks.stop_token(Stage::Relays)));
        tasks.spawn(Stage::Inboxes, inbox.run(tasks.stop_token(Stage::Inboxes)));
        tasks.spawn(Stage::Inboxes, listener);

        let app = App { db, clock, random: random.clone(), place, hub, sockets_stop };
        let (api, document) = endpoints().split_for_parts();
        let routes =
            api.with_state(app).merge(health_routes(health.clone())).merge(openapi_route(document));
        Self { routes: edge(routes, Edge { service: NAME, random }), health }
    }
}

/// Waits for `stop`, and then a little for every socket to have said why it ends.
async fn sockets_closed(hub: Hub, stop: CancellationToken) {
    stop.cancelled().await;
    let closed = async {
        while hub.sockets() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
        sleep(Duration::from_millis(100)).await;
    };
    if timeout(Duration::from_secs(5), closed).await.is_err() {
        tracing::warn!("stopped with sockets still open");
    }
}
