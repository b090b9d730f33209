//! SQLite's connections in the simulator: a statement is one step of the simulated time, with the
//! world's delays and faults around it.
//!
//! sqlx runs statements on threads of its own. Here the simulator's thread waits for each, so that
//! nothing else happens meanwhile. The files and their connections are kept from one run to the
//! next; a run begins with [`reset`] tables. One unit of work at a time holds a file's write lock,
//! which is waited for in simulated time.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::{self, Write as _},
    io,
    sync::Arc,
    time::Duration,
};

use futures_executor::block_on;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use gozon_seam::{End, Fate, world};
use sqlx::{
    ConnectOptions as _, Either, Execute, Executor, SqlStr, Sqlite,
    error::{BoxDynError, DatabaseError, ErrorKind},
    sqlite::{
        SqliteArguments, SqliteConnectOptions, SqliteQueryResult, SqliteRow, SqliteStatement,
        SqliteSynchronous, SqliteTypeInfo,
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::unconstrained,
    time::{sleep, timeout},
};

use crate::{Statement, reader::one_by_one};

/// How long a unit of work waits for the write lock of a file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

type Step = Either<SqliteQueryResult, SqliteRow>;

thread_local! {
    static FILES: RefCell<BTreeMap<String, File>> = const { RefCell::new(BTreeMap::new()) };
}

/// What all simulated processes share of a file.
struct File {
    idle: Vec<sqlx::SqliteConnection>,
    writer: Arc<Semaphore>,
}

impl Default for File {
    fn default() -> Self {
        Self { idle: Vec::new(), writer: Arc::new(Semaphore::new(1)) }
    }
}

fn with_file<T>(path: &str, look: impl FnOnce(&mut File) -> T) -> T {
    FILES.with_borrow_mut(|files| look(files.entry(path.to_owned()).or_default()))
}

/// Runs a statement, or several, to their end.
fn drive<T>(statement: impl Future<Output = T>) -> T {
    block_on(unconstrained(statement))
}

/// Empties every table of a migrated database, and frees its lock.
///
/// # Errors
/// As the database says.
pub fn reset(url: &str) -> crate::Result<()> {
    let path = url.strip_prefix("sqlite:").unwrap_or(url);
    let file = with_file(path, std::mem::take);
    with_file(path, |new| new.idle = file.idle);
    let mut connection = idle_or_new(path)?;
    let emptied = drive(async {
        let tables: Vec<(String,)> = sqlx::query_as(
            "select name from sqlite_master where type = 'table'
             and name not in ('gozon_migrations', 'service_clock')",
        )
        .fetch_all(&mut connection)
        .await?;
        let mut all = String::from(
            "begin immediate; update service_clock set correction = 0, measured_at = 0; ",
        );
        for (table,) in tables {
            let _ = write!(all, "delete from {table}; ");
        }
        all.push_str("commit");
        sqlx::raw_sql(sqlx::AssertSqlSafe(all)).execute(&mut connection).await
    });
    with_file(path, |file| file.idle.push(connection));
    Ok(emptied.map(drop)?)
}

/// Any process gets any connection, so all of them are alike.
fn idle_or_new(path: &str) -> sqlx::Result<sqlx::SqliteConnection> {
    if let Some(connection) = with_file(path, |file| file.idle.pop()) {
        return Ok(connection);
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .synchronous(SqliteSynchronous::Off)
        .statement_cache_capacity(500);
    drive(options.connect())
}

/// A connection, as one process sees it.
pub(crate) struct SqliteConnection {
    /// `None` once it is lost.
    inner: Option<sqlx::SqliteConnection>,
    path: String,
    /// The write lock of the file, within a transaction.
    writer: Option<OwnedSemaphorePermit>,
    in_transaction: bool,
}

impl fmt::Debug for SqliteConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SqliteConnection")
    }
}

impl Drop for SqliteConnection {
    fn drop(&mut self) {
        self.lose();
    }
}

#[allow(clippy::unused_async, reason = "as sqlx's")]
impl SqliteConnection {
    pub(crate) async fn connect_with(options: &SqliteConnectOptions) -> sqlx::Result<Self> {
        let path = options.get_filename().to_string_lossy().into_owned();
        let inner = Some(idle_or_new(&path)?);
        Ok(Self { inner, path, writer: None, in_transaction: false })
    }

    pub(crate) async fn close(self) -> sqlx::Result<()> {
        Ok(())
    }

    pub(crate) async fn ping(&mut self) -> sqlx::Result<()> {
        Ok(())
    }

    /// Breaks the connection: the database rolls back.
    fn lose(&mut self) {
        if let Some(mut connection) = self.inner.take() {
            if std::mem::take(&mut self.in_transaction) {
                let _ = drive(sqlx::raw_sql("rollback").execute(&mut connection));
            }
            with_file(&self.path, |file| file.idle.push(connection));
        }
        self.writer = None;
    }

    fn fate(&self, sql: &str) -> Fate {
        let usual = Fate { before: Duration::ZERO, end: End::Answered, after: Duration::ZERO };
        world(|world| world.statement(name(&self.path), sql)).unwrap_or(usual)
    }

