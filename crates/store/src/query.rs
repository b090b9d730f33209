//! One statement, for either database.

use std::fmt::Write as _;

use futures_util::stream::{BoxStream, StreamExt as _};
use sqlx::{
    Arguments as _, AssertSqlSafe, Postgres, Row as _, Sqlite,
    postgres::{PgArguments, PgRow},
    sqlite::{SqliteArguments, SqliteRow},
};
use uuid::Uuid;

use crate::{
    Error, Result, Rows, Tx,
    session::{STATEMENT, within},
    tx::Connection,
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

/// A single parameter of a statement.
#[derive(Debug)]
pub enum Arg {
    /// A UUID.
    Uuid(Uuid),
    /// A 64-bit integer.
    Int(i64),
    /// A text, or null.
    Text(Option<String>),
    /// Raw bytes.
    Bytes(Vec<u8>),
}

impl From<Uuid> for Arg {
    fn from(value: Uuid) -> Self {
        Self::Uuid(value)
    }
}

impl From<i64> for Arg {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for Arg {
    fn from(value: &str) -> Self {
        Self::Text(Some(value.to_owned()))
    }
}

impl From<Option<&str>> for Arg {
    fn from(value: Option<&str>) -> Self {
        Self::Text(value.map(str::to_owned))
    }
}

impl From<&[u8]> for Arg {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(value.to_owned())
    }
}

/// A statement being put together: `$1`, `$2`, … are bound in order; the [placeholders](crate) are
/// filled in when it runs, in a [`Query`] or by [`Tx::run_all`].
#[derive(Debug)]
#[must_use = "a statement does nothing until it is run"]
pub struct Statement {
    sql: &'static str,
    args: Vec<Arg>,
    rows: Option<Rows>,
    expected: Option<u64>,
}

/// A [`Statement`] and the transaction that it is to run in.
#[must_use = "a query does nothing until it is run"]
pub struct Query<'t> {
    tx: &'t mut Tx,
    statement: Statement,
}

type Prepared<A> = (AssertSqlSafe<String>, A);

impl Statement {
    /// A statement with nothing bound yet.
    pub fn new(sql: &'static str) -> Self {
        Self { sql, args: Vec::new(), rows: None, expected: None }
    }

    /// Binds the next parameter.
    pub fn bind(mut self, value: impl Into<Arg>) -> Self {
        self.args.push(value.into());
        self
    }

    /// The batch that `{rows}` or `{among}` stands for.
    pub fn rows(mut self, rows: Rows) -> Self {
        self.rows = Some(rows);
        self
    }

    /// [`Tx::run_all`] is to fail unless the statement changes so many rows: somebody else was
    /// faster then.
    pub fn expecting(mut self, rows: usize) -> Self {
        self.expected = Some(rows as u64);
        self
    }
}

