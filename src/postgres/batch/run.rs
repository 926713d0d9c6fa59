//! Running batches on a lane, and handing out what comes of them.

use std::collections::VecDeque;
use std::future::Future;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::yield_now;
use tokio::time::timeout;

use super::lanes::{Answer, Caller, Lanes, Together, Waiting};
use super::place::Place;
use super::{Kind, PATIENCE};
use crate::error::{Error, Failure, Result};
use crate::postgres::deadline::Deadline;
use crate::postgres::error::unavailable;
use crate::postgres::observe;

/// Runs batches on a lane until nobody waits any more.
pub(super) async fn run<K: Kind>(place: Place<K>) {
    let lanes = Arc::clone(&place.lanes);
    loop {
        // Those who have just got their answers call again first, if they do, and are in the next
        // batch.
        yield_now().await;
        let Some(latest) = lanes.goes_on(&place) else {
            return;
        };
        let started = Instant::now();
        let mut lease = match lanes.shared.lease(latest).await {
            Ok(lease) => lease,
            // How long to wait for a connection is up to those who wait.
            Err(Error::PoolExhausted { .. }) => {
                lanes.forget_gone();
                continue;
            }
            Err(error) => {
                lanes.refuse(started, &error);
                continue;
            }
        };
        let Some(mut batch) = lanes.next_batch(&place) else {
            continue;
        };
        let together = Together {
            calls: batch.calls.len(),
            sent: Instant::now(),
        };
        lanes.sent.count(together.calls);
        observe::batch(&lanes.shared.health.server, together.calls);
        let work = batch.deadline.bound(K::run(&mut lease, batch.calls));
        // If nobody is left, the drop of the lease cancels it.
        if let Some(answers) = batch.callers.unless_forsaken(work).await {
            let answers = answers.map_err(|error| lanes.shared.timed_out(error, together.sent));
            drop(lease);
            hand_out(batch.callers.take(), answers, together);
        }
    }
}

/// Those who wait no longer. Dropped, which is to be done without the lock, they hear why if they
/// are there.
struct Gone<K: Kind>(Vec<Waiting<K>>);

impl<K: Kind> Default for Gone<K> {
    fn default() -> Self {
        Gone(Vec::new())
    }
}

impl<K: Kind> Drop for Gone<K> {
    fn drop(&mut self) {
        for waiting in mem::take(&mut self.0) {
            let missed = waiting.caller.deadline.missed();
            waiting.caller.tell(Answer::Done(Err(missed), None));
        }
    }
}

impl<K: Kind> Waiting<K> {
    /// Whether nobody waits, or somebody who has not looked for so long that the time is over.
    fn is_over(&self, now: Instant) -> bool {
        self.caller.answer.is_closed() || self.caller.deadline.at() <= now
    }
}

/// Calls that go together.
struct Batch<K: Kind> {
    calls: Vec<K::Call>,
    callers: UnderWay<K>,
    /// When the last of them has to end.
    deadline: Deadline,
}

/// Those whose calls are under way together. They stay with the lanes meanwhile, so that they can be
/// looked after. Dropped, they are forgotten.
struct UnderWay<K: Kind> {
    lanes: Arc<Lanes<K>>,
    number: u64,
    taken: bool,
}

impl<K: Kind> Lanes<K> {
    /// Takes out of the queue what may go together now.
    fn next_batch(self: &Arc<Self>, place: &Place<K>) -> Option<Batch<K>> {
        // Before the lock, so that it is dropped after that.
        let mut gone = Gone::default();
        let mut state = self.state();
        let now = Instant::now();
        if let Some(lane) = place.own(&mut state) {
            lane.taken = Some(now);
        }
        let most = state.waiting.len().min(self.max_batch);
        let (mut calls, mut callers) = (Vec::with_capacity(most), Vec::with_capacity(most));
        let mut number = None;
        while calls.len() < self.max_batch {
            let Some(waiting) = state.waiting.pop_front() else {
                break;
            };
            // Who has gone away, or has no time for an answer, is left out.
            if waiting.is_over(now) {
                gone.0.push(waiting);
                continue;
            }
            number.get_or_insert(waiting.number);
            calls.push(waiting.call);
            callers.push(waiting.caller);
        }
        let latest = callers.iter().map(|caller| caller.deadline).max();
        let (number, deadline) = number.zip(latest)?;
        state.under_way.push((number, callers));
        let lanes = Arc::clone(self);
        Some(Batch {
            calls,
            callers: UnderWay {
                lanes,
                number,
                taken: false,
            },
            deadline,
        })
    }

