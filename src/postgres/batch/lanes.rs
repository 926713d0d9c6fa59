//! The lanes of one kind of call: who may go, who waits, and what becomes of a batch.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{timeout, timeout_at};

use super::{Kind, PATIENCE, Sent};
use crate::error::{Error, Failure, Result, UnavailableReason};
use crate::postgres::error::unavailable;
use crate::postgres::executor::{Deadline, Shared, after};

/// The lanes of one kind.
pub(in crate::postgres) struct Lanes<K: Kind> {
    state: Mutex<State<K>>,
    max_batch: usize,
    shared: Arc<Shared>,
    sent: Arc<Sent>,
}

struct State<K: Kind> {
    lanes: Vec<Lane>,
    /// In the order of their numbers.
    waiting: VecDeque<Waiting<K>>,
    /// The number of the next one who waits.
    next: u64,
}

#[derive(Clone, Copy)]
struct Lane {
    /// When what is under way on it began.
    taken: Option<Instant>,
    /// How many times it was taken. Who took it an earlier time has lost it.
    times: u64,
}

/// Somebody who waits.
struct Waiting<K: Kind> {
    number: u64,
    call: K::Call,
    caller: Caller<K>,
}

struct Caller<K: Kind> {
    deadline: Deadline,
    answer: oneshot::Sender<Answer<K>>,
}

/// What one who waits is told.
enum Answer<K: Kind> {
    /// The call is done.
    Done(Result<K::Answer>),
    /// Go alone; nothing of the call has been stored.
    Alone,
    /// Go alone, and this lane is yours.
    Lead(Place<K>),
}

/// A lane that somebody has. Dropped, it goes to those who wait.
struct Place<K: Kind> {
    lanes: Arc<Lanes<K>>,
    lane: usize,
    times: u64,
    /// Held by the task that runs batches. If that is dropped, its runtime is at its end, or the
    /// task has panicked, and another task would fare no better.
    task: bool,
}

impl<K: Kind> Lanes<K> {
    pub(super) fn new(
        (lanes, max_batch): (usize, usize),
        shared: &Arc<Shared>,
        sent: &Arc<Sent>,
    ) -> Arc<Self> {
        let free = Lane {
            taken: None,
            times: 0,
        };
        Arc::new(Lanes {
            state: Mutex::new(State {
                lanes: vec![free; lanes],
                waiting: VecDeque::new(),
                next: 0,
            }),
            max_batch,
            shared: Arc::clone(shared),
            sent: Arc::clone(sent),
        })
    }

    /// Makes a call: `alone` if a lane is free, or else together with the others that wait.
    /// `call`: what it asks for, for the case that it waits.
    pub(in crate::postgres) async fn call(
        self: &Arc<Self>,
        deadline: Deadline,
        call: impl FnOnce() -> K::Call,
        alone: impl Future<Output = Result<K::Answer>>,
    ) -> Result<K::Answer> {
        // It would be refused at the end of the queue.
        if self.shared.is_closed() {
            return alone.await;
        }
        let place = match self.enter(deadline, call) {
            Ok(place) => Some(place),
            Err((number, answer)) => match self.wait(number, answer, deadline).await {
                Answer::Done(answer) => return answer,
                // Nothing is sent that there is no time for.
                Answer::Alone | Answer::Lead(_) if deadline.left().is_zero() => {
                    return Err(deadline.missed());
                }
                Answer::Alone => None,
                Answer::Lead(place) => Some(place),
            },
        };
        let answer = alone.await;
        drop(place);
        answer
    }

    /// A lane, or a place in the queue.
    fn enter(
        self: &Arc<Self>,
        deadline: Deadline,
        call: impl FnOnce() -> K::Call,
    ) -> Result<Place<K>, (u64, oneshot::Receiver<Answer<K>>)> {
        let mut state = self.state();
        if let Some((lane, times)) = state.take_lane(|lane| lane.taken.is_none()) {
            return Ok(self.place(lane, times));
        }
        let (sender, receiver) = oneshot::channel();
        let number = state.next;
        state.next += 1;
        state.waiting.push_back(Waiting {
            number,
            call: call(),
            caller: Caller {
                deadline,
                answer: sender,
            },
        });
        Err((number, receiver))
    }

