//! A transaction, or a connection to read from, on either database.

use std::time::Duration;

use sqlx::{PgConnection, Sqlite, SqliteConnection, Transaction, pool::PoolConnection};

use crate::{
    Error, Query, Result, Statement,
    session::{LOOK, STATEMENT, Session},
};

/// A transaction on either database. Dropped without [`Tx::commit`], it is rolled back.
pub struct Tx {
    inner: Inner,
    /// Whether a statement has failed.
    failed: bool,
}

enum Inner {
    Postgres(Session),
    /// No transaction is open: what is written is one statement, which is one by itself.
    PostgresAtOnce(Session),
    Sqlite(Transaction<'static, Sqlite>),
    SqliteRead(PoolConnection<Sqlite>),
}

/// The connection under a transaction.
pub(crate) enum Connection<'a> {
    Postgres(&'a mut PgConnection),
    Sqlite(&'a mut SqliteConnection),
}

impl Tx {
    fn new(inner: Inner) -> Self {
        Self { inner, failed: false }
    }

    pub(crate) fn postgres(session: Session) -> Self {
        Self::new(Inner::Postgres(session))
    }

    pub(crate) fn postgres_at_once(session: Session) -> Self {
        Self::new(Inner::PostgresAtOnce(session))
    }

    pub(crate) fn sqlite(tx: Transaction<'static, Sqlite>) -> Self {
        Self::new(Inner::Sqlite(tx))
    }

    pub(crate) fn sqlite_read(connection: PoolConnection<Sqlite>) -> Self {
        Self::new(Inner::SqliteRead(connection))
    }

    pub(crate) fn connection(&mut self) -> Connection<'_> {
        match &mut self.inner {
            Inner::Postgres(session) => Connection::Postgres(session.connection()),
            Inner::PostgresAtOnce(session) => {
                // Should nobody wait for the answer, it is looked at before its next use.
                session.suspect();
                Connection::Postgres(session.connection())
            }
            Inner::Sqlite(tx) => Connection::Sqlite(tx),
            Inner::SqliteRead(connection) => Connection::Sqlite(connection),
        }
    }

    /// Whether rows that are read for an update stay locked until the end.
    pub(crate) fn locks(&self) -> bool {
        matches!(self.inner, Inner::Postgres(_))
    }

    /// The longest that a statement which reads may take.
    pub(crate) fn limit(&self) -> Duration {
        if matches!(self.inner, Inner::PostgresAtOnce(_)) { LOOK } else { STATEMENT }
    }

    /// Without a transaction, a statement that writes would be durable by itself.
    pub(crate) fn may_run(&self, sql: &str) -> Result<()> {
        let reads = ["select", "show"].iter().any(|word| sql.trim_start().starts_with(word));
        if matches!(self.inner, Inner::PostgresAtOnce(_)) && !reads {
            let why = "what is written at once goes with the commit";
            return Err(Error::Other(sqlx::Error::Protocol(why.to_owned())));
        }
        Ok(())
    }

    /// Passes on what a statement came to, remembering whether it failed.
    pub(crate) fn noted<T>(&mut self, result: Result<T>) -> Result<T> {
        match (&result, &mut self.inner) {
            (Ok(_), Inner::PostgresAtOnce(session)) => session.settled(),
            (Err(error), Inner::Postgres(session) | Inner::PostgresAtOnce(session)) => {
                session.suspect();
                if error.is_unavailable() {
                    session.doubt_all();
                }
            }
            _ => {}
        }
        self.failed |= result.is_err();
        result
    }

    /// Starts a statement; see the [crate's placeholders](crate).
    pub fn query(&mut self, sql: &'static str) -> Query<'_> {
        Query::new(self, sql)
    }

    /// Makes everything since `begin` durable.
    ///
    /// # Errors
    /// After [`Error::Unavailable`] it is not known whether the commit took effect; after any
    /// other error it did not. A transaction of which a statement failed can't be committed, even
    /// if the caller made nothing of it: PostgreSQL would answer `commit` with a rollback and call
    /// that a success.
    pub async fn commit(self) -> Result<()> {
        self.may_commit()?;
        match self.inner {
            Inner::Postgres(session) => session.commit().await?,
            Inner::Sqlite(tx) => tx.commit().await?,
            Inner::PostgresAtOnce(_) | Inner::SqliteRead(_) => {}
        }
        Ok(())
    }

    /// Runs statements as [`Tx::run_all`] does, and makes them durable together with everything
    /// since `begin`. After [`Db::at_once`](crate::Db::at_once) that is one trip to PostgreSQL.
    ///
    /// # Errors
    /// As [`Tx::run_all`] and [`Tx::commit`]; [`Error::Conflict`] if a statement did not change as
    /// many rows as it was [expected](Statement::expecting) to, and then nothing was done.
    pub async fn commit_with(mut self, statements: Vec<Statement>) -> Result<()> {
        self.may_commit()?;
        self.run_all(statements).await?;
        self.commit().await
    }

    fn may_commit(&self) -> Result<()> {
        if self.failed {
            let why = "a statement of this transaction failed, so it can't be committed";
            return Err(Error::Other(sqlx::Error::Protocol(why.to_owned())));
        }
        Ok(())
    }
}
