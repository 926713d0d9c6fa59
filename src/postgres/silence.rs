//! Which hosts let somebody wait in vain a moment ago. They are asked after the others, so that not
//! every new connection pays for them.

use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For how long it is remembered that a host said nothing.
const MEMORY: Duration = Duration::from_secs(30);

/// Who waited for less than this, and less than the host's share, says nothing about the host.
const ENOUGH: Duration = Duration::from_millis(250);

/// The silence of one host.
#[derive(Default)]
pub(super) struct Silence {
    /// When it was noticed last; `None` since the host has answered.
    noticed: Mutex<Option<Instant>>,
    /// Somebody waits for the host although it was silent.
    awaited: AtomicBool,
}

/// A question to a host. Dropped before [`answered`](Self::answered), it was in vain.
pub(super) struct Question<'a> {
    silence: &'a Silence,
    started: Instant,
    enough: Duration,
    answered: bool,
    /// The host was silent before.
    again: bool,
    /// This is the one that finds out whether it still is.
    first: bool,
}

impl Silence {
    pub(super) fn is_recent(&self) -> bool {
        self.noticed().is_some_and(|then| then.elapsed() < MEMORY)
    }

    /// Begins to ask a host that has this share of the time.
    pub(super) fn ask(&self, share: Duration) -> Question<'_> {
        let again = self.is_recent();
        Question {
            silence: self,
            started: Instant::now(),
            enough: share.min(ENOUGH),
            answered: false,
            again,
            first: again && !self.awaited.swap(true, AcqRel),
        }
    }

    fn noticed(&self) -> MutexGuard<'_, Option<Instant>> {
        self.noticed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question<'_> {
    /// Whether the host was silent a moment ago.
    pub(super) fn is_repeated(&self) -> bool {
        self.again
    }

    /// The same question, unless the host was silent a moment ago and somebody else is finding out.
    pub(super) fn unless_asked(mut self) -> Option<Self> {
        if self.again && !self.first {
            // Nothing was asked.
            self.answered = true;
            return None;
        }
        Some(self)
    }

    /// The host has answered, whatever the answer is.
    pub(super) fn answered(mut self) {
        self.answered = true;
        *self.silence.noticed() = None;
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        if self.first {
            self.silence.awaited.store(false, Release);
        }
        if !self.answered && self.started.elapsed() >= self.enough {
            *self.silence.noticed() = Some(Instant::now());
        }
    }
}