    /// Waits for an answer, or for so long as there is reason to.
    async fn wait(
        self: &Arc<Self>,
        number: u64,
        answer: oneshot::Receiver<Answer<K>>,
        deadline: Deadline,
    ) -> Answer<K> {
        // A call that waits for a lane waits for a connection.
        let own_pool = self.shared.limits.own_pool;
        let acquire = own_pool.map_or(Duration::MAX, |limits| limits.acquire);
        let started = deadline.start();
        let limit = deadline.at().min(after(started, acquire));
        let mut look = limit.min(after(started, PATIENCE));
        let mut answer = pin!(answer);
        loop {
            if let Ok(answer) = timeout_at(look.into(), answer.as_mut()).await {
                return answer.unwrap_or_else(|_| Answer::forgotten());
            }
            look = limit.min(after(Instant::now(), PATIENCE));
            let waited = started.elapsed();
            let over = match deadline.left() {
                Duration::ZERO => Some(Answer::Done(Err(deadline.missed()))),
                // To hear it.
                _ if self.shared.is_closed() => Some(Answer::Alone),
                _ if waited < acquire => None,
                _ if self.shared.all_in_use() => {
                    Some(Answer::Done(Err(Error::PoolExhausted { waited })))
                }
                // There are connections; only the lanes are taken.
                _ => Some(Answer::Alone),
            };
            match (self.look(number, over.is_some()), over) {
                (Look::Stuck(place), _) => return Answer::Lead(place),
                (Look::Waits, None) => {}
                (Look::Waits, Some(answer)) => return answer,
                // There is an answer to wait for, as long as the call may take.
                (Look::Sent, _) => {
                    return match timeout_at(deadline.at().into(), answer).await {
                        Ok(answer) => answer.unwrap_or_else(|_| Answer::forgotten()),
                        Err(_) => {
                            let missed = deadline.missed();
                            Answer::Done(Err(self.shared.timed_out(missed, started)))
                        }
                    };
                }
            }
        }
    }

    /// What one who has waited for a while finds. One who is `leaving` leaves the queue.
    fn look(self: &Arc<Self>, number: u64, leaving: bool) -> Look<K> {
        // With every connection in use another lane would help nobody.
        let crowded = self.shared.all_in_use();
        let mut state = self.state();
        let Ok(index) = (state.waiting).binary_search_by_key(&number, |waiting| waiting.number)
        else {
            return Look::Sent;
        };
        if leaving {
            drop(state.waiting.remove(index));
            return Look::Waits;
        }
        if crowded {
            return Look::Waits;
        }
        let stuck = |lane: &Lane| lane.taken.is_none_or(|taken| taken.elapsed() >= PATIENCE);
        match state.take_lane(stuck) {
            Some((lane, times)) => {
                drop(state.waiting.remove(index));
                Look::Stuck(self.place(lane, times))
            }
            None => Look::Waits,
        }
    }

