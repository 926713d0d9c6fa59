//! Where a call runs: a read on a replica that may show it, or else on the primary; everything else
//! on the primary.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use tokio::time::timeout;

use super::check::Checked;
use super::log::{self, END, POSITION};
use super::position::Mark;
use super::state::{Before, Need, State};
use super::status::OutOfRotation;
use super::wait::Waited;
use super::{Replica, Replicas};
use crate::error::{Error, Result, UnavailableReason};
use crate::postgres::deadline::{Deadline, after};
use crate::postgres::executor::Executor;
use crate::postgres::observe::{self, Operation, figures, routed_call};
use crate::postgres::shared::Shared;

/// How long a caller who has its answer waits for what is worth knowing besides.
const LEARNING: Duration = Duration::from_millis(250);

/// A store with replicas, or a session of one.
#[derive(Clone)]
pub(in crate::postgres) struct Route {
    pub(super) replicas: Arc<Replicas>,
    primary: Arc<Shared>,
    /// The replicas' pools, with the limits of this store.
    pub(super) standbys: Vec<Arc<Shared>>,
    pub(super) session: Option<Arc<State>>,
}

/// What a read on a replica gave.
enum Attempt<T> {
    /// The answer.
    Done(Result<T>),
    /// None that counts: it failed, and somebody else may do better.
    Failed,
    /// The server refused the statement: it may not have heard of a migration yet.
    Refused,
    /// One that is too old, or may be.
    Behind,
}

impl Route {
    /// Over the pools of a store, with its limits.
    pub(in crate::postgres) fn new(replicas: &Arc<Replicas>, primary: &Arc<Shared>) -> Self {
        let limited = |shared: &Arc<Shared>| {
            let mut shared = Shared::clone(shared);
            shared.limits.call = primary.limits.call;
            Arc::new(shared)
        };
        Route {
            standbys: replicas.pools().map(limited).collect(),
            replicas: Arc::clone(replicas),
            primary: Arc::clone(primary),
            session: None,
        }
    }

    /// The same for a session.
    pub(super) fn of(mut self, session: &Arc<State>) -> Self {
        self.session = Some(Arc::clone(session));
        self
    }

    pub(super) fn primary(&self) -> Executor {
        Executor::Pool(Arc::clone(&self.primary))
    }

    pub(in crate::postgres) fn replicas(&self) -> &Arc<Replicas> {
        &self.replicas
    }

