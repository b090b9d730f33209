//! TLS, SASL and access rights, against the listeners that `scripts/services` gives to its Kafka.

#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]

use std::{
    env,
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use gozon_contract::{Delivery, RandomSource, Topic};
use gozon_messaging::{Batch, Broker, BrokerError, broker};
use gozon_testkit::{Certificates, kafka_url};
use tokio::time::timeout;

/// Longer than a group takes to form, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(90);
/// The password of every user, as a URL has it.
const PASSWORD: &str = "secret%20sauce";
/// Operations, by their numbers in an access rule (`AclOperation` of Kafka).
const WRITE: u8 = 4;
const DESCRIBE: u8 = 8;

/// A topic that no other test has.
fn topic() -> Topic {
    let name = format!("test.{:016x}", RandomSource::system().next_u64());
    Topic { name: name.leak(), delivery: Delivery::Competing }
}

fn connect(url: &str, topic: Topic) -> Arc<dyn Broker> {
    broker::connect(url, vec![topic].leak(), &RandomSource::system()).unwrap()
}

fn batch(topic: Topic) -> Batch {
    Batch {
        id: "1".to_owned(),
        topic: topic.name.to_owned(),
        body: br#"{"id":"1"}"#.as_slice().into(),
    }
}

/// The server's address, `further` ports on.
fn address(host: &str, further: u16) -> String {
    let port = kafka_url().rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    format!("{host}:{}", port + further)
}

fn sasl_tls(host: &str) -> String {
    address(host, 3)
}

fn sasl() -> String {
    address("127.0.0.1", 4)
}

fn tls(host: &str) -> String {
    address(host, 5)
}

/// A file that `scripts/services` has made for the server.
fn file(name: &str) -> String {
    let folder = env::var("GOZON_SERVICES_DIR").expect("run by `scripts/services run`");
    format!("{folder}/kafka/{name}")
}

/// What the broker says has to be done before anything else works, whatever it is asked for first. A
/// server that is too busy to answer is asked again.
async fn refusal(url: &str) -> String {
    let mut said = Vec::new();
    for first in ["ping", "publish", "subscribe"] {
        let topic = topic();
        let broker = connect(url, topic);
        let asked = async {
            loop {
                let answer = match first {
                    "ping" => broker.ping().await,
                    "publish" => broker.publish(&[batch(topic)]).await,
                    _ => broker.subscribe(topic).await.map(drop),
                };
                match answer {
                    Err(BrokerError::Misconfigured(why)) => break why,
                    Err(BrokerError::Away(_)) => {}
                    other => panic!("{url}: {other:?}"),
                }
            }
        };
        said.push(timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{url}: {first}")));
    }
    assert!(said.iter().all(|why| !why.contains("sauce")), "{said:?}");
    said.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn events_pass_by_every_way_in() {
    let authority = file("authority.pem");
    let (certificate, key) = (file("certificate.pem"), file("key.pem"));
    let mut urls = vec![format!(
        "kafka://{}?security.protocol=ssl&ssl.ca.location={authority}\
         &ssl.certificate.location={certificate}&ssl.key.location={key}",
        tls("localhost"),
    )];
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "scram-sha-512"] {
        urls.push(format!(
            "kafka://gozon:{PASSWORD}@{}?security.protocol=SASL_SSL&sasl.mechanism={mechanism}\
             &ssl.ca.location={authority}",
            sasl_tls("localhost"),
        ));
        urls.push(format!(
            "kafka://gozon:{PASSWORD}@{}?security.protocol=sasl_plaintext&sasl.mechanism={mechanism}",
            sasl(),
        ));
    }
    for url in urls {
        let topic = topic();
        let broker = connect(&url, topic);
        broker.publish(&[batch(topic)]).await.unwrap_or_else(|error| panic!("{url}: {error}"));
        let mut subscriber = broker.subscribe(topic).await.unwrap();
        let received = timeout(PATIENCE, subscriber.receive(100)).await.expect("it arrives");
        assert_eq!(received.unwrap()[0].body, batch(topic).body, "{url}");
        subscriber.ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_named() {
    for mechanism in ["PLAIN", "SCRAM-SHA-256"] {
        let url = format!(
            "kafka://gozon:tomato%20sauce@{}?security.protocol=sasl_plaintext\
             &sasl.mechanism={mechanism}",
            sasl(),
        );
        let said = refusal(&url).await;
        assert_eq!(said.matches("check the user, the password").count(), 3, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_trusted_is_named() {
    let others = Certificates::make();
    let (authority, stranger) = (file("authority.pem"), others.stranger.display());
    for (server, ca) in [
        (sasl_tls("localhost"), format!("&ssl.ca.location={stranger}")),
        // Not the name in the certificate; not one that the system trusts.
        (sasl_tls("127.0.0.1"), format!("&ssl.ca.location={authority}")),
        (sasl_tls("localhost"), String::new()),
    ] {
        let parameters = format!("security.protocol=sasl_ssl&sasl.mechanism=PLAIN{ca}");
        let said = refusal(&format!("kafka://gozon:{PASSWORD}@{server}?{parameters}")).await;
        assert_eq!(said.matches("ssl.ca.location and the host names").count(), 3, "{said}");
    }
}

/// Lets the user guest do something with a topic: a `CreateAcls` request, version 1.
fn allow(topic: Topic, operation: u8) {
    let string = |text: &str| {
        let length = u16::try_from(text.len()).unwrap().to_be_bytes();
        [&length, text.as_bytes()].concat()
    };
    let (key, version, correlation) = ([0, 30], [0, 1], [0, 0, 0, 1]);
    let one = [0, 0, 0, 1];
    let (of_topic, literal, allowed) = ([2], [3], [3]);
    let rule = [&of_topic, string(topic.name).as_slice(), &literal].concat();
    let who = [string("User:guest"), string("*")].concat();
    let head = [key.as_slice(), &version, &correlation, &string("test")].concat();
    let request = [head.as_slice(), &one, &rule, &who, &[operation], &allowed].concat();
    let mut server = TcpStream::connect(address("127.0.0.1", 0)).unwrap();
    server.write_all(&u32::try_from(request.len()).unwrap().to_be_bytes()).unwrap();
    server.write_all(&request).unwrap();
    // Its length, correlation, throttling and the number of results; then the error of the one.
    let mut answer = [0; 18];
    server.read_exact(&mut answer).unwrap();
    assert_eq!(answer[16..], [0, 0], "{answer:?}");
}

/// What the guest is told when it is not allowed something. A right takes effect a moment after it
/// was given, so what is still said of the right before is passed over.
async fn told(broker: &Arc<dyn Broker>, topic: Topic, expected: &str) {
    let told = async {
        loop {
            match broker.publish(&[batch(topic)]).await {
                Err(BrokerError::Misconfigured(why)) if why.contains(expected) => break,
                Err(BrokerError::Misconfigured(_) | BrokerError::Away(_)) => {}
                other => panic!("{expected}: {other:?}"),
            }
        }
    };
    timeout(PATIENCE, told).await.unwrap_or_else(|_| panic!("never told: {expected}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_rights_is_told_what_is_missing() {
    let topic = topic();
    let url = format!(
        "kafka://guest:{PASSWORD}@{}?security.protocol=sasl_plaintext&sasl.mechanism=PLAIN",
        sasl(),
    );
    let broker = connect(&url, topic);
    told(&broker, topic, "kafka-acls.sh --add --allow-principal User:NAME").await;
    assert!(matches!(broker.ping().await, Err(BrokerError::Misconfigured(_))));
    allow(topic, DESCRIBE);
    let create = format!("kafka-topics.sh --create --topic {} --partitions 3", topic.name);
    told(&broker, topic, &create).await;
    assert!(matches!(broker.ping().await, Err(BrokerError::Misconfigured(_))));
    connect(&kafka_url(), topic).ping().await.unwrap();
    told(&broker, topic, "kafka-acls.sh --add --allow-principal User:NAME").await;
    // It can be reached; what it refused last is what is wrong.
    assert!(matches!(broker.ping().await, Err(BrokerError::Misconfigured(_))));
    allow(topic, WRITE);
    let works = async { while broker.publish(&[batch(topic)]).await.is_err() {} };
    timeout(PATIENCE, works).await.expect("it may write");
    broker.ping().await.unwrap();
}
