//! Reading: statements that the compiler knows to be queries.

use futures_util::stream::{BoxStream, StreamExt as _};
use sqlx::{Executor, Postgres, Sqlite, postgres::PgRow, sqlite::SqliteRow};

use crate::{
    Arg, Error, Result, Rows, Statement,
    session::{Connection, STATEMENT_TIMEOUT, Session, within},
    statement::{postgres, postgres_together, sqlite},
    timing::counted,
};

/// A row type that reads from both databases: `#[derive(sqlx::FromRow)]` or a tuple.
pub trait FromRow:
    for<'r> sqlx::FromRow<'r, PgRow> + for<'r> sqlx::FromRow<'r, SqliteRow> + Send + Unpin + 'static
{
}

impl<T> FromRow for T where
    T: for<'r> sqlx::FromRow<'r, PgRow>
        + for<'r> sqlx::FromRow<'r, SqliteRow>
        + Send
        + Unpin
        + 'static
{
}

/// The text of a statement that only reads. Made by [`select!`](crate::select), which does not
/// compile for a text that begins with anything but `select`.
#[derive(Clone, Copy, Debug)]
pub struct Select(&'static str);

impl Select {
    /// The statement `sql`.
    ///
    /// # Panics
    /// If it does not begin with `select`. In a constant, that is an error of the compiler.
    pub const fn new(sql: &'static str) -> Self {
        let (text, word) = (sql.as_bytes(), b"select");
        let mut start = 0;
        while start < text.len() && text[start].is_ascii_whitespace() {
            start += 1;
        }
        let mut i = 0;
        while i < word.len() {
            assert!(
                start + i < text.len() && text[start + i] == word[i],
                "a reader takes statements that begin with `select`"
            );
            i += 1;
        }
        Self(sql)
    }
}

/// A [`Select`] whose text is checked by the compiler.
#[macro_export]
macro_rules! select {
    ($sql:expr) => {
        const { $crate::Select::new($sql) }
    };
}

/// A connection that one may only read from: by itself, in a snapshot, or within a transaction whose
/// owner writes later.
pub struct Reader {
    session: Session,
    /// Whether rows that are read `{for_update}` stay locked until the end.
    locks: bool,
    /// Whether a statement has failed.
    failed: bool,
}

/// A statement and the connection that it is to run on.
#[must_use = "a query does nothing until it is run"]
pub struct Query<'r> {
    reader: &'r mut Reader,
    statement: Statement,
}

impl Reader {
    pub(crate) fn new(session: Session, locks: bool) -> Self {
        Self { session, locks, failed: false }
    }

    /// Starts a query; see the [crate's placeholders](crate).
    pub fn query(&mut self, select: Select) -> Query<'_> {
        self.run(select.0)
    }

    pub(crate) fn run(&mut self, sql: &'static str) -> Query<'_> {
        Query { reader: self, statement: Statement::new(sql) }
    }

    pub(crate) fn connection(&mut self) -> Connection<'_> {
        self.session.connection()
    }

    /// Runs statements that change rows; how many rows each of them changed. On PostgreSQL they go
    /// there and back together, as parts of one statement.
    pub(crate) async fn run_all(&mut self, statements: Vec<Statement>) -> Result<Vec<u64>> {
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let (locks, named) = (self.locks, self.session.keeps_prepared());
        #[cfg(feature = "simulation")]
        let in_transaction = self.session.is_in_transaction();
        let run = async {
            match self.session.connection() {
                Connection::Postgres(connection) => {
                    let (sql, args, count) = postgres_together(statements, locks)?;
                    let query = sqlx::query_with::<Postgres, _>(sql, args).persistent(named);
                    let row = within(STATEMENT_TIMEOUT, query.fetch_one(connection)).await?;
                    let changed = |i| {
                        let rows: i64 = sqlx::Row::try_get(&row, i)?;
                        Ok(rows.unsigned_abs())
                    };
                    (0..count).map(changed).collect()
                }
                #[cfg(feature = "simulation")]
                Connection::Sqlite(connection) if !in_transaction => {
                    connection.run_together(statements).await
                }
                Connection::Sqlite(connection) => one_by_one(connection, statements).await,
            }
        };
        let result: Result<_> = run.await;
        self.noted(result)
    }

    /// Passes on what a statement came to, remembering whether it failed.
    pub(crate) fn noted<T>(&mut self, result: Result<T>) -> Result<T> {
        self.session.ended(&result);
        self.failed |= result.is_err();
        result
    }

    /// Refuses to go on after a statement has failed, even if its owner ignored that: PostgreSQL
    /// would answer `commit` with a rollback and call that a success, and a decision without what
    /// it wanted to know is none.
    pub(crate) fn check(&self) -> Result<()> {
        if self.failed {
            let why = "a statement of this transaction failed, so it can't be committed";
            return Err(sqlx::Error::Protocol(why.to_owned()).into());
        }
        Ok(())
    }

    /// Ends the transaction, if one is open, unless a statement has [failed](Self::check).
    pub(crate) async fn commit(self) -> Result<()> {
        self.check()?;
        self.session.commit().await
    }
}

