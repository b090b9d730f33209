//! Many events in one RabbitMQ message.
//!
//! A message costs RabbitMQ about the same whatever its size: routing, a log entry in each replica
//! of the queue, a confirmation, a delivery, an acknowledgement. What is published together
//! therefore travels together, as a batch in the JSON format of CloudEvents; an event that is
//! alone travels as itself.
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md#4-json-batch-format>

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use gozon_contract::{Delivery, Topic};
use lapin::BasicProperties;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{CONTENT_TYPE, Message};

/// The media type of a batch.
const BATCH_TYPE: &str = "application/cloudevents-batch+json";
/// The most events in one message; consumers share the work in units of this.
const MOST: usize = 100;
/// How long the body of a batch may grow, in bytes.
const LONGEST: usize = 256 * 1024;
/// Survives a restart of the server.
const PERSISTENT: u8 = 2;

/// A message as RabbitMQ gets it.
pub(super) struct Packed<'a> {
    pub(super) topic: &'a str,
    pub(super) delivery: Delivery,
    pub(super) properties: BasicProperties,
    pub(super) body: Cow<'a, [u8]>,
}

/// What an event says of itself, as far as a [`Message`] repeats it.
#[derive(Deserialize)]
struct Named {
    id: Option<String>,
    partitionkey: Option<String>,
}

/// Packs messages, each topic's in their order.
pub(super) fn pack<'a>(messages: &[(&'a Message, Delivery)]) -> Vec<Packed<'a>> {
    let mut packed = Vec::new();
    let mut batches: Vec<(Delivery, Vec<&'a Message>)> = Vec::new();
    for &(message, delivery) in messages {
        if !is_event(message) {
            packed.push(alone(message, delivery));
            continue;
        }
        match batches.iter_mut().find(|(_, batch)| batch[0].topic == message.topic) {
            Some((_, batch)) => batch.push(message),
            None => batches.push((delivery, vec![message])),
        }
    }
    for (delivery, messages) in &batches {
        let mut rest = messages.as_slice();
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(room(rest));
            rest = after;
            packed.push(match batch {
                [message] => alone(message, *delivery),
                batch => together(batch, *delivery),
            });
        }
    }
    packed
}

/// How many of these fit into one batch: one at least.
fn room(messages: &[&Message]) -> usize {
    let mut length = 0;
    let fits = |message: &&&Message| {
        length += message.body.len() + 1;
        length <= LONGEST
    };
    messages.iter().take(MOST).take_while(fits).count().max(1)
}

/// Whether all that the message is can be read from its body again.
fn is_event(message: &Message) -> bool {
    /// Most texts are slices of the body; the few with escapes are not worth a copy here.
    #[derive(Deserialize)]
    struct Named<'a> {
        id: &'a str,
        partitionkey: &'a str,
    }
    serde_json::from_slice(&message.body)
        .is_ok_and(|named: Named<'_>| named.id == message.id && named.partitionkey == message.key)
}

fn alone(message: &Message, delivery: Delivery) -> Packed<'_> {
    let properties = properties(message, CONTENT_TYPE)
        .with_message_id(message.id.as_str().into())
        .with_correlation_id(message.key.as_str().into());
    Packed { topic: &message.topic, delivery, properties, body: Cow::Borrowed(&message.body) }
}

fn together<'a>(messages: &[&'a Message], delivery: Delivery) -> Packed<'a> {
    let length: usize = messages.iter().map(|message| message.body.len() + 1).sum();
    let mut body = Vec::with_capacity(length + 1);
    for message in messages {
        body.push(if body.is_empty() { b'[' } else { b',' });
        body.extend_from_slice(&message.body);
    }
    body.push(b']');
    let properties = properties(messages[0], BATCH_TYPE);
    Packed { topic: &messages[0].topic, delivery, properties, body: Cow::Owned(body) }
}

fn properties(message: &Message, content_type: &str) -> BasicProperties {
    BasicProperties::default()
        .with_content_type(content_type.into())
        .with_delivery_mode(PERSISTENT)
        .with_type(message.topic.as_str().into())
}

/// What arrived, as messages of `topic`: one at least. A batch that can't be read is one message,
/// for the inbox to set aside.
pub(super) fn unpack(topic: Topic, properties: &BasicProperties, body: Vec<u8>) -> Vec<Message> {
    let is_batch =
        properties.content_type().as_ref().is_some_and(|kind| kind.as_str() == BATCH_TYPE);
    if is_batch
        && let Ok(events) = serde_json::from_slice::<Vec<&RawValue>>(&body)
        && !events.is_empty()
    {
        let message = |event: &RawValue| {
            let named: Named =
                serde_json::from_str(event.get()).unwrap_or(Named { id: None, partitionkey: None });
            let body = event.get().as_bytes();
            message(topic, named.id, named.partitionkey, body.into())
        };
        return events.into_iter().map(message).collect();
    }
    let id = properties.message_id().as_ref().map(ToString::to_string);
    let key = properties.correlation_id().as_ref().map(ToString::to_string);
    vec![message(topic, id, key, body.into())]
}

