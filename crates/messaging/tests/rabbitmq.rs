//! What only RabbitMQ does: TLS, and refusing a client that is not set up. The server comes from
//! `scripts/services run -- cargo test`.

#![cfg(feature = "rabbitmq")]
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]

use std::{env, process::Command, sync::Arc};

use gozon_contract::{Delivery, RandomSource, Topic};
use gozon_messaging::{Batch, Broker, BrokerError, broker};
use gozon_testkit::{Certificates, amqp_url};
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

/// Runs `rabbitmqctl` on the server.
fn rabbitmqctl(arguments: &[&str]) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/services");
    let status = Command::new(script).arg("rabbitmqctl").args(arguments).status().unwrap();
    assert!(status.success(), "{arguments:?}");
}

/// Each right shows at another moment: when it connects, declares, or publishes.
#[tokio::test(flavor = "multi_thread")]
async fn missing_permissions_are_named() {
    let topic = topic();
    let user = format!("user-{:016x}", RandomSource::system().next_u64());
    rabbitmqctl(&["add_user", &user, "secret"]);
    let url = amqp_url().replacen("guest:guest@", &format!("{user}:secret@"), 1);
    for why in refusals(&url, topic).await {
        assert!(why.contains("let the user in: rabbitmqctl set_permissions"), "{why}");
    }
    let permit = |configure: &str, write: &str, read: &str| {
        rabbitmqctl(&["set_permissions", "--vhost", "/", &user, configure, write, read]);
    };
    permit("", "", "");
    for why in refusals(&url, topic).await {
        assert!(why.contains("let the user configure, write and read"), "{why}");
    }

    // It may declare, so that it is let in; that it may not publish shows later.
    permit(".*", "^(test[.].*|dead-letters)$", ".*");
    let broker = connect(&url, topic);
    broker.ping().await.unwrap();
    for result in [broker.publish(&[batch(topic)]).await, broker.ping().await] {
        let why = result.unwrap_err().to_string();
        assert!(why.contains("let the user configure, write and read"), "{why}");
    }
    permit(".*", ".*", ".*");
    broker.publish(&[batch(topic)]).await.unwrap();
    broker.ping().await.unwrap();
    rabbitmqctl(&["delete_user", &user]);
}

/// Where `scripts/services` has the server speak TLS, and the authority that it trusts.
fn amqps() -> (String, String) {
    let folder = env::var("GOZON_SERVICES_DIR").expect("run by `scripts/services run`");
    let url = amqp_url();
    let port = url.rsplit_once('@').unwrap().1.split(['/', ':']).nth(1).unwrap().to_owned();
    let tls_port = port.parse::<u16>().unwrap() + 5;
    let url = url.replacen("amqp:", "amqps:", 1);
    let url = url.replacen(&format!("127.0.0.1:{port}"), &format!("localhost:{tls_port}"), 1);
    (url, format!("{folder}/rabbitmq/authority.pem"))
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_with_a_server_that_is_trusted() {
    let topic = topic();
    let (url, authority) = amqps();
    let broker = connect(&format!("{url}?cacertfile={authority}"), topic);
    let mut subscriber = broker.subscribe(topic).await.unwrap();
    broker.publish(&[batch(topic)]).await.unwrap();
    assert_eq!(subscriber.receive(100).await.unwrap(), [batch(topic)]);
    subscriber.ack().await.unwrap();

    let others = Certificates::make();
    let by_address = url.replacen("localhost", "127.0.0.1", 1);
    for untrusted in [
        url.clone(),
        format!("{url}?cacertfile={}", others.stranger.display()),
        format!("{by_address}?cacertfile={authority}"),
    ] {
        let result = connect(&untrusted, topic).ping().await;
        assert!(matches!(result, Err(BrokerError::Away(_))), "{untrusted}: {result:?}");
    }
}
