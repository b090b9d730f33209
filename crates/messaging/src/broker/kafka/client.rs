//! What all clients of a cluster share: how they end, what they tell, and waiting for them.

use std::{
    fmt::Display,
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext, TopicPartitionList,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::ConsumerContext,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
};
use tokio::{runtime::Handle, task::spawn_blocking, time::timeout};

use crate::BrokerError;

/// How long making a client may take.
const CREATE_TIMEOUT: Duration = Duration::from_secs(8);

/// A client that does not hold up the async threads: its beginning waits for the threads of
/// librdkafka, and its end for them and for the cluster.
pub(super) struct Quiet<T: Send + 'static>(Option<T>);

impl<T: Send> Quiet<T> {
    /// Makes a client. It contacts nobody yet.
    pub(super) async fn new(config: ClientConfig, refusal: &Refusal) -> Result<Self, BrokerError>
    where
        T: FromClientConfigAndContext<Events>,
    {
        let events = Events { stranded: AtomicBool::new(false), refusal: refusal.clone() };
        let create = blocking(move || config.create_with_context(events));
        Ok(Self(Some(in_time(CREATE_TIMEOUT, create).await?)))
    }
}

impl<T: Send> Deref for Quiet<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is there until the drop")
    }
}

impl<T: Send + 'static> Drop for Quiet<T> {
    fn drop(&mut self) {
        let client = self.0.take();
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(client));
        }
    }
}

/// The log lines that come again and again during an outage.
const OUTAGE: [&str; 4] = ["FAIL", "ERROR", "REQTMOUT", "METADATAUPDATE"];

/// Passes on what librdkafka tells. During an outage it says the same every second for each broker
/// and client, so that is for debugging only: who waits for the cluster reports it.
pub(super) struct Events {
    stranded: AtomicBool,
    refusal: Refusal,
}

impl Events {
    /// Whether partitions were left without a place to begin at. librdkafka tells so, with the code
    /// of a network error, and does not always ask again.
    pub(super) fn stranded(&self) -> bool {
        self.stranded.load(Ordering::Acquire)
    }
}

impl ClientContext for Events {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        match level {
            _ if OUTAGE.contains(&facility) => {
                tracing::debug!(facility, "librdkafka: {text}");
            }
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(facility, "librdkafka: {text}");
            }
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                tracing::warn!(facility, "librdkafka: {text}");
            }
            _ => tracing::debug!(facility, "librdkafka: {text}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if reason.starts_with("Failed to fetch committed offset") {
            self.stranded.store(true, Ordering::Release);
        }
        self.refusal.heard(error.rdkafka_error_code(), reason);
        tracing::debug!(%error, "librdkafka: {reason}");
    }
}

impl ConsumerContext for Events {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        match result {
            Ok(()) | Err(KafkaError::ConsumerCommit(Code::NoOffset)) => {}
            Err(KafkaError::ConsumerCommit(
                code @ (Code::WaitingForCoordinator | Code::NotCoordinator),
            )) => tracing::debug!(%code, "a commit has to wait"),
            Err(error) => tracing::warn!(%error, "a commit failed; the next covers it"),
        }
    }
}

/// Why the cluster lets nobody in. librdkafka reports that on its own, and goes on trying: a call
/// only sees that no answer comes.
#[derive(Clone, Default)]
pub(super) struct Refusal(Arc<Mutex<Option<String>>>);

impl Refusal {
    /// An error that librdkafka reports. That a server can't be reached is no refusal.
    fn heard(&self, code: Option<Code>, reason: &str) {
        let advice = match code {
            Some(Code::Authentication | Code::SaslAuthenticationFailed) => {
                "check the user, the password and sasl.mechanism of the broker URL"
            }
            Some(Code::SSL) => {
                "check security.protocol, ssl.ca.location and the host names of the broker URL"
            }
            Some(Code::BrokerTransportFailure | Code::Resolve) => return self.set(None),
            _ => return,
        };
        // It begins with the address of the server: `ssl://host:port/bootstrap: `.
        let reason = match reason.split_once(": ") {
            Some((address, reason)) if address.contains("://") => reason,
            _ => reason,
        };
        self.set(Some(format!("{reason}; {advice}")));
    }

    fn set(&self, reason: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// The outcome of a call, with what is known of why it failed.
    pub(super) fn explain<T>(&self, outcome: Result<T, BrokerError>) -> Result<T, BrokerError> {
        match outcome {
            Err(BrokerError::Away(why)) => {
                let refusal = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
                Err(refusal.map_or(BrokerError::Away(why), BrokerError::Misconfigured))
            }
            Ok(done) => {
                self.set(None);
                Ok(done)
            }
            other => other,
        }
    }
}

/// The answer, if it comes within `limit`.
pub(super) async fn in_time<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, BrokerError>>,
) -> Result<T, BrokerError> {
    timeout(limit, answer).await.unwrap_or_else(|_| Err(away("no answer in time")))
}

/// Runs what waits on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> KafkaResult<T> + Send + 'static,
) -> Result<T, BrokerError> {
    match spawn_blocking(work).await {
        Ok(result) => result.map_err(failed),
        Err(error) => Err(away(error)),
    }
}

/// The error of a call: the cluster is away, or denies it.
pub(super) fn failed(error: KafkaError) -> BrokerError {
    match error.rdkafka_error_code() {
        Some(
            code @ (Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed),
        ) => BrokerError::Misconfigured(format!(
            "{code}; let the user describe, read and write each topic, and read its group: \
             kafka-acls.sh --add --allow-principal User:NAME --operation Describe --operation Read \
             --operation Write --topic TOPIC, and --operation Read --group gozon.TOPIC"
        )),
        _ => away(error),
    }
}

pub(super) fn away(error: impl Display) -> BrokerError {
    BrokerError::Away(error.to_string())
}
