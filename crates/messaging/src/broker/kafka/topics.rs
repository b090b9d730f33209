//! Making the topics that are missing.

use std::{sync::Arc, time::Duration};

use gozon_contract::{Delivery, Topic};
use rdkafka::{
    admin::{AdminOptions, NewTopic, TopicReplication},
    error::{KafkaError, RDKafkaErrorCode as Code},
    metadata::MetadataTopic,
    producer::Producer as _,
};
use tokio::time::sleep;

use super::{
    Admin, METADATA_TIMEOUT, Producer,
    client::{away, blocking, in_time},
};
use crate::BrokerError;

/// Partitions of a broadcast topic. Every listener reads all of them.
const BROADCAST_PARTITIONS: i32 = 1;
/// How long a broadcast topic keeps a message, and how often it starts a file to drop later.
/// Listeners begin at the end, so this is only for those that fall behind.
const BROADCAST_RETENTION: [(&str, &str); 2] =
    [("retention.ms", "3600000"), ("segment.ms", "600000")];
/// Number of replicas of a topic, where there are as many brokers.
const MAX_REPLICAS: i32 = 3;
/// How long to wait for a topic just made before looking again.
const TOPIC_WAIT: Duration = Duration::from_millis(50);

/// Makes those of `topics` that are missing, and waits until they can be used. Where an operator
/// has made them, this needs no permission to.
pub(super) async fn declare(
    producer: &Arc<Producer>,
    admin: impl Future<Output = Result<Admin, BrokerError>>,
    topics: &'static [Topic],
    partitions: i32,
) -> Result<(), BrokerError> {
    let complete = async {
        // The producer is asked, because an admin client does not report why nobody answers.
        let mut missing = missing_topics(producer, topics).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let admin = Arc::new(admin.await?);
        loop {
            make_topics(&admin, &missing, partitions).await?;
            missing = missing_topics(producer, topics).await?;
            if missing.is_empty() {
                return Ok(());
            }
            sleep(TOPIC_WAIT).await;
        }
    };
    in_time(METADATA_TIMEOUT, complete).await
}

async fn missing_topics(
    producer: &Arc<Producer>,
    topics: &'static [Topic],
) -> Result<Vec<&'static Topic>, BrokerError> {
    let producer = Arc::clone(producer);
    blocking(move || {
        let mut missing = Vec::new();
        for topic in topics {
            let known = producer.client().fetch_metadata(Some(topic.name), METADATA_TIMEOUT)?;
            let error = known.topics().iter().find_map(MetadataTopic::error).map(Code::from);
            if error == Some(Code::TopicAuthorizationFailed) {
                return Err(KafkaError::MetadataFetch(Code::TopicAuthorizationFailed));
            }
            if known.topics().iter().all(|topic| topic.partitions().is_empty()) {
                missing.push(topic);
            }
        }
        Ok(missing)
    })
    .await
}

async fn make_topics(
    admin: &Arc<Admin>,
    topics: &[&Topic],
    partitions: i32,
) -> Result<(), BrokerError> {
    let asked = Arc::clone(admin);
    let brokers = blocking(move || {
        let known = asked.inner().fetch_metadata(None, METADATA_TIMEOUT)?;
        Ok(known.brokers().len())
    })
    .await?;
    let replicas = i32::try_from(brokers).unwrap_or(MAX_REPLICAS).min(MAX_REPLICAS);
    // What is confirmed is on two brokers at least, where there are three.
    let min_in_sync = if replicas < MAX_REPLICAS { "1" } else { "2" };
    let topics = topics.iter().map(|topic| {
        let new = |partitions| {
            NewTopic::new(topic.name, partitions, TopicReplication::Fixed(replicas))
                .set("min.insync.replicas", min_in_sync)
                // The cluster's time: our records have none, since a machine's clock may be wrong.
                .set("message.timestamp.type", "LogAppendTime")
        };
        match topic.delivery {
            Delivery::Competing => new(partitions),
            Delivery::Broadcast => BROADCAST_RETENTION
                .into_iter()
                .fold(new(BROADCAST_PARTITIONS), |topic, (key, value)| topic.set(key, value)),
        }
    });
    let topics: Vec<_> = topics.collect();
    let options = AdminOptions::new().request_timeout(Some(METADATA_TIMEOUT));
    for result in admin.create_topics(&topics, &options).await.map_err(away)? {
        match result {
            Ok(topic) => tracing::info!(topic, "made a topic"),
            // Another instance was faster.
            Err((_, Code::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(not_made(&topic, code, partitions)),
        }
    }
    Ok(())
}

/// Where it is not for us to make topics, somebody else has to.
fn not_made(topic: &str, code: Code, partitions: i32) -> BrokerError {
    match code {
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::PolicyViolation
        | Code::InvalidReplicationFactor
        | Code::InvalidConfig => BrokerError::Misconfigured(format!(
            "can't make the topic {topic}: {code}; let this client create topics, or create it \
             yourself: kafka-topics.sh --create --topic {topic} --partitions {partitions}"
        )),
        code => away(format!("can't make {topic}: {code}")),
    }
}
