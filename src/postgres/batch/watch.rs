//! One timer for all who wait.
//!
//! A timer for each of them, set and cleared under a lock that all threads of the runtime share,
//! cost up to an eighth of a look-up. So those who wait set none: a task looks after them, and
//! tells whoever has waited for [`PATIENCE`] to look after themselves from then on.
//!
//! It has to be as sure as a timer. So it looks after those on its own runtime only, from when it
//! has been polled on: until then it may lie behind a task that blocks its thread. Whoever finds
//! that it has not looked for long leaves all to themselves. A call that is to end soon has a timer
//! from the beginning, and so has one on another runtime than the first.

use std::mem;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::lanes::{Caller, Lanes, State, Word};
use super::{Kind, PATIENCE};
use crate::postgres::deadline::{Deadline, after};

/// How often it looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Who has less time than this looks after itself: the next look but one could be too late.
const SHORT_OF_TIME: Duration = PATIENCE.saturating_mul(2);

/// A watcher that has not looked for so long is not to be relied on.
const STALLED: Duration = PATIENCE.saturating_mul(2);

/// How often it looks for nothing before it ends. While calls come all the time there is nearly
/// always somebody who waits.
const IDLE_LOOKS: u32 = 4;

/// Who looks after those who wait.
pub(super) struct Watcher {
    number: u64,
    runtime: Id,
    /// Whether it has looked for a first time.
    begun: bool,
    /// When it last did, or was sent for.
    seen: Instant,
}

/// What a call that begins to wait has to do about it.
pub(super) enum Care<K: Kind> {
    /// Nothing: it is looked after.
    Taken,
    /// To look after itself.
    Own,
    /// The same, and to send for somebody who looks after others.
    Send(Handle, u64),
    /// The same, and to tell these to do likewise.
    Tell(Vec<Left<K>>),
}

/// One who is told to look after itself.
pub(super) type Left<K> = (oneshot::Sender<Word<K>>, Word<K>);

impl<K: Kind> Care<K> {
    /// Who looks after a call from now on.
    pub(super) fn of(
        lanes: &Lanes<K>,
        state: &mut State<K>,
        deadline: Deadline,
        now: Instant,
    ) -> Care<K> {
        let Ok(runtime) = Handle::try_current() else {
            return Care::Own;
        };
        let watcher = state.watcher.as_ref();
        if watcher.is_some_and(|watcher| after(watcher.seen, STALLED) < now) {
            state.watcher = None;
            return Care::Tell(state.leave(|_| true));
        }
        let Some(watcher) = watcher else {
            state.watches += 1;
            state.watcher = Some(Watcher {
                number: state.watches,
                runtime: runtime.id(),
                begun: false,
                seen: now,
            });
            return Care::Send(runtime, state.watches);
        };
        let here = watcher.begun && watcher.runtime == runtime.id();
        match here && after(now, SHORT_OF_TIME) < lanes.limit(deadline, now) {
            true => Care::Taken,
            false => Care::Own,
        }
    }

    pub(super) fn is_taken(&self) -> bool {
        matches!(self, Care::Taken)
    }

    /// Does it. Without the lock, which a task takes that is dropped at once, and which a waker of
    /// somebody else's may take.
    pub(super) fn arrange(self, lanes: &Arc<Lanes<K>>) {
        match self {
            Care::Taken | Care::Own => {}
            Care::Send(runtime, number) => {
                let lanes = Arc::downgrade(lanes);
                runtime.spawn(watch(Watch { lanes, number }));
            }
            Care::Tell(left) => tell(left),
        }
    }
}

/// Who has gone away does not hear it; then the way of its answer goes with it.
fn tell<K: Kind>(left: Vec<Left<K>>) {
    for (caller, word) in left {
        let _ = caller.send(word);
    }
}

async fn watch<K: Kind>(watch: Watch<K>) {
    let mut idle = 0;
    while let Some(others) = watch.look(idle == IDLE_LOOKS) {
        idle = match others {
            0 => idle + 1,
            _ => 0,
        };
        sleep(PAUSE).await;
    }
}

/// Looks after those who wait. Dropped with its runtime, it leaves them to themselves.
struct Watch<K: Kind> {
    /// Not longer than there is somebody who could wait.
    lanes: Weak<Lanes<K>>,
    number: u64,
}

impl<K: Kind> Watch<K> {
    /// Leaves those to themselves who have waited for long, and says how many others it looks
    /// after. `None`: it is over, as it is after a `last` look that finds none.
    fn look(&self, last: bool) -> Option<usize> {
        let lanes = self.lanes.upgrade()?;
        let mut state = lanes.state();
        let now = Instant::now();
        // Somebody else may have taken its place.
        let watcher = state.watcher.as_mut();
        let watcher = watcher.filter(|one| one.number == self.number)?;
        (watcher.begun, watcher.seen) = (true, now);
        let left = state.leave(|caller| after(caller.since, PATIENCE) <= now);
        let others = state.callers().filter(|caller| caller.watched).count();
        let over = last && others == 0;
        if over {
            state.watcher = None;
        }
        drop(state);
        tell(left);
        (!over).then_some(others)
    }
}

impl<K: Kind> Drop for Watch<K> {
    fn drop(&mut self) {
        let Some(lanes) = self.lanes.upgrade() else {
            return;
        };
        let mut state = lanes.state();
        if (state.watcher.as_ref()).is_some_and(|one| one.number == self.number) {
            state.watcher = None;
            let left = state.leave(|_| true);
            drop(state);
            tell(left);
        }
    }
}

impl<K: Kind> State<K> {
    /// Leaves those to themselves of whom this holds. They are to be told at once, but without the
    /// lock; one who goes away in between seems to be there until then. Who has gone stays so.
    fn leave(&mut self, whom: impl Fn(&Caller<K>) -> bool) -> Vec<Left<K>> {
        let whom =
            |caller: &&mut Caller<K>| caller.watched && !caller.answer.is_closed() && whom(caller);
        let leave = |caller: &mut Caller<K>| {
            caller.watched = false;
            // Where the answer will come.
            let (answer, later) = oneshot::channel();
            let told = mem::replace(&mut caller.answer, answer);
            (told, Word::Later(later))
        };
        self.callers().filter(whom).map(leave).collect()
    }
}
