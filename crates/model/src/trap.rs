//! What other systems do instead, one at a time.

use crate::{Faults, Shop};

/// A change of the protocol, as it was seen in other systems, that breaks a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trap {
    /// The broker is acknowledged when a message is received.
    AcknowledgeBeforeCommit,
    /// A message that fails is acknowledged all the same.
    AcknowledgeAfterFailure,
    /// A message that fails is neither acknowledged nor given back; the next acknowledgement of a
    /// log such as Kafka's passes over it.
    SkipAfterFailure,
    /// The debit and the inbox's mark are two commits, and only the mark guards against a repeat.
    DebitAndMarkInTwoCommits,
    /// Only the inbox guards against a repeat, and it forgets.
    NoKeyOnPayments,
    /// A payment that is there already is passed over, and the account is debited all the same.
    ConflictIgnored,
    /// The balance that was read is changed and written back, whatever it is by then.
    NoLockOnAccount,
    /// The row is deleted from the outbox before it is published.
    DeleteBeforePublish,
    /// The broker confirms a message before it is safe.
    ForgetfulBroker,
    /// There is no outbox: what is to be sent is sent after the commit.
    SendAfterCommit,
    /// There is no outbox: what is to be sent is sent before the commit.
    SendBeforeCommit,
    /// The relay remembers the highest row it has seen, and looks for higher ones only.
    CursorOverSequence,
    /// A request that comes again is a new one.
    NoIdempotencyKey,
    /// A request of a user without an account is given back, instead of being declined.
    NoAccountIsRetried,
    /// A request for an order that is settled already is passed over without an answer.
    RepeatIsNotAnswered,
}

impl Trap {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::AcknowledgeBeforeCommit,
        Self::AcknowledgeAfterFailure,
        Self::SkipAfterFailure,
        Self::DebitAndMarkInTwoCommits,
        Self::NoKeyOnPayments,
        Self::ConflictIgnored,
        Self::NoLockOnAccount,
        Self::DeleteBeforePublish,
        Self::ForgetfulBroker,
        Self::SendAfterCommit,
        Self::SendBeforeCommit,
        Self::CursorOverSequence,
        Self::NoIdempotencyKey,
        Self::NoAccountIsRetried,
        Self::RepeatIsNotAnswered,
    ];

    /// The scene in which it shows itself, with no more faults than that takes.
    #[must_use]
    pub fn scene(self) -> Shop {
        let none = Faults::default();
        let crash = Faults { crashes: 1, ..none };
        let lost = Faults { lost: 1, ..none };
        let (amounts, faults) = match self {
            Self::NoAccountIsRetried => (vec![40], none),
            Self::NoLockOnAccount | Self::CursorOverSequence => (vec![60, 60], none),
            Self::SkipAfterFailure => (vec![60, 60], lost),
            Self::AcknowledgeBeforeCommit
            | Self::DebitAndMarkInTwoCommits
            | Self::DeleteBeforePublish
            | Self::ForgetfulBroker
            | Self::SendAfterCommit => (vec![40], crash),
            Self::AcknowledgeAfterFailure | Self::SendBeforeCommit | Self::NoIdempotencyKey => {
                (vec![40], lost)
            }
            Self::NoKeyOnPayments | Self::ConflictIgnored => {
                (vec![40], Faults { duplicates: 1, ..none })
            }
            Self::RepeatIsNotAnswered => (vec![40], Faults { messages_lost: 1, ..none }),
        };
        let funds = (self != Self::NoAccountIsRetried).then_some(100);
        Shop { amounts, funds, faults, trap: Some(self) }
    }
}
