//! When a call has to end.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::time::timeout_at;

use crate::error::{Error, Result};

/// The moment that comes this time after another one. More than a month counts as a month, because
/// a moment so far away that the clock cannot hold it would have to be refused.
pub(super) fn after(start: Instant, time: Duration) -> Instant {
    start + time.min(MONTH)
}

const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// When a call has to end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Deadline {
    // No more than this: every call has several of them in its future.
    at: Instant,
    given: Duration,
}

impl Deadline {
    pub(super) fn new(start: Instant, given: Duration) -> Self {
        Deadline {
            at: after(start, given),
            given,
        }
    }

    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// What a call gets that did not end in time.
    pub(super) fn missed(&self) -> Error {
        Error::Timeout { after: self.given }
    }

    pub(super) fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// The work, or the error that says that it took too long. Work that did is dropped.
    pub(super) fn bound<T, F>(&self, work: F) -> impl Future<Output = Result<T>> + use<T, F>
    where
        F: Future<Output = Result<T>>,
    {
        let deadline = *self;
        // Not an async block, which would hold the work twice.
        timeout_at(self.at.into(), work)
            .map(move |ended| ended.unwrap_or_else(|_| Err(deadline.missed())))
    }
}
