//! The envelope of every event: CloudEvents 1.0 in structured JSON mode.
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>

use std::{
    borrow::Cow,
    fmt::{Display, Write as _},
    sync::Arc,
};

use gozon_contract::{Timestamp, TraceParent};
use serde::{Deserialize, Serialize, Serializer, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

/// The media type of one event.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// An event to be sent. Its id is `{subject}:{topic}`, so that a receiver can recognise a repeat.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a, S, K, T> {
    /// What happened, such as `payment.requested`; also where it is sent to.
    pub topic: &'a str,
    /// Who says it, such as `/orders`.
    pub source: &'a str,
    /// What it happened to, such as an order's id.
    pub subject: S,
    /// What it is ordered and partitioned by (the Partitioning extension).
    pub partition_key: K,
    /// When.
    pub time: Timestamp,
    /// The trace that it is part of (the Distributed Tracing extension).
    pub traceparent: Option<TraceParent>,
    /// What is said.
    pub data: T,
}

/// The part of a received event that matters to a use case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received<T> {
    /// What is said.
    pub data: T,
    /// The trace that it is part of.
    pub traceparent: Option<TraceParent>,
}

/// One event, as it is kept by itself: for a later attempt, or given up on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The event's id: the same again whenever the same event is sent again.
    pub id: String,
    /// Where it is sent to; the event's type.
    pub topic: String,
    /// What it is ordered and partitioned by.
    pub key: String,
    /// The event, as structured-mode JSON.
    pub body: Arc<[u8]>,
}

/// A message that is not an event of the expected type.
#[derive(Clone, Debug, thiserror::Error)]
#[error("not a CloudEvent of the expected type: {0}")]
pub struct InvalidEvent(String);

/// An event's attributes on the way out.
#[derive(Serialize)]
#[serde(bound = "T: Serialize")]
struct Attributes<'a, S: Display, K: Display, T> {
    specversion: &'a str,
    id: Text<EventId<'a, S>>,
    source: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    subject: Text<&'a S>,
    time: Timestamp,
    datacontenttype: &'a str,
    partitionkey: Text<&'a K>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<TraceParent>,
    data: &'a T,
}

struct Text<D>(D);

impl<D: Display> Serialize for Text<D> {
    fn serialize<R: Serializer>(&self, serializer: R) -> Result<R::Ok, R::Error> {
        serializer.collect_str(&self.0)
    }
}

struct EventId<'a, S> {
    subject: &'a S,
    topic: &'a str,
}

impl<S: Display> Display for EventId<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.subject, self.topic)
    }
}

/// An event's attributes on the way in. Texts are borrowed where they have no escapes.
#[derive(Deserialize)]
pub(crate) struct Parsed<'a, T> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    #[serde(borrow, rename = "id")]
    _id: Cow<'a, str>,
    #[serde(borrow, rename = "source")]
    _source: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, rename = "subject")]
    _subject: Cow<'a, str>,
    #[serde(rename = "time")]
    _time: Timestamp,
    #[serde(borrow, rename = "partitionkey")]
    _partition_key: Cow<'a, str>,
    traceparent: Option<TraceParent>,
    data: T,
}

impl<S: Display, K: Display, T: Serialize> Event<'_, S, K, T> {
    /// Appends the event's JSON to `buffer`.
    ///
    /// # Panics
    /// If `T` is no JSON value, such as a map with keys that are not texts.
    pub(crate) fn write_to(&self, buffer: &mut Vec<u8>) {
        let attributes = Attributes {
            specversion: "1.0",
            id: Text(EventId { subject: &self.subject, topic: self.topic }),
            source: self.source,
            kind: self.topic,
            subject: Text(&self.subject),
            time: self.time,
            datacontenttype: "application/json",
            partitionkey: Text(&self.partition_key),
            traceparent: self.traceparent,
            data: &self.data,
        };
        serde_json::to_writer(buffer, &attributes).expect("event data is a JSON value");
    }

    /// The event as a message of its own.
    ///
    /// # Panics
    /// As when its data is no JSON value.
    pub fn to_message(&self) -> Message {
        let mut body = Vec::new();
        self.write_to(&mut body);
        Message {
            id: EventId { subject: &self.subject, topic: self.topic }.to_string(),
            topic: self.topic.to_owned(),
            key: self.partition_key.to_string(),
            body: body.into(),
        }
    }
}

impl<T> Parsed<'_, T> {
    /// What a use case needs, if it is an event of `topic`.
    pub(crate) fn received(self, topic: &str) -> Result<Received<T>, InvalidEvent> {
        if self.specversion != "1.0" {
            return Err(InvalidEvent(format!("specversion {}", self.specversion)));
        }
        if self.kind != topic {
            return Err(InvalidEvent(format!("type {} on topic {topic}", self.kind)));
        }
        Ok(Received { data: self.data, traceparent: self.traceparent })
    }
}

