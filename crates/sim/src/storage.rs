//! The two databases of a simulator's thread: migrated once, emptied for each run, and looked at
//! without the simulated processes noticing.

use anyhow::Context as _;
use futures_executor::block_on;
use gozon_store::{CLOCK_MIGRATIONS, Db, migrate};
use sqlx::{Connection as _, SqliteConnection};
use tempfile::TempDir;

/// The databases, and a connection to each.
pub(crate) struct Storage {
    folder: TempDir,
    connections: [SqliteConnection; 2],
}

/// An order, as it is stored: id, user, amount, description, status, version, when it was created.
pub(crate) type OrderRow = (uuid::Uuid, uuid::Uuid, i64, String, String, i64, i64);

impl Storage {
    /// Makes and migrates both databases, in memory where the system offers files there.
    pub fn new() -> anyhow::Result<Self> {
        let shared = std::path::Path::new("/dev/shm");
        let folder = if shared.is_dir() {
            TempDir::with_prefix_in("gozon-sim-", shared)?
        } else {
            TempDir::with_prefix("gozon-sim-")?
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let url = |name: &str| url_in(&folder, name);
        let common =
            [CLOCK_MIGRATIONS, gozon_messaging::MIGRATIONS, gozon_service::MIGRATIONS].concat();
        for (name, own) in
            [("orders", gozon_orders::MIGRATIONS), ("payments", gozon_payments::MIGRATIONS)]
        {
            let steps = [common.clone(), own.to_vec()].concat();
            runtime.block_on(async {
                migrate(&Db::open(&url(name), 1)?, &steps).await.context("migrate")
            })?;
        }
        let connect = |name| block_on(SqliteConnection::connect(&url(name)));
        let connections = [connect("orders")?, connect("payments")?];
        Ok(Self { folder, connections })
    }

    /// The URL of a database.
    pub fn url(&self, name: &str) -> String {
        url_in(&self.folder, name)
    }

    /// Empties both.
    pub fn reset(&self) -> anyhow::Result<()> {
        for name in ["orders", "payments"] {
            gozon_store::reset(&self.url(name))?;
        }
        Ok(())
    }

    /// Number of orders that are NEW, and of messages on their way, those that are none of ours aside.
    pub fn unsettled(&mut self) -> (i64, i64) {
        let waiting = "(select count(*) from outbox_batches)
             + (select count(*) from inbox_pending where id not like 'garbage%')";
        let new = "(select count(*) from orders where status = 'NEW')";
        let (new, in_orders) = self.one(0, &format!("select {new}, {waiting}"));
        let (_, in_payments) = self.one(1, &format!("select 0, {waiting}"));
        (new, in_orders + in_payments)
    }

    /// Number of dead letters, those of messages that are none of ours aside.
    pub fn dead_letters(&mut self) -> i64 {
        let dead = "select 0, count(*) from dead_letters where id not like 'garbage%'";
        self.one(0, dead).1 + self.one(1, dead).1
    }

    fn one(&mut self, database: usize, sql: &str) -> (i64, i64) {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(sql.to_owned()));
        block_on(query.fetch_one(&mut self.connections[database])).unwrap_or((-1, -1))
    }

    /// All orders.
    pub fn orders(&mut self) -> anyhow::Result<Vec<OrderRow>> {
        let sql =
            "select id, user_id, amount, description, status, version, created_at from orders";
        Ok(block_on(sqlx::query_as(sql).fetch_all(&mut self.connections[0]))?)
    }

    /// All top-ups: the user and the amount.
    pub fn deposits(&mut self) -> anyhow::Result<Vec<(uuid::Uuid, i64)>> {
        let sql = "select user_id, amount from entries where kind = 'deposit'";
        Ok(block_on(sqlx::query_as(sql).fetch_all(&mut self.connections[1]))?)
    }

    /// All users with an account.
    pub fn accounts(&mut self) -> anyhow::Result<Vec<(uuid::Uuid,)>> {
        let sql = "select user_id from accounts";
        Ok(block_on(sqlx::query_as(sql).fetch_all(&mut self.connections[1]))?)
    }
}

fn url_in(folder: &TempDir, name: &str) -> String {
    format!("sqlite:{}", folder.path().join(format!("{name}.db")).display())
}
