//! A transaction, or a connection to read from, on either database.

use sqlx::{PgConnection, Postgres, Sqlite, SqliteConnection, Transaction, pool::PoolConnection};

use crate::{Query, Result};

/// A transaction on either database. Dropped without [`Tx::commit`], it is rolled back.
pub struct Tx(Inner);

enum Inner {
    Postgres(Transaction<'static, Postgres>),
    PostgresRead(PoolConnection<Postgres>),
    Sqlite(Transaction<'static, Sqlite>),
    SqliteRead(PoolConnection<Sqlite>),
}

/// The connection under a transaction.
pub(crate) enum Connection<'a> {
    Postgres(&'a mut PgConnection),
    Sqlite(&'a mut SqliteConnection),
}

impl Tx {
    pub(crate) fn postgres(tx: Transaction<'static, Postgres>) -> Self {
        Self(Inner::Postgres(tx))
    }

    pub(crate) fn postgres_read(connection: PoolConnection<Postgres>) -> Self {
        Self(Inner::PostgresRead(connection))
    }

    pub(crate) fn sqlite(tx: Transaction<'static, Sqlite>) -> Self {
        Self(Inner::Sqlite(tx))
    }

    pub(crate) fn sqlite_read(connection: PoolConnection<Sqlite>) -> Self {
        Self(Inner::SqliteRead(connection))
    }

    pub(crate) fn connection(&mut self) -> Connection<'_> {
        match &mut self.0 {
            Inner::Postgres(tx) => Connection::Postgres(tx),
            Inner::PostgresRead(connection) => Connection::Postgres(connection),
            Inner::Sqlite(tx) => Connection::Sqlite(tx),
            Inner::SqliteRead(connection) => Connection::Sqlite(connection),
        }
    }

    /// Starts a statement; see the [crate's placeholders](crate).
    pub fn query(&mut self, sql: &'static str) -> Query<'_> {
        Query::new(self, sql)
    }

    /// Makes everything since `begin` durable.
    ///
    /// # Errors
    /// After [`Error::Unavailable`](crate::Error::Unavailable) it is not known whether the commit
    /// took effect; after any other error it did not.
    pub async fn commit(self) -> Result<()> {
        match self.0 {
            Inner::Postgres(tx) => tx.commit().await?,
            Inner::Sqlite(tx) => tx.commit().await?,
            Inner::PostgresRead(_) | Inner::SqliteRead(_) => {}
        }
        Ok(())
    }
}
