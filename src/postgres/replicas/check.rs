//! A read of a session on a replica of which it is not known whether it is far enough: it is asked
//! in the same flight, before the read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use tokio_postgres::Row;
use tokio_postgres::types::PgLsn;

use crate::error::Result;
use crate::postgres::deadline::Deadline;
use crate::postgres::flight::Rows;
use crate::postgres::shared::Shared;
use crate::postgres::statement::{Params, Statement};

/// Whether the server is a standby, and how far it is. A transaction that it has replayed is seen
/// by every snapshot that is taken afterwards, and that of the read is.
pub(super) const CHECK: Statement =
    Statement::read("SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()");

/// Where such a read runs, and what it was told.
pub(in crate::postgres) struct Checked {
    pub(in crate::postgres) shared: Arc<Shared>,
    told: AtomicU64,
}

/// No statement was sent, so there is nothing that could be old.
const NOT_ASKED: u64 = u64::MAX;

/// Before this place there is nothing.
const NO_STANDBY: u64 = 0;

impl Checked {
    pub(super) fn new(shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Checked {
            shared: Arc::clone(shared),
            told: AtomicU64::new(NOT_ASKED),
        })
    }

    /// How far the server was before the read, as far as that is known.
    pub(super) fn told(&self) -> Told {
        match self.told.load(SeqCst) {
            NOT_ASKED => Told::Nothing,
            NO_STANDBY => Told::NoStandby,
            replayed => Told::Replayed(replayed),
        }
    }

    pub(in crate::postgres) async fn gather<R: Rows>(
        &self,
        deadline: Deadline,
        statement: &Statement,
        params: &Params<'_>,
    ) -> Result<R> {
        // Should it not come to an answer.
        self.told.store(NO_STANDBY, SeqCst);
        let mut lease = self.shared.lease(deadline).await?;
        let sent = Instant::now();
        let answer = deadline.bound(lease.checked(&CHECK, statement, params));
        let answer = answer.await;
        let (row, rows) = answer.map_err(|error| self.shared.timed_out(error, sent))?;
        let replayed = row.as_ref().and_then(replayed);
        self.told.store(replayed.unwrap_or(NO_STANDBY), SeqCst);
        Ok(rows)
    }
}

/// What a replica said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It was not asked.
    Nothing,
    /// It is none, or did not say.
    NoStandby,
    Replayed(u64),
}

/// The answer to [`CHECK`], unless it is no standby.
pub(super) fn replayed(row: &Row) -> Option<u64> {
    let standby: bool = row.try_get(0).ok()?;
    let replayed: PgLsn = row.try_get(1).ok()?;
    standby.then_some(replayed.into())
}
