//! A batch of rows, passed to one statement in whatever form the database likes best.

use std::fmt::Write as _;

use sqlx::{Arguments as _, postgres::PgArguments, sqlite::SqliteArguments};
use uuid::Uuid;

/// A batch of rows that a statement reads `from {rows}`, column by column. On PostgreSQL each
/// column is bound as an array; on SQLite the batch is one JSON text. Either way one statement
/// text, one round trip and one plan serve any number of rows.
#[derive(Debug)]
pub struct Rows {
    len: usize,
    columns: Vec<(&'static str, Column)>,
}

#[derive(Debug)]
enum Column {
    Uuid(Vec<Uuid>),
    MaybeUuid(Vec<Option<Uuid>>),
    Int(Vec<i64>),
    Text(Vec<String>),
    MaybeText(Vec<Option<String>>),
}

/// Builds [`Rows`] from a slice.
#[derive(Debug)]
pub struct RowsOf<'a, T> {
    items: &'a [T],
    rows: Rows,
}

impl Rows {
    /// One row for each item; the columns follow.
    pub fn of<T>(items: &[T]) -> RowsOf<'_, T> {
        RowsOf { items, rows: Self { len: items.len(), columns: Vec::new() } }
    }

    /// The `from` item on PostgreSQL, its parameters numbered after `first`.
    pub(crate) fn postgres_source(&self, first: usize) -> String {
        let mut sql = String::from("unnest(");
        for (i, (_, column)) in self.columns.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let kind = match column {
                Column::Uuid(_) | Column::MaybeUuid(_) => "uuid",
                Column::Int(_) => "bigint",
                Column::Text(_) | Column::MaybeText(_) => "text",
            };
            let _ = write!(sql, "{comma}${}::{kind}[]", first + i + 1);
        }
        sql.push_str(") as rows(");
        for (i, (name, _)) in self.columns.iter().enumerate() {
            sql.push_str(if i == 0 { "" } else { ", " });
            sql.push_str(name);
        }
        sql.push(')');
        sql
    }

    /// The `from` item on SQLite, its one parameter numbered after `first`.
    pub(crate) fn sqlite_source(&self, first: usize) -> String {
        let mut sql = String::from("(select ");
        for (i, (name, column)) in self.columns.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let _ = match column {
                Column::Uuid(_) | Column::MaybeUuid(_) => {
                    write!(sql, "{comma}unhex(value ->> {i}) as {name}")
                }
                _ => write!(sql, "{comma}value ->> {i} as {name}"),
            };
        }
        let _ = write!(sql, " from json_each(${})) as rows", first + 1);
        sql
    }

    pub(crate) fn bind_postgres(self, arguments: &mut PgArguments) -> sqlx::Result<()> {
        for (_, column) in self.columns {
            match column {
                Column::Uuid(values) => arguments.add(values),
                Column::MaybeUuid(values) => arguments.add(values),
                Column::Int(values) => arguments.add(values),
                Column::Text(values) => arguments.add(values),
                Column::MaybeText(values) => arguments.add(values),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok(())
    }

    pub(crate) fn bind_sqlite(self, arguments: &mut SqliteArguments) -> sqlx::Result<()> {
        arguments.add(self.json()).map_err(sqlx::Error::Encode)
    }

    /// An array of arrays, a UUID as 32 hex digits.
    fn json(&self) -> String {
        let mut json = String::from("[");
        for row in 0..self.len {
            json.push_str(if row == 0 { "[" } else { ",[" });
            for (i, (_, column)) in self.columns.iter().enumerate() {
                if i > 0 {
                    json.push(',');
                }
                column.write(row, &mut json);
            }
            json.push(']');
        }
        json.push(']');
        json
    }
}

impl Column {
    fn write(&self, row: usize, json: &mut String) {
        let text = |json: &mut String, text: &str| {
            json.push_str(&serde_json::Value::from(text).to_string());
        };
        let _ = match self {
            Self::Uuid(values) => write!(json, "\"{}\"", values[row].simple()),
            Self::Int(values) => write!(json, "{}", values[row]),
            Self::MaybeUuid(values) => match values[row] {
                Some(id) => write!(json, "\"{}\"", id.simple()),
                None => write!(json, "null"),
            },
            Self::Text(values) => {
                text(json, &values[row]);
                Ok(())
            }
            Self::MaybeText(values) => match &values[row] {
                Some(value) => {
                    text(json, value);
                    Ok(())
                }
                None => write!(json, "null"),
            },
        };
    }
}

impl<T> RowsOf<'_, T> {
    fn column(mut self, name: &'static str, column: Column) -> Self {
        self.rows.columns.push((name, column));
        self
    }

    /// A column of UUIDs.
    #[must_use]
    pub fn uuid(self, name: &'static str, value: impl Fn(&T) -> Uuid) -> Self {
        let column = Column::Uuid(self.items.iter().map(value).collect());
        self.column(name, column)
    }

    /// A column of UUIDs or nulls.
    #[must_use]
    pub fn maybe_uuid(self, name: &'static str, value: impl Fn(&T) -> Option<Uuid>) -> Self {
        let column = Column::MaybeUuid(self.items.iter().map(value).collect());
        self.column(name, column)
    }

    /// A column of 64-bit integers.
    #[must_use]
    pub fn int(self, name: &'static str, value: impl Fn(&T) -> i64) -> Self {
        let column = Column::Int(self.items.iter().map(value).collect());
        self.column(name, column)
    }

    /// A column of texts.
    #[must_use]
    pub fn text(self, name: &'static str, value: impl Fn(&T) -> String) -> Self {
        let column = Column::Text(self.items.iter().map(value).collect());
        self.column(name, column)
    }

    /// A column of texts or nulls.
    #[must_use]
    pub fn maybe_text(self, name: &'static str, value: impl Fn(&T) -> Option<String>) -> Self {
        let column = Column::MaybeText(self.items.iter().map(value).collect());
        self.column(name, column)
    }

    /// The rows, complete.
    pub fn done(self) -> Rows {
        self.rows
    }
}
