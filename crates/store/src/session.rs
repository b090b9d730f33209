//! One connection for as long as one caller has it.
//!
//! A server that is shut down says so; one that is frozen or cut off never answers, and TCP gives up
//! only after a quarter of an hour. So every wait has a limit here, and a connection that did not
//! keep to it, or that the environment failed on, is closed and not given to anybody else.

use std::{
    future::Future,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection as _, PgConnection};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};

use crate::{
    Error,
    pool::{self, Pool, Pooled},
    servers::Servers,
    sqlite::SqliteConnection,
};

/// The longest that a statement of a transaction may take. Ours take milliseconds. A PostgreSQL server
/// ends it by itself some seconds earlier.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that the first statement on a connection may take: the server may be gone.
pub(crate) const FIRST_STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that was idle for longer than this is pinged before it is trusted.
const IDLE_BEFORE_PING: Duration = Duration::from_secs(1);
/// The longest that a server takes to answer a statement that costs it nothing.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// A pool of connections to one database. Clones share it.
#[derive(Clone)]
pub(crate) struct Sessions {
    pool: Pool,
    suspicion: Arc<Suspicion>,
    /// The servers to choose from, if there are several.
    servers: Option<Arc<Servers>>,
    behind_pooler: bool,
}

/// What an error on one connection says about the others of its pool.
#[derive(Default)]
pub(crate) struct Suspicion {
    /// Number of connections still to be pinged before use, because one has failed.
    pings_due: AtomicU32,
    /// Connections opened before this instant are closed instead of used: what the server has
    /// prepared for them is no longer valid.
    discard_before: Mutex<Option<Instant>>,
    /// When the environment failed last.
    failed_at: Mutex<Option<Instant>>,
}

impl Suspicion {
    /// How long ago the environment failed last, if it did.
    fn failed_before(&self) -> Option<Duration> {
        let failed_at = *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.map(|instant| instant.elapsed())
    }

