//! A database that exists for one test.

use std::str::FromStr as _;

use gozon_contract::RandomSource;
use gozon_store::Db;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions,
};
use tempfile::TempDir;

/// How many connections a test's pool may hold: enough to get in each other's way.
const CONNECTIONS: u32 = 5;

/// A database of its own for one test, without tables; gone when it is dropped.
pub struct TestDb {
    db: Db,
    url: String,
    /// The server's URL and its name there, if it is on one.
    on_server: Option<(String, String)>,
    _folder: Option<TempDir>,
}

impl TestDb {
    /// A SQLite file in a folder of its own.
    ///
    /// # Panics
    /// If the folder can't be made.
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = format!("sqlite:{}", folder.path().join("test.db").display());
        Self { db: open(&url), url, on_server: None, _folder: Some(folder) }
    }

    /// A database on the [PostgreSQL server](crate::postgres_url) of the environment.
    ///
    /// # Panics
    /// If there is no server, or it won't make the database.
    pub async fn postgres() -> Self {
        Self::postgres_at(&crate::postgres_url()).await
    }

    /// A database on the PostgreSQL server at `server`.
    ///
    /// # Panics
    /// If it is not there, or won't make the database.
    pub async fn postgres_at(server: &str) -> Self {
        let random = RandomSource::system();
        let name = format!("gozon_test_{:016x}", random.next_u64());
        run_on_server(server, &format!("create database {name}")).await;
        let options = PgConnectOptions::from_str(server).expect("a PostgreSQL URL").database(&name);
        let url = options.to_url_lossy().to_string();
        Self { db: open(&url), url, on_server: Some((server.to_owned(), name)), _folder: None }
    }

    /// The database.
    pub fn db(&self) -> Db {
        self.db.clone()
    }

    /// Its URL, to open it once more, as another process would.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same database with a pool of its own, as another process has it.
    pub fn another(&self) -> Db {
        open(&self.url)
    }

    /// Whether it is on PostgreSQL.
    pub fn is_postgres(&self) -> bool {
        self.on_server.is_some()
    }

    /// Ends every connection to the database, as a restart of its server does. Only PostgreSQL has
    /// connections to end.
    ///
    /// # Panics
    /// If the server does not do it.
    pub async fn end_connections(&self) {
        if let Some((server, name)) = &self.on_server {
            let end = "select pg_terminate_backend(pid) from pg_stat_activity where datname";
            run_on_server(server, &format!("{end} = '{name}'")).await;
        }
    }
}

fn open(url: &str) -> Db {
    Db::open(url, CONNECTIONS).expect("a database URL")
}

async fn run_on_server(server: &str, sql: &str) {
    let server = PgConnection::connect(server).await;
    let mut server = server.expect("the PostgreSQL server of the environment answers");
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut server).await.expect(sql);
    let _ = server.close().await;
}

impl Drop for TestDb {
    /// A thread of its own, since the test's runtime can't be waited for from here.
    fn drop(&mut self) {
        let Some((server, name)) = &self.on_server else { return };
        let (server, sql) = (server.clone(), format!("drop database {name} with (force)"));
        let drop = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(run_on_server(&server, &sql));
        });
        let dropped = drop.join().is_ok();
        assert!(dropped || std::thread::panicking(), "the test's database could not be dropped");
    }
}
