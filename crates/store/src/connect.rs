//! Opening a database by its URL.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

use crate::{
    InvalidUrl, Reader, Result, Tx, Work,
    pool::{self, Pool},
    servers::Servers,
    session::{Sessions, Suspicion},
    sqlite_file::SqliteFile,
    timing::counted,
    url::{self, PostgresUrl, Target},
};

/// The settings of a session, each said `set …` when a connection is made and `set local …` when a
/// transaction that may write begins: behind a transaction pooler that may be on another connection.
///
/// Plans: planning one of our statements takes longer than running it for a small batch, so each is
/// planned once per connection. A plan that is made while the tables are empty must be good when they
/// are not: all that we write or look up is found by its key, in batches that are small beside their
/// tables. So no plan is left but by the key, and the costs of pages are set so low that looking up
/// each of a batch is always cheaper than reading a table of more than some twenty rows; PostgreSQL
/// takes a table that it has never analysed for a larger one, and analyses none with fewer than fifty
/// by itself.
///
/// Limits, kept by the server even when this process is gone: who waits for a lock for longer than
/// `lock_timeout` leaves those rows for later, so that the other rows of its batch need not wait;
/// a statement or transaction of a process that is frozen or cut off ends, and its locks with it.
macro_rules! settings {
    ($set:literal) => {
        concat!(
            $set,
            " plan_cache_mode = force_generic_plan; ",
            $set,
            " enable_seqscan = off; ",
            $set,
            " enable_hashjoin = off; ",
            $set,
            " enable_mergejoin = off; ",
            $set,
            " random_page_cost = 0.01; ",
            $set,
            " seq_page_cost = 0.01; ",
            $set,
            " jit = off; ",
            $set,
            " lock_timeout = '250ms'; ",
            $set,
            " statement_timeout = '25s'; ",
            $set,
            " idle_in_transaction_session_timeout = '30s'"
        )
    };
}

/// What each connection to PostgreSQL is told when it is made.
const SETTINGS: &str = settings!("set");

/// How a transaction that may write begins on PostgreSQL.
const WRITE: &str = concat!("begin; ", settings!("set local"));

/// How one that reads a little begins, where a single statement would do but for the pooler.
const READ: &str = concat!("begin read only; ", settings!("set local"));

/// How one that only reads begins. It may read all there is, for as long as it takes.
const SNAPSHOT: &str = "begin isolation level repeatable read read only; \
                        set local plan_cache_mode = force_custom_plan; \
                        set local enable_seqscan = on; set local enable_hashjoin = on; \
                        set local enable_mergejoin = on; \
                        set local random_page_cost = default; set local seq_page_cost = default; \
                        set local lock_timeout = 0; set local statement_timeout = 0; \
                        set local idle_in_transaction_session_timeout = 0";

/// A database that has failed a statement for a reason of its own is not ready for so long.
const FAILURE_MEMORY: Duration = Duration::from_secs(3);
/// For so long after such a failure, a check writes too.
const PROBE_PERIOD: Duration = Duration::from_mins(1);

/// How long a statement on SQLite waits for another process to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A database: its connections. Clones share them.
#[derive(Clone)]
pub struct Db {
    /// On SQLite a pool of one: it has one writer at a time, and a pool queues them fairly where
    /// several connections would poll for the file's lock.
    write: Sessions,
    read: Sessions,
    /// The file, on SQLite.
    file: Option<Arc<SqliteFile>>,
}

impl Db {
    /// Opens the database at `url` (`postgres://…` or `sqlite:PATH`) with at most `connections`
    /// connections. No server is contacted yet, but the file of SQLite and its folder are made.
    ///
    /// # Errors
    /// The URL is of another kind or malformed, asks for what can't be done, or names a file that
    /// can't be used.
    pub fn open(url: &str, connections: u32) -> std::result::Result<Self, InvalidUrl> {
        match url::parse(url)? {
            Target::Postgres(url) => Ok(Self::postgres(url, connections)),
            Target::Sqlite(path) => Self::sqlite(path, connections),
        }
    }

    fn postgres(url: PostgresUrl, connections: u32) -> Self {
        let PostgresUrl { mut servers, read_write, pooler } = url;
        if pooler {
            // A pooler takes no setting at the start that it does not know.
            servers = servers.into_iter().map(|server| server.extra_float_digits(None)).collect();
        }
        let suspicion = Arc::<Suspicion>::default();
        // Behind a pooler, each transaction says them.
        let settings = (!pooler).then_some(SETTINGS);
        let target = pool::Target::Postgres(Mutex::new(servers[0].clone()), settings);
        let pool = Pool::new(target, connections, Arc::clone(&suspicion));
        let mut sessions = Sessions::new(pool, suspicion);
        if servers.len() > 1 || read_write {
            sessions = sessions.choosing(Servers::new(servers, read_write));
        }
        if pooler {
            sessions = sessions.behind_pooler();
        }
        Self { write: sessions.clone(), read: sessions, file: None }
    }

