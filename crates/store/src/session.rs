//! A connection to PostgreSQL for as long as one caller has it.
//!
//! A server that is shut down says so; one that is frozen or cut off just never answers, and TCP
//! gives up only after a quarter of an hour. So every wait has a limit here, and a connection that
//! did not keep to it is closed and not given to anybody else.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection as _, PgConnection, PgPool, Postgres, pool::PoolConnection};
use tokio::{runtime::Handle, time::timeout};

/// The longest that a statement may take. Ours take milliseconds.
pub(crate) const STATEMENT: Duration = Duration::from_secs(30);

/// The longest that one may take which nothing was asked before: the server may not be there.
pub(crate) const LOOK: Duration = Duration::from_secs(10);

/// The longest that a server takes to answer a statement that costs it nothing.
pub(crate) const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// A connection that was idle for longer than this is asked for a sign of life before it is used.
pub(crate) const FRESH: Duration = Duration::from_secs(1);

/// The connections to a server. Clones share them.
#[derive(Clone)]
pub(crate) struct Sessions {
    pool: PgPool,
    /// How many more connections are to be asked for a sign of life, since one has failed.
    doubtful: Arc<AtomicU32>,
}

/// A connection, in a transaction or for single statements. Dropped within a transaction, it is
/// rolled back.
pub(crate) struct Session {
    /// `None` only while it is dropped.
    connection: Option<PoolConnection<Postgres>>,
    /// Whether a transaction is open, or a statement was given up.
    unsettled: bool,
    sessions: Sessions,
}

impl Sessions {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool, doubtful: Arc::default() }
    }

    /// Begins a transaction with `statement` on the first connection that is alive. After a
    /// restart of the server the pool is full of dead ones; each shows itself here, before
    /// anything was done, and is closed.
    pub(crate) async fn begin(&self, statement: &'static str) -> sqlx::Result<Session> {
        let mut dead = 0;
        loop {
            let mut session = self.acquire().await?;
            session.unsettled = true;
            let begin = sqlx::raw_sql(statement).execute(session.connection());
            match within(SIGN_OF_LIFE, begin).await {
                Ok(_) => return Ok(session),
                Err(error) => session.give_up(error, &mut dead)?,
            }
        }
    }

    /// A connection that is alive, for single statements.
    pub(crate) async fn alive(&self) -> sqlx::Result<Session> {
        let mut dead = 0;
        loop {
            let mut session = self.acquire().await?;
            session.unsettled = true;
            match within(SIGN_OF_LIFE, session.connection().ping()).await {
                Ok(()) => {
                    session.unsettled = false;
                    return Ok(session);
                }
                Err(error) => session.give_up(error, &mut dead)?,
            }
        }
    }

    /// A connection that is most likely alive, without a trip to the server to be sure: it was used
    /// a moment ago, and no other has failed since.
    pub(crate) async fn at_once(&self) -> sqlx::Result<Session> {
        let one_less = |doubtful: u32| doubtful.checked_sub(1);
        match self.doubtful.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => self.alive().await,
            Err(_) => self.acquire().await,
        }
    }

    async fn acquire(&self) -> sqlx::Result<Session> {
        let connection = Some(self.pool.acquire().await?);
        Ok(Session { connection, unsettled: false, sessions: self.clone() })
    }

    fn most(&self) -> u32 {
        self.pool.options().get_max_connections()
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

impl Session {
    /// Closes a connection that does not answer. There can be as many as the pool may hold; when
    /// one more fails, or one did not answer at all, the server itself is away.
    fn give_up(mut self, error: sqlx::Error, dead: &mut u32) -> sqlx::Result<()> {
        if let Some(mut connection) = self.connection.take() {
            connection.close_on_drop();
        }
        *dead += 1;
        let silent =
            matches!(&error, sqlx::Error::Io(said) if said.kind() == io::ErrorKind::TimedOut);
        if silent || *dead > self.sessions.most() { Err(error) } else { Ok(()) }
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("the connection is there until the session is dropped")
    }

    /// The connection may be in the middle of something: look before it is used again.
    pub(crate) fn suspect(&mut self) {
        self.unsettled = true;
    }

    /// The statement that was under way is answered.
    pub(crate) fn settled(&mut self) {
        self.unsettled = false;
    }

    /// The server did not answer as it should: other connections may be dead too, however recently
    /// they were used.
    pub(crate) fn doubt_all(&self) {
        self.sessions.doubtful.store(2 * self.sessions.most(), Ordering::Relaxed);
    }

    pub(crate) async fn commit(mut self) -> sqlx::Result<()> {
        if self.unsettled {
            within(STATEMENT, sqlx::raw_sql("commit").execute(self.connection())).await?;
            self.unsettled = false;
        }
        Ok(())
    }
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

impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if !self.unsettled {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return connection.close_on_drop() };
        runtime.spawn(async move {
            // Waits for a statement that was abandoned half-way too.
            let rollback = sqlx::raw_sql("rollback").execute(&mut *connection);
            if within(SIGN_OF_LIFE, rollback).await.is_err() {
                connection.close_on_drop();
            }
        });
    }
}
