//! Bringing a database's tables up to date.

use std::time::Duration;

use tokio::time::sleep;

use crate::{Db, Error, Result, session::Connection};

/// One step of a component's tables. Steps are only ever added, and each must leave the previous
/// version of the program working (expand first, contract a release later).
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Whose tables, such as `outbox`; versions count within it.
    pub component: &'static str,
    /// 1, 2, 3, …
    pub version: i64,
    /// The step's statements on PostgreSQL.
    pub postgres: &'static str,
    /// The step's statements on SQLite.
    pub sqlite: &'static str,
}

/// Migrations wait for locks and take their time.
const NO_TIME_LIMITS: &str = "set local lock_timeout = 0; set local statement_timeout = 0";

/// Any number that other programs on the same server are unlikely to lock.
const LOCK: &str = "select pg_advisory_xact_lock(7215390241)";

/// How often to try again when others are in the way.
const ATTEMPTS: u32 = 50;
/// How long to wait before that.
const PAUSE: Duration = Duration::from_millis(50);

/// Runs the steps that the database has not seen yet, all in one transaction. Any number of
/// processes may do this at once: one works while the others wait and then find nothing to do. The
/// lock is the transaction's own, so that it also holds behind a transaction pooler.
///
/// # Errors
/// As the database says; nothing was changed then.
pub async fn migrate(db: &Db, steps: &[Migration]) -> Result<()> {
    let mut attempts = 0;
    loop {
        match in_one_transaction(db, steps).await {
            // Of several processes that make a SQLite file at the same time, all but one may be
            // told that it is locked, however long they would wait.
            Err(error) if attempts < ATTEMPTS && is_passing(&error) => {
                attempts += 1;
                sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

fn is_passing(error: &Error) -> bool {
    matches!(error, Error::Conflict(_)) || error.is_locked_file()
}

/// A database in another encoding would refuse the first order that it can't spell.
async fn check_encoding(db: &Db) -> Result<()> {
    if db.is_postgres() {
        let select = crate::select!("select current_setting('server_encoding')");
        let (encoding,): (String,) = db.read().await?.query(select).fetch_one().await?;
        if encoding != "UTF8" {
            let why = format!("its encoding is {encoding}; create it with the encoding UTF8");
            return Err(sqlx::Error::Decode(why.into()).into());
        }
    }
    Ok(())
}

async fn in_one_transaction(db: &Db, steps: &[Migration]) -> Result<()> {
    check_encoding(db).await?;
    let mut tx = db.begin().await?;
    if let Connection::Postgres(connection) = tx.connection() {
        sqlx::raw_sql(NO_TIME_LIMITS).execute(&mut *connection).await?;
        sqlx::raw_sql(LOCK).execute(connection).await?;
    }
    tx.query(
        "create table if not exists gozon_migrations (
            component text not null,
            version bigint not null,
            primary key (component, version)
        )",
    )
    .execute()
    .await?;
    let seen: Vec<(String, i64)> =
        tx.query("select component, version from gozon_migrations").fetch_all().await?;
    for step in steps {
        if seen
            .iter()
            .any(|(component, version)| component == step.component && *version == step.version)
        {
            continue;
        }
        match tx.connection() {
            Connection::Postgres(connection) => {
                sqlx::raw_sql(step.postgres).execute(connection).await.map_err(Error::from)?;
            }
            Connection::Sqlite(connection) => {
                sqlx::raw_sql(step.sqlite).execute(connection).await.map_err(Error::from)?;
            }
        }
        tx.query("insert into gozon_migrations (component, version) values ($1, $2)")
            .bind(step.component)
            .bind(step.version)
            .execute()
            .await?;
        tracing::info!(component = step.component, version = step.version, "migrated");
    }
    tx.commit().await
}