    /// Takes those out of the queue who wait no longer.
    fn forget_gone(&self) {
        let mut state = self.state();
        let now = Instant::now();
        let all = mem::take(&mut state.waiting);
        let (gone, left): (VecDeque<_>, VecDeque<_>) =
            (all.into_iter()).partition(|waiting| waiting.is_over(now));
        state.waiting = left;
        drop(state);
        drop(Gone(gone.into()));
    }

    /// Until when those who wait have time, if there is more to do on this lane. It is freed if
    /// nobody waits.
    fn goes_on(&self, place: &Place<K>) -> Option<Deadline> {
        let mut state = self.state();
        let latest = state.waiting.iter().map(|one| one.caller.deadline).max();
        let lane = place.own(&mut state)?;
        if latest.is_none() {
            lane.taken = None;
        }
        latest
    }

    /// Tells everybody who has waited since before this moment why there is no connection. For the
    /// others there may be one.
    fn refuse(&self, since: Instant, error: &Error) {
        let mut state = self.state();
        let all = mem::take(&mut state.waiting);
        let (refused, left): (VecDeque<_>, VecDeque<_>) =
            (all.into_iter()).partition(|waiting| waiting.caller.since <= since);
        state.waiting = left;
        drop(state);
        for waiting in refused {
            waiting.caller.tell(Answer::Done(Err(repeat(error)), None));
        }
    }
}

impl<K: Kind> UnderWay<K> {
    /// The result of the work, unless everybody who waits for it has gone away.
    async fn unless_forsaken<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            match timeout(PATIENCE, work.as_mut()).await {
                Ok(result) => return Some(result),
                Err(_) if self.is_forsaken() => return None,
                Err(_) => {}
            }
        }
    }

    fn is_forsaken(&self) -> bool {
        let state = self.lanes.state();
        let own = state.under_way.iter().find(|own| own.0 == self.number);
        own.is_none_or(|own| own.1.iter().all(|caller| caller.answer.is_closed()))
    }

    /// Takes them back from the lanes, in the order of their calls.
    fn take(&mut self) -> Vec<Caller<K>> {
        if mem::replace(&mut self.taken, true) {
            return Vec::new();
        }
        let mut state = self.lanes.state();
        let place = (state.under_way.iter()).position(|own| own.0 == self.number);
        place.map_or_else(Vec::new, |place| state.under_way.swap_remove(place).1)
    }
}

impl<K: Kind> Drop for UnderWay<K> {
    fn drop(&mut self) {
        // Without the lock: whoever is told may be polled at once.
        drop(self.take());
    }
}

/// Tells everybody how it went.
fn hand_out<K: Kind>(
    callers: Vec<Caller<K>>,
    answers: Result<Vec<Option<K::Answer>>>,
    together: Together,
) {
    let done = |answer| Answer::Done(answer, Some(together));
    match answers {
        Ok(answers) => {
            for (caller, answer) in callers.into_iter().zip(answers) {
                caller.tell(answer.map_or(Answer::Alone, |answer| done(Ok(answer))));
            }
        }
        Err(error) if K::WRITES && !stored_nothing(&error) => {
            for caller in callers {
                caller.tell(done(Err(repeat(&error))));
            }
        }
        Err(_) => callers
            .into_iter()
            .for_each(|caller| caller.tell(Answer::Alone)),
    }
}

/// Whether it is certain that nothing of a batch was stored: the server has said so.
fn stored_nothing(error: &Error) -> bool {
    match error {
        Error::Conflict(_) => true,
        Error::Database(failure) => failure.sqlstate().is_some(),
        Error::Unavailable { reason, .. } => reason.stored_nothing(),
        _ => false,
    }
}

/// The same error for one more caller. Its source is the same in words.
fn repeat(error: &Error) -> Error {
    match error {
        Error::Unavailable { reason, source } => unavailable(
            reason.clone(),
            source
                .as_ref()
                .map(|source| match source.downcast_ref::<Failure>() {
                    Some(failure) => failure.clone().into(),
                    None => source.to_string().into(),
                }),
        ),
        Error::Timeout { after } => Error::Timeout { after: *after },
        Error::Config { reason } => Error::Config {
            reason: reason.clone(),
        },
        Error::Database(failure) => Error::Database(failure.clone()),
        other => Error::Database(Failure::new(other.to_string())),
    }
}
