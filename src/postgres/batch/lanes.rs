//! The lanes of one kind of call: who may go, and who waits.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::place::Place;
use super::watch::{Care, Watcher};
use super::{Kind, PATIENCE, Sent};
use crate::error::{Error, Result, UnavailableReason};
use crate::postgres::deadline::{Deadline, after};
use crate::postgres::error::unavailable;
use crate::postgres::observe::figures;
use crate::postgres::shared::Shared;

/// The lanes of one kind.
pub(in crate::postgres) struct Lanes<K: Kind> {
    state: Mutex<State<K>>,
    pub(super) max_batch: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) sent: Arc<Sent>,
}

pub(super) struct State<K: Kind> {
    pub(super) lanes: Vec<Lane>,
    /// In the order of their numbers.
    pub(super) waiting: VecDeque<Waiting<K>>,
    /// Those whose calls are under way together, with the number of the first of them.
    pub(super) under_way: Vec<(u64, Vec<Caller<K>>)>,
    /// Who looks after those who wait.
    pub(super) watcher: Option<Watcher>,
    /// The number of the last one who did.
    pub(super) watches: u64,
    /// The number of the next one who waits.
    next: u64,
}

#[derive(Clone, Copy)]
pub(super) struct Lane {
    /// When what is under way on it began.
    pub(super) taken: Option<Instant>,
    /// How many times it was taken. Who took it an earlier time has lost it.
    pub(super) times: u64,
}

/// Somebody who waits.
pub(super) struct Waiting<K: Kind> {
    pub(super) number: u64,
    pub(super) call: K::Call,
    pub(super) caller: Caller<K>,
}

pub(super) struct Caller<K: Kind> {
    pub(super) deadline: Deadline,
    /// Since when it waits, which is later than its call began where that was somewhere else before.
    pub(super) since: Instant,
    pub(super) answer: oneshot::Sender<Word<K>>,
    /// Whether somebody looks after it, so that it has no timer.
    pub(super) watched: bool,
}

/// What one has who waits.
struct Queued<K: Kind> {
    number: u64,
    since: Instant,
    word: oneshot::Receiver<Word<K>>,
    watched: bool,
}

/// How a call went to the server with others.
#[derive(Clone, Copy)]
pub(super) struct Together {
    pub(super) calls: usize,
    pub(super) sent: Instant,
}

/// What one who waits is told.
pub(super) enum Answer<K: Kind> {
    /// The call is done, if it went together with others.
    Done(Result<K::Answer>, Option<Together>),
    /// Go alone; nothing of the call has been stored.
    Alone,
    /// Go alone, and this lane is yours.
    Lead(Place<K>),
}

