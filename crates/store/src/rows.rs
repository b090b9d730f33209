//! A batch of rows, passed to one statement in the form that is fastest on each database.

use std::{fmt::Write as _, mem::take};

use sqlx::{Arguments as _, postgres::PgArguments, sqlite::SqliteArguments};
use uuid::Uuid;

/// A batch of rows that a statement reads `from {rows}`, column by column, or a batch of keys, one
/// column of them, that it looks up `where key {among}`. On PostgreSQL each column is bound as an
/// array, and one statement text and one plan serve any number of rows. On SQLite, where a round
/// trip costs nothing, each value is bound by itself: a batch passed as one JSON text took six
/// times as long, most of it parsing. There, a statement with room for the next
/// power of two serves the batch, so that a few prepared ones do for all sizes. The first column
/// must have a value in every row, since that tells a row from room left over.
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
    Bytes(Vec<Vec<u8>>),
}

impl Column {
    /// The type of its values on PostgreSQL.
    fn kind(&self) -> &'static str {
        match self {
            Self::Uuid(_) | Self::MaybeUuid(_) => "uuid",
            Self::Int(_) => "bigint",
            Self::Text(_) | Self::MaybeText(_) => "text",
            Self::Bytes(_) => "bytea",
        }
    }
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
            let _ = write!(sql, "{comma}${}::{}[]", first + i + 1, column.kind());
        }
        sql.push_str(") as rows(");
        for (i, (name, _)) in self.columns.iter().enumerate() {
            sql.push_str(if i == 0 { "" } else { ", " });
            sql.push_str(name);
        }
        sql.push(')');
        sql
    }

    /// What says on PostgreSQL that a value is among the first column.
    pub(crate) fn postgres_among(&self, first: usize) -> String {
        let kind = self.columns.first().map_or("text", |(_, column)| column.kind());
        format!("= any (${}::{kind}[])", first + 1)
    }

    /// What says on SQLite that a value is among the first column. Room left over is null, which
    /// equals nothing.
    pub(crate) fn sqlite_among(&self) -> String {
        format!("in ({})", vec!["?"; self.sqlite_parameters()].join(","))
    }

    /// How many rows the statement on SQLite has room for.
    fn room(&self) -> usize {
        self.len.next_power_of_two()
    }

    /// How many parameters the `from` item on SQLite has.
    pub(crate) fn sqlite_parameters(&self) -> usize {
        self.room() * self.columns.len()
    }

    /// The `from` item on SQLite. Its parameters have no numbers: with thousands of them, looking
    /// up their names takes longer than the statement.
    pub(crate) fn sqlite_source(&self) -> String {
        let mut sql = String::from("(select ");
        for (i, (name, _)) in self.columns.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let _ = write!(sql, "{comma}column{} as {name}", i + 1);
        }
        let row = format!("({})", vec!["?"; self.columns.len()].join(","));
        let rows = vec![row.as_str(); self.room()].join(",");
        // The limit is for the planner: these are few, the table that they are joined with is not.
        let _ = write!(
            sql,
            " from (values {rows}) where column1 is not null limit {}) as rows",
            self.room()
        );
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
                Column::Bytes(values) => arguments.add(values),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok(())
    }

    /// Binds the rows and the room left over.
    pub(crate) fn bind_sqlite(mut self, arguments: &mut SqliteArguments) -> sqlx::Result<()> {
        for row in 0..self.len {
            for (_, column) in &mut self.columns {
                match column {
                    Column::Uuid(values) => arguments.add(values[row]),
                    Column::MaybeUuid(values) => arguments.add(values[row]),
                    Column::Int(values) => arguments.add(values[row]),
                    Column::Text(values) => arguments.add(take(&mut values[row])),
                    Column::MaybeText(values) => arguments.add(values[row].take()),
                    Column::Bytes(values) => arguments.add(take(&mut values[row])),
                }
                .map_err(sqlx::Error::Encode)?;
            }
        }
        for _ in self.len * self.columns.len()..self.sqlite_parameters() {
            arguments.add(None::<i64>).map_err(sqlx::Error::Encode)?;
        }
        Ok(())
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

    /// A column of raw bytes.
    #[must_use]
    pub fn bytes(self, name: &'static str, value: impl Fn(&T) -> Vec<u8>) -> Self {
        let column = Column::Bytes(self.items.iter().map(value).collect());
        self.column(name, column)
    }

    /// The rows, complete.
    pub fn done(self) -> Rows {
        self.rows
    }
}
