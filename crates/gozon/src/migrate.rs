//! Bringing databases up to date.

use std::time::Duration;

use anyhow::Context as _;
use gozon_contract::Clock;
use gozon_store::{CLOCK_MIGRATIONS, DatabaseClock, Db, Error, Migration};

use crate::{config::Databases, settings::DatabaseUrl, terminal};

/// The tables of the orders database.
pub fn orders() -> Vec<Migration> {
    let shared = [CLOCK_MIGRATIONS, gozon_messaging::MIGRATIONS, gozon_service::MIGRATIONS];
    [shared.concat(), gozon_orders::MIGRATIONS.to_vec()].concat()
}

/// The tables of the payments database.
pub fn payments() -> Vec<Migration> {
    let shared = [CLOCK_MIGRATIONS, gozon_messaging::MIGRATIONS, gozon_service::MIGRATIONS];
    [shared.concat(), gozon_payments::MIGRATIONS.to_vec()].concat()
}

/// `gozon migrate`: both databases, or a clear error.
pub async fn both(databases: &Databases) -> anyhow::Result<()> {
    for (name, url, steps) in [
        ("orders", databases.orders_url(), orders()),
        ("payments", databases.payments_url(), payments()),
    ] {
        let db = url.open(1)?;
        let spinner = terminal::spinner(format!("bringing the {name} database up to date"));
        let migrated = gozon_store::migrate(&db, &steps).await;
        spinner.finish_and_clear();
        migrated.with_context(|| format!("the {name} database can't be migrated"))?;
        db.close().await;
        tracing::info!("the {name} database is up to date");
    }
    Ok(())
}

/// Opens a service's database, brings it up to date and measures its time, waiting for it if it is
/// away.
pub async fn open(
    url: &DatabaseUrl,
    connections: u32,
    steps: &[Migration],
) -> anyhow::Result<(Db, DatabaseClock)> {
    let db = url.open(connections)?;
    let ready = async || {
        gozon_store::migrate(&db, steps).await?;
        DatabaseClock::start(db.clone()).await
    };
    loop {
        match ready().await {
            Ok(time) => return Ok((db, time)),
            // What waiting does not mend.
            Err(error) if matches!(error, Error::Other(_)) || error.is_another_kind_of_file() => {
                return Err(error).context("the database can't be migrated");
            }
            Err(error) => {
                tracing::warn!(%error, "waiting for the database");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

/// The time of a database that may not be migrated yet; then it is that of this machine.
pub async fn clock_of(db: &Db) -> Clock {
    DatabaseClock::start(db.clone()).await.map_or_else(|_| Clock::system(), |time| time.clock())
}
