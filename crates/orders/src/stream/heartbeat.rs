//! Proof that broadcasts arrive: an event of the listener's own, which must come back to it.
//!
//! It travels the way of every `order.changed`: through this instance's publisher, the broker's
//! exchange or topic, and the listener's own queue. What was published before a heartbeat that came
//! back has arrived. A lost binding, queue, connection or publisher all show as a heartbeat that
//! does not come back.

use gozon_contract::{ORDER_CHANGED, ORDERS_SOURCE, RandomSource, Timestamp};
use gozon_messaging::{Batch, Message};
use serde_json::json;

/// The CloudEvents type of a heartbeat.
const HEARTBEAT: &str = "listener.heartbeat";

/// The heartbeats of one listener.
pub(super) struct Heartbeats {
    listener: String,
    number: u64,
}

impl Heartbeats {
    /// Those of a listener that is named at random.
    pub(super) fn new(random: &RandomSource) -> Self {
        Self { listener: format!("{:016x}", random.next_u64()), number: 0 }
    }

    /// What the ids of all of them begin with.
    pub(super) fn prefix(&self) -> String {
        format!("{}/", self.listener)
    }

    /// The next one.
    pub(super) fn next(&mut self, now: Timestamp) -> Batch {
        self.number += 1;
        let subject = format!("{}{}", self.prefix(), self.number);
        let id = format!("{subject}:{HEARTBEAT}");
        let event = json!({
            "specversion": "1.0",
            "id": id,
            "source": ORDERS_SOURCE,
            "type": HEARTBEAT,
            "subject": subject,
            "time": now,
            "datacontenttype": "application/json",
            "partitionkey": self.listener,
            "data": {"listener": self.listener, "number": self.number},
        });
        Batch {
            id,
            topic: ORDER_CHANGED.name.to_owned(),
            body: event.to_string().into_bytes().into(),
        }
    }
}

/// Whether a message is a heartbeat, of this listener or of another.
pub(super) fn is_heartbeat(message: &Message) -> bool {
    message.id.rsplit_once(':').is_some_and(|(_, kind)| kind == HEARTBEAT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_are_told_apart_from_orders_and_each_other() {
        let mut heartbeats = Heartbeats::new(&RandomSource::seeded(1));
        let mut next = || {
            let batch = heartbeats.next(Timestamp::from_micros(1));
            let message = batch.split().swap_remove(0);
            assert_eq!(message.id, batch.id);
            message
        };
        let (first, second) = (next(), next());
        assert!(is_heartbeat(&first) && is_heartbeat(&second));
        assert_ne!(first.id, second.id);
        assert!(second.id.starts_with(&heartbeats.prefix()));
        let order = Message { id: "019aa3d9:order.changed".to_owned(), ..first };
        assert!(!is_heartbeat(&order));
    }

    #[test]
    fn the_heartbeat_is_as_published() {
        let heartbeat = Heartbeats::new(&RandomSource::seeded(1))
            .next(Timestamp::from_micros(1_763_683_200_130_000));
        gozon_testkit::frozen(
            "api/events/listener.heartbeat.json",
            &gozon_testkit::pretty(&heartbeat.body),
        );
    }
}