    /// Makes a read. It may be made several times, of which one counts.
    pub(super) async fn read<T, F, Fut>(&self, operation: Operation, call: F) -> Result<T>
    where
        T: Send,
        F: Fn(Executor) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        let work = pin!(self.read_anywhere(call));
        routed_call(&self.primary, &self.standbys, operation, work).await
    }

    async fn read_anywhere<T, F, Fut>(&self, call: F) -> Result<T>
    where
        T: Send,
        F: Fn(Executor) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        let deadline = self.primary.deadline();
        let mut tried = vec![false; self.standbys.len()];
        let latest = || self.replicas.log.latest().map(|mark| mark.timeline);
        let need = (self.session.as_deref()).map_or(Need::Nothing, |session| session.need(latest));
        let learn = match need {
            Need::Nothing => match self.anywhere(&call, deadline, &mut tried).await {
                Some(answer) => return answer,
                None => None,
            },
            Need::Mark(mark) => match self.fresh(&call, deadline, &mut tried, mark).await {
                Fresh::Answer(answer) => return answer,
                Fresh::Nowhere => None,
                Fresh::Overdue => {
                    self.replicas.overdue.fetch_add(1, Relaxed);
                    Some(Learn::IfLost(mark))
                }
            },
            Need::Primary => None,
            Need::News(mark) => Some(Learn::Anew(mark)),
        };
        self.replicas.primary.fetch_add(1, Relaxed);
        observe::read(false);
        let on_primary = call(self.primary());
        let answer = match tried.contains(&true) || matches!(learn, Some(Learn::IfLost(_))) {
            // A part of the time is gone.
            true => deadline.bound(on_primary).await,
            false => on_primary.await,
        };
        if let (Ok(_), Some(learn)) = (&answer, learn) {
            self.learn(learn, deadline).await;
        }
        answer
    }

    /// A read for which any replica will do.
    async fn anywhere<T, F, Fut>(
        &self,
        call: &F,
        deadline: Deadline,
        tried: &mut [bool],
    ) -> Option<Result<T>>
    where
        T: Send,
        F: Fn(Executor) -> Fut + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        loop {
            let index = self.choose(tried, |replica| replica.standing.admits(None))?;
            let shared = self.standbys.get(index)?;
            let on = Executor::Pool(Arc::clone(shared));
            if let Attempt::Done(answer) = self.attempt(index, call(on), deadline, |_| true).await {
                return Some(answer);
            }
            tried[index] = true;
        }
    }

    /// A read that must show everything up to this place.
    async fn fresh<T, F, Fut>(
        &self,
        call: &F,
        deadline: Deadline,
        tried: &mut [bool],
        mark: Mark,
    ) -> Fresh<T>
    where
        T: Send,
        F: Fn(Executor) -> Fut + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        let until = after(Instant::now(), self.replicas.wait).min(deadline.at());
        let mut behind = vec![false; tried.len()];
        let mut refused = vec![false; tried.len()];
        loop {
            // One that is known to be far enough.
            let known = |replica: &Replica| {
                replica.standing.has(mark)?;
                replica.standing.admits(Some(mark.timeline))
            };
            if let Some(index) = self.choose(tried, known) {
                match self.known(index, call, deadline, mark).await {
                    Attempt::Done(answer) => return Fresh::Answer(answer),
                    Attempt::Failed | Attempt::Refused => tried[index] = true,
                    Attempt::Behind => {}
                }
                continue;
            }
            // One that is asked with the read.
            let unknown = |replica: &Replica| replica.standing.admits(Some(mark.timeline));
            let not_asked = both(tried, &behind);
            if let Some(index) = self.choose(&not_asked, unknown) {
                match self.asked(index, call, deadline, mark).await {
                    Attempt::Done(answer) => return Fresh::Answer(answer),
                    Attempt::Behind => behind[index] = true,
                    // So far behind, perhaps, that the table is not there.
                    Attempt::Refused if !refused[index] => {
                        (behind[index], refused[index]) = (true, true);
                    }
                    Attempt::Failed | Attempt::Refused => tried[index] = true,
                }
                continue;
            }
            // All have been asked.
            match self.wait(tried, mark, until, deadline).await {
                Waited::Reached(index) => behind[index] = false,
                Waited::Left(index) => tried[index] = true,
                Waited::Nobody => return Fresh::Nowhere,
                Waited::Overdue => return Fresh::Overdue,
            }
        }
    }

    /// On a replica of which it is known that it is far enough.
    async fn known<T, F, Fut>(
        &self,
        index: usize,
        call: &F,
        deadline: Deadline,
        mark: Mark,
    ) -> Attempt<T>
    where
        T: Send,
        F: Fn(Executor) -> Fut + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        let (Some(shared), Some(replica)) =
            (self.standbys.get(index), self.replicas.replicas.get(index))
        else {
            return Attempt::Failed;
        };
        let Some(epoch) = replica.standing.has(mark) else {
            return Attempt::Behind;
        };
        let on = Executor::Pool(Arc::clone(shared));
        // A connection that was made meanwhile may lead somewhere else.
        let still = |_: &T| replica.standing.epoch() == epoch;
        self.attempt(index, call(on), deadline, still).await
    }

    /// On a replica that is asked in the same flight.
    async fn asked<T, F, Fut>(
        &self,
        index: usize,
        call: &F,
        deadline: Deadline,
        mark: Mark,
    ) -> Attempt<T>
    where
        T: Send,
        F: Fn(Executor) -> Fut + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        let (Some(shared), Some(replica)) =
            (self.standbys.get(index), self.replicas.replicas.get(index))
        else {
            return Attempt::Failed;
        };
        let checked = Checked::new(shared, &replica.standing);
        let on = Executor::Checked(Arc::clone(&checked));
        let far_enough = |_: &T| {
            let told = checked.told();
            replica.standing.heard(told) && told.shows(mark)
        };
        self.attempt(index, call(on), deadline, far_enough).await
    }

    /// One read on one replica.
    async fn attempt<T>(
        &self,
        index: usize,
        work: impl Future<Output = Result<T>>,
        deadline: Deadline,
        counts: impl Fn(&T) -> bool,
    ) -> Attempt<T> {
        let Some(replica) = self.replicas.replicas.get(index) else {
            return Attempt::Failed;
        };
        let standing = &replica.standing;
        let busy = standing.enter();
        // Something is left for another one. One that falls silent is noticed much earlier, by the
        // looks.
        let limit = deadline.left() / 4 * 3;
        let (work, gone) = (pin!(work), pin!(standing.gone()));
        let answer = match timeout(limit, select(work, gone)).await {
            Ok(Either::Left((answer, _))) => answer,
            Ok(Either::Right(_)) | Err(_) => return Attempt::Failed,
        };
        match answer {
            Ok(value) if counts(&value) => {
                busy.served();
                figures::replica(index);
                observe::read(true);
                Attempt::Done(Ok(value))
            }
            Ok(_) => Attempt::Behind,
            Err(Error::Database(_)) => Attempt::Refused,
            // Elsewhere the row is the same.
            Err(error @ Error::Decode { .. }) => Attempt::Done(Err(error)),
            // It answers, if only to say that it has no place for one more connection.
            Err(Error::Unavailable {
                reason: UnavailableReason::Closed | UnavailableReason::TooManyConnections,
                ..
            }) => Attempt::Failed,
            Err(error @ Error::Unavailable { .. }) => {
                standing.leave(OutOfRotation::Unreachable, Some(&error));
                Attempt::Failed
            }
            // It was in the way of what is replayed, or all connections are in use: another one may
            // do better.
            Err(_) => Attempt::Failed,
        }
    }

    /// The least busy replica of which `busy` gives a number and that is not among these.
    fn choose(&self, without: &[bool], busy: impl Fn(&Replica) -> Option<usize>) -> Option<usize> {
        self.replicas
            .least_busy(|index, replica| match without.get(index) {
                Some(false) => busy(replica),
                _ => None,
            })
    }

    /// Asks the primary how far it is, after a read on it. What comes of it is of use to later
    /// reads; this one has its answer.
    async fn learn(&self, learn: Learn, deadline: Deadline) {
        let Some(session) = &self.session else {
            return;
        };
        // The caller's answer waits for it, and it is of use to later reads alone.
        let soon = deadline.min(Deadline::new(Instant::now(), LEARNING));
        let question = match learn {
            Learn::Anew(_) => &POSITION,
            Learn::IfLost(_) => &END,
        };
        let row = self.primary().query_opt_by(soon, question, &[]).await;
        let row = row.ok().flatten();
        let Some(mark) = row.as_ref().and_then(log::mark) else {
            return;
        };
        match learn {
            Learn::Anew(before) => session.learn(before, mark),
            // The primary itself is not that far: it is a place of a history that was lost.
            Learn::IfLost(lost) if mark.timeline == lost.timeline && mark < lost => {
                session.replace(lost, mark);
            }
            Learn::IfLost(_) => {}
        }
    }
}

/// Those that are in either.
fn both(one: &[bool], other: &[bool]) -> Vec<bool> {
    one.iter().zip(other).map(|(a, b)| *a || *b).collect()
}

/// What became of a read that must show what was written.
enum Fresh<T> {
    Answer(Result<T>),
    /// No replica is there for it.
    Nowhere,
    /// Those that are there did not get far enough in time.
    Overdue,
}

/// What a read on the primary is to find out for its session.
#[derive(Clone, Copy)]
enum Learn {
    Anew(Before),
    IfLost(Mark),
}
