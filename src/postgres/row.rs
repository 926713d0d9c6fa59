//! Reading rows by position, with errors that name table, column and row.

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::error::{Error, Failure, Result};
use crate::model::InvalidInput;

/// The columns of one row of a table.
pub(super) struct Columns<'a> {
    row: &'a Row,
    table: &'static str,
    key: Option<i64>,
}

impl<'a> Columns<'a> {
    /// `key`: the row's id, as soon as it is known.
    pub(super) fn new(row: &'a Row, table: &'static str, key: Option<i64>) -> Self {
        Columns { row, table, key }
    }

    /// The value at a position.
    pub(super) fn get<T: FromSql<'a>>(&self, position: usize, column: &'static str) -> Result<T> {
        self.row
            .try_get(position)
            .map_err(|error| self.unreadable(column, error.into_source()))
    }

    /// A text that stands for something else.
    pub(super) fn parse<T>(&self, text: &str, column: &'static str) -> Result<T>
    where
        T: std::str::FromStr<Err = InvalidInput>,
    {
        text.parse()
            .map_err(|invalid| self.unreadable(column, Some(Box::new(invalid))))
    }

    fn unreadable(&self, column: &'static str, source: Option<crate::error::Source>) -> Error {
        Error::Decode {
            table: self.table,
            column,
            key: self.key,
            source,
        }
    }
}

/// A value that a statement computed, which no stored value can spoil.
pub(super) fn computed<'a, T: FromSql<'a>>(row: &'a Row, position: usize) -> Result<T> {
    row.try_get(position)
        .map_err(|error| Error::Database(Failure::new(error.to_string())))
}

/// Where in an array that was sent the key of this row is: the server counts from 1.
pub(super) fn place(row: &Row, position: usize) -> Result<usize> {
    let counted: i64 = computed(row, position)?;
    Ok(usize::try_from(counted.saturating_sub(1)).unwrap_or(usize::MAX))
}

/// Whether an outer join found nothing.
pub(super) fn is_missing(row: &Row, position: usize) -> bool {
    matches!(row.try_get::<_, Option<i64>>(position), Ok(None))
}

/// The answer to `SELECT count(*)`.
pub(super) fn count(row: &Row) -> Result<u64> {
    let count: i64 = computed(row, 0)?;
    Ok(count.max(0).cast_unsigned())
}

/// The first id of a page and the number of rows to ask for, one more than the page holds.
/// `None`: after the last possible id there is nothing to ask for.
pub(super) fn range(after: Option<i64>, limit: usize) -> Option<(i64, i64)> {
    let first = match after {
        Some(after) => after.checked_add(1)?,
        None => i64::MIN,
    };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX - 1);
    Some((first, limit + 1))
}
