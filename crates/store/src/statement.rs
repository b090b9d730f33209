//! One statement, for either database: its text, its parameters, and how both are put together.

use std::fmt::Write as _;

use sqlx::{Arguments as _, AssertSqlSafe, postgres::PgArguments, sqlite::SqliteArguments};
use uuid::Uuid;

use crate::Rows;

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
/// filled in when it runs.
#[derive(Debug)]
#[must_use = "a statement does nothing until it is run"]
pub struct Statement {
    pub(crate) sql: &'static str,
    args: Vec<Arg>,
    rows: Option<Rows>,
    pub(crate) expected: Option<u64>,
}

pub(crate) type Prepared<A> = (AssertSqlSafe<String>, A);

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

    /// The whole transaction fails with a [conflict](crate::Error::Conflict) unless the statement
    /// changes exactly so many rows: another transaction was faster.
    pub fn expecting(mut self, rows: usize) -> Self {
        self.expected = Some(rows as u64);
        self
    }
}

pub(crate) fn postgres(statement: Statement, locks: bool) -> sqlx::Result<Prepared<PgArguments>> {
    let mut bound = PgArguments::default();
    let sql = postgres_part(statement, &mut bound, locks)?;
    Ok((AssertSqlSafe(sql), bound))
}

/// Several statements as one, that says how many rows each has changed; and how many they are. It
/// divides by zero unless those are as many as expected, which undoes all of them.
pub(crate) fn postgres_together(
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
    let words = if locks { &POSTGRES_LOCKING } else { &POSTGRES };
    let sql = fill(&renumber(sql, first), &batch, words);
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

pub(crate) fn sqlite(statement: Statement) -> sqlx::Result<Prepared<SqliteArguments>> {
    let Statement { sql, args, rows, .. } = statement;
    let first = rows.as_ref().map_or(0, Rows::sqlite_parameters);
    let batch = rows.as_ref().map_or(String::new(), |rows| {
        if sql.contains(AMONG) { rows.sqlite_among() } else { rows.sqlite_source() }
    });
    let sql = fill(&renumber(sql, first), &batch, &SQLITE);
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
fn fill(sql: &str, batch: &str, words: &Words) -> String {
    sql.replace("{for_update}", words.for_update)
        .replace("{skip_locked}", words.skip_locked)
        .replace("{each_event}", words.each_event)
        .replace("{rows}", batch)
        .replace(AMONG, batch)
}

/// What some placeholders stand for on one database.
struct Words {
    for_update: &'static str,
    skip_locked: &'static str,
    each_event: &'static str,
}

const SQLITE: Words = Words {
    for_update: "",
    skip_locked: "",
    each_event: ", json_each(case when substr(body, 1, 1) = '[' then body \
                 else json_array(json(body)) end) as event",
};

const POSTGRES: Words = Words {
    for_update: "",
    skip_locked: "",
    each_event: ", json_array_elements(case when left(body, 1) = '[' then body::json \
                 else json_build_array(body::json) end) as event(value)",
};

const POSTGRES_LOCKING: Words =
    Words { for_update: "for update", skip_locked: "for update skip locked", ..POSTGRES };

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
