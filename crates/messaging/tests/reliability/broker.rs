//! A broker that remembers what it was given and does as it is told.

use std::sync::Mutex;

use async_trait::async_trait;
use gozon_contract::Topic;
use gozon_messaging::{Batch, Broker, BrokerError, Subscriber};

use crate::service::event_ids;

#[derive(Default)]
pub(crate) struct FakeBroker {
    published: Mutex<Vec<Batch>>,
    /// What it rejected, in order.
    pub(crate) rejected: Mutex<Vec<Batch>>,
    mood: Mutex<Mood>,
}

#[derive(Clone, Default)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Takes everything and then is gone, so that nobody knows.
    Away,
    /// Never answers.
    Silent,
    /// Takes all batches but those with one of these events.
    Rejecting(Vec<String>),
}

impl FakeBroker {
    pub(crate) fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// The ids of the events that were published since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        event_ids(&self.take_batches())
    }

    /// The batches that were published since the last call.
    pub(crate) fn take_batches(&self) -> Vec<Batch> {
        std::mem::take(&mut self.published.lock().unwrap())
    }
}

#[async_trait]
impl Broker for FakeBroker {
    async fn publish(&self, batches: &[Batch]) -> Result<(), BrokerError> {
        let mood = self.mood.lock().unwrap().clone();
        let rejected = match mood {
            Mood::Away => return Err(BrokerError::Away("gone".to_owned())),
            Mood::Silent => std::future::pending().await,
            Mood::Well => Vec::new(),
            Mood::Rejecting(ids) => ids,
        };
        let (bad, good): (Vec<Batch>, Vec<_>) = batches
            .iter()
            .cloned()
            .partition(|batch| batch.split().iter().any(|event| rejected.contains(&event.id)));
        self.published.lock().unwrap().extend(good);
        if bad.is_empty() {
            return Ok(());
        }
        let ids = bad.iter().map(|batch| batch.id.clone()).collect();
        self.rejected.lock().unwrap().extend(bad);
        Err(BrokerError::Rejected { ids, reason: "too\0large".to_owned() })
    }

    async fn subscribe(&self, _: Topic) -> Result<Box<dyn Subscriber>, BrokerError> {
        Err(BrokerError::Away("publishes only".to_owned()))
    }

    async fn ping(&self) -> Result<(), BrokerError> {
        Ok(())
    }
}