    /// Takes out of the queue what may go together now.
    fn next_batch(&self, place: &Place<K>) -> Vec<Waiting<K>> {
        let mut state = self.state();
        if let Some(lane) = place.own(&mut state) {
            lane.taken = Some(Instant::now());
        }
        let mut batch = Vec::with_capacity(state.waiting.len().min(self.max_batch));
        while batch.len() < self.max_batch {
            let Some(waiting) = state.waiting.pop_front() else {
                break;
            };
            // Who has gone away is left out.
            if !waiting.caller.answer.is_closed() {
                batch.push(waiting);
            }
        }
        batch
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

    /// Tells everybody who waits why there is no connection.
    fn refuse(&self, error: &Error) {
        let waiting = std::mem::take(&mut self.state().waiting);
        for waiting in waiting {
            waiting.caller.tell(Answer::Done(Err(repeat(error))));
        }
    }

    /// How many calls wait for a lane.
    pub(super) fn waiting(&self) -> usize {
        let state = self.state();
        let waiting = state.waiting.iter();
        waiting
            .filter(|waiting| !waiting.caller.answer.is_closed())
            .count()
    }

    fn place(self: &Arc<Self>, lane: usize, times: u64) -> Place<K> {
        Place {
            lanes: Arc::clone(self),
            lane,
            times,
            task: false,
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one who waits finds.
enum Look<K: Kind> {
    /// The call is on its way.
    Sent,
    /// It is still waiting.
    Waits,
    /// A lane that did not get on was taken over, and the call has left the queue.
    Stuck(Place<K>),
}

impl<K: Kind> State<K> {
    /// Takes the first lane of which this holds.
    fn take_lane(&mut self, which: impl Fn(&Lane) -> bool) -> Option<(usize, u64)> {
        let (number, lane) = self
            .lanes
            .iter_mut()
            .enumerate()
            .find(|(_, lane)| which(lane))?;
        lane.taken = Some(Instant::now());
        lane.times += 1;
        Some((number, lane.times))
    }
}

impl<K: Kind> Place<K> {
    /// The lane, unless it was taken over.
    fn own<'a>(&self, state: &'a mut State<K>) -> Option<&'a mut Lane> {
        let lane = state.lanes.get_mut(self.lane)?;
        (lane.times == self.times).then_some(lane)
    }

    /// The same lane, for somebody else.
    fn again(&self, task: bool) -> Self {
        Place {
            lanes: Arc::clone(&self.lanes),
            lane: self.lane,
            times: self.times,
            task,
        }
    }
}

impl<K: Kind> Drop for Place<K> {
    fn drop(&mut self) {
        let mut state = self.lanes.state();
        let idle = state.waiting.is_empty();
        match self.own(&mut state) {
            Some(lane) if idle => lane.taken = None,
            Some(_) => {
                drop(state);
                match (self.task, Handle::try_current()) {
                    (false, Ok(runtime)) => drop(runtime.spawn(run(self.again(true)))),
                    _ => self.hand_over(),
                }
            }
            None => {}
        }
    }
}

impl<K: Kind> Place<K> {
    /// Gives the lane to one of those who wait: they have a runtime.
    fn hand_over(&self) {
        let mut lead = Answer::Lead(self.again(false));
        loop {
            let first = self.lanes.state().waiting.pop_front();
            let Some(waiting) = first else {
                // Its drop frees the lane.
                return;
            };
            match waiting.caller.answer.send(lead) {
                Ok(()) => return,
                Err(back) => lead = back,
            }
        }
    }
}

impl<K: Kind> Caller<K> {
    /// One who has gone away does not hear it.
    fn tell(self, answer: Answer<K>) {
        let _ = self.answer.send(answer);
    }
}

impl<K: Kind> Answer<K> {
    /// What is to be made of it that the batch ended without a word, with the runtime it ran on.
    fn forgotten() -> Self {
        match K::WRITES {
            true => Answer::Done(Err(unavailable(UnavailableReason::ConnectionLost, None))),
            false => Answer::Alone,
        }
    }
}

/// Runs batches on a lane until nobody waits any more.
async fn run<K: Kind>(place: Place<K>) {
    let lanes = Arc::clone(&place.lanes);
    loop {
        // Those who have just got their answers call again first, if they do, and are in the next
        // batch.
        yield_now().await;
        let Some(latest) = lanes.goes_on(&place) else {
            return;
        };
        let mut lease = match lanes.shared.lease(latest).await {
            Ok(lease) => lease,
            // How long to wait for a connection is up to those who wait.
            Err(Error::PoolExhausted { .. }) => continue,
            Err(error) => {
                lanes.refuse(&error);
                continue;
            }
        };
        let batch = lanes.next_batch(&place);
        let Some(deadline) = batch.iter().map(|waiting| waiting.caller.deadline).max() else {
            continue;
        };
        lanes.sent.count(batch.len());
        let (calls, callers): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|waiting| (waiting.call, waiting.caller))
            .unzip();
        let sent = Instant::now();
        let work = deadline.bound(K::run(&mut lease, calls));
        // If nobody is left, the drop of the lease cancels it.
        if let Some(answers) = unless_forsaken(&callers, work).await {
            let answers = answers.map_err(|error| lanes.shared.timed_out(error, sent));
            drop(lease);
            hand_out(callers, answers);
        }
    }
}

/// The result of the work, unless everybody who waits for it has gone away.
async fn unless_forsaken<K: Kind, T>(
    callers: &[Caller<K>],
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    loop {
        match timeout(PATIENCE, work.as_mut()).await {
            Ok(result) => return Some(result),
            Err(_) if callers.iter().all(|caller| caller.answer.is_closed()) => return None,
            Err(_) => {}
        }
    }
}

/// Tells everybody how it went.
fn hand_out<K: Kind>(callers: Vec<Caller<K>>, answers: Result<Vec<Option<K::Answer>>>) {
    match answers {
        Ok(answers) => {
            for (caller, answer) in callers.into_iter().zip(answers) {
                caller.tell(answer.map_or(Answer::Alone, |answer| Answer::Done(Ok(answer))));
            }
        }
        Err(error) if K::WRITES && !stored_nothing(&error) => {
            for caller in callers {
                caller.tell(Answer::Done(Err(repeat(&error))));
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
