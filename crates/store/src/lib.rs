//! The only crate that knows there are two databases: PostgreSQL in production, SQLite as the
//! embedded default, chosen by URL. Everything above writes one SQL text for both.
//!
//! What is the same on both: `$1` placeholders, `on conflict`, `returning`, `update … from`, row
//! values, UUIDs, 64-bit integers, texts. What differs is written as a placeholder that is filled in
//! when the statement runs:
//!
//! | in the text | PostgreSQL | SQLite |
//! |---|---|---|
//! | `{rows}` | `unnest($2, $3, …) as rows(…)` | `(select … from (values (?, …), …)) as rows` |
//! | `x {among}` | `x = any ($2)` | `x in (?, …)` |
//! | `{for_update}` | `for update` | nothing: the one writer holds the file |
//! | `{skip_locked}` | `for update skip locked` | nothing |
//! | `{each_event}` | `, json_array_elements(… body …) as event(value)` | `, json_each(… body …) as event` |
//!
//! `{rows}` is a table to insert from or to join. To look up keys, `{among}` is better: with it
//! PostgreSQL's planner can't begin at the other end, with a table that it believes to be empty.
//!
//! `{each_event}`, after a table in `from`, joins each row with the JSON objects in its `body`, which is
//! an array of them or one alone.
//!
//! Instants are stored as `bigint` microseconds since the epoch, which both read alike.

mod clock;
mod connect;
mod error;
mod migrate;
mod pool;
mod reader;
mod rows;
mod servers;
mod session;
#[cfg(not(feature = "simulation"))]
mod sqlite {
    pub(crate) use sqlx::SqliteConnection;
}
#[cfg(feature = "simulation")]
#[path = "simulated.rs"]
mod sqlite;
mod sqlite_file;
mod statement;
mod timing;
mod tx;
mod url;

pub use clock::{CLOCK_MIGRATIONS, DatabaseClock};
pub use connect::Db;
pub use error::{Error, Result, Retry};
pub use migrate::{Migration, migrate};
pub use reader::{FromRow, Query, Reader, Select};
pub use rows::{Rows, RowsOf};
pub use session::STATEMENT_TIMEOUT;
#[cfg(feature = "simulation")]
pub use sqlite::reset;
pub use statement::{Arg, Statement};
pub use timing::{add_database_time, with_database_time};
pub use tx::{Tx, Work};
pub use url::{InvalidUrl, sqlite_file};
