//! How a transaction is run.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// How much of other transactions a transaction sees, by the names of the SQL standard. The
/// default is [`ReadCommitted`](IsolationLevel::ReadCommitted).
///
/// ```
/// use motorpool::{IsolationLevel, TxOptions};
///
/// let options = TxOptions::new().isolation(IsolationLevel::Serializable);
/// assert_eq!(options.isolation_level(), IsolationLevel::Serializable);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IsolationLevel {
    /// Each statement sees what was committed when it began.
    #[default]
    ReadCommitted,
    /// The whole transaction sees what was committed when its first statement began. A write to
    /// what another one has changed since is a [`Conflict`](crate::Error::Conflict).
    RepeatableRead,
    /// As if transactions ran one after the other. What cannot be fitted into such an order is a
    /// [`Conflict`](crate::Error::Conflict).
    Serializable,
}

/// How a transaction is run.
///
/// ```
/// use std::time::Duration;
/// use motorpool::{IsolationLevel, TxOptions};
///
/// let report = TxOptions::new()
///     .isolation(IsolationLevel::Serializable)
///     .read_only(true)
///     .deferrable(true);
/// assert!(report.is_read_only() && report.is_deferrable());
/// let patient = TxOptions::new().attempts(10).backoff(Duration::from_millis(50));
/// assert_eq!(patient.isolation_level(), IsolationLevel::ReadCommitted);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TxOptions {
    isolation: IsolationLevel,
    read_only: bool,
    deferrable: bool,
    attempts: u32,
    backoff: Duration,
}

impl Default for TxOptions {
    fn default() -> Self {
        TxOptions {
            isolation: IsolationLevel::default(),
            read_only: false,
            deferrable: false,
            attempts: 3,
            backoff: Duration::from_millis(10),
        }
    }
}

impl TxOptions {
    /// Read committed, read and write, three attempts.
    pub fn new() -> Self {
        TxOptions::default()
    }

    /// Sets what the transaction sees of others. Default: [`IsolationLevel::ReadCommitted`].
    pub fn isolation(mut self, level: IsolationLevel) -> Self {
        self.isolation = level;
        self
    }

    /// Refuses writes in the transaction. Default: `false`.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Waits at the start for a snapshot that cannot conflict. It has a meaning only for a
    /// transaction that is serializable and read only. Default: `false`.
    pub fn deferrable(mut self, deferrable: bool) -> Self {
        self.deferrable = deferrable;
        self
    }

    /// How often [`StoreExt::transaction_with`](crate::StoreExt::transaction_with) runs the closure at most, when it gives way to
    /// other transactions. 0 counts as 1. Default: 3.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// The pause before the second attempt; it doubles with each further one, up to 1 s, and each
    /// pause is a random part of that. Default: 10 ms.
    pub fn backoff(mut self, pause: Duration) -> Self {
        self.backoff = pause;
        self
    }

    /// What the transaction sees of others.
    pub fn isolation_level(&self) -> IsolationLevel {
        self.isolation
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether it waits for a snapshot that cannot conflict.
    pub fn is_deferrable(&self) -> bool {
        self.deferrable
    }

    /// How long to wait after this attempt, counted from 1. `None`: it was the last one.
    pub(super) fn pause_after(&self, attempt: u32) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let doubled = 2_u32.saturating_pow(attempt - 1);
        let longest = self.backoff.saturating_mul(doubled).min(MAX_PAUSE);
        // Two that collided must not collide again after the same pause. The standard library's
        // hash keys are random, which is random enough for that.
        let random = RandomState::new().hash_one(attempt) as f64 / u64::MAX as f64;
        Some(longest.mul_f64(random))
    }
}

/// The longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(1);
