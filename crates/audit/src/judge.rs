//! What ages are measured by, and how old is too old. No I/O.

use std::time::Duration;

use gozon_contract::{Clock, Timestamp};

use crate::{Options, Side};

/// The time of both databases. They run on different hosts and may disagree; an age is always
/// measured by the clock of the database that holds the row.
#[derive(Clone, Debug)]
pub struct Clocks {
    /// The orders database's.
    pub orders: Clock,
    /// The payments database's.
    pub payments: Clock,
}

impl Clocks {
    pub(crate) fn now(&self) -> Now {
        Now { orders: self.orders.now(), payments: self.payments.now() }
    }
}

/// One instant, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub orders: Timestamp,
    pub payments: Timestamp,
}

impl Now {
    /// The age of what one of the databases holds since `since`, in microseconds since the epoch.
    pub fn age(self, side: Side, since: i64) -> Duration {
        let now = match side {
            Side::Orders => self.orders,
            Side::Payments => self.payments,
        };
        now.since(Timestamp::from_micros(since))
    }
}

/// How old is too old.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For an order that is NEW without an explanation.
    pub new_order: Duration,
    /// For a message that waits.
    pub message: Duration,
}

impl Limits {
    /// Nothing is ever too old.
    pub const NONE: Self = Self { new_order: Duration::MAX, message: Duration::MAX };
}

impl From<&Options> for Limits {
    fn from(options: &Options) -> Self {
        Self { new_order: options.new_age_limit, message: options.message_age_limit }
    }
}
