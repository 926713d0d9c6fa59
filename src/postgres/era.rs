//! The times of a server between which numbers of transactions may have been given out again.

use tokio_postgres::Row;

use super::statement::Statement;

/// Gives the [`Era`], and the process that serves the connection.
pub(super) const ERA: Statement = Statement::read(
    "SELECT coalesce((extract(epoch FROM stats_reset) * 1000000)::bigint, 0),
        CASE WHEN NOT pg_is_in_recovery() THEN
            ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END,
        pg_backend_pid()
    FROM pg_stat_archiver",
);

/// Gives the transaction's id once it has one, in 64 bits, and the [`Era`], for connections of which
/// nothing can be noted.
pub(super) const TRANSACTION_ID_AND_ERA: Statement = Statement::read(
    "SELECT pg_current_xact_id_if_assigned()::text::bigint,
        coalesce((extract(epoch FROM stats_reset) * 1000000)::bigint, 0),
        CASE WHEN NOT pg_is_in_recovery() THEN
            ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END
    FROM pg_stat_archiver",
);

/// A time in which no number was given to a second transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Era {
    /// Changes with every crash of the server: it throws its statistics away then, and keeps them
    /// when it is stopped in order. 0: not known.
    pub(super) crash: i64,
    /// Changes with every promotion of a standby. 0: not known.
    pub(super) timeline: u32,
}

/// For how long an era is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// As long as the connection, which no crash leaves open.
    WithConnection(Era),
    /// No longer than a transaction. A pooler keeps its clients through a crash, and what one of
    /// their transactions has found says nothing of the next one.
    WithTransaction,
}

impl Known {
    /// Nothing is known, and nothing is to be asked.
    pub(super) fn nothing() -> Known {
        Known::WithConnection(Era::default())
    }
}

impl Era {
    /// From the columns of a row that begin with this one.
    pub(super) fn from_row(row: &Row, first: usize) -> Result<Era, tokio_postgres::Error> {
        let timeline: Option<i64> = row.try_get(first + 1)?;
        Ok(Era {
            crash: row.try_get(first)?,
            timeline: timeline
                .and_then(|number| u32::try_from(number).ok())
                .unwrap_or_default(),
        })
    }
}
