//! The only crate that knows there are two databases: PostgreSQL in production, SQLite as the
//! embedded default, chosen by URL. Everything above writes one SQL text for both.
//!
//! What is the same on both: `$1` placeholders, `on conflict`, `returning`, `update … from`, row
//! values, UUIDs, 64-bit integers, texts. What differs is written as a placeholder that [`Query`]
//! fills in:
//!
//! | in the text | PostgreSQL | SQLite |
//! |---|---|---|
//! | `{rows}` | `unnest($2, $3, …) as rows(…)` | `(select … from (values (?, …), …)) as rows` |
//! | `{for_update}` | `for update` | nothing: the one writer holds the file |
//! | `{skip_locked}` | `for update skip locked` | nothing |
//!
//! Instants are stored as `bigint` microseconds since the epoch, which both read alike.

mod connect;
mod error;
mod migrate;
mod query;
mod rows;
mod session;
mod tx;

pub use connect::{Db, InvalidUrl};
pub use error::{Error, Result, Retry};
pub use migrate::{Migration, migrate};
pub use query::{Arg, FromRow, Query};
pub use rows::{Rows, RowsOf};
pub use tx::Tx;