/// A message without an id is not ours; its content names it, so that a receiver can tell a repeat.
fn message(topic: Topic, id: Option<String>, key: Option<String>, body: Arc<[u8]>) -> Message {
    let id = id.unwrap_or_else(|| {
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        format!("unnamed:{:016x}", hasher.finish())
    });
    Message { id, topic: topic.name.to_owned(), key: key.unwrap_or_default(), body }
}

#[cfg(test)]
mod tests {
    use gozon_contract::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::Event;

    const TOPIC: Topic = Topic { name: "thing.done", delivery: Delivery::Competing };

    fn event(n: usize, filler: &str) -> Message {
        let time = Timestamp::from_micros(1);
        let data = json!({ "filler": filler });
        Event::about(
            format!("s{n}"),
            TOPIC.name,
            "/things",
            format!("k{}", n % 7),
            time,
            None,
            data,
        )
        .into_message()
    }

    fn packed(messages: &[Message]) -> Vec<Packed<'_>> {
        pack(&messages.iter().map(|message| (message, TOPIC.delivery)).collect::<Vec<_>>())
    }

    fn unpacked(packed: Vec<Packed>) -> Vec<Message> {
        packed.into_iter().flat_map(|one| unpack(TOPIC, &one.properties, one.body.into())).collect()
    }

    fn kind<'a>(packed: &'a Packed<'_>) -> &'a str {
        packed.properties.content_type().as_ref().unwrap().as_str()
    }

    #[test]
    fn an_event_alone_travels_as_itself() {
        let one = [event(1, "")];
        let sent = packed(&one);
        assert_eq!((sent.len(), kind(&sent[0])), (1, CONTENT_TYPE));
        assert_eq!(*sent[0].body, *one[0].body);
        assert_eq!(unpacked(sent), one);
    }

    #[test]
    fn events_together_are_a_batch_as_the_specification_has_it() {
        let three = [event(1, "a"), event(2, "[,]"), event(3, "\"\\")];
        let sent = packed(&three);
        assert_eq!((sent.len(), kind(&sent[0])), (1, "application/cloudevents-batch+json"));
        let array: Vec<serde_json::Value> = serde_json::from_slice(&sent[0].body).unwrap();
        assert_eq!(array[1]["id"], "s2:thing.done");
        assert_eq!(unpacked(sent), three);
    }

    #[test]
    fn a_batch_has_a_most_and_keeps_the_order() {
        let many: Vec<_> = (0..250).map(|n| event(n, "")).collect();
        let sent = packed(&many);
        assert_eq!(sent.len(), 3);
        assert_eq!(unpacked(sent), many);
        let long: Vec<_> = (0..5).map(|n| event(n, &"x".repeat(100_000))).collect();
        let sent = packed(&long);
        assert!(sent.iter().all(|one| one.body.len() <= LONGEST));
        assert_eq!(sent.len(), 3);
        assert_eq!(unpacked(sent), long);
        let longer = [event(1, &"x".repeat(300_000)), event(2, "")];
        assert_eq!(unpacked(packed(&longer)), longer);
    }

    #[test]
    fn what_is_no_event_or_another_travels_alone() {
        let other = Message { id: "other".to_owned(), ..event(1, "") };
        let broken = Message { body: b"{".as_slice().into(), ..event(2, "") };
        let odd = [event(3, ""), other, event(4, ""), broken];
        let sent = packed(&odd);
        assert_eq!(sent.len(), 3);
        let mut back = unpacked(sent);
        back.sort_by(|a, b| a.id.cmp(&b.id));
        let mut odd = odd.to_vec();
        odd.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(back, odd);
    }

    #[test]
    fn a_batch_from_elsewhere_is_read_as_far_as_it_can_be() {
        let batch = || BasicProperties::default().with_content_type(BATCH_TYPE.into());
        let read = |body: &str| unpack(TOPIC, &batch(), body.as_bytes().to_vec());
        let two = read(r#" [ {"id": "a", "partitionkey": "k"} , 7 ] "#);
        assert_eq!((two[0].id.as_str(), two[0].key.as_str()), ("a", "k"));
        assert!(two[1].id.starts_with("unnamed:") && *two[1].body == *b"7");
        for body in ["[]", "{}", "[{]", ""] {
            let one = read(body);
            assert_eq!((one.len(), &*one[0].body), (1, body.as_bytes()), "{body}");
        }
    }
}
