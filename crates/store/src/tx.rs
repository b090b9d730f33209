//! Writing: a transaction, and a unit of work that may do without one until it writes.

use crate::{Query, Reader, Result, Statement, session::Connection};

/// A transaction on either database. Dropped without [`Tx::commit`], it is rolled back.
pub struct Tx(Reader);

impl Tx {
    pub(crate) fn new(reader: Reader) -> Self {
        Self(reader)
    }

    pub(crate) fn connection(&mut self) -> Connection<'_> {
        self.0.connection()
    }

    /// The transaction, for one that may only read.
    pub fn reader(&mut self) -> &mut Reader {
        &mut self.0
    }

    /// Starts a statement that reads or writes; see the [crate's placeholders](crate).
    pub fn query(&mut self, sql: &'static str) -> Query<'_> {
        self.0.run(sql)
    }

    /// Runs statements that change rows, without `returning`, and do not depend on each other; how
    /// many rows each of them changed. On PostgreSQL they go there and back together, as parts of
    /// one statement: in small batches the trips cost more than the work.
    ///
    /// # Errors
    /// As the database says; [`Error::Conflict`] if one did not change as many rows as
    /// [expected](Statement::expecting).
    pub async fn run_all(&mut self, statements: Vec<Statement>) -> Result<Vec<u64>> {
        self.0.run_all(statements).await
    }

    /// Makes everything since `begin` durable.
    ///
    /// # Errors
    /// After [`Error::Unavailable`] it is not known whether the commit took effect; after any
    /// other error it did not. A transaction of which a statement failed can't be committed, even
    /// if the caller ignored that.
    pub async fn commit(self) -> Result<()> {
        self.0.commit().await
    }
}

/// A unit of work: read, decide, and write everything together with the commit.
///
/// An [optimistic](crate::Db::optimistic) one locks nothing and begins nothing until it commits, and
/// what it writes must say, by unique keys and by [how many rows it changes](Statement::expecting),
/// that what was read is still so. A [locking](crate::Db::locking) one keeps locked what it reads
/// `{for_update}`, so that its turn comes however many others want the same rows.
pub struct Work(Reader);

impl Work {
    pub(crate) fn new(reader: Reader) -> Self {
        Self(reader)
    }

    /// What the decision may read.
    pub fn reader(&mut self) -> &mut Reader {
        &mut self.0
    }

    /// Runs statements as [`Tx::run_all`] does, and makes them durable. For optimistic work on
    /// PostgreSQL, that is one statement, which is a transaction by itself.
    ///
    /// # Errors
    /// As [`Tx::run_all`] and [`Tx::commit`]. After [`Error::Conflict`], nothing was done.
    pub async fn commit(mut self, statements: Vec<Statement>) -> Result<()> {
        // Optimistic work is durable as soon as its statements are run.
        self.0.check()?;
        self.0.run_all(statements).await?;
        self.0.commit().await
    }
}
