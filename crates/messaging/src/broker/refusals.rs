//! A broker that answers and yet refuses what it is asked for is not ready, and says why.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use gozon_contract::Topic;

use super::{Broker, BrokerError, Subscriber};
use crate::Batch;

/// A broker whose sign of life fails for as long as it refuses to publish, or to attach to a topic:
/// a user may be let in and still lack a right that only shows then.
pub(super) struct Refusals {
    broker: Arc<dyn Broker>,
    /// What is refused, by what was asked for: one thing that works says nothing of another.
    last: Mutex<BTreeMap<&'static str, BrokerError>>,
}

impl Refusals {
    pub(super) fn of(broker: Arc<dyn Broker>) -> Arc<Self> {
        Arc::new(Self { broker, last: Mutex::default() })
    }

    fn note<T>(&self, asked: &'static str, outcome: &Result<T, BrokerError>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Err(error @ BrokerError::Misconfigured(_)) => {
                last.insert(asked, error.clone());
            }
            Err(BrokerError::Away(_)) => {}
            _ => {
                last.remove(asked);
            }
        }
    }
}

#[async_trait]
impl Broker for Refusals {
    async fn publish(&self, batches: &[Batch]) -> Result<(), BrokerError> {
        let outcome = self.broker.publish(batches).await;
        self.note("publish", &outcome);
        outcome
    }

    async fn subscribe(&self, topic: Topic) -> Result<Box<dyn Subscriber>, BrokerError> {
        let outcome = self.broker.subscribe(topic).await;
        self.note(topic.name, &outcome);
        outcome
    }

    async fn ping(&self) -> Result<(), BrokerError> {
        self.broker.ping().await?;
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.values().next().map_or(Ok(()), |refusal| Err(refusal.clone()))
    }
}