impl<T: DeserializeOwned> Received<T> {
    /// Reads a message.
    ///
    /// # Errors
    /// It is no JSON, no CloudEvent 1.0, not of the topic's type, or its data is not a `T`.
    pub fn read(message: &Message) -> Result<Self, InvalidEvent> {
        let parsed: Parsed<'_, T> = serde_json::from_slice(&message.body)?;
        parsed.received(&message.topic)
    }
}

impl From<serde_json::Error> for InvalidEvent {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

/// The longest id or key, in bytes, that an index of the database takes.
const MAX_ID_BYTES: usize = 512;

impl Message {
    /// The message with an id and a key that the database can store. Ours always can be; anybody
    /// may write to a broker, and a message that could not even be set aside would come again for
    /// ever and hold up those behind it.
    pub(crate) fn storable(self) -> Self {
        let fits = |text: &str| text.len() <= MAX_ID_BYTES && !text.contains('\0');
        if !self.id.is_empty() && fits(&self.id) && fits(&self.key) {
            return self;
        }
        let digest = digest(&[self.id.as_bytes(), self.key.as_bytes(), &self.body]);
        let shorten = |text: &str| text.replace('\0', "\u{fffd}").chars().take(100).collect();
        let start: String = shorten(&self.id);
        Self { id: format!("{start}~{digest}"), key: shorten(&self.key), ..self }
    }
}

/// A name made of contents: the same in every process and every release. It is the start of a
/// SHA-256, in hex.
pub(crate) fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut hex = String::with_capacity(32);
    for byte in &hash.finalize()[..16] {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Timestamp = Timestamp::from_micros(1_763_683_200_000_000);

    fn message() -> Message {
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().ok();
        let (topic, source, subject, partition_key) = ("thing.done", "/things", "s1", "k1");
        let data = serde_json::json!({"n": 1});
        Event { topic, source, subject, partition_key, time: TIME, traceparent, data }.to_message()
    }

    fn read(message: &Message) -> Result<Received<serde_json::Value>, InvalidEvent> {
        Received::read(message)
    }

    #[test]
    fn envelope_is_a_cloud_event() {
        let json: serde_json::Value = serde_json::from_slice(&message().body).unwrap();
        let expected = serde_json::json!({
            "specversion": "1.0", "id": "s1:thing.done", "source": "/things",
            "type": "thing.done", "subject": "s1", "time": "2025-11-21T00:00:00.000000Z",
            "datacontenttype": "application/json", "partitionkey": "k1",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "data": {"n": 1}
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn event_reads_back_whatever_is_escaped() {
        let received = read(&message()).unwrap();
        assert_eq!(received.data, serde_json::json!({"n": 1}));
        let body = String::from_utf8(message().body.to_vec()).unwrap();
        let body = body.replace("thing.done", "thing\\u002edone");
        let escaped = Message { body: body.into_bytes().into(), ..message() };
        assert_eq!(read(&escaped).unwrap(), received);
    }

    #[test]
    fn every_message_gets_an_id_that_can_be_stored() {
        let good = message();
        assert_eq!(good.clone().storable(), good);
        let ids = [String::new(), "a\0b".to_owned(), "a\0c".to_owned(), "я".repeat(10_000)];
        let stored: Vec<_> =
            ids.iter().map(|id| Message { id: id.clone(), ..good.clone() }.storable().id).collect();
        for (i, id) in stored.iter().enumerate() {
            assert!(id.len() <= MAX_ID_BYTES && !id.contains('\0') && !id.is_empty(), "{id}");
            assert!(!stored[..i].contains(id), "{id} stands for two messages");
        }
        // Two without an id are two messages, unless they say the same.
        let other = Message { id: String::new(), body: b"{}".as_slice().into(), ..good.clone() };
        assert_ne!(other.storable().id, stored[0]);
        assert_eq!(Message { id: String::new(), ..good }.storable().id, stored[0]);
    }

    #[test]
    fn digest_is_the_same_in_every_release() {
        assert_eq!(digest(&[b"a", b"bc"]), "3fafa1cf2f19a7c1129beb20cf0983f7");
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
    }

    #[test]
    fn what_is_no_such_event_is_refused() {
        let good = message();
        let wrong_topic = Message { topic: "other".to_owned(), ..good.clone() };
        assert!(read(&wrong_topic).is_err());
        assert!(Received::<u8>::read(&good).is_err());
        assert!(read(&Message { body: b"{".as_slice().into(), ..good }).is_err());
    }
}
