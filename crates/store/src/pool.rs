//! The connections to one database, kept for reuse.
//!
//! The one that was used last is taken first. In quiet times all work then goes to the same few of
//! the server's processes, whose plans and caches are warm; taking turns would double what a lone
//! order costs the server. sqlx's own pool takes turns.

use std::{
    io::ErrorKind,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use deadpool::{
    Runtime,
    managed::{
        self, Manager, Metrics, PoolConfig, PoolError, QueueMode, RecycleError, RecycleResult,
        Timeouts,
    },
};
use futures_util::future::BoxFuture;
use sqlx::{
    Connection as _, Executor as _, PgConnection, error::DatabaseError, postgres::PgConnectOptions,
    sqlite::SqliteConnectOptions,
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{session::Suspicion, sqlite::SqliteConnection};

/// How long to wait for a connection before the database counts as away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// An older connection is closed instead of used, so that what a server's process has gathered is
/// freed.
const MAX_AGE: Duration = Duration::from_mins(30);
/// How long to wait before connecting again to a server that is just starting.
const FIRST_CONNECT_PAUSE: Duration = Duration::from_millis(10);
const MAX_CONNECT_PAUSE: Duration = Duration::from_millis(500);
/// How often closing looks whether all connections are given back.
const CLOSE_PAUSE: Duration = Duration::from_millis(10);

/// An open connection.
pub(crate) enum Connection {
    Postgres {
        connection: PgConnection,
        /// How long it was idle before it was taken; `None` if it has just been made.
        idle: Option<Duration>,
    },
    Sqlite(SqliteConnection),
}

/// A connection that goes back to its pool when it is dropped.
pub(crate) type Pooled = managed::Object<Connector>;

/// Where connections are made to.
pub(crate) enum Target {
    /// A server, and the statements that each connection to it begins with.
    Postgres(Mutex<PgConnectOptions>, Option<&'static str>),
    Sqlite(SqliteConnectOptions),
}

/// Makes connections, and decides whether one may be used again.
pub(crate) struct Connector {
    target: Target,
    suspicion: Arc<Suspicion>,
}

/// A pool. Clones share it.
#[derive(Clone)]
pub(crate) struct Pool(managed::Pool<Connector>);

impl Pool {
    /// A pool of at most `connections`. None is made yet.
    pub(crate) fn new(target: Target, connections: u32, suspicion: Arc<Suspicion>) -> Self {
        let mut config = PoolConfig::new(usize::try_from(connections).unwrap_or(usize::MAX));
        config.queue_mode = QueueMode::Lifo;
        config.timeouts = Timeouts { wait: Some(ACQUIRE_TIMEOUT), ..Timeouts::default() };
        let pool = managed::Pool::builder(Connector { target, suspicion })
            .config(config)
            .runtime(Runtime::Tokio1)
            .build()
            .expect("a runtime for the time-outs is given");
        Self(pool)
    }

    /// A connection.
    pub(crate) async fn get(&self) -> sqlx::Result<Pooled> {
        // Its future is large, and every statement's future contains it.
        let got: BoxFuture<'_, _> = Box::pin(self.0.get());
        got.await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Closed => sqlx::Error::PoolClosed,
            _ => sqlx::Error::PoolTimedOut,
        })
    }

    pub(crate) fn is_postgres(&self) -> bool {
        matches!(self.0.manager().target, Target::Postgres(..))
    }

    /// Connects to another server from now on.
    pub(crate) fn connect_to(&self, other: PgConnectOptions) {
        if let Target::Postgres(server, _) = &self.0.manager().target {
            *server.lock().unwrap_or_else(PoisonError::into_inner) = other;
        }
    }

    pub(crate) fn max_connections(&self) -> u32 {
        u32::try_from(self.0.status().max_size).unwrap_or(u32::MAX)
    }

    /// Closes every connection, waiting for those in use.
    pub(crate) async fn close(&self) {
        for idle in self.0.retain(|_, _| false).removed {
            // It is gone either way.
            let _ = match idle {
                Connection::Postgres { connection, .. } => connection.close().await,
                Connection::Sqlite(connection) => connection.close().await,
            };
        }
        self.0.close();
        while self.0.status().size > 0 {
            sleep(CLOSE_PAUSE).await;
        }
    }
}

impl Connector {
    async fn connect(&self) -> sqlx::Result<Connection> {
        match &self.target {
            Target::Postgres(server, settings) => {
                let server = server.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let mut connection = PgConnection::connect_with(&server).await?;
                if let Some(settings) = *settings {
                    connection.execute(settings).await?;
                }
                Ok(Connection::Postgres { connection, idle: None })
            }
            Target::Sqlite(file) => {
                Ok(Connection::Sqlite(SqliteConnection::connect_with(file).await?))
            }
        }
    }
}

impl Manager for Connector {
    type Type = Connection;
    type Error = sqlx::Error;

    /// A server that is just starting refuses connections for a moment.
    async fn create(&self) -> sqlx::Result<Connection> {
        let deadline = Instant::now() + ACQUIRE_TIMEOUT;
        let mut pause = FIRST_CONNECT_PAUSE;
        loop {
            match timeout_at(deadline, self.connect()).await {
                Err(_) => return Err(sqlx::Error::PoolTimedOut),
                Ok(Err(error)) if is_passing(&error) && Instant::now() + pause < deadline => {
                    sleep(pause).await;
                    pause = (pause * 2).min(MAX_CONNECT_PAUSE);
                }
                Ok(connected) => return connected,
            }
        }
    }

    async fn recycle(
        &self,
        connection: &mut Connection,
        seen: &Metrics,
    ) -> RecycleResult<sqlx::Error> {
        if self.suspicion.discards(seen.age()) {
            return Err(RecycleError::message("the server has changed"));
        }
        let Connection::Postgres { idle, .. } = connection else { return Ok(()) };
        if seen.age() > MAX_AGE {
            return Err(RecycleError::message("it is old"));
        }
        *idle = Some(seen.last_used());
        Ok(())
    }
}

/// Whether the next attempt to connect may well succeed: nobody listens yet, the server is starting
/// (57P03), or it has too many clients for the moment (53300).
fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(said) => said.kind() == ErrorKind::ConnectionRefused,
        sqlx::Error::Database(said) => {
            matches!(DatabaseError::code(&**said).as_deref(), Some("57P03" | "53300"))
        }
        _ => false,
    }
}
