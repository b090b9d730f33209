//! Several PostgreSQL servers in one URL, of which one is used: the first that fits. It is looked for
//! before the first connection, and again after a failure, so that a failover needs no proxy.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::stream::{FuturesOrdered, StreamExt as _};
use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgConnectOptions};
use tokio::sync::Mutex;

use crate::{
    pool::Pool,
    session::{Suspicion, within},
};

/// How long a server may take to say whether it fits.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a caller waits for a server to be found.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(3);

/// The servers of a URL.
pub(crate) struct Servers {
    candidates: Vec<PgConnectOptions>,
    /// Whether only one that can be written to fits.
    read_write: bool,
    /// Whether the server has to be looked for before the next connection is used.
    lost: AtomicBool,
    /// The server in use, by its place. Locked during a search.
    current: Mutex<Option<usize>>,
}

impl Servers {
    pub(crate) fn new(candidates: Vec<PgConnectOptions>, read_write: bool) -> Self {
        Self { candidates, read_write, lost: AtomicBool::new(true), current: Mutex::default() }
    }

    /// Notes that a connection has failed: another server may have taken over.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Sees to it that `pool` connects to a server that fits, as far as is known. When another one
    /// has taken over, connections to the former are not used any more.
    pub(crate) async fn choose(&self, pool: &Pool, suspicion: &Suspicion) -> sqlx::Result<()> {
        if !self.lost.load(Ordering::Relaxed) {
            return Ok(());
        }
        within(SEARCH_TIMEOUT, async {
            let mut current = self.current.lock().await;
            if !self.lost.swap(false, Ordering::Relaxed) {
                return Ok(());
            }
            let found = self.search().await.inspect_err(|_| self.lose())?;
            if *current != Some(found) {
                let server = &self.candidates[found];
                tracing::info!(host = server.get_host(), port = server.get_port(), "server chosen");
                pool.connect_to(server.clone());
                suspicion.discard_connections();
                *current = Some(found);
            }
            Ok(())
        })
        .await
        .inspect_err(|_| self.lose())
    }

    /// The first server of the URL that fits. All are asked at once.
    async fn search(&self) -> sqlx::Result<usize> {
        let probes = self.candidates.iter().map(|server| within(PROBE_TIMEOUT, self.probe(server)));
        let mut answers = probes.collect::<FuturesOrdered<_>>().enumerate();
        let mut failures = Vec::new();
        while let Some((place, answer)) = answers.next().await {
            match answer {
                Ok(()) => return Ok(place),
                Err(error) => {
                    let server = &self.candidates[place];
                    failures.push(format!("{}:{}: {error}", server.get_host(), server.get_port()));
                }
            }
        }
        Err(sqlx::Error::Protocol(format!("no server fits: {}", failures.join("; "))))
    }

    async fn probe(&self, server: &PgConnectOptions) -> sqlx::Result<()> {
        let mut connection = PgConnection::connect_with(server).await?;
        if self.read_write {
            let answer = sqlx::raw_sql("show transaction_read_only").fetch_one(&mut connection);
            if answer.await?.try_get::<String, _>(0)? == "on" {
                return Err(sqlx::Error::Protocol("it is read-only".to_owned()));
            }
        }
        connection.close().await
    }
}
