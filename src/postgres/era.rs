//! The times of a server between which numbers of transactions may have been given out again.

use tokio_postgres::Row;

use super::lease::Lease;
use super::peer;
use super::statement::Statement;
use crate::error::{Error, Result};

/// Gives the [`Era`], and the process that serves the connection.
pub(super) const ERA: Statement = Statement::read(
    "SELECT coalesce((extract(epoch FROM stats_reset) * 1000000)::bigint, 0),
        CASE WHEN NOT pg_is_in_recovery() THEN
            ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END,
        pg_backend_pid()
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

/// For how long an era that was asked for holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// As long as the connection, which no crash leaves open.
    Connection(Era),
    /// No longer than a transaction. A pooler keeps its clients through a crash, and what one of
    /// their transactions has found says nothing of the next one.
    Transaction,
}

impl Scope {
    /// Nothing is known, and nothing is to be asked.
    pub(super) fn nothing() -> Scope {
        Scope::Connection(Era::default())
    }
}

impl Era {
    /// From the columns of a row that begin with this one.
    pub(super) fn from_row(
        row: &Row,
        first: usize,
    ) -> std::result::Result<Era, tokio_postgres::Error> {
        let timeline: Option<i64> = row.try_get(first + 1)?;
        Ok(Era {
            crash: row.try_get(first)?,
            timeline: timeline
                .and_then(|number| u32::try_from(number).ok())
                .unwrap_or_default(),
        })
    }
}

impl Lease {
    /// The era of the server in which the connection was made, if the server tells. One round trip
    /// for each connection, not for each transaction.
    pub(super) async fn era(&mut self) -> Result<Scope> {
        match self.note.era() {
            Some(era) => Ok(era),
            // In a box, because it is rare.
            None => Box::pin(self.ask_era()).await,
        }
    }

    async fn ask_era(&mut self) -> Result<Scope> {
        let era = match self.query(&ERA, &[]).await {
            Ok(rows) => {
                let row = rows.first();
                let process = row.and_then(|row| row.try_get(2).ok());
                match self.client() {
                    Some(client) if !peer::is(client, process).await => Scope::Transaction,
                    _ => row
                        .and_then(|row| Era::from_row(row, 0).ok())
                        .map_or(Scope::nothing(), Scope::Connection),
                }
            }
            // What the server does not have or does not tell it is not asked again (classes 42 and
            // 0A). Anything else may go well the next time.
            Err(Error::Database(failure)) => {
                let class = failure.sqlstate().and_then(|state| state.get(..2));
                if !matches!(class, Some("42" | "0A")) {
                    return Ok(Scope::nothing());
                }
                Scope::nothing()
            }
            Err(error) => return Err(error),
        };
        self.note.set_era(era);
        Ok(era)
    }
}
