//! Looks at the primary and at every replica a few times a second, on a connection of its own to
//! each: a pool whose connections are all stuck could not tell.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use deadpool_postgres::PoolError;
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

use super::Replicas;
use super::log::{self, Log};
use super::position::Mark;
use super::standing::{Found, Standing, State};
use super::status::OutOfRotation;
use crate::error::{Error, Failure, Result};
use crate::postgres::connect::Settings;
use crate::postgres::dial::Dial;
use crate::postgres::error::{from_driver, from_pool};
use crate::postgres::tls::Connector as Tls;

/// The pause between two looks at a server. How long a replica that was promoted is read from at
/// most, by those who ask for no position, and what a lag is measured by.
const PAUSE: Duration = Duration::from_millis(250);

/// How long a server may take to answer, connecting included.
const LIMIT: Duration = Duration::from_secs(1);

/// What a replica is asked. The timeline is the one that it receives, which only a role with the
/// rights of `pg_read_all_stats` is told, or the one in its control file, which follows a failover
/// with its next restartpoint. It is never one that the server has not gone over to.
pub(super) const LOOK: &str = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn(),
    greatest(
        (SELECT received_tli FROM pg_stat_wal_receiver),
        (SELECT timeline_id FROM pg_control_checkpoint()),
        (SELECT min_recovery_end_timeline FROM pg_control_recovery())
    ),
    (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";

/// A server that is looked at.
pub(super) struct Member {
    dial: Dial,
    /// `None`: the primary.
    replica: Option<(usize, Arc<Standing>)>,
    connection: Option<Client>,
    /// Ends the pause.
    wake: Arc<Notify>,
}

impl Member {
    pub(super) fn primary(settings: &Settings, tls: &Tls, wake: &Arc<Notify>) -> Self {
        Member {
            dial: settings.dial_within(tls, LIMIT),
            replica: None,
            connection: None,
            wake: Arc::clone(wake),
        }
    }

    pub(super) fn replica(
        settings: &Settings,
        tls: &Tls,
        number: usize,
        standing: &Arc<Standing>,
    ) -> Self {
        Member {
            dial: settings.dial_within(tls, LIMIT),
            replica: Some((number, Arc::clone(standing))),
            connection: None,
            wake: Arc::clone(&standing.wake),
        }
    }

    /// One look, and whether a connection had to be made for it.
    async fn look(&mut self) -> Result<(Vec<Row>, bool)> {
        let (client, anew) = match self.connection.take() {
            Some(client) if !client.is_closed() => (client, false),
            _ => {
                let dialled = self.dial.connect().await;
                let dialled = dialled.map_err(|error| from_pool(PoolError::Backend(error), LIMIT));
                (dialled?.0, true)
            }
        };
        let sql = match self.replica {
            Some(_) => LOOK,
            None => log::POSITION.sql,
        };
        // Without a name, which poolers may not know.
        let rows = client.query_typed(sql, &[]).await;
        let rows = rows.map_err(|error| from_driver(error, false))?;
        // Kept only if it answered in time.
        self.connection = Some(client);
        Ok((rows, anew))
    }

    /// Looks until the replicas are gone or closed.
    async fn keep_looking(mut self, replicas: Weak<Replicas>, lag: Duration) {
        loop {
            if !watched(&replicas) {
                return;
            }
            let asked = Instant::now();
            let before = self.replica.as_ref().map(|(_, standing)| standing.get());
            let looked = timeout(LIMIT, self.look()).await;
            let Some(all) = replicas.upgrade() else {
                return;
            };
            let answer = looked.unwrap_or(Err(Error::Timeout { after: LIMIT }));
            match &self.replica {
                None => {
                    let mark = answer.ok().and_then(|(rows, _)| log::mark(rows.first()?));
                    if let Some(mark) = mark {
                        all.log.sample(asked, mark);
                    }
                }
                Some((number, standing)) => {
                    let before = before.unwrap_or_else(|| standing.get());
                    let found = answer.and_then(|(rows, anew)| {
                        let row = rows.first();
                        let found = row.and_then(|row| judge(row, anew, before, &all.log, lag));
                        found.ok_or_else(unreadable)
                    });
                    match found {
                        Ok(found) => {
                            // What it was connected to before may have been another server.
                            if let Some(replica) = all.replicas.get(*number).filter(|_| found.anew)
                            {
                                replica.shared.health.suspect();
                                replica.shared.health.condemn();
                            }
                            standing.found(&found);
                        }
                        Err(error) => standing.lost(&error),
                    }
                }
            }
            drop(all);
            let _ = timeout(PAUSE, self.wake.notified()).await;
        }
    }
}

fn watched(replicas: &Weak<Replicas>) -> bool {
    let replicas = replicas.upgrade();
    replicas.is_some_and(|replicas| !replicas.closed.load(SeqCst))
}

fn unreadable() -> Error {
    Error::Database(Failure::new("it does not say how far it is"))
}

/// What to make of an answer, `None` if it is none.
fn judge(row: &Row, anew: bool, before: State, log: &Log, limit: Duration) -> Option<Found> {
    let standby: bool = row.try_get(0).ok()?;
    let lsn: Option<PgLsn> = row.try_get(1).ok()?;
    let timeline: i32 = row.try_get(2).ok()?;
    let server: i64 = row.try_get(3).ok()?;
    let replayed = Mark {
        timeline: timeline.cast_unsigned(),
        lsn: lsn.map_or(0, u64::from),
    };
    // Before the primary has been seen, a replica is taken at its word.
    let primary = log.latest();
    let same_history = primary.is_none_or(|primary| primary.timeline == replayed.timeline);
    let lag = same_history.then(|| log.lag(replayed.lsn, Instant::now()));
    let out = match lag {
        _ if !standby => Some(OutOfRotation::Promoted),
        None => Some(OutOfRotation::OtherTimeline),
        Some(lag) if lag > limit => Some(OutOfRotation::Lagging),
        Some(_) => None,
    };
    let lag = lag.filter(|_| standby);
    Some(Found {
        replayed,
        server,
        out,
        lag,
        anew,
        before,
    })
}

/// Starts the task that looks, and waits for the first look at each replica.
pub(super) async fn start(replicas: &Arc<Replicas>, mut members: Vec<Member>, lag: Duration) {
    // The primary first: what is known of it is what replicas are compared with.
    if let Some(primary) = members.first_mut() {
        let asked = Instant::now();
        if let Ok(Ok((rows, _))) = timeout(LIMIT, primary.look()).await
            && let Some(mark) = rows.first().and_then(log::mark)
        {
            replicas.log.sample(asked, mark);
        }
    }
    let looking = members.into_iter();
    let looking = looking.map(|member| member.keep_looking(Arc::downgrade(replicas), lag));
    tokio::spawn(join_all(looking));
    for replica in &replicas.replicas {
        replica.standing.looked().await;
    }
}
