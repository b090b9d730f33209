//! The envelope of every message: CloudEvents 1.0 in structured JSON mode.
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use gozon_contract::{Timestamp, TraceParent};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The media type of [`Message::body`].
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// A message as brokers carry it: what they need to know to route it, and opaque bytes.
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

/// The longest id, in bytes, that an index of the database takes without complaint.
const LONGEST_ID: usize = 512;

impl Message {
    /// The message with an id and a key that the database can store. Ours always can be; anybody
    /// may write to a broker, and a message that could not even be set aside would come again for
    /// ever and hold up those behind it.
    pub(crate) fn storable(self) -> Self {
        let fits = |text: &str| text.len() <= LONGEST_ID && !text.contains('\0');
        if !self.id.is_empty() && fits(&self.id) && fits(&self.key) {
            return self;
        }
        let mut hasher = DefaultHasher::new();
        (&self.id, &self.key, &self.body).hash(&mut hasher);
        let digest = hasher.finish();
        let shorten = |text: &str| text.replace('\0', "\u{fffd}").chars().take(100).collect();
        let start: String = shorten(&self.id);
        Self { id: format!("{start}~{digest:016x}"), key: shorten(&self.key), ..self }
    }
}

/// An event about a subject. One that was read borrows its texts from the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a, T> {
    /// Deterministic: the subject and the type, so that a receiver can tell a repeat.
    pub id: Cow<'a, str>,
    /// Who says it, such as `/orders`.
    pub source: Cow<'a, str>,
    /// What happened, such as `payment.requested`.
    pub kind: Cow<'a, str>,
    /// What it happened to, such as an order's id.
    pub subject: Cow<'a, str>,
    /// When.
    pub time: Timestamp,
    /// What it is ordered and partitioned by (the Partitioning extension).
    pub partition_key: Cow<'a, str>,
    /// The trace that it is part of (the Distributed Tracing extension).
    pub traceparent: Option<TraceParent>,
    /// What is said.
    pub data: T,
}

/// A message that is not an event of the expected type.
#[derive(Debug, thiserror::Error)]
#[error("not a CloudEvent of the expected type: {0}")]
pub struct InvalidEvent(String);

#[derive(Serialize)]
struct Out<'a, T> {
    specversion: &'a str,
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    subject: &'a str,
    time: Timestamp,
    datacontenttype: &'a str,
    partitionkey: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<TraceParent>,
    data: &'a T,
}

#[derive(Deserialize)]
struct In<'a, T> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    subject: Cow<'a, str>,
    time: Timestamp,
    #[serde(borrow)]
    partitionkey: Cow<'a, str>,
    traceparent: Option<TraceParent>,
    data: T,
}

impl<'a, T: Serialize> Event<'a, T> {
    /// An event of type `kind` about `subject`, its id made of the two.
    #[allow(clippy::needless_pass_by_value, reason = "ids and texts are passed as they are")]
    pub fn about(
        subject: impl ToString,
        kind: &'a str,
        source: &'a str,
        partition_key: impl ToString,
        time: Timestamp,
        traceparent: Option<TraceParent>,
        data: T,
    ) -> Self {
        let subject = subject.to_string();
        Self {
            id: format!("{subject}:{kind}").into(),
            source: source.into(),
            kind: kind.into(),
            subject: subject.into(),
            time,
            partition_key: partition_key.to_string().into(),
            traceparent,
            data,
        }
    }

    /// The event, packed for the broker.
    ///
    /// # Panics
    /// If `T` is no JSON value, such as a map with keys that are not texts.
    pub fn into_message(self) -> Message {
        let body = serde_json::to_vec(&Out {
            specversion: "1.0",
            id: &self.id,
            source: &self.source,
            kind: &self.kind,
            subject: &self.subject,
            time: self.time,
            datacontenttype: "application/json",
            partitionkey: &self.partition_key,
            traceparent: self.traceparent,
            data: &self.data,
        })
        .expect("event data is a JSON value");
        Message {
            id: self.id.into_owned(),
            topic: self.kind.into_owned(),
            key: self.partition_key.into_owned(),
            body: body.into(),
        }
    }
}

impl<'a, T: DeserializeOwned> Event<'a, T> {
    /// Unpacks a message.
    ///
    /// # Errors
    /// It is no JSON, no CloudEvent 1.0, not of the topic's type, or its data is not a `T`.
    pub fn read(message: &'a Message) -> Result<Self, InvalidEvent> {
        let event: In<'a, T> = serde_json::from_slice(&message.body)
            .map_err(|error| InvalidEvent(error.to_string()))?;
        if event.specversion != "1.0" {
            return Err(InvalidEvent(format!("specversion {}", event.specversion)));
        }
        if event.kind != message.topic {
            return Err(InvalidEvent(format!("type {} on topic {}", event.kind, message.topic)));
        }
        Ok(Self {
            id: event.id,
            source: event.source,
            kind: event.kind,
            subject: event.subject,
            time: event.time,
            partition_key: event.partitionkey,
            traceparent: event.traceparent,
            data: event.data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event<'static, serde_json::Value> {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().ok();
        let time = Timestamp::from_micros(1_763_683_200_000_000);
        Event::about("s1", "thing.done", "/things", "k1", time, trace, serde_json::json!({"n": 1}))
    }

    #[test]
    fn the_envelope_is_a_cloud_event() {
        let json: serde_json::Value = serde_json::from_slice(&event().into_message().body).unwrap();
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
    fn it_reads_back() {
        assert_eq!(Event::read(&event().into_message()).unwrap(), event());
        // Whoever wrote it may have escaped what need not be.
        let escaped = event().into_message();
        let body = String::from_utf8(escaped.body.to_vec()).unwrap();
        let body = body.replace("thing.done", "thing\\u002edone");
        let escaped = Message { body: body.into_bytes().into(), ..escaped };
        assert_eq!(Event::read(&escaped).unwrap(), event());
    }

    #[test]
    fn every_message_gets_an_id_that_can_be_stored() {
        let good = event().into_message();
        assert_eq!(good.clone().storable(), good);
        let ids = [String::new(), "a\0b".to_owned(), "a\0c".to_owned(), "я".repeat(10_000)];
        let stored: Vec<_> =
            ids.iter().map(|id| Message { id: id.clone(), ..good.clone() }.storable().id).collect();
        for (i, id) in stored.iter().enumerate() {
            assert!(id.len() <= LONGEST_ID && !id.contains('\0') && !id.is_empty(), "{id}");
            assert!(!stored[..i].contains(id), "{id} stands for two messages");
        }
        // Two without an id are two messages, unless they say the same.
        let other = Message { id: String::new(), body: b"{}".as_slice().into(), ..good.clone() };
        assert_ne!(other.storable().id, stored[0]);
        assert_eq!(Message { id: String::new(), ..good }.storable().id, stored[0]);
    }

    #[test]
    fn what_is_no_such_event_is_refused() {
        let good = event().into_message();
        let wrong_topic = Message { topic: "other".to_owned(), ..good.clone() };
        assert!(Event::<serde_json::Value>::read(&wrong_topic).is_err());
        assert!(Event::<u8>::read(&good).is_err());
        let broken = Message { body: b"{".as_slice().into(), ..good };
        assert!(Event::<serde_json::Value>::read(&broken).is_err());
    }
}
