//! Opening a database by its URL.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use sqlx::{
    Connection as _, Executor as _, SqlitePool,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{
    Result, Tx,
    session::{FRESH, SIGN_OF_LIFE, Sessions, within},
};

/// How long a caller waits for a free connection before the database counts as away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// What each connection to PostgreSQL is told when it is made.
///
/// Tables that go from empty to millions of rows within a minute would be stuck with the generic
/// plan made for the empty table; a batch is worth a plan of its own.
///
/// All that we write or look up is found by its key, in batches that are small beside their tables.
/// The planner believes in statistics that may be a minute old, when the table was empty or no order
/// was waiting; it then reads the whole table for each batch, or compares each row of it with each
/// of the batch. So it is left no other plan than by the key.
///
/// A process that is frozen or cut off while it holds locks must not hold up the others for ever.
const SETTINGS: &str = "set plan_cache_mode = force_custom_plan; \
                        set enable_seqscan = off; set enable_hashjoin = off; \
                        set enable_mergejoin = off; \
                        set idle_in_transaction_session_timeout = '30s'";

/// How a transaction that may write begins on PostgreSQL. It says the settings again: behind a
/// transaction pooler it may be on another connection than the one that was told.
const WRITE: &str = "begin; set local plan_cache_mode = force_custom_plan; \
                     set local idle_in_transaction_session_timeout = '30s'; \
                     set local enable_seqscan = off; set local enable_hashjoin = off; \
                     set local enable_mergejoin = off";

/// How one that only reads does. It may read all there is.
const SNAPSHOT: &str = "begin isolation level repeatable read read only; \
                        set local plan_cache_mode = force_custom_plan; \
                        set local enable_seqscan = on; set local enable_hashjoin = on; \
                        set local enable_mergejoin = on; \
                        set local idle_in_transaction_session_timeout = 0";

/// How long a statement on SQLite waits for another process to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A database: a pool of connections. Clones share it.
#[derive(Clone)]
pub struct Db(Kind);

#[derive(Clone)]
enum Kind {
    Postgres(Sessions),
    /// SQLite has one writer at a time: a pool of one queues them fairly, where several
    /// connections would poll for the file's lock.
    Sqlite {
        write: SqlitePool,
        read: SqlitePool,
    },
}

/// A database URL that can't be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "{reason}; a database URL looks like postgres://user:password@host/name or sqlite:path/to/file.db"
)]
pub struct InvalidUrl {
    reason: String,
}

