//! What only RabbitMQ does: TLS, and refusing a client that is not set up. The server comes from
//! `scripts/services run -- cargo test`.

#![cfg(feature = "rabbitmq")]
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]

use std::{process::Command, sync::Arc};

use gozon_contract::{Delivery, RandomSource, Topic};
use gozon_messaging::{Batch, Broker, BrokerError, broker};
use gozon_testkit::{Certificates, amqp_url, amqps_url};
use lapin::{Connection, ConnectionProperties, options::QueueDeclareOptions, types::FieldTable};

/// A topic that no other test has.
fn topic() -> Topic {
    let name = format!("test.{:016x}", RandomSource::system().next_u64());
    Topic { name: name.leak(), delivery: Delivery::Competing }
}

fn connect(url: &str, topic: Topic) -> Arc<dyn Broker> {
    broker::connect(url, vec![topic].leak(), &RandomSource::system()).unwrap()
}

fn batch(topic: Topic) -> Batch {
    Batch { id: "1".to_owned(), topic: topic.name.to_owned(), body: b"{}".as_slice().into() }
}

/// What the broker says has to be done before anything else works.
async fn refusals(url: &str, topic: Topic) -> Vec<String> {
    let broker = connect(url, topic);
    let results = [
        broker.ping().await,
        broker.publish(&[batch(topic)]).await,
        broker.subscribe(topic).await.map(drop),
    ];
    let refusal = |result| match result {
        Err(BrokerError::Misconfigured(why)) => why,
        other => panic!("{other:?}"),
    };
    results.into_iter().map(refusal).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_another_type_is_named() {
    let topic = topic();
    let connection =
        Connection::connect(&amqp_url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let classic = QueueDeclareOptions::durable();
    channel.queue_declare(topic.name.into(), classic, FieldTable::default()).await.unwrap();
    for why in refusals(&amqp_url(), topic).await {
        assert!(why.contains(topic.name) && why.contains("prefix=NAME"), "{why}");
    }
    channel
        .queue_delete(topic.name.into(), lapin::options::QueueDeleteOptions::default())
        .await
        .unwrap();
    connect(&amqp_url(), topic).ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_virtual_host_is_named() {
    let (server, _) = amqp_url().rsplit_once('/').map(|(a, b)| (a.to_owned(), b.len())).unwrap();
    for why in refusals(&format!("{server}/nowhere"), topic()).await {
        assert!(why.contains("nowhere") && why.contains("rabbitmqctl add_vhost"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_named() {
    let url = amqp_url().replacen("guest:guest@", "guest:wrong@", 1);
    for why in refusals(&url, topic()).await {
        assert!(why.contains("check the user and the password"), "{why}");
    }
}

/// Runs Erlang expressions on the server. Starting `rabbitmqctl` takes seconds, so there is one for
/// many of them.
fn on_the_server(expressions: &[String]) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/services");
    let mut command = Command::new(script);
    let status = command.args(["rabbitmqctl", "eval", &(expressions.join(", ") + ".")]).status();
    assert!(status.unwrap().success(), "{expressions:?}");
}

/// Lets a user configure, write and read what these patterns match.
fn permit(user: &str, [configure, write, read]: [&str; 3]) -> String {
    format!(
        "rabbit_auth_backend_internal:set_permissions(<<\"{user}\">>, <<\"/\">>, \
         <<\"{configure}\">>, <<\"{write}\">>, <<\"{read}\">>, <<\"test\">>)"
    )
}

/// Each right shows at another moment: when it connects, declares, or publishes.
#[tokio::test(flavor = "multi_thread")]
async fn missing_permissions_are_named() {
    let topic = topic();
    let unique = RandomSource::system().next_u64();
    let [stranger, guest, reader] =
        ["stranger", "guest", "reader"].map(|name| format!("{name}-{unique:016x}"));
    let add = |user: &String| {
        format!(
            "rabbit_auth_backend_internal:add_user(<<\"{user}\">>, <<\"secret\">>, <<\"test\">>)"
        )
    };
    let may_declare = [".*", "^(test[.].*|dead-letters)$", ".*"];
    on_the_server(&[
        add(&stranger),
        add(&guest),
        permit(&guest, ["", "", ""]),
        add(&reader),
        permit(&reader, may_declare),
    ]);
    let url_of = |user: &str| amqp_url().replacen("guest:guest@", &format!("{user}:secret@"), 1);
    for why in refusals(&url_of(&stranger), topic).await {
        assert!(why.contains("let the user in: rabbitmqctl set_permissions"), "{why}");
    }
    for why in refusals(&url_of(&guest), topic).await {
        assert!(why.contains("let the user configure, write and read"), "{why}");
    }

    // It may declare, so that it is let in; that it may not publish shows later.
    let broker = connect(&url_of(&reader), topic);
    broker.ping().await.unwrap();
    for result in [broker.publish(&[batch(topic)]).await, broker.ping().await] {
        let why = result.unwrap_err().to_string();
        assert!(why.contains("let the user configure, write and read"), "{why}");
    }
    on_the_server(&[permit(&reader, [".*", ".*", ".*"])]);
    broker.publish(&[batch(topic)]).await.unwrap();
    broker.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_with_a_server_that_is_trusted() {
    let topic = topic();
    let trusted = amqps_url();
    let broker = connect(&trusted, topic);
    let mut subscriber = broker.subscribe(topic).await.unwrap();
    broker.publish(&[batch(topic)]).await.unwrap();
    assert_eq!(subscriber.receive(100).await.unwrap(), [batch(topic)]);
    subscriber.ack().await.unwrap();

    let others = Certificates::make();
    let (url, _) = trusted.split_once('?').unwrap();
    for untrusted in [
        url.to_owned(),
        format!("{url}?cacertfile={}", others.stranger.display()),
        trusted.replacen("localhost", "127.0.0.1", 1),
    ] {
        let result = connect(&untrusted, topic).ping().await;
        assert!(matches!(result, Err(BrokerError::Away(_))), "{untrusted}: {result:?}");
    }
}