impl<'r> Query<'r> {
    /// Binds the next parameter.
    pub fn bind(self, value: impl Into<Arg>) -> Self {
        Self { statement: self.statement.bind(value), ..self }
    }

    /// The batch that `{rows}` or `{among}` stands for.
    pub fn rows(self, rows: Rows) -> Self {
        Self { statement: self.statement.rows(rows), ..self }
    }

    /// Runs the statement; how many rows it changed.
    ///
    /// # Errors
    /// As the database says.
    pub async fn execute(self) -> Result<u64> {
        let Self { reader, statement } = self;
        let (locks, limit) = (reader.locks, reader.session.limit());
        let named = reader.session.keeps_prepared();
        let run = async {
            Ok(match reader.session.connection() {
                Connection::Postgres(connection) => {
                    let (sql, args) = postgres(statement, locks)?;
                    let query = sqlx::query_with::<Postgres, _>(sql, args).persistent(named);
                    within(limit, query.execute(connection)).await?.rows_affected()
                }
                Connection::Sqlite(connection) => {
                    let (sql, args) = sqlite(statement)?;
                    let query = sqlx::query_with::<Sqlite, _>(sql, args);
                    query.execute(connection).await?.rows_affected()
                }
            })
        };
        let result: Result<_> = run.await;
        reader.noted(result)
    }

    /// Runs the statement and reads all its rows.
    ///
    /// # Errors
    /// As the database says, or a row that `T` can't be read from.
    pub async fn fetch_all<T: FromRow>(self) -> Result<Vec<T>> {
        let Self { reader, statement } = self;
        let (locks, limit) = (reader.locks, reader.session.limit());
        let named = reader.session.keeps_prepared();
        let run = async {
            Ok(match reader.session.connection() {
                Connection::Postgres(connection) => {
                    let (sql, args) = postgres(statement, locks)?;
                    let query = sqlx::query_as_with::<Postgres, T, _>(sql, args).persistent(named);
                    within(limit, query.fetch_all(connection)).await?
                }
                Connection::Sqlite(connection) => {
                    let (sql, args) = sqlite(statement)?;
                    sqlx::query_as_with::<Sqlite, T, _>(sql, args).fetch_all(connection).await?
                }
            })
        };
        let result: Result<_> = counted(run).await;
        reader.noted(result)
    }

    /// Runs the statement and reads its first row, if there is one.
    ///
    /// # Errors
    /// As [`Query::fetch_all`].
    pub async fn fetch_optional<T: FromRow>(self) -> Result<Option<T>> {
        Ok(self.fetch_all().await?.into_iter().next())
    }

    /// Runs the statement and reads its first row.
    ///
    /// # Errors
    /// As [`Query::fetch_all`], or there is no row.
    pub async fn fetch_one<T: FromRow>(self) -> Result<T> {
        self.fetch_optional().await?.ok_or_else(|| Error::from(sqlx::Error::RowNotFound))
    }

    /// Runs the statement and streams its rows, holding only a few in memory. It may take as long as
    /// it likes.
    ///
    /// # Errors
    /// As [`Query::fetch_all`]; later ones come through the stream.
    pub fn stream<T: FromRow>(self) -> Result<BoxStream<'r, Result<T>>> {
        let Self { reader, statement } = self;
        let (locks, named) = (reader.locks, reader.session.keeps_prepared());
        Ok(match reader.session.connection() {
            Connection::Postgres(connection) => {
                let (sql, args) = postgres(statement, locks)?;
                let query = sqlx::query_as_with::<Postgres, T, _>(sql, args).persistent(named);
                query.fetch(connection).map(|row| row.map_err(Error::from)).boxed()
            }
            Connection::Sqlite(connection) => {
                let (sql, args) = sqlite(statement)?;
                let query = sqlx::query_as_with::<Sqlite, T, _>(sql, args);
                query.fetch(connection).map(|row| row.map_err(Error::from)).boxed()
            }
        })
    }
}

/// Runs statements on SQLite, one after the other, as parts of the transaction that is open.
pub(crate) async fn one_by_one<C>(
    connection: &mut C,
    statements: Vec<Statement>,
) -> Result<Vec<u64>>
where
    for<'c> &'c mut C: Executor<'c, Database = Sqlite>,
{
    let mut changed = Vec::with_capacity(statements.len());
    for statement in statements {
        let expected = statement.expected;
        let (sql, args) = sqlite(statement)?;
        let query = sqlx::query_with::<Sqlite, _>(sql, args);
        let rows = query.execute(&mut *connection).await?.rows_affected();
        if expected.is_some_and(|expected| expected != rows) {
            return Err(Error::conflict("not as many rows as expected"));
        }
        changed.push(rows);
    }
    Ok(changed)
}
