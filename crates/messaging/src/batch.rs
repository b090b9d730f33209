//! Events that travel together: one row of the outbox, one message of a broker that carries batches,
//! one row of the inbox.
//!
//! A row or a message costs a database or a broker about the same for every size, so the unit of
//! both is the batch, in the JSON batch format of CloudEvents. An event that is alone travels as
//! itself.
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md#4-json-batch-format>

use std::{fmt::Display, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    Event, InvalidEvent, Message, Received,
    event::{Parsed, digest},
};

/// The media type of several events.
pub const BATCH_CONTENT_TYPE: &str = "application/cloudevents-batch+json";
/// The most events in one batch; consumers share the work in units of this.
pub const MAX_BATCH_EVENTS: usize = 100;
/// The longest body that a batch is filled up to, in bytes. One event may be longer.
pub const MAX_BATCH_BYTES: usize = 256 * 1024;

/// Events of one topic that travel together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The delivery's id: the same again whenever the same batch is sent again.
    pub id: String,
    /// Where it is sent to; the type of every event in it.
    pub topic: String,
    /// One event as a JSON object, or several as an array of them.
    pub body: Arc<[u8]>,
}

/// The attributes of an event that a [`Message`] repeats.
#[derive(Deserialize)]
struct Head {
    id: Option<String>,
    partitionkey: Option<String>,
}

impl Batch {
    /// A batch that came without an id, from a program that is none of ours. Its content names it,
    /// so that a repeat is recognised.
    pub fn unnamed(topic: &str, body: Arc<[u8]>) -> Self {
        let id = format!("unnamed:{}", digest(&[&body]));
        Self { id, topic: topic.to_owned(), body }
    }

    /// Whether the body is an array.
    pub(crate) fn is_array(&self) -> bool {
        self.body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[')
    }

    /// The media type of the body.
    pub fn content_type(&self) -> &'static str {
        if self.is_array() { BATCH_CONTENT_TYPE } else { crate::CONTENT_TYPE }
    }

    /// The partition key of the event, if it is the only one.
    #[cfg(feature = "rabbitmq")]
    pub(crate) fn key_of_one(&self) -> Option<String> {
        if self.is_array() {
            return None;
        }
        let head: Head = serde_json::from_slice(&self.body).ok()?;
        head.partitionkey.filter(|key| key.len() <= 255)
    }

    /// All events of the batch.
    ///
    /// # Errors
    /// One of them can't be read.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<Vec<Received<T>>, InvalidEvent> {
        if !self.is_array() {
            let parsed: Parsed<'_, T> = serde_json::from_slice(&self.body)?;
            return Ok(vec![parsed.received(&self.topic)?]);
        }
        let parsed: Vec<Parsed<'_, T>> = serde_json::from_slice(&self.body)?;
        parsed.into_iter().map(|event| event.received(&self.topic)).collect()
    }

    /// Each event as a message of its own: one at least. A body that can't be taken apart is one
    /// message. Those without an id of their own are named by their place in the batch.
    pub fn split(&self) -> Vec<Message> {
        let Ok(events) = serde_json::from_slice::<Vec<&RawValue>>(&self.body) else {
            return vec![self.message(0, Arc::clone(&self.body))];
        };
        if events.is_empty() {
            return vec![self.message(0, Arc::clone(&self.body))];
        }
        let message =
            |(n, event): (usize, &&RawValue)| self.message(n, event.get().as_bytes().into());
        events.iter().enumerate().map(message).collect()
    }

    fn message(&self, n: usize, body: Arc<[u8]>) -> Message {
        let head: Head =
            serde_json::from_slice(&body).unwrap_or(Head { id: None, partitionkey: None });
        Message {
            id: head.id.unwrap_or_else(|| format!("{}/{n}", self.id)),
            topic: self.topic.clone(),
            key: head.partitionkey.unwrap_or_default(),
            body,
        }
    }
}

/// Events on their way into the outbox, packed as they are pushed.
#[derive(Debug, Default)]
pub struct Outgoing {
    pub(crate) packs: Vec<Pack>,
}

/// The body of a batch in the making.
#[derive(Debug)]
pub(crate) struct Pack {
    pub topic: String,
    pub events: usize,
    /// The events, each with a comma before it; the first comma becomes the opening bracket.
    buffer: Vec<u8>,
}

impl Outgoing {
    /// Adds an event to the batch of its topic.
    ///
    /// # Panics
    /// If its data is no JSON value.
    pub fn push<S: Display, K: Display, T: Serialize>(&mut self, event: &Event<'_, S, K, T>) {
        self.append(event.topic, |buffer| event.write_to(buffer));
    }