impl Tx {
    /// Runs statements that change rows, without `returning`, and do not concern each other's, one
    /// after the other; how many rows each of them changed. On PostgreSQL they go there and back
    /// together, as parts of one statement: in small batches the way costs more than the work.
    ///
    /// Whoever may be at it at the same time should have them in the same order, and rows within a
    /// statement too: then all wait for each other in turn, and never in a circle.
    ///
    /// # Errors
    /// As the database says; [`Error::Conflict`] if one did not change as many rows as
    /// [expected](Statement::expecting).
    pub async fn run_all(&mut self, statements: Vec<Statement>) -> Result<Vec<u64>> {
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let locks = self.locks();
        let run = async {
            match self.connection() {
                Connection::Postgres(connection) => {
                    let (sql, args, count) = postgres_together(statements, locks)?;
                    let query = sqlx::query_with::<Postgres, _>(sql, args);
                    let row = within(STATEMENT, query.fetch_one(connection)).await?;
                    let changed = |i| Ok(row.try_get::<i64, _>(i)?.unsigned_abs());
                    (0..count).map(changed).collect()
                }
                Connection::Sqlite(connection) => {
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
            }
        };
        let result: Result<_> = run.await;
        self.noted(result)
    }
}

impl<'t> Query<'t> {
    pub(crate) fn new(tx: &'t mut Tx, sql: &'static str) -> Self {
        Self { tx, statement: Statement::new(sql) }
    }

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
        let Self { tx, statement } = self;
        tx.may_run(statement.sql)?;
        let (locks, limit) = (tx.locks(), tx.limit());
        let run = async {
            Ok(match tx.connection() {
                Connection::Postgres(connection) => {
                    let (sql, args) = postgres(statement, locks)?;
                    let query = sqlx::query_with::<Postgres, _>(sql, args);
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
        tx.noted(result)
    }

    /// Runs the statement and reads all its rows.
    ///
    /// # Errors
    /// As the database says, or a row that `T` can't be read from.
    pub async fn fetch_all<T: FromRow>(self) -> Result<Vec<T>> {
        let Self { tx, statement } = self;
        tx.may_run(statement.sql)?;
        let (locks, limit) = (tx.locks(), tx.limit());
        let run = async {
            Ok(match tx.connection() {
                Connection::Postgres(connection) => {
                    let (sql, args) = postgres(statement, locks)?;
                    let query = sqlx::query_as_with::<Postgres, T, _>(sql, args);
                    within(limit, query.fetch_all(connection)).await?
                }
                Connection::Sqlite(connection) => {
                    let (sql, args) = sqlite(statement)?;
                    sqlx::query_as_with::<Sqlite, T, _>(sql, args).fetch_all(connection).await?
                }
            })
        };
        let result: Result<_> = run.await;
        tx.noted(result)
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

    /// Runs the statement and streams its rows, holding only a few in memory. It may take
    /// as long as it likes.
    ///
    /// # Errors
    /// As [`Query::fetch_all`]; later ones come through the stream.
    pub fn stream<T: FromRow>(self) -> Result<BoxStream<'t, Result<T>>> {
        let Self { tx, statement } = self;
        let locks = tx.locks();
        Ok(match tx.connection() {
            Connection::Postgres(connection) => {
                let (sql, args) = postgres(statement, locks)?;
                let query = sqlx::query_as_with::<Postgres, T, _>(sql, args);
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

fn postgres(statement: Statement, locks: bool) -> sqlx::Result<Prepared<PgArguments>> {
    let mut bound = PgArguments::default();
    let sql = postgres_part(statement, &mut bound, locks)?;
    Ok((AssertSqlSafe(sql), bound))
}

/// Several statements as one, that says how many rows each has changed; and how many they are. It
/// divides by zero unless those are as many as expected, which undoes all of them.
fn postgres_together(
    statements: Vec<Statement>,
    locks: bool,
) -> sqlx::Result<(AssertSqlSafe<String>, PgArguments, usize)> {
    let mut bound = PgArguments::default();
    let (mut parts, mut counts) = (Vec::new(), Vec::new());
    for (i, statement) in statements.into_iter().enumerate() {
        let expected = statement.expected;
        let sql = postgres_part(statement, &mut bound, locks)?;
        parts.push(format!("s{i} as ({sql} returning 1)"));
        let mut count = format!("(select count(*) from s{i})");
        if let Some(expected) = expected {
            bound.add(expected.cast_signed()).map_err(sqlx::Error::Encode)?;
            count = format!("{count} / (case {count} when ${} then 1 else 0 end)", bound.len());
        }
        counts.push(count);
    }
    let sql = format!("with {} select {}", parts.join(", "), counts.join(", "));
    Ok((AssertSqlSafe(sql), bound, counts.len()))
}

/// A statement whose parameters come after those that are bound already.
fn postgres_part(
    statement: Statement,
    bound: &mut PgArguments,
    locks: bool,
) -> sqlx::Result<String> {
    let Statement { sql, args, rows, .. } = statement;
    let first = bound.len();
    let after = first + args.len();
    let batch = rows.as_ref().map_or(String::new(), |rows| {
        if sql.contains(AMONG) { rows.postgres_among(after) } else { rows.postgres_source(after) }
    });
    let (for_update, skip_locked) =
        if locks { ("for update", "for update skip locked") } else { ("", "") };
    let sql = fill(&renumber(sql, first), &batch, for_update, skip_locked);
    for arg in args {
        match arg {
            Arg::Uuid(value) => bound.add(value),
            Arg::Int(value) => bound.add(value),
            Arg::Text(value) => bound.add(value),
            Arg::Bytes(value) => bound.add(value),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    if let Some(rows) = rows {
        rows.bind_postgres(bound)?;
    }
    Ok(sql)
}

fn sqlite(statement: Statement) -> sqlx::Result<Prepared<SqliteArguments>> {
    let Statement { sql, args, rows, .. } = statement;
    let first = rows.as_ref().map_or(0, Rows::sqlite_parameters);
    let batch = rows.as_ref().map_or(String::new(), |rows| {
        if sql.contains(AMONG) { rows.sqlite_among() } else { rows.sqlite_source() }
    });
    let sql = fill(&renumber(sql, first), &batch, "", "");
    let mut bound = SqliteArguments::default();
    if let Some(rows) = rows {
        rows.bind_sqlite(&mut bound)?;
    }
    for arg in args {
        match arg {
            Arg::Uuid(value) => bound.add(value),
            Arg::Int(value) => bound.add(value),
            Arg::Text(value) => bound.add(value),
            Arg::Bytes(value) => bound.add(value),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok((AssertSqlSafe(sql), bound))
}

/// Where keys are looked up.
const AMONG: &str = "{among}";

/// Fills in the placeholders. Only texts of this program go in, never data.
fn fill(sql: &str, batch: &str, for_update: &str, skip_locked: &str) -> String {
    sql.replace("{for_update}", for_update)
        .replace("{skip_locked}", skip_locked)
        .replace("{rows}", batch)
        .replace(AMONG, batch)
}

/// Moves `$1`, `$2`, … on, after parameters that come first.
fn renumber(sql: &str, by: usize) -> String {
    let mut parts = sql.split('$');
    let mut renumbered = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|character: char| character.is_ascii_digit());
        let _ = match part[..part.len() - rest.len()].parse::<usize>() {
            Ok(number) => write!(renumbered, "${}{rest}", number + by),
            Err(_) => write!(renumbered, "${part}"),
        };
    }
    renumbered
}
