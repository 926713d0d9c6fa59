//! One timer for all who wait.
//!
//! A timer for each of them, set and cleared under a lock that all threads of the runtime share,
//! cost an eighth of a look-up. So those who wait set none: a task looks after them, and tells
//! whoever has waited for [`PATIENCE`] to look after themselves from then on.
//!
//! It looks after those on its own runtime only. Whoever waits on another one, which goes on should
//! this one be blocked, has a timer from the beginning; so has a call that is to end soon.

use std::mem;
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::lanes::{Caller, Lanes, State, Word};
use super::{Kind, PATIENCE};
use crate::postgres::deadline::{Deadline, after};

/// What a call that begins to wait has to do about it.
pub(super) enum Care {
    /// Nothing: it is looked after.
    Taken,
    /// Nothing, once this has begun to look after those on this runtime.
    Begin(Handle),
    /// To look after itself.
    Own,
}

impl Care {
    /// Who looks after a call from now on.
    pub(super) fn of<K: Kind>(lanes: &Lanes<K>, state: &mut State<K>, deadline: Deadline) -> Care {
        if lanes.limit(deadline) < after(deadline.start(), 2 * PATIENCE) {
            return Care::Own;
        }
        let Ok(runtime) = Handle::try_current() else {
            return Care::Own;
        };
        match state.watched {
            Some(id) if id == runtime.id() => Care::Taken,
            Some(_) => Care::Own,
            None => {
                state.watched = Some(runtime.id());
                Care::Begin(runtime)
            }
        }
    }

    pub(super) fn is_own(&self) -> bool {
        matches!(self, Care::Own)
    }

    /// Without the lock: a runtime at its end drops the task at once, which takes it.
    pub(super) fn begin<K: Kind>(self, lanes: &Arc<Lanes<K>>) {
        if let Care::Begin(runtime) = self {
            let lanes = Arc::downgrade(lanes);
            runtime.spawn(watch(Watch { lanes, over: false }));
        }
    }
}

async fn watch<K: Kind>(mut watch: Watch<K>) {
    while !watch.over {
        sleep(PATIENCE / 2).await;
        watch.look();
    }
}

/// Looks after those who wait. Dropped before it is over, with its runtime, it leaves them to
/// themselves.
struct Watch<K: Kind> {
    /// Not longer than there is somebody who could wait.
    lanes: Weak<Lanes<K>>,
    over: bool,
}

impl<K: Kind> Watch<K> {
    /// Leaves those to themselves who have waited for long. It is over when there is nobody else.
    fn look(&mut self) {
        let Some(lanes) = self.lanes.upgrade() else {
            self.over = true;
            return;
        };
        let mut state = lanes.state();
        let now = Instant::now();
        let mut others = false;
        for caller in state.callers().filter(|caller| caller.watched) {
            match after(caller.deadline.start(), PATIENCE) <= now {
                true => caller.leave(),
                false => others = true,
            }
        }
        if !others {
            state.watched = None;
            self.over = true;
        }
    }
}

impl<K: Kind> Drop for Watch<K> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if let Some(lanes) = self.lanes.upgrade() {
            let mut state = lanes.state();
            state.watched = None;
            for caller in state.callers().filter(|caller| caller.watched) {
                caller.leave();
            }
        }
    }
}

impl<K: Kind> Caller<K> {
    /// Tells it to look after itself, and where it hears the answer.
    fn leave(&mut self) {
        let (answer, later) = oneshot::channel();
        self.watched = false;
        // One who has gone away does not hear it.
        let _ = mem::replace(&mut self.answer, answer).send(Word::Later(later));
    }
}