/// What one who waits hears.
pub(super) enum Word<K: Kind> {
    Answer(Answer<K>),
    /// There is no answer so far. It comes here, and nobody looks after the call any more.
    Later(oneshot::Receiver<Word<K>>),
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
                under_way: Vec::new(),
                watcher: None,
                watches: 0,
                next: 0,
            }),
            max_batch,
            shared: Arc::clone(shared),
            sent: Arc::clone(sent),
        })
    }

    /// Makes a call: `alone` if a lane is free, or else together with the others that wait.
    /// `call`: what it asks for, for the case that it waits.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async function's future holds its arguments twice"
    )]
    pub(in crate::postgres) fn call<'a>(
        self: &'a Arc<Self>,
        deadline: Deadline,
        call: impl FnOnce() -> K::Call + 'a,
        alone: impl Future<Output = Result<K::Answer>> + 'a,
    ) -> impl Future<Output = Result<K::Answer>> + 'a {
        async move {
            // It would be refused at the end of the queue.
            if self.shared.is_closed() {
                return alone.await;
            }
            let place = match self.enter(deadline, call) {
                Ok(place) => Some(place),
                Err(queued) => match self.wait(queued, deadline).await {
                    Answer::Done(answer, _) => return answer,
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
    }

    /// A lane, or a place in the queue.
    fn enter(
        self: &Arc<Self>,
        deadline: Deadline,
        call: impl FnOnce() -> K::Call,
    ) -> Result<Place<K>, Queued<K>> {
        let mut state = self.state();
        if let Some((lane, times)) = state.take_lane(|lane| lane.taken.is_none()) {
            return Ok(self.place(lane, times));
        }
        let call = call();
        let (sender, word) = oneshot::channel();
        let since = Instant::now();
        let care = Care::of(self, &mut state, deadline, since);
        let watched = care.is_taken();
        let number = state.next;
        state.next += 1;
        state.waiting.push_back(Waiting {
            number,
            call,
            caller: Caller {
                deadline,
                since,
                answer: sender,
                watched,
            },
        });
        drop(state);
        care.arrange(self);
        Err(Queued {
            number,
            since,
            word,
            watched,
        })
    }

    /// Waits for an answer, or for so long as there is reason to, and notes for how long.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async function's future holds its arguments twice"
    )]
    fn wait<'a>(
        self: &'a Arc<Self>,
        mut queued: Queued<K>,
        deadline: Deadline,
    ) -> impl Future<Output = Answer<K>> + 'a {
        async move {
            let since = queued.since;
            figures::waits(since);
            let mut wait = match queued.watched {
                true => Wait::LookedAfter,
                false => Wait::Queued(after(since, PATIENCE).min(self.limit(deadline, since))),
            };
            let answer = loop {
                let heard = match wait.until(deadline) {
                    None => Ok((&mut queued.word).await),
                    Some(until) => timeout_at(until.into(), &mut queued.word).await,
                };
                match heard {
                    Ok(Ok(Word::Answer(answer))) => break answer,
                    Ok(Ok(Word::Later(later))) => queued.word = later,
                    Ok(Err(_)) => break Answer::forgotten(),
                    Err(_) => {}
                }
                match self.go_on_waiting(queued.number, &wait, deadline, since) {
                    Ok(longer) => wait = longer,
                    Err(answer) => break answer,
                }
            };
            match &answer {
                Answer::Done(_, Some(together)) => {
                    figures::together(together.calls);
                    figures::waited(together.sent.saturating_duration_since(since));
                }
                _ => figures::waited(since.elapsed()),
            }
            answer
        }
    }

    /// How long a call waits for a lane, which is waiting for a connection.
    fn acquire(&self) -> Duration {
        (self.shared.limits.own_pool).map_or(Duration::MAX, |limits| limits.acquire)
    }

    /// Until when a call waits at most that waits since then.
    pub(super) fn limit(&self, deadline: Deadline, since: Instant) -> Instant {
        (deadline.at()).min(after(since, self.acquire()))
    }

    /// What one does who has waited for a while.
    fn go_on_waiting(
        self: &Arc<Self>,
        number: u64,
        wait: &Wait,
        deadline: Deadline,
        since: Instant,
    ) -> Result<Wait, Answer<K>> {
        if let Wait::Sent = wait {
            let missed = self.shared.timed_out(deadline.missed(), since);
            return Err(Answer::Done(Err(missed), None));
        }
        let (waited, acquire) = (since.elapsed(), self.acquire());
        let over = match deadline.left() {
            Duration::ZERO => Some(Answer::Done(Err(deadline.missed()), None)),
            // To hear it.
            _ if self.shared.is_closed() => Some(Answer::Alone),
            _ if waited < acquire => None,
            _ if self.shared.all_in_use() => {
                Some(Answer::Done(Err(Error::PoolExhausted { waited }), None))
            }
            // There are connections; only the lanes are taken.
            _ => Some(Answer::Alone),
        };
        match (self.look(number, over.is_some()), over) {
            (Look::Stuck(place), _) => Err(Answer::Lead(place)),
            (Look::Waits, None) => {
                let look = after(Instant::now(), PATIENCE);
                Ok(Wait::Queued(look.min(self.limit(deadline, since))))
            }
            (Look::Waits, Some(answer)) => Err(answer),
            (Look::Sent, _) => Ok(Wait::Sent),
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
            let left = state.waiting.remove(index);
            // Without the lock: that may wake somebody up.
            drop(state);
            drop(left);
            return Look::Waits;
        }
        if crowded {
            return Look::Waits;
        }
        let stuck = |lane: &Lane| lane.taken.is_none_or(|taken| taken.elapsed() >= PATIENCE);
        match state.take_lane(stuck) {
            Some((lane, times)) => {
                let left = state.waiting.remove(index);
                drop(state);
                drop(left);
                Look::Stuck(self.place(lane, times))
            }
            None => Look::Waits,
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

    pub(super) fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How one waits.
enum Wait {
    /// Until somebody says something.
    LookedAfter,
    /// In the queue, for so long before looking what is the matter.
    Queued(Instant),
    /// The call is on its way: there is an answer to wait for, as long as the call may take.
    Sent,
}

impl Wait {
    fn until(&self, deadline: Deadline) -> Option<Instant> {
        match self {
            Wait::LookedAfter => None,
            Wait::Queued(until) => Some(*until),
            Wait::Sent => Some(deadline.at()),
        }
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
    /// Everybody who waits, those whose calls are under way among them.
    pub(super) fn callers(&mut self) -> impl Iterator<Item = &mut Caller<K>> {
        let under_way = self.under_way.iter_mut();
        let waiting = self.waiting.iter_mut();
        (under_way.flat_map(|(_, callers)| callers))
            .chain(waiting.map(|waiting| &mut waiting.caller))
    }

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

impl<K: Kind> Caller<K> {
    /// One who has gone away does not hear it.
    pub(super) fn tell(self, answer: Answer<K>) {
        let _ = self.answer.send(Word::Answer(answer));
    }
}

impl<K: Kind> Answer<K> {
    /// What is to be made of it that the batch ended without a word, with the runtime it ran on.
    fn forgotten() -> Self {
        match K::WRITES {
            true => Answer::Done(
                Err(unavailable(UnavailableReason::ConnectionLost, None)),
                None,
            ),
            false => Answer::Alone,
        }
    }
}
