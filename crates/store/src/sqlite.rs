//! SQLite's connections, as sqlx keeps them.

use std::time::Duration;

use sqlx::{
    Sqlite,
    pool::PoolConnection,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

pub(crate) use sqlx::{SqliteConnection, SqlitePool};

/// A connection that goes back to its pool when it is dropped.
pub(crate) type SqlitePooled = PoolConnection<Sqlite>;

/// A pool that connects when it is first used.
pub(crate) fn pool(
    connections: u32,
    acquire_timeout: Duration,
    options: SqliteConnectOptions,
) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(acquire_timeout)
        .test_before_acquire(false)
        .connect_lazy_with(options)
}