    /// Closes the connections that are open now instead of using them again.
    pub(crate) fn discard_connections(&self) {
        *self.discard_before.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn failed_now(&self) {
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection of this age is closed instead of used.
    pub(crate) fn discards(&self, age: Duration) -> bool {
        let discard_before = *self.discard_before.lock().unwrap_or_else(PoisonError::into_inner);
        discard_before.is_some_and(|instant| instant.elapsed() < age)
    }
}

/// A connection, in a transaction or for single statements. Dropped within a transaction, it is
/// rolled back.
pub(crate) struct Session {
    /// `None` only while it is dropped.
    connection: Option<Pooled>,
    in_transaction: bool,
    /// Whether a statement may still be under way, or has failed.
    unsettled: bool,
    /// Whether the connection must not be used again.
    broken: bool,
    sessions: Sessions,
}

/// The connection of a [`Session`].
pub(crate) enum Connection<'a> {
    Postgres(&'a mut PgConnection),
    Sqlite(&'a mut SqliteConnection),
}

impl Sessions {
    pub(crate) fn new(pool: Pool, suspicion: Arc<Suspicion>) -> Self {
        Self { pool, suspicion, servers: None, behind_pooler: false }
    }

    /// The same, with a server that is chosen from several.
    pub(crate) fn choosing(self, servers: Servers) -> Self {
        Self { servers: Some(Arc::new(servers)), ..self }
    }

    /// The same, behind a transaction pooler: between two transactions the server's session may
    /// change, and with it its settings and what was prepared in it.
    pub(crate) fn behind_pooler(self) -> Self {
        Self { behind_pooler: true, ..self }
    }

    pub(crate) fn is_behind_pooler(&self) -> bool {
        self.behind_pooler
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.pool.is_postgres()
    }

    /// Begins a transaction with `statement` on the first connection that is alive. After a restart
    /// of the server the pool is full of dead ones; each shows itself here, before anything was
    /// done, and is closed.
    pub(crate) async fn begin(&self, statement: &'static str) -> sqlx::Result<Session> {
        let mut failures = 0;
        loop {
            let mut session = self.acquire().await?;
            (session.unsettled, session.in_transaction) = (true, true);
            match within(self.begin_timeout(), session.run(statement)).await {
                Ok(()) => {
                    session.unsettled = false;
                    return Ok(session);
                }
                Err(error) => session.discard_after(error, &mut failures)?,
            }
        }
    }

    /// A connection that has just answered, for single statements.
    pub(crate) async fn pinged(&self) -> sqlx::Result<Session> {
        self.pinged_if(|_| true).await
    }

    /// A connection that is most likely alive, without a trip to the server to be sure: it was used
    /// a moment ago, and no other has failed since.
    pub(crate) async fn likely_alive(&self) -> sqlx::Result<Session> {
        let one_less = |due: u32| due.checked_sub(1);
        let due = &self.suspicion.pings_due;
        let is_due = due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok();
        self.pinged_if(|idle| is_due || idle > IDLE_BEFORE_PING).await
    }

    /// A connection that has answered, if `is_suspect` says so of one that was idle for so long. One
    /// that has just been made is not.
    async fn pinged_if(&self, is_suspect: impl Fn(Duration) -> bool) -> sqlx::Result<Session> {
        let mut failures = 0;
        loop {
            let mut session = self.acquire().await?;
            if !session.idle().is_some_and(&is_suspect) {
                return Ok(session);
            }
            session.unsettled = true;
            match within(PING_TIMEOUT, session.ping()).await {
                Ok(()) => {
                    session.unsettled = false;
                    return Ok(session);
                }
                Err(error) => session.discard_after(error, &mut failures)?,
            }
        }
    }

    /// SQLite may have to wait for another process that writes.
    fn begin_timeout(&self) -> Duration {
        if self.is_postgres() { PING_TIMEOUT } else { STATEMENT_TIMEOUT }
    }

    async fn acquire(&self) -> sqlx::Result<Session> {
        if let Some(servers) = &self.servers {
            servers.choose(&self.pool, &self.suspicion).await?;
        }
        let connection = self.pool.get().await.inspect_err(|_| self.suspect_server())?;
        Ok(Session {
            connection: Some(connection),
            in_transaction: false,
            unsettled: false,
            broken: false,
            sessions: self.clone(),
        })
    }

    /// Another server may have taken over.
    fn suspect_server(&self) {
        if let Some(servers) = &self.servers {
            servers.lose();
        }
    }

    /// How long ago the environment failed a statement last, if it did.
    pub(crate) fn failed_before(&self) -> Option<Duration> {
        self.suspicion.failed_before()
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

impl Session {
    async fn run(&mut self, statement: &'static str) -> sqlx::Result<()> {
        match self.connection() {
            Connection::Postgres(connection) => {
                sqlx::raw_sql(statement).execute(connection).await.map(drop)
            }
            Connection::Sqlite(connection) => {
                sqlx::raw_sql(statement).execute(connection).await.map(drop)
            }
        }
    }

    /// How long the connection was idle before it was taken. `None` if it has just been made, and for
    /// a file, which does not go away.
    fn idle(&self) -> Option<Duration> {
        match self.connection.as_deref() {
            Some(pool::Connection::Postgres { idle, .. }) => *idle,
            _ => None,
        }
    }

    async fn ping(&mut self) -> sqlx::Result<()> {
        match self.connection() {
            Connection::Postgres(connection) => connection.ping().await,
            Connection::Sqlite(connection) => connection.ping().await,
        }
    }

    /// Closes a connection that failed before anything was done on it. There can be as many as the
    /// pool may hold; when one more fails, or one did not answer at all, the server itself is away.
    fn discard_after(mut self, error: sqlx::Error, failures: &mut u32) -> sqlx::Result<()> {
        self.broken = true;
        self.sessions.suspect_server();
        *failures += 1;
        let silent =
            matches!(&error, sqlx::Error::Io(said) if said.kind() == io::ErrorKind::TimedOut);
        let refused = matches!(&error, sqlx::Error::Database(said) if !is_farewell(&**said));
        if silent || refused || *failures > self.sessions.pool.max_connections() {
            self.sessions.suspicion.failed_now();
            Err(error)
        } else {
            Ok(())
        }
    }

    /// The connection, for one statement. Should its caller not wait for the answer, it is looked
    /// at before its next use.
    pub(crate) fn connection(&mut self) -> Connection<'_> {
        self.unsettled = true;
        match &mut **self
            .connection
            .as_mut()
            .expect("the connection is there until the session is dropped")
        {
            pool::Connection::Postgres { connection, .. } => Connection::Postgres(connection),
            pool::Connection::Sqlite(connection) => Connection::Sqlite(connection),
        }
    }

    /// Whether a transaction is open.
    #[cfg(feature = "simulation")]
    pub(crate) fn is_in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Whether the server may keep what is prepared under a name.
    pub(crate) fn keeps_prepared(&self) -> bool {
        !self.sessions.behind_pooler
    }

    /// The longest that a statement which reads may take.
    pub(crate) fn limit(&self) -> Duration {
        if self.in_transaction { STATEMENT_TIMEOUT } else { FIRST_STATEMENT_TIMEOUT }
    }

    /// Takes note of how a statement ended: what its failure says about this connection and the
    /// others.
    pub(crate) fn ended<T>(&mut self, result: &crate::Result<T>) {
        self.unsettled = false;
        let Err(error) = result else { return };
        let suspicion = &self.sessions.suspicion;
        if error.invalidates_prepared() {
            self.broken = true;
            suspicion.discard_connections();
        }
        if error.is_unavailable() {
            // The state of its transaction is not known; on SQLite a failed commit leaves one open.
            self.broken = true;
            let due = 2 * self.sessions.pool.max_connections();
            suspicion.pings_due.store(due, Ordering::Relaxed);
            suspicion.failed_now();
            self.sessions.suspect_server();
        }
    }

    /// Ends the transaction, if one is open, and makes it durable.
    pub(crate) async fn commit(mut self) -> crate::Result<()> {
        if self.in_transaction {
            self.unsettled = true;
            let committed = within(STATEMENT_TIMEOUT, self.run("commit")).await;
            let committed = committed.map_err(Error::from);
            self.ended(&committed);
            committed?;
            self.in_transaction = false;
        }
        Ok(())
    }
}

/// Whether the server has ended the connection (57P01, 57P02), before it was used: others may live.
fn is_farewell(said: &dyn sqlx::error::DatabaseError) -> bool {
    matches!(said.code().as_deref(), Some("57P01" | "57P02"))
}

/// Gives up on what the server does not answer within `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = sqlx::Result<T>>,
) -> sqlx::Result<T> {
    timeout(limit, answer).await.unwrap_or_else(|_| {
        Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer")))
    })
}

async fn rollback(connection: &mut pool::Connection) -> sqlx::Result<()> {
    const ROLLBACK: &str = "rollback";
    match connection {
        pool::Connection::Postgres { connection, .. } => {
            sqlx::raw_sql(ROLLBACK).execute(connection).await.map(drop)
        }
        pool::Connection::Sqlite(connection) => {
            sqlx::raw_sql(ROLLBACK).execute(connection).await.map(drop)
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if self.broken {
            drop(Pooled::take(connection));
            return;
        }
        if !self.unsettled && !self.in_transaction {
            return;
        }
        if cfg!(feature = "simulation") {
            // A simulated connection rolls back when it is closed.
            drop(Pooled::take(connection));
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            drop(Pooled::take(connection));
            return;
        };
        let without_transaction = !self.in_transaction && !self.sessions.is_postgres();
        runtime.spawn(async move {
            // Waits for a statement that was abandoned half-way too. SQLite calls a rollback
            // without a transaction an error.
            let ended = within(PING_TIMEOUT, rollback(&mut connection)).await;
            if ended.is_err() && !without_transaction {
                drop(Pooled::take(connection));
            }
        });
    }
}
