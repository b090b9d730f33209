//! What the loops of one service share.

use std::sync::Arc;

use gozon_contract::{Clock, RandomSource};
use gozon_store::Db;

use crate::{Broker, HandOver, Outbox};

/// What the loops of one service share. Clones are the same service.
#[derive(Clone)]
pub struct Context {
    /// The service's name in logs and metrics.
    pub service: &'static str,
    /// Its database.
    pub db: Db,
    /// The broker between the services.
    pub broker: Arc<dyn Broker>,
    /// The writing end of its outbox.
    pub outbox: Outbox,
    /// Where the time comes from.
    pub clock: Clock,
    /// Where randomness comes from.
    pub random: RandomSource,
}

impl Context {
    /// A service, and what its [`Relay`](crate::Relay) reads from.
    pub fn new(
        service: &'static str,
        db: Db,
        broker: Arc<dyn Broker>,
        clock: Clock,
        random: RandomSource,
    ) -> (Self, HandOver) {
        let (outbox, hand_over) = Outbox::new(clock.clone(), random.clone());
        (Self { service, db, broker, outbox, clock, random }, hand_over)
    }
}