    fn append(&mut self, topic: &str, write: impl FnOnce(&mut Vec<u8>)) {
        let new = || Pack { topic: topic.to_owned(), events: 0, buffer: Vec::new() };
        let place = self.packs.iter().rposition(|pack| pack.topic == topic);
        let place = place.filter(|place| self.packs[*place].events < MAX_BATCH_EVENTS);
        let place = place.unwrap_or_else(|| {
            self.packs.push(new());
            self.packs.len() - 1
        });
        let pack = &mut self.packs[place];
        let before = pack.buffer.len();
        pack.buffer.push(b',');
        write(&mut pack.buffer);
        // With the closing bracket.
        if pack.events > 0 && pack.buffer.len() + 1 > MAX_BATCH_BYTES {
            let buffer = pack.buffer.split_off(before);
            self.packs.push(Pack { events: 1, buffer, ..new() });
        } else {
            pack.events += 1;
        }
    }
}

impl Pack {
    /// The body: an object if there is one event, an array if there are more.
    pub(crate) fn into_body(self) -> Vec<u8> {
        let Self { events, mut buffer, .. } = self;
        if events == 1 {
            buffer.remove(0);
            return buffer;
        }
        buffer[0] = b'[';
        buffer.push(b']');
        buffer
    }
}

#[cfg(test)]
mod tests {
    use gozon_contract::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    const TOPIC: &str = "thing.done";

    fn event(n: usize, filler: &str) -> Message {
        let (source, subject, partition_key) = ("/things", format!("s{n}"), format!("k{}", n % 7));
        let (time, data) = (Timestamp::from_micros(1), json!({ "filler": filler }));
        Event { topic: TOPIC, source, subject, partition_key, time, traceparent: None, data }
            .to_message()
    }

    fn packed(messages: &[Message]) -> Vec<Batch> {
        let mut outgoing = Outgoing::default();
        for Message { topic, body, .. } in messages {
            outgoing.append(topic, |buffer| buffer.extend_from_slice(body));
        }
        let batch = |pack: Pack| Batch {
            id: "b".to_owned(),
            topic: pack.topic.clone(),
            body: pack.into_body().into(),
        };
        outgoing.packs.into_iter().map(batch).collect()
    }

    fn split(batches: &[Batch]) -> Vec<Message> {
        batches.iter().flat_map(Batch::split).collect()
    }

    #[test]
    fn event_alone_travels_as_itself() {
        let one = [event(1, "")];
        let sent = packed(&one);
        assert_eq!((sent.len(), sent[0].content_type()), (1, crate::CONTENT_TYPE));
        assert_eq!(sent[0].body, one[0].body);
        assert_eq!(split(&sent), one);
    }

    #[test]
    fn events_together_are_a_cloud_events_batch() {
        let three = [event(1, "a"), event(2, "[,]"), event(3, "\"\\")];
        let sent = packed(&three);
        assert_eq!((sent.len(), sent[0].content_type()), (1, BATCH_CONTENT_TYPE));
        let array: Vec<Value> = serde_json::from_slice(&sent[0].body).unwrap();
        assert_eq!(array[1]["id"], "s2:thing.done");
        assert_eq!(split(&sent), three);
        assert_eq!(sent[0].read::<Value>().unwrap()[0].data, json!({"filler": "a"}));
        assert!(sent[0].read::<u8>().is_err());
    }

    #[test]
    fn batch_is_bounded_and_keeps_the_order() {
        let many: Vec<_> = (0..250).map(|n| event(n, "")).collect();
        let sent = packed(&many);
        assert_eq!(sent.len(), 3);
        assert_eq!(split(&sent), many);
        let long: Vec<_> = (0..5).map(|n| event(n, &"x".repeat(100_000))).collect();
        let sent = packed(&long);
        assert!(sent.iter().all(|one| one.body.len() <= MAX_BATCH_BYTES));
        assert_eq!((sent.len(), split(&sent)), (3, long));
        let longer = [event(1, &"x".repeat(300_000)), event(2, "")];
        assert_eq!(split(&packed(&longer)), longer);
    }

    #[test]
    fn topics_are_packed_apart() {
        let other = Message { topic: "other".to_owned(), ..event(2, "") };
        let sent = packed(&[event(1, ""), other, event(3, "")]);
        let topics: Vec<_> =
            sent.iter().map(|one| (one.topic.as_str(), one.split().len())).collect();
        assert_eq!(topics, [(TOPIC, 2), ("other", 1)]);
    }

    #[test]
    fn foreign_batch_is_split_as_far_as_possible() {
        let batch = |body: &str| Batch::unnamed(TOPIC, body.as_bytes().into());
        let two = batch(r#" [ {"id": "a", "partitionkey": "k"} , 7 ] "#).split();
        assert_eq!((two[0].id.as_str(), two[0].key.as_str()), ("a", "k"));
        assert!(two[1].id.ends_with("/1") && *two[1].body == *b"7");
        for body in ["[]", "{}", "[{]", ""] {
            let one = batch(body).split();
            assert_eq!((one.len(), &*one[0].body), (1, body.as_bytes()), "{body}");
        }
        assert_ne!(batch("1").id, batch("2").id);
    }
}
