//! Whether a service can do its work.

use std::{
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use gozon_http::Health;
use gozon_messaging::{Broker, BrokerError};
use gozon_store::{Db, Error};

/// The parts that every service needs: its database and the broker.
pub fn service_health(service: &str, db: &Db, broker: &Arc<dyn Broker>) -> Health {
    let (db, broker) = (db.clone(), Arc::clone(broker));
    Health::default()
        .with(format!("{service}.database"), move || {
            let db = db.clone();
            async move { check(&db).await }
        })
        .with(format!("{service}.broker"), move || {
            let broker = Arc::clone(&broker);
            async move {
                broker.ping().await.map_err(|error| match error {
                    BrokerError::Misconfigured(_) => error.to_string(),
                    _ => "can't be reached".to_owned(),
                })
            }
        })
}

async fn check(db: &Db) -> Result<(), String> {
    match db.check().await {
        // Somebody else is writing, so it works.
        Ok(()) | Err(Error::Conflict(_) | Error::Locked(_)) => Ok(()),
        Err(error) => {
            tracing::debug!(%error, "the database is not ready");
            Err("can't be reached, or fails".to_owned())
        }
    }
}

/// Asks whether a consumer is attached to the broker.
pub fn attached(
    flag: Arc<AtomicBool>,
) -> impl Fn() -> Ready<Result<(), String>> + Send + Sync + 'static {
    move || {
        let attached = flag.load(Ordering::Relaxed);
        ready(attached.then_some(()).ok_or_else(|| "the consumer is not attached".to_owned()))
    }
}
