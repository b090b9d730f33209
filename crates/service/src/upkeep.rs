//! The loops that every service with an outbox and an inbox runs beside its own.

use std::sync::{Arc, atomic::AtomicI64};

use gozon_contract::{Clock, RandomSource};
use gozon_messaging::{Expiring, Retention, Waiting};
use gozon_store::Db;

use crate::{EXPIRING, Stage, Tasks};

/// Forgets what has expired, and measures what waits.
pub fn upkeep(
    service: &'static str,
    db: &Db,
    low_water: Arc<AtomicI64>,
    clock: &Clock,
    random: &RandomSource,
    tasks: &Tasks,
) {
    let expiring = vec![Expiring::inbox(Retention::INBOX), EXPIRING];
    let retention = Retention::new(service, db.clone(), expiring, clock.clone(), random.clone());
    let waiting = Waiting::new(service, db.clone(), clock.clone(), low_water);
    let stop = || tasks.stop_token(Stage::Inboxes);
    tasks.spawn(Stage::Inboxes, retention.run(stop()));
    tasks.spawn(Stage::Inboxes, waiting.run(stop()));
}
