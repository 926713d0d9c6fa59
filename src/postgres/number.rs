//! The number of a transaction, by which a commit whose answer was lost is asked for, and how the
//! server is asked for it.

use tokio_postgres::Row;

use super::era::Era;
use super::statement::Statement;

/// Gives the transaction's number once it has one, in 64 bits.
pub(super) const TRANSACTION_ID: Statement =
    Statement::read("SELECT pg_current_xact_id_if_assigned()::text::bigint");

/// The same and the [`Era`], for connections of which nothing can be noted.
pub(super) const TRANSACTION_ID_AND_ERA: Statement = Statement::read(
    "SELECT pg_current_xact_id_if_assigned()::text::bigint,
        coalesce((extract(epoch FROM stats_reset) * 1000000)::bigint, 0),
        CASE WHEN NOT pg_is_in_recovery() THEN
            ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END
    FROM pg_stat_archiver",
);

/// The number of a transaction.
#[derive(Clone, Copy)]
pub(super) struct Number {
    pub(super) id: i64,
    /// The era that it is from, where it was asked for too.
    pub(super) era: Option<Era>,
}

/// What is wanted to be known about a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Its number.
    Number,
    /// And the era that it is from.
    NumberAndEra,
}

impl Asked {
    pub(super) fn question(self) -> &'static Statement {
        match self {
            Asked::Number => &TRANSACTION_ID,
            Asked::NumberAndEra => &TRANSACTION_ID_AND_ERA,
        }
    }
}

impl Number {
    /// From the last column of a statement that gives it in each row. `None` if it has written
    /// nothing.
    pub(super) fn within(row: Option<&Row>) -> Result<Option<Number>, tokio_postgres::Error> {
        let Some(row) = row else {
            return Ok(None);
        };
        let id: Option<i64> = row.try_get(row.len().saturating_sub(1))?;
        Ok(id.map(|id| Number { id, era: None }))
    }

    /// From the answer to the question. `None` as long as the transaction has written nothing.
    pub(super) fn answered(row: Option<&Row>) -> Result<Option<Number>, tokio_postgres::Error> {
        let Some(row) = row else {
            return Ok(None);
        };
        let era = match row.len() {
            1 => None,
            _ => Some(Era::from_row(row, 1)?),
        };
        let id: Option<i64> = row.try_get(0)?;
        Ok(id.map(|id| Number { id, era }))
    }
}