    /// What comes before a statement: time, and faults.
    async fn begin(&mut self, fate: Fate, locks: bool) -> sqlx::Result<()> {
        pause(fate.before).await;
        match fate.end {
            End::Refused(code) => return Err(refused(code)),
            End::Lost => self.lose(),
            End::Answered | End::AnswerLost => {}
        }
        if self.inner.is_none() {
            return Err(lost());
        }
        if locks && self.writer.is_none() {
            let writer = with_file(&self.path, |file| Arc::clone(&file.writer));
            let permit = timeout(BUSY_TIMEOUT, writer.acquire_owned()).await;
            self.writer = permit.map_err(|_| refused("5"))?.ok();
        }
        Ok(())
    }

    /// What comes after it.
    async fn end<T>(&mut self, fate: Fate, answer: T) -> sqlx::Result<T> {
        if fate.end == End::AnswerLost {
            self.lose();
        }
        pause(fate.after).await;
        if self.inner.is_none() { Err(lost()) } else { Ok(answer) }
    }

    async fn run(
        &mut self,
        sql: SqlStr,
        arguments: Option<SqliteArguments>,
        persistent: bool,
    ) -> sqlx::Result<Vec<Step>> {
        let word = sql.as_str().to_owned();
        let fate = self.fate(&word);
        self.begin(fate, word == "begin immediate").await?;
        let inner = self.inner.as_mut().ok_or_else(lost)?;
        let answer: sqlx::Result<Vec<Step>> = match arguments {
            Some(arguments) => {
                let query =
                    sqlx::query_with::<Sqlite, _>(sqlx::AssertSqlSafe(word.clone()), arguments);
                drive(inner.fetch_many(query.persistent(persistent)).try_collect())
            }
            None => drive(
                inner.fetch_many(sqlx::raw_sql(sqlx::AssertSqlSafe(word.clone()))).try_collect(),
            ),
        };
        if answer.is_ok() && word.starts_with("begin") {
            self.in_transaction = true;
        } else if answer.is_ok() && (word == "commit" || word == "rollback") {
            self.in_transaction = false;
            self.writer = None;
        }
        self.end(fate, answer).await?
    }

    /// Runs statements as one that is a transaction by itself.
    pub(crate) async fn run_together(
        &mut self,
        statements: Vec<Statement>,
    ) -> crate::Result<Vec<u64>> {
        let words: String = statements.iter().map(|statement| statement.sql).collect();
        let fate = self.fate(&words);
        self.begin(fate, true).await?;
        let inner = self.inner.as_mut().ok_or_else(lost)?;
        let answer = drive(async {
            sqlx::raw_sql("begin immediate").execute(&mut *inner).await?;
            let changed = one_by_one(inner, statements).await;
            let last = if changed.is_ok() { "commit" } else { "rollback" };
            sqlx::raw_sql(last).execute(inner).await?;
            changed
        });
        self.writer = None;
        self.end(fate, answer).await?
    }
}

impl<'c> Executor<'c> for &'c mut SqliteConnection {
    type Database = Sqlite;

    fn fetch_many<'e, 'q, E>(self, mut query: E) -> BoxStream<'e, sqlx::Result<Step>>
    where
        'c: 'e,
        E: Execute<'q, Sqlite>,
        'q: 'e,
        E: 'q,
    {
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode);
        let persistent = query.persistent();
        let sql = query.sql();
        let steps = async move { self.run(sql, arguments?, persistent).await };
        stream::once(steps)
            .flat_map(|steps| match steps {
                Ok(steps) => stream::iter(steps).map(Ok).left_stream(),
                Err(error) => stream::iter([Err(error)]).right_stream(),
            })
            .boxed()
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<SqliteRow>>>
    where
        'c: 'e,
        E: Execute<'q, Sqlite>,
        'q: 'e,
        E: 'q,
    {
        let mut rows = self.fetch(query);
        Box::pin(async move { rows.try_next().await })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [SqliteTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<SqliteStatement>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let inner = self.inner.as_mut().ok_or_else(lost)?;
            drive(inner.prepare_with(sql, parameters))
        })
    }

    fn describe<'e>(self, _: SqlStr) -> BoxFuture<'e, sqlx::Result<sqlx::Describe<Sqlite>>>
    where
        'c: 'e,
    {
        Box::pin(std::future::ready(Err(lost())))
    }
}

/// The name of a database: its file's, without folder and ending.
pub(crate) fn name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file)
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

fn lost() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::ConnectionReset, "the connection is lost"))
}

fn refused(code: &'static str) -> sqlx::Error {
    sqlx::Error::Database(Box::new(Refusal(code)))
}

/// A database that answers with a code.
#[derive(Debug)]
struct Refusal(&'static str);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the database answers {}", self.0)
    }
}

impl std::error::Error for Refusal {}

impl DatabaseError for Refusal {
    #[allow(clippy::unnecessary_literal_bound, reason = "as the trait has it")]
    fn message(&self) -> &str {
        "simulated"
    }

    fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        Some(self.0.into())
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> BoxDynError {
        self
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}
