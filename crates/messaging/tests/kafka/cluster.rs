//! Topics, URLs, and a cluster that is not there.

use gozon_contract::{Delivery, RandomSource};
use gozon_messaging::{BrokerError, broker};
use gozon_testkit::kafka_url;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
};
use tokio::time::timeout;

use crate::{PATIENCE, drain, instance, one, servers, topic};

#[tokio::test]
async fn undeclared_topic_is_refused() {
    let (known, unknown) = (topic(Delivery::Competing), topic(Delivery::Competing));
    let broker = instance(known);
    let sent = [one(known, "a"), one(unknown, "b")];
    match broker.publish(&sent).await {
        Err(BrokerError::Rejected { ids, .. }) => assert_eq!(ids, ["b"]),
        other => panic!("{other:?}"),
    }
    assert!(broker.subscribe(unknown).await.is_err());
    drain(broker.subscribe(known).await.unwrap().as_mut(), &sent[..1]).await;
}

#[tokio::test]
async fn topics_get_their_partitions() {
    for (delivery, option, partitions) in [
        (Delivery::Competing, "", 3),
        (Delivery::Competing, "?partitions=5", 5),
        (Delivery::Broadcast, "", 1),
    ] {
        let topic = topic(delivery);
        let url: &'static str = format!("{}{option}", kafka_url()).leak();
        let instance =
            || broker::connect(url, vec![topic].leak(), &RandomSource::system()).unwrap();
        // Several instances at once.
        let pings = (0..4).map(|_| async move { instance().ping().await });
        futures_util::future::try_join_all(pings).await.unwrap();
        let client: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", servers()).create().unwrap();
        let known = client.fetch_metadata(Some(topic.name), PATIENCE).unwrap();
        assert_eq!(known.topics()[0].partitions().len(), partitions);
    }
}

#[tokio::test]
async fn everything_fails_in_time_without_a_cluster() {
    let topic = topic(Delivery::Competing);
    let nobody = "kafka://127.0.0.1:1,127.0.0.1:2";
    let broker = broker::connect(nobody, vec![topic].leak(), &RandomSource::system()).unwrap();
    let all = async {
        assert!(matches!(broker.ping().await, Err(BrokerError::Away(_))));
        assert!(matches!(broker.subscribe(topic).await, Err(BrokerError::Away(_))));
        let publish = broker.publish(&[one(topic, "a")]).await;
        assert!(matches!(publish, Err(BrokerError::Away(_))));
    };
    timeout(PATIENCE, all).await.expect("a timeout of their own");
}

#[test]
fn urls_are_checked() {
    for bad in [
        "kafka:",
        "kafka://",
        "kafka://a:1,",
        "kafka://a:1/x",
        "kafka://a:x",
        "kafka://a:1,:2",
        "kafka://a:99999",
        "kafka://u:p@a:1",
        "kafka:a",
        "kafka://a:1?partition=3",
        "kafka://a:1?partitions=0",
        "kafka://a:1?partitions=many",
    ] {
        let error = broker::connect(bad, &[], &RandomSource::system()).err();
        assert!(matches!(error, Some(BrokerError::InvalidUrl(_))), "{bad}");
    }
    for good in
        ["kafka://a:1,b:2", "kafka://a,[::1],[::1]:1", "kafka://a:1?prefix=n.&partitions=12"]
    {
        assert!(broker::connect(good, &[], &RandomSource::system()).is_ok(), "{good}");
    }
}
