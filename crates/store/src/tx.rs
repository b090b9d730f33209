//! A transaction, or a connection to read from, on either database.

use sqlx::{PgConnection, Sqlite, SqliteConnection, Transaction, pool::PoolConnection};

use crate::{Error, Query, Result, session::Session};

/// A transaction on either database. Dropped without [`Tx::commit`], it is rolled back.
pub struct Tx {
    inner: Inner,
    /// Whether a statement has failed.
    failed: bool,
}

enum Inner {
    Postgres(Session),
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

    pub(crate) fn sqlite(tx: Transaction<'static, Sqlite>) -> Self {
        Self::new(Inner::Sqlite(tx))
    }

    pub(crate) fn sqlite_read(connection: PoolConnection<Sqlite>) -> Self {
        Self::new(Inner::SqliteRead(connection))
    }

    pub(crate) fn connection(&mut self) -> Connection<'_> {
        match &mut self.inner {
            Inner::Postgres(session) => Connection::Postgres(session.connection()),
            Inner::Sqlite(tx) => Connection::Sqlite(tx),
            Inner::SqliteRead(connection) => Connection::Sqlite(connection),
        }
    }

    /// Passes on what a statement came to, remembering whether it failed.
    pub(crate) fn noted<T>(&mut self, result: sqlx::Result<T>) -> Result<T> {
        if result.is_err() {
            self.failed = true;
            if let Inner::Postgres(session) = &mut self.inner {
                session.suspect();
            }
        }
        result.map_err(Error::from)
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
        if self.failed {
            let why = "a statement of this transaction failed, so it can't be committed";
            return Err(Error::Other(sqlx::Error::Protocol(why.to_owned())));
        }
        match self.inner {
            Inner::Postgres(session) => session.commit().await?,
            Inner::Sqlite(tx) => tx.commit().await?,
            Inner::SqliteRead(_) => {}
        }
        Ok(())
    }
}