impl Db {
    /// Opens the database at `url` (`postgres://…` or `sqlite:PATH`) with at most `connections`
    /// connections. Nothing is contacted yet, but for SQLite the folder of the file is made.
    ///
    /// # Errors
    /// The URL is of another kind or malformed, or the folder can't be made.
    pub fn open(url: &str, connections: u32) -> std::result::Result<Self, InvalidUrl> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Self::postgres(url, connections)
        } else if let Some(path) = url.strip_prefix("sqlite:") {
            Self::sqlite(path.trim_start_matches("//"), connections)
        } else {
            Err(InvalidUrl { reason: "unknown kind of database".to_owned() })
        }
    }

    fn postgres(url: &str, connections: u32) -> std::result::Result<Self, InvalidUrl> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| InvalidUrl { reason: error.to_string() })?
            .application_name("gozon");
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // To ask each one first would cost a round trip per transaction.
            .test_before_acquire(false)
            .before_acquire(|connection, seen| {
                Box::pin(async move {
                    if seen.idle_for > FRESH {
                        within(SIGN_OF_LIFE, connection.ping()).await?;
                    }
                    Ok(true)
                })
            })
            .after_connect(|connection, _| {
                Box::pin(async move { connection.execute(SETTINGS).await.map(drop) })
            })
            .connect_lazy_with(options);
        Ok(Self(Kind::Postgres(Sessions::new(pool))))
    }

    fn sqlite(path: &str, connections: u32) -> std::result::Result<Self, InvalidUrl> {
        if path.is_empty() || path.starts_with(':') {
            return Err(InvalidUrl { reason: "SQLite needs a file".to_owned() });
        }
        let path = PathBuf::from(path);
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|error| InvalidUrl {
                reason: format!("can't make the folder {}: {error}", folder.display()),
            })?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            // A page that many commits change, such as the outbox's, is copied from the log to the
            // file once in a while and not every 4 MB: each time costs two more syncs.
            .pragma("wal_autocheckpoint", "8000")
            // Every statement with rows is prepared for each power of two.
            .statement_cache_capacity(500)
            .row_buffer_size(1024)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .test_before_acquire(false)
        };
        Ok(Self(Kind::Sqlite {
            write: pool(1).connect_lazy_with(options.clone()),
            read: pool(connections.max(1)).connect_lazy_with(options.pragma("query_only", "on")),
        }))
    }

    /// Begins a transaction that may write. On SQLite it takes the writer's place at once
    /// (`begin immediate`), so that it can't fail half-way for a lock.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) when no connection is had in 3 s.
    pub async fn begin(&self) -> Result<Tx> {
        Ok(match &self.0 {
            Kind::Postgres(sessions) => Tx::postgres(sessions.begin(WRITE).await?),
            Kind::Sqlite { write, .. } => Tx::sqlite(write.begin_with("begin immediate").await?),
        })
    }

    /// For a transaction that reads, decides and writes all at once, in [`Tx::commit_with`]. On
    /// PostgreSQL it locks nothing and begins nothing until then: what it writes must say for itself,
    /// by unique keys and by [how many rows it changes](crate::Statement::expecting), that what was
    /// read is still so. Reading, and writing with all it takes to be durable, are a trip each, where
    /// a transaction that locks takes five. Under contention that one is better, since its turn
    /// comes. On SQLite, where there are no trips, this is [`Db::begin`].
    ///
    /// This is optimistic concurrency control, after H. T. Kung and J. T. Robinson,
    /// "On Optimistic Methods for Concurrency Control", 1981.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) when no connection is had in 3 s.
    pub async fn at_once(&self) -> Result<Tx> {
        match &self.0 {
            Kind::Postgres(sessions) => Ok(Tx::postgres_at_once(sessions.at_once().await?)),
            Kind::Sqlite { .. } => self.begin().await,
        }
    }

    /// A connection for single statements that only read.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) when no connection is had in 3 s.
    pub async fn read(&self) -> Result<Tx> {
        Ok(match &self.0 {
            Kind::Postgres(sessions) => Tx::postgres_at_once(sessions.alive().await?),
            Kind::Sqlite { read, .. } => Tx::sqlite_read(read.acquire().await?),
        })
    }

    /// Begins a transaction that only reads and sees one state of the database throughout.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) when no connection is had in 3 s.
    pub async fn snapshot(&self) -> Result<Tx> {
        Ok(match &self.0 {
            Kind::Postgres(sessions) => Tx::postgres(sessions.begin(SNAPSHOT).await?),
            Kind::Sqlite { read, .. } => Tx::sqlite(read.begin_with("begin").await?),
        })
    }

    /// How far apart batches of transactions had better [begin](crate::Pace). On SQLite each is
    /// cheap: there is no way to a server and back.
    pub(crate) fn gap(&self) -> Duration {
        match &self.0 {
            Kind::Postgres(_) => Duration::from_millis(20),
            Kind::Sqlite { .. } => Duration::ZERO,
        }
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) when it gives none.
    pub async fn ping(&self) -> Result<()> {
        self.read().await?.query("select 1").fetch_one::<(i32,)>().await.map(drop)
    }

    /// Closes every connection, waiting for those in use.
    pub async fn close(&self) {
        match &self.0 {
            Kind::Postgres(sessions) => sessions.close().await,
            Kind::Sqlite { write, read } => {
                read.close().await;
                write.close().await;
            }
        }
    }
}

impl fmt::Debug for Db {
    /// The kind only: a URL may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Postgres(_) => "Db(PostgreSQL)",
            Kind::Sqlite { .. } => "Db(SQLite)",
        })
    }
}
