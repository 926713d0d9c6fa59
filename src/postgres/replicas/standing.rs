//! What is known of one replica: whether it may be read from, and how far it has replayed.
//!
//! How far it is was learned on one connection and is relied on for another, so two things are
//! watched. A standby that was restarted may be behind where it was; and behind one address there
//! may be several servers. Each new connection therefore says what it leads to before it is used
//! (one round trip), and what had been learned before counts no more if that does not fit.

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::{ClientWrapper, Hook, HookError};
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::PgLsn;

use super::position::Mark;
use super::status::OutOfRotation;
use crate::error::Error;

/// What a new connection is asked.
const MEET: &str = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn(),
    (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";

/// How old what a look has found may be, which is far longer than one and its pause take.
const OUTDATED: Duration = Duration::from_secs(3);

/// What is known of a replica.
pub(super) struct Standing {
    number: usize,
    state: Mutex<State>,
    /// It has got further, or has left the rotation or come back.
    pub(super) news: Notify,
    /// Asks for a look at once.
    pub(super) wake: Arc<Notify>,
    /// How many reads are under way on it.
    busy: AtomicUsize,
    reads: AtomicU64,
}

#[derive(Clone, Copy)]
pub(super) struct State {
    /// Why it is not read from.
    pub(super) out: Option<OutOfRotation>,
    pub(super) lag: Option<Duration>,
    timeline: u32,
    replayed: u64,
    /// When the server was started: what tells servers apart.
    server: Option<i64>,
    /// There is more than one behind the address, so nothing is known of a connection but what was
    /// asked on it.
    several: bool,
    /// Counts how often what had been learned was given up.
    epoch: u64,
    looked: bool,
    /// When that was last.
    at: Option<Instant>,
}

/// What a look has found.
pub(super) struct Found {
    pub(super) replayed: Mark,
    pub(super) server: i64,
    /// `None`: it may be read from.
    pub(super) out: Option<OutOfRotation>,
    pub(super) lag: Option<Duration>,
    /// By a connection that was made for this look, so the one before it had broken.
    pub(super) anew: bool,
    /// What was known before it.
    pub(super) before: State,
}

impl Standing {
    pub(super) fn new(number: usize) -> Self {
        Standing {
            number,
            state: Mutex::new(State {
                out: Some(OutOfRotation::Unreachable),
                lag: None,
                timeline: 0,
                replayed: 0,
                server: None,
                several: false,
                epoch: 0,
                looked: false,
                at: None,
            }),
            news: Notify::new(),
            wake: Arc::default(),
            busy: AtomicUsize::new(0),
            reads: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self) -> State {
        *self.state()
    }

    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Relaxed)
    }

    /// How many reads are under way, if it may be read from; by a session only on its timeline.
    pub(super) fn admits(&self, timeline: Option<u32>) -> Option<usize> {
        let state = self.state();
        let fits = timeline.is_none_or(|timeline| timeline == state.timeline);
        (state.out().is_none() && fits).then(|| self.busy.load(Relaxed))
    }

    /// Whether every connection to it shows this place, as long as the epoch stays the same.
    pub(super) fn has(&self, mark: Mark) -> Option<u64> {
        let state = self.state();
        let known = state.out().is_none() && !state.several && state.timeline == mark.timeline;
        (known && state.replayed >= mark.lsn).then_some(state.epoch)
    }

    pub(super) fn epoch(&self) -> u64 {
        self.state().epoch
    }

    /// Whether there is more than one server behind its address.
    pub(super) fn is_several(&self) -> bool {
        self.state().several
    }

    /// A read begins.
    pub(super) fn enter(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Relaxed);
        Busy(self)
    }

    /// Somebody saw how far it is.
    pub(super) fn saw(&self, replayed: u64) {
        let mut state = self.state();
        if !state.several && replayed > state.replayed {
            state.replayed = replayed;
            drop(state);
            self.news.notify_waiters();
        }
    }

    /// It is not to be read from until a look says otherwise.
    pub(super) fn leave(&self, reason: OutOfRotation, error: Option<&Error>) {
        let mut state = self.state();
        let was = state.said();
        if reason == OutOfRotation::Unreachable {
            state.forget();
        }
        // A connection to a replica that was promoted is refused by us, not by the server.
        let is = match state.out {
            Some(OutOfRotation::Promoted) => OutOfRotation::Promoted,
            _ => reason,
        };
        state.out = Some(is);
        drop(state);
        self.tell(was, Some(is), error);
        self.wake.notify_one();
    }

    /// A look was answered.
    pub(super) fn found(&self, found: &Found) {
        let mut state = self.state();
        if found.anew {
            state.forget();
            (state.server, state.several) = (Some(found.server), false);
        } else if state.server.is_some_and(|known| known != found.server) {
            // A pooler is between: it has gone over to another server, or that was started anew.
            state.forget();
            state.several = true;
        } else if state.epoch == found.before.epoch && found.replayed.lsn < found.before.replayed {
            state.forget();
        }
        if state.timeline != found.replayed.timeline {
            state.forget();
            state.timeline = found.replayed.timeline;
        }
        if !state.several {
            state.replayed = state.replayed.max(found.replayed.lsn);
        }
        let was = state.said();
        (state.out, state.lag, state.looked) = (found.out, found.lag, true);
        state.at = Some(Instant::now());
        drop(state);
        self.tell(was, found.out, None);
    }

    /// A look was not answered.
    pub(super) fn lost(&self, error: &Error) {
        let mut state = self.state();
        state.forget();
        let was = state.said();
        (state.lag, state.looked) = (None, true);
        let is = Some(OutOfRotation::Unreachable);
        state.out = is;
        drop(state);
        self.tell(was, is, Some(error));
    }

    /// Says what has changed.
    fn tell(&self, was: Option<Said>, is: Said, error: Option<&Error>) {
        let replica = self.number;
        // The words of the error alone: its source may be anything.
        let sqlstate = error.and_then(Error::sqlstate);
        let error = error.map(tracing::field::display);
        match is {
            Some(_) if was == Some(is) => {
                tracing::debug!(replica, error, sqlstate, "a replica is still not read from");
            }
            _ if was == Some(is) => {}
            Some(reason) => {
                tracing::warn!(
                    replica,
                    ?reason,
                    error,
                    sqlstate,
                    "a replica is not read from"
                );
            }
            None => tracing::info!(replica, "a replica is read from"),
        }
        self.news.notify_waiters();
    }

    /// Ends after the first look.
    pub(super) async fn looked(&self) {
        self.until(|state| state.looked).await;
    }

    /// Ends when the replica does not answer any more.
    pub(super) async fn gone(&self) {
        let gone = |state: &State| state.out == Some(OutOfRotation::Unreachable);
        self.until(gone).await;
    }

    async fn until(&self, wanted: impl Fn(&State) -> bool) {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            // Listens before it looks.
            news.as_mut().enable();
            if wanted(&self.state()) {
                return;
            }
            news.await;
        }
    }

    /// A new connection has said what it leads to.
    fn met(&self, server: i64, replayed: u64) {
        let mut state = self.state();
        let known = *state.server.get_or_insert(server);
        if known != server {
            state.several = true;
            state.forget();
        } else if replayed < state.replayed {
            // The server has started its recovery anew.
            state.forget();
            state.replayed = replayed;
        }
    }
}

