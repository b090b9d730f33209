//! RabbitMQ messages from elsewhere: from an instance of the release before, which names events and
//! not deliveries, and from programs that are none of ours.

use gozon_contract::Topic;
use gozon_messaging::{BATCH_CONTENT_TYPE, Batch, CONTENT_TYPE};
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};

use crate::subject::{Rig, Subject, batch, event, events, in_time, receive};

async fn publish(subject: &Subject, queue: Topic, properties: BasicProperties, body: &[u8]) {
    let url = subject.server().url();
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let (queue, options) = (queue.name.into(), BasicPublishOptions::default());
    let publishing = channel.basic_publish("".into(), queue, options, body, properties);
    publishing.await.unwrap().await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
}

pub async fn old_and_foreign_messages_are_read(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let mut consumer = rig.subscribe(rig.queue).await;
    let kind =
        |content_type: &str| BasicProperties::default().with_content_type(content_type.into());
    let mut received = async |properties, body: &str| -> Batch {
        in_time(publish(subject, rig.queue, properties, body.as_bytes())).await;
        let wanted = Batch::unnamed(rig.queue.name, body.as_bytes().into());
        receive(consumer.as_mut(), &[wanted]).await.remove(0)
    };
    // The release before: an event alone has its id, a batch has none.
    let alone = event("old", 1, "");
    let named = kind(CONTENT_TYPE).with_message_id("old-1".into());
    let delivery = received(named, &alone).await;
    assert_eq!((delivery.id.as_str(), &*delivery.body), ("old-1", alone.as_bytes()));
    let together = format!("[{},{}]", event("old", 2, ""), event("old", 3, ""));
    let first = received(kind(BATCH_CONTENT_TYPE), &together).await;
    assert_eq!(
        events(std::slice::from_ref(&first)),
        events(&[Batch { id: first.id.clone(), ..batch(rig.queue, "old", 2..4) }])
    );
    // The same content is the same delivery, so that a repeat of it is recognised.
    assert_eq!(received(kind(BATCH_CONTENT_TYPE), &together).await, first);
    // Of a foreign program, which may say anything of it.
    let foreign = received(BasicProperties::default(), &event("foreign", 4, "")).await;
    assert_ne!(foreign.id, first.id);
    assert_eq!(events(&[foreign]).len(), 1);
}
