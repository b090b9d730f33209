//! What the model remembers: tables, queues, and what each instance is doing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{Hash, Hasher},
};

use serde::Serialize;

/// One of the two services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// The orders service.
    Orders,
    /// The payments service.
    Payments,
}

impl Service {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Orders, Self::Payments];

    /// The one that receives what this one sends.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Orders => Self::Payments,
            Self::Payments => Self::Orders,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Orders => "orders",
            Self::Payments => "payments",
        })
    }
}

/// A message and the row of the outbox that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Message {
    /// Who sends it: a request for payment is from orders, a result from payments.
    pub from: Service,
    /// The order that it is about.
    pub order: u8,
    /// 0 for the first message about the order, 1 when it is said again, …: together, the delivery's
    /// id.
    pub copy: u8,
    /// In a result: whether the order is paid.
    pub paid: bool,
}

/// Where an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Placed.
    New,
    /// Paid.
    Finished,
    /// Declined.
    Cancelled,
}

/// One process of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Instance {
    /// The row that its relay is at: published and not yet deleted.
    pub published: Option<Message>,
    /// What its consumer is at.
    pub work: Option<Work>,
    /// Only with a [`Trap`](crate::Trap): messages that only this process knows of.
    pub in_memory: BTreeSet<Message>,
}

impl Instance {
    /// Whether a crash would change nothing.
    pub fn is_idle(&self) -> bool {
        *self == Self::default()
    }
}

/// A message that was received and not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Work {
    /// Which.
    pub message: Message,
    /// What the account held when it was read.
    pub read: Option<i8>,
    /// How far it is.
    pub phase: Phase,
}

/// How far the work on a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It was received, and what must be known was read.
    Read,
    /// Only with a [`Trap`](crate::Trap): the first of two commits is done.
    HalfCommitted,
    /// It was committed, and is to be acknowledged.
    Committed,
}

/// How many faults may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Faults {
    /// An instance, or the broker, crashes and starts again.
    pub crashes: u8,
    /// The broker delivers a message once more, at any later time, even after the inbox's mark of it
    /// has expired; or a row is published by two relays; or orders asks again for a payment.
    pub duplicates: u8,
    /// A statement or its answer is lost, or a confirmation of the broker, or an answer to a client.
    pub lost: u8,
    /// The broker loses a message that it has confirmed.
    pub messages_lost: u8,
}

/// A state of the whole system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// Which requests of clients are answered, by number.
    pub answered: BTreeSet<u8>,
    /// The orders, by id.
    pub orders: BTreeMap<u8, Status>,
    /// The outcome of each payment, by order: whether it is paid.
    pub payments: BTreeMap<u8, bool>,
    /// The orders for which the account was debited, once for each time.
    pub debits: Vec<u8>,
    /// What the account holds, if there is one.
    pub balance: Option<i8>,
    /// Rows of each service's outbox.
    pub outbox: [BTreeSet<Message>; 2],
    /// The marks in each service's inbox.
    pub inbox: [BTreeSet<Message>; 2],
    /// The messages of each sender that the broker has, in any order.
    pub queue: [Vec<Message>; 2],
    /// All that was ever published.
    pub ever_published: BTreeSet<Message>,
    /// Two instances of each service.
    pub instances: [[Instance; 2]; 2],
    /// The faults that may still happen.
    pub faults: Faults,
    /// Only with a [`Trap`](crate::Trap): transactions that have begun, the request and order of each.
    pub begun: BTreeSet<(u8, u8)>,
    /// Only with a [`Trap`](crate::Trap): the highest row that the relay has seen.
    pub cursor: u8,
    /// Only with a [`Trap`](crate::Trap): messages that failed and were not acknowledged.
    pub uncommitted: BTreeSet<Message>,
}

impl Hash for State {
    /// Two states that differ only in which instance is which count as one.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.answered, &self.orders, &self.payments, &self.debits, self.balance).hash(hasher);
        (&self.outbox, &self.inbox, &self.queue, &self.ever_published).hash(hasher);
        (self.faults, &self.begun, self.cursor, &self.uncommitted).hash(hasher);
        for [one, other] in &self.instances {
            if one <= other { (one, other) } else { (other, one) }.hash(hasher);
        }
    }
}

impl State {
    /// Nothing placed yet.
    pub fn new(balance: Option<i8>, faults: Faults) -> Self {
        Self {
            answered: BTreeSet::new(),
            orders: BTreeMap::new(),
            payments: BTreeMap::new(),
            debits: Vec::new(),
            balance,
            outbox: Default::default(),
            inbox: Default::default(),
            queue: Default::default(),
            ever_published: BTreeSet::new(),
            instances: Default::default(),
            faults,
            begun: BTreeSet::new(),
            cursor: 0,
            uncommitted: BTreeSet::new(),
        }
    }

    /// An instance of a service.
    pub fn instance(&mut self, service: Service, instance: usize) -> &mut Instance {
        &mut self.instances[service as usize][instance]
    }

    /// The broker gets a message.
    pub fn enqueue(&mut self, message: Message) {
        let queue = &mut self.queue[message.from as usize];
        queue.push(message);
        queue.sort_unstable();
        self.ever_published.insert(message);
    }
}