    fn sqlite(path: PathBuf, connections: u32) -> std::result::Result<Self, InvalidUrl> {
        let file = SqliteFile::open(path)?;
        let options = SqliteConnectOptions::new()
            .filename(file.path())
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
        let sessions = |connections, options| {
            let suspicion = Arc::<Suspicion>::default();
            let pool =
                Pool::new(pool::Target::Sqlite(options), connections, Arc::clone(&suspicion));
            Sessions::new(pool, suspicion)
        };
        Ok(Self {
            write: sessions(if locks_late() { 4 } else { 1 }, options.clone()),
            read: sessions(connections.max(1), options.pragma("query_only", "on")),
            file: Some(Arc::new(file)),
        })
    }

    /// Begins a transaction that may write. On SQLite it takes the writer's place at once
    /// (`begin immediate`), so that it can't fail half-way for a lock.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) when no connection is had in 3 s.
    pub async fn begin(&self) -> Result<Tx> {
        Ok(Tx::new(self.begin_write().await?))
    }

    /// Work that reads, decides and writes all at once. On PostgreSQL reading, and writing with all
    /// it takes to be durable, are a trip each, where a transaction that locks takes five. On SQLite,
    /// where there are no trips, this is [`Db::locking`].
    ///
    /// This is optimistic concurrency control, after H. T. Kung and J. T. Robinson,
    /// "On Optimistic Methods for Concurrency Control", 1981.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) when no connection is had in 3 s.
    pub async fn optimistic(&self) -> Result<Work> {
        if !self.write.is_postgres() && !locks_late() {
            return self.locking().await;
        }
        if self.write.is_behind_pooler() {
            return Ok(Work::new(Reader::new(self.write.begin(WRITE).await?, false)));
        }
        Ok(Work::new(Reader::new(self.write.likely_alive().await?, false)))
    }

    /// Work that keeps locked what it reads `{for_update}`.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) when no connection is had in 3 s.
    pub async fn locking(&self) -> Result<Work> {
        Ok(Work::new(self.begin_write().await?))
    }

    async fn begin_write(&self) -> Result<Reader> {
        self.check_file()?;
        let (begin, locks) =
            if self.write.is_postgres() { (WRITE, true) } else { ("begin immediate", false) };
        Ok(Reader::new(self.write.begin(begin).await?, locks))
    }

    /// A connection for single statements that only read.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) when no connection is had in 3 s.
    pub async fn read(&self) -> Result<Reader> {
        if self.read.is_behind_pooler() {
            return Ok(Reader::new(counted(self.read.begin(READ)).await?, false));
        }
        Ok(Reader::new(counted(self.read.pinged()).await?, false))
    }

    /// Begins a transaction that only reads and sees one state of the database throughout.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) when no connection is had in 3 s.
    pub async fn snapshot(&self) -> Result<Reader> {
        let begin = if self.read.is_postgres() { SNAPSHOT } else { "begin" };
        Ok(Reader::new(counted(self.read.begin(begin)).await?, false))
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) when it gives none.
    pub async fn ping(&self) -> Result<()> {
        self.read().await?.query(crate::select!("select 1")).fetch_one::<(i32,)>().await.map(drop)
    }

    /// What is written to a file that was deleted would be lost.
    fn check_file(&self) -> Result<()> {
        Ok(self.file.as_ref().map_or(Ok(()), |file| file.check())?)
    }

    /// Whether the database does its work: it answers, it can be written to if it lately could not,
    /// and the environment has failed no statement in the last seconds.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) when it does not; another one if the check
    /// itself was in somebody's way.
    pub async fn check(&self) -> Result<()> {
        self.check_file()?;
        self.ping().await?;
        let failures = [self.write.failed_before(), self.read.failed_before()];
        let Some(before) = failures.into_iter().flatten().min() else { return Ok(()) };
        if before < FAILURE_MEMORY {
            let why = "a statement has just failed for a reason that lies with the database";
            return Err(sqlx::Error::Protocol(why.to_owned()).into());
        }
        if before < PROBE_PERIOD {
            // Neither a full disk nor a server that only reads shows in a query.
            let mut tx = self.begin().await?;
            let probe = "update service_clock set correction = correction where one = 1";
            tx.query(probe).execute().await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// The time of its host, if it is simulated.
    #[cfg(feature = "simulation")]
    pub(crate) fn simulated_time(&self) -> Option<i64> {
        let path = self.file.as_ref()?.path().to_string_lossy();
        gozon_seam::world(|world| world.database_time(crate::sqlite::name(&path)))
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.write.is_postgres()
    }

    /// Closes every connection, waiting for those in use.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

/// Whether optimistic work on SQLite locks nothing before it commits: only where the simulator lets it
/// stand for PostgreSQL.
fn locks_late() -> bool {
    #[cfg(feature = "simulation")]
    return gozon_seam::world(|world| !world.locks_early()).unwrap_or(false);
    #[cfg(not(feature = "simulation"))]
    false
}

impl fmt::Debug for Db {
    /// The kind only: a URL may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.write.is_postgres() { "Db(PostgreSQL)" } else { "Db(SQLite)" })
    }
}
