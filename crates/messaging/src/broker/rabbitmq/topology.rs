//! What is declared on the server. A queue can't be declared anew with other arguments, so these
//! are for ever; they are the same for every version, so that an upgrade changes nothing.

use gozon_contract::{Delivery, Topic};
use lapin::{
    Channel, ExchangeKind, Result,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

/// Where RabbitMQ puts what it takes out of a queue by itself, sorted by the name of that queue.
/// Nothing here asks for that; an operator's policy may.
const DEAD_LETTERS: &str = "dead-letters";
/// Redeliveries until a message becomes a dead letter. RabbitMQ 4 says 20 unless told otherwise,
/// which an outage of the database would use up; 3.x does not know -1, for no limit.
const DELIVERY_LIMIT: i32 = 1_000_000_000;
/// How many messages a listener may be behind before it loses the oldest.
const BROADCAST_BUFFER: i32 = 100_000;

/// Declares what publishing to `topic` needs.
pub(super) async fn declare(channel: &Channel, topic: Topic) -> Result<()> {
    match topic.delivery {
        Delivery::Competing => declare_queue(channel, topic.name).await,
        Delivery::Broadcast => declare_exchange(channel, topic.name, ExchangeKind::Fanout).await,
    }
}

/// Declares what consuming `topic` needs; the name of the queue to consume.
pub(super) async fn declare_consumed(channel: &Channel, topic: Topic) -> Result<String> {
    declare(channel, topic).await?;
    match topic.delivery {
        Delivery::Competing => Ok(topic.name.to_owned()),
        Delivery::Broadcast => declare_listener(channel, topic.name).await,
    }
}

async fn declare_queue(channel: &Channel, name: &str) -> Result<()> {
    declare_exchange(channel, DEAD_LETTERS, ExchangeKind::Direct).await?;
    let dead = format!("{name}.{DEAD_LETTERS}");
    let quorum = ("x-queue-type", text("quorum"));
    let arguments = table([quorum.clone()]);
    channel.queue_declare(dead.as_str().into(), QueueDeclareOptions::durable(), arguments).await?;
    bind(channel, &dead, DEAD_LETTERS, name).await?;
    let arguments = table([
        quorum,
        ("x-delivery-limit", AMQPValue::LongInt(DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", text(DEAD_LETTERS)),
        ("x-dead-letter-routing-key", text(name)),
        // A dead letter leaves its queue only when it is safe in the other one; this needs that.
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ]);
    channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments).await?;
    Ok(())
}

/// A queue of a listener's own, gone with its connection. It is bounded, so that a listener that
/// got stuck does not fill the server's memory.
async fn declare_listener(channel: &Channel, exchange: &str) -> Result<String> {
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let arguments = table([
        ("x-queue-type", text("classic")),
        ("x-max-length", AMQPValue::LongInt(BROADCAST_BUFFER)),
        ("x-overflow", text("drop-head")),
    ]);
    let queue = channel.queue_declare("".into(), options, arguments).await?.name().to_string();
    bind(channel, &queue, exchange, "").await?;
    Ok(queue)
}

async fn declare_exchange(channel: &Channel, name: &str, kind: ExchangeKind) -> Result<()> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> Result<()> {
    let options = QueueBindOptions::default();
    channel
        .queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default())
        .await
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn table<const N: usize>(arguments: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert(name.into(), value);
    }
    table
}
