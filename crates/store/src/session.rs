//! A connection to PostgreSQL for as long as one caller has it.
//!
//! A server that is shut down says so; one that is frozen or cut off just never answers, and TCP
//! gives up only after a quarter of an hour. So every wait has a limit here, and a connection that
//! did not keep to it is closed and not given to anybody else.

use std::{future::Future, io, time::Duration};

use sqlx::{Connection as _, PgConnection, PgPool, Postgres, pool::PoolConnection};
use tokio::{runtime::Handle, time::timeout};

/// The longest that a statement may take. Ours take milliseconds.
const STATEMENT: Duration = Duration::from_secs(30);

/// The longest that a server takes to answer a statement that costs it nothing.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// A connection, in a transaction or for single reads. Dropped within a transaction, it is rolled
/// back.
pub(crate) struct Session {
    /// `None` only while it is dropped.
    connection: Option<PoolConnection<Postgres>>,
    /// Whether a transaction is open, or a statement was given up.
    unsettled: bool,
}

impl Session {
    /// Begins a transaction with `statement` on the first connection that is alive. After a
    /// restart of the server the pool is full of dead ones; each shows itself here, before
    /// anything was done, and is closed.
    pub(crate) async fn begin(pool: &PgPool, statement: &'static str) -> sqlx::Result<Self> {
        let mut dead = 0;
        loop {
            let mut session = Self::acquire(pool).await?;
            session.unsettled = true;
            let begin = sqlx::raw_sql(statement).execute(session.connection());
            match within(SIGN_OF_LIFE, begin).await {
                Ok(_) => return Ok(session),
                Err(error) => session.give_up(error, &mut dead, pool)?,
            }
        }
    }

    /// A connection that is alive, for single statements.
    pub(crate) async fn read(pool: &PgPool) -> sqlx::Result<Self> {
        let mut dead = 0;
        loop {
            let mut session = Self::acquire(pool).await?;
            match within(SIGN_OF_LIFE, session.connection().ping()).await {
                Ok(()) => return Ok(session),
                Err(error) => session.give_up(error, &mut dead, pool)?,
            }
        }
    }

    async fn acquire(pool: &PgPool) -> sqlx::Result<Self> {
        Ok(Self { connection: Some(pool.acquire().await?), unsettled: false })
    }

    /// Closes a connection that does not answer. There can be as many as the pool may hold; when
    /// one more fails, or one did not answer at all, the server itself is away.
    fn give_up(mut self, error: sqlx::Error, dead: &mut u32, pool: &PgPool) -> sqlx::Result<()> {
        if let Some(mut connection) = self.connection.take() {
            connection.close_on_drop();
        }
        *dead += 1;
        let silent =
            matches!(&error, sqlx::Error::Io(said) if said.kind() == io::ErrorKind::TimedOut);
        if silent || *dead > pool.options().get_max_connections() { Err(error) } else { Ok(()) }
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("the connection is there until the session is dropped")
    }

    /// Waits for a statement on this connection.
    pub(crate) async fn limit<T>(
        statement: impl Future<Output = sqlx::Result<T>>,
    ) -> sqlx::Result<T> {
        within(STATEMENT, statement).await
    }

    /// The connection may be in the middle of something: look before it is used again.
    pub(crate) fn suspect(&mut self) {
        self.unsettled = true;
    }

    pub(crate) async fn commit(mut self) -> sqlx::Result<()> {
        if self.unsettled {
            Self::limit(sqlx::raw_sql("commit").execute(self.connection())).await?;
            self.unsettled = false;
        }
        Ok(())
    }
}

async fn within<T>(
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
