//! The steps of the model.

use std::fmt;

use serde::Serialize;

use crate::{Message, Service};

/// What somebody does in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Action {
    /// One transaction: the order, its request for payment in the outbox, the client's key. A request
    /// that was done before is only answered.
    Place {
        /// Which request of a client.
        request: u8,
        /// Whether the client gets the answer; it asks again if not.
        answered: bool,
    },
    /// Orders asks again for the payment of an order that stays NEW.
    AskAgain {
        /// Which order.
        order: u8,
    },
    /// A relay publishes a row of its outbox.
    Publish {
        /// Whose relay.
        service: Service,
        /// Which instance's.
        instance: usize,
        /// Which row.
        row: Message,
        /// Whether it gets the broker's confirmation; it publishes the row again if not.
        confirmed: bool,
    },
    /// A relay deletes the row that it has published.
    Delete {
        /// Whose relay.
        service: Service,
        /// Which instance's.
        instance: usize,
    },
    /// A consumer receives a message, and reads what it must know.
    Receive {
        /// Whose consumer.
        service: Service,
        /// Which instance's.
        instance: usize,
        /// Which message.
        message: Message,
    },
    /// A consumer's transaction: inbox mark, what the message brings about, and the outgoing row.
    Commit {
        /// Whose consumer.
        service: Service,
        /// Which instance's.
        instance: usize,
        /// How it ends.
        end: End,
    },
    /// A consumer acknowledges its message.
    Acknowledge {
        /// Whose consumer.
        service: Service,
        /// Which instance's.
        instance: usize,
    },
    /// A process is killed and starts again.
    Crash {
        /// Whose process.
        service: Service,
        /// Which instance.
        instance: usize,
    },
    /// The broker restarts.
    RestartBroker,
    /// The broker delivers a message that it has delivered before, perhaps long after.
    Duplicate {
        /// Which message.
        message: Message,
        /// Whether the inbox's mark of it has expired meanwhile.
        forgotten: bool,
    },
    /// A relay stands still for so long after it has published a row that the other instance's takes
    /// the row over, and publishes it too.
    EndLease {
        /// Whose relay.
        service: Service,
        /// Which instance's stands still.
        instance: usize,
    },
    /// The broker loses a message.
    LoseMessage {
        /// Which message.
        message: Message,
    },
    /// Only with a trap: a transaction that will place an order begins.
    Begin {
        /// Which request of a client.
        request: u8,
    },
    /// Only with a trap: a transaction that places an order ends.
    End {
        /// Which request of a client.
        request: u8,
        /// Whether it commits.
        commits: bool,
    },
    /// Only with a trap: a process sends a message that only it knows of.
    Send {
        /// Whose process.
        service: Service,
        /// Which instance.
        instance: usize,
        /// Which message.
        message: Message,
    },
}

/// How a commit ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// As it should.
    Done,
    /// It is done, and the answer is lost: the message is given back.
    AnswerLost,
    /// Nothing is done, and the message is given back.
    Failed,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = char::from(b'a' + self.order);
        match (self.from, self.paid) {
            (Service::Orders, _) => write!(f, "request {order}{}", self.copy),
            (Service::Payments, true) => write!(f, "result {order}{} (paid)", self.copy),
            (Service::Payments, false) => write!(f, "result {order}{} (declined)", self.copy),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = |order: u8| char::from(b'a' + order);
        match self {
            Self::Place { request, answered: true } => {
                write!(f, "a client's request {request} is done and answered")
            }
            Self::Place { request, answered: false } => {
                write!(f, "a client's request {request} is done, and its answer is lost")
            }
            Self::AskAgain { order: id } => {
                write!(f, "orders asks again for the payment of order {}", order(*id))
            }
            Self::Publish { service, instance, row, confirmed } => {
                let end = if *confirmed { "" } else { ", and the confirmation is lost" };
                write!(f, "{service} {instance} publishes {row}{end}")
            }
            Self::Delete { service, instance } => {
                write!(f, "{service} {instance} deletes what it has published from the outbox")
            }
            Self::Receive { service, instance, message } => {
                write!(f, "{service} {instance} receives {message}")
            }
            Self::Commit { service, instance, end } => {
                let end = match end {
                    End::Done => "commits",
                    End::AnswerLost => "commits, and the answer is lost",
                    End::Failed => "fails to commit",
                };
                write!(f, "{service} {instance} {end}")
            }
            Self::Acknowledge { service, instance } => {
                write!(f, "{service} {instance} acknowledges")
            }
            Self::Crash { service, instance } => write!(f, "{service} {instance} crashes"),
            Self::RestartBroker => f.write_str("the broker restarts"),
            Self::Duplicate { message, forgotten: false } => {
                write!(f, "the broker delivers {message} once more")
            }
            Self::Duplicate { message, forgotten: true } => {
                write!(f, "the broker delivers {message} once more, when its mark has expired")
            }
            Self::EndLease { service, instance } => {
                write!(f, "{service} {instance} stands still, and the other publishes its row too")
            }
            Self::LoseMessage { message } => write!(f, "the broker loses {message}"),
            Self::Begin { request } => write!(f, "a transaction for request {request} begins"),
            Self::End { request, commits: true } => {
                write!(f, "the transaction for request {request} commits")
            }
            Self::End { request, commits: false } => {
                write!(f, "the transaction for request {request} fails")
            }
            Self::Send { service, instance, message } => {
                write!(f, "{service} {instance} sends {message}")
            }
        }
    }
}
