//! A read of a session on a replica of which it is not known whether it is far enough: it is asked
//! in the same flight, before the read.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio_postgres::Row;
use tokio_postgres::types::PgLsn;

use super::position::Mark;
use super::standing::Standing;
use super::status::OutOfRotation;
use crate::error::Result;
use crate::postgres::deadline::Deadline;
use crate::postgres::flight::Rows;
use crate::postgres::shared::Shared;
use crate::postgres::statement::{Params, Statement};

/// Whether the server is a standby, and how far it is. A transaction that it has replayed is seen
/// by every snapshot that is taken afterwards, and that of the read is.
const CHECK: Statement =
    Statement::read("SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn(), NULL::int");

/// The same of one of several servers, whose timeline nobody knows: it is asked as by
/// [`LOOK`](super::watch::LOOK).
const CHECK_ONE: Statement = Statement::read(
    "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn(),
    greatest(
        (SELECT received_tli FROM pg_stat_wal_receiver),
        (SELECT timeline_id FROM pg_control_checkpoint()),
        (SELECT min_recovery_end_timeline FROM pg_control_recovery())
    )",
);

/// What a replica is asked.
pub(super) fn question(standing: &Standing) -> &'static Statement {
    match standing.is_several() {
        true => &CHECK_ONE,
        false => &CHECK,
    }
}

/// Where such a read runs, and what it was told.
pub(in crate::postgres) struct Checked {
    pub(in crate::postgres) shared: Arc<Shared>,
    standing: Arc<Standing>,
    told: Mutex<Told>,
}

impl Checked {
    pub(super) fn new(shared: &Arc<Shared>, standing: &Arc<Standing>) -> Arc<Self> {
        Arc::new(Checked {
            shared: Arc::clone(shared),
            standing: Arc::clone(standing),
            told: Mutex::new(Told::Nothing),
        })
    }

    /// How far the server was before the read, as far as that is known.
    pub(super) fn told(&self) -> Told {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, told: Told) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }

    pub(in crate::postgres) async fn gather<R: Rows>(
        &self,
        deadline: Deadline,
        statement: &Statement,
        params: &Params<'_>,
    ) -> Result<R> {
        // Should it not come to an answer.
        self.tell(Told::NoStandby);
        let mut lease = self.shared.lease(deadline).await?;
        // Now that there is a connection, which may be the first one to another server.
        let question = question(&self.standing);
        let sent = Instant::now();
        let answer = deadline.bound(lease.checked(question, statement, params));
        let answer = answer.await;
        let (row, rows) = answer.map_err(|error| self.shared.timed_out(error, sent))?;
        self.tell(row.as_ref().map_or(Told::NoStandby, Told::from_row));
        Ok(rows)
    }
}

/// What a replica said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// No statement was sent, so there is nothing that could be old.
    Nothing,
    /// It is none, or did not say.
    NoStandby,
    /// How far it is, and on which timeline, if that was asked.
    Replayed(u64, Option<u32>),
}

impl Told {
    /// The answer to the [`question`].
    pub(super) fn from_row(row: &Row) -> Told {
        let answer = || {
            let standby: bool = row.try_get(0).ok()?;
            let replayed: PgLsn = row.try_get(1).ok()?;
            let timeline: Option<i32> = row.try_get(2).ok()?;
            let timeline = timeline.map(i32::cast_unsigned);
            standby.then_some(Told::Replayed(replayed.into(), timeline))
        };
        answer().unwrap_or(Told::NoStandby)
    }

    /// Whether the replica shows everything up to this place.
    pub(super) fn shows(self, mark: Mark) -> bool {
        match self {
            Told::Nothing => true,
            Told::NoStandby => false,
            Told::Replayed(lsn, timeline) => {
                lsn >= mark.lsn && timeline.is_none_or(|timeline| timeline == mark.timeline)
            }
        }
    }
}

impl Standing {
    /// A replica has said how far it is. `false`: it is none any more.
    pub(super) fn heard(&self, told: Told) -> bool {
        match told {
            Told::Nothing => true,
            Told::NoStandby => {
                self.leave(OutOfRotation::Promoted, None);
                false
            }
            Told::Replayed(lsn, _) => {
                self.saw(lsn);
                true
            }
        }
    }
}