/// What was said of a replica last: why it is not read from, or that it is.
type Said = Option<OutOfRotation>;

impl State {
    /// Why it is not read from now: also because nobody looks at it any more, as when the runtime of
    /// those who did has ended, or is kept busy.
    pub(super) fn out(&self) -> Option<OutOfRotation> {
        match self.at {
            Some(at) if at.elapsed() > OUTDATED => Some(OutOfRotation::Unreachable),
            _ => self.out,
        }
    }

    /// `None`: nothing yet.
    fn said(&self) -> Option<Said> {
        self.looked.then_some(self.out)
    }

    fn forget(&mut self) {
        self.replayed = 0;
        self.epoch += 1;
    }
}

/// A read that is under way.
pub(super) struct Busy<'a>(&'a Standing);

impl Busy<'_> {
    /// It has its answer.
    pub(super) fn served(&self) {
        self.0.reads.fetch_add(1, Relaxed);
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

/// Lets each new connection of a replica's pool say what it leads to.
pub(super) fn meeting(standing: &Arc<Standing>) -> Hook {
    let standing = Arc::clone(standing);
    Hook::async_fn(move |client: &mut ClientWrapper, _| {
        let standing = Arc::clone(&standing);
        let met = async move {
            let answer = client.simple_query(MEET).await;
            let answer = answer.map_err(HookError::Backend)?;
            match answer.iter().find_map(read) {
                Some((true, replayed, server)) => {
                    standing.met(server, replayed);
                    Ok(())
                }
                Some((false, ..)) => {
                    standing.leave(OutOfRotation::Promoted, None);
                    Err(HookError::message("it is no standby"))
                }
                None => Err(HookError::message("it does not say how far it is")),
            }
        };
        met.boxed()
    })
}

/// Whether it is a standby, how far it is, and when it was started.
fn read(message: &SimpleQueryMessage) -> Option<(bool, u64, i64)> {
    let SimpleQueryMessage::Row(row) = message else {
        return None;
    };
    let standby = row.get(0)? == "t";
    let replayed: PgLsn = row.get(1).unwrap_or("0/0").parse().ok()?;
    Some((standby, replayed.into(), row.get(2)?.parse().ok()?))
}
