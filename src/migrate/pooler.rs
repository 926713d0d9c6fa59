//! Whether a pooler in transaction mode is in the way, which keeps neither the migration lock nor
//! the settings of a migrator: they would stay with a connection of the server that others use.
//!
//! A session of its own has one backend of the server, and nobody else has that one meanwhile. So
//! two sessions that stand idle are asked in turn which backend answers. Through such a pooler the
//! second one gets the backend that the first one has just used (PgBouncer's usual order, and any
//! pooler with a single connection), or one that is asked twice in a row gets another one the second
//! time (round robin). With many clients chance decides each time, so there are several times.

use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::time::{sleep, timeout};

use super::session::{Session, value};
use crate::error::{Error, Result, UnavailableReason};
use crate::postgres::error::unavailable;

/// How long to wait for the second session, and for each of its answers. In session mode a pooler
/// may have no connection left for it.
const LIMIT: Duration = Duration::from_secs(1);

/// How often both sessions are asked again.
const ROUNDS: u64 = 2;
/// The same where there may be a pooler.
const ROUNDS_WHEN_IN_DOUBT: u64 = 10;

const ASK: &str = "SELECT pg_backend_pid(), coalesce(
        (SELECT (extract(epoch FROM backend_start) * 1000000)::bigint
        FROM pg_stat_activity WHERE pid = pg_backend_pid()),
    0), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// One process of the server. Its number alone is used again, and by another host at the same time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Backend {
    pid: i32,
    /// In microseconds by the server's clock.
    started: i64,
}

/// Refuses a connection through a pooler in transaction mode.
pub(super) async fn refuse(session: &Session, pool: &Pool) -> Result<()> {
    let (own, now) = ask(session).await?;
    let mut other = Other::open(pool).await;
    // A backend that is older than the first answer was there before: another one of this pool, or
    // one that a pooler has kept.
    let rounds = match &other {
        Some(other) if other.backend.started < now => ROUNDS_WHEN_IN_DOUBT,
        _ => ROUNDS,
    };
    let mut moved = other.as_ref().is_some_and(|other| other.backend == own);
    for round in 0..rounds {
        // Out of step with others who ask all the time.
        if rounds > ROUNDS {
            sleep(Duration::from_millis(round % 4)).await;
        }
        if let Some(known) = other.take_if(|_| !moved) {
            // One that does not answer any more says nothing.
            if let Some(again) = Other::ask(known.session).await {
                moved = again.backend != known.backend;
                other = Some(again);
            }
        }
        moved = moved || ask(session).await?.0 != own;
    }
    if let Some(other) = other {
        other.session.give_back();
    }
    match moved {
        false => Ok(()),
        true => Err(Error::Config {
            reason: "migrations need a session of their own, and this URL leads through a pooler \
                     in transaction mode: use the direct URL of the server for them"
                .into(),
        }),
    }
}

/// Which backend answers, and what time it is there.
async fn ask(session: &Session) -> Result<(Backend, i64)> {
    let what = "looking for a pooler";
    let rows = session.query(what, ASK).await?;
    let lost = || unavailable(UnavailableReason::ConnectionLost, None);
    let row = rows.first().ok_or_else(lost)?;
    let (pid, started) = (value(row, 0)?, value(row, 1)?);
    Ok((Backend { pid, started }, value(row, 2)?))
}

/// The second session, and who answered on it the last time.
struct Other {
    session: Session,
    backend: Backend,
}

impl Other {
    /// `None`: there is none to be had.
    async fn open(pool: &Pool) -> Option<Self> {
        let session = timeout(LIMIT, Session::open(pool)).await.ok()?.ok()?;
        Self::ask(session).await
    }

    async fn ask(session: Session) -> Option<Self> {
        let (backend, _) = timeout(LIMIT, ask(&session)).await.ok()?.ok()?;
        Some(Other { session, backend })
    }
}
