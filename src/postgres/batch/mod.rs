//! Natural batching: calls that would wait for each other anyway go to the server together.
//!
//! A lane is the right to have one statement of a kind under way. As long as a lane is free, a call
//! takes it and goes alone, by the same way as without batching. When all are taken, calls wait;
//! as soon as one comes free, all that wait go out on it as one statement, and each gets its own
//! answer. There is no timer: nobody waits for others to come, and batches grow only while the
//! database is busy. (The idea is that of group commit.)
//!
//! What a call can rely on, batched or not:
//!
//! - It is sent after it was made, so it sees everything that was acknowledged before.
//! - A batch in which anything goes wrong before it is stored is forgotten, and each of its calls
//!   goes alone. Its errors, its limits and its end are its own.
//! - Whoever goes away is left out of a batch that has not been sent. One that nobody waits for
//!   any more is cancelled.
//! - Should all lanes be stuck (behind a lock, say), a call that has waited for [`PATIENCE`], or
//!   half as long again, opens another one.
//!
//! A lane holds no connection: each statement takes one from the pool and gives it back.

mod cars;
mod keys;
mod lanes;
mod place;
mod run;
mod users;
mod watch;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use self::cars::{Buy, BuyWithKey, CarById, OwnedBy};
use self::lanes::Lanes;
use self::users::{Register, UserById, UserByName};
use super::lease::Lease;
use super::shared::Shared;
use crate::error::Result;

/// Whether calls that wait go to the server together. Set by
/// [`PgStoreBuilder::batching`](crate::PgStoreBuilder::batching).
///
/// It concerns `get`, `get_by_username` and `register` of [`UserRepo`](crate::UserRepo), and `get`,
/// `owned_by` and `buy` of [`CarRepo`](crate::CarRepo), outside transactions. Each of these six has
/// lanes of its own (purchases with a key and without one are two kinds), so that a purchase that
/// waits for a lock holds up no look-up.
///
/// ```no_run
/// use motorpool::{Batching, PgStore};
///
/// # async fn example() -> motorpool::Result<()> {
/// let builder = PgStore::builder("postgresql://app@localhost/garage")?;
/// let store = builder.batching(Batching::Off).build().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Batching {
    /// Every call is a statement of its own.
    Off,
    /// Calls that find all lanes of their kind busy wait for each other and go out together.
    On {
        /// How many statements of one kind are under way at once: this many look-ups, and half as
        /// many (rounded up) registrations or purchases, which get on faster in larger batches.
        /// Each takes a connection of the pool while it runs. 0 counts as 1. Default: 4.
        lanes: usize,
        /// How many calls go out together at most. 0 counts as 1, more than 1000 as 1000.
        /// Default: 256.
        max_batch: usize,
    },
}

impl Default for Batching {
    fn default() -> Self {
        Batching::On {
            lanes: 4,
            max_batch: 256,
        }
    }
}

/// How long a call waits for a lane while those that have one do not get on. Far longer than a
/// statement takes that nothing is in the way of.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long a batch waits for a lock before its calls go alone, in milliseconds, as the server
/// takes it: one of them may wait for long, and the others should not wait with it.
const LOCK_PATIENCE: &str = "50";

/// A kind of call, and how many of them are run as one statement.
pub(super) trait Kind: Sized + Send + Sync + 'static {
    /// What a call asks for.
    type Call: Send + Sync + 'static;
    type Answer: Send + 'static;

    /// Whether the statement can change rows, so that it must not be sent twice unless it is
    /// certain that nothing was stored.
    const WRITES: bool;

    /// The answers in the order of the calls. `None`: this call has to go alone.
    fn run(
        lease: &mut Lease,
        calls: Vec<Self::Call>,
    ) -> impl Future<Output = Result<Vec<Option<Self::Answer>>>> + Send;
}

/// The lanes of all kinds of one store.
pub(super) struct Batches {
    pub(super) user_by_id: Arc<Lanes<UserById>>,
    pub(super) user_by_name: Arc<Lanes<UserByName>>,
    pub(super) register: Arc<Lanes<Register>>,
    pub(super) car_by_id: Arc<Lanes<CarById>>,
    pub(super) owned_by: Arc<Lanes<OwnedBy>>,
    pub(super) buy: Arc<Lanes<Buy>>,
    pub(super) buy_with_key: Arc<Lanes<BuyWithKey>>,
    limits: (usize, usize),
    sent: Arc<Sent>,
}

/// What went out together.
#[derive(Default)]
struct Sent {
    batches: AtomicU64,
    calls: AtomicU64,
}

impl Sent {
    fn count(&self, calls: usize) {
        self.batches.fetch_add(1, Relaxed);
        self.calls.fetch_add(calls as u64, Relaxed);
    }
}

/// The lanes of one kind. Statements that write wait for each other in the server (the log, the last
/// page of an index), so fewer and larger ones store more.
fn lanes<K: Kind>(
    (lanes, max_batch): (usize, usize),
    shared: &Arc<Shared>,
    sent: &Arc<Sent>,
) -> Arc<Lanes<K>> {
    let lanes = match K::WRITES {
        true => lanes.div_ceil(2),
        false => lanes,
    };
    Lanes::new((lanes, max_batch), shared, sent)
}

/// How many calls of a store went to the server together, since its start. Part of
/// [`PoolStatus`](crate::PoolStatus).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Batched {
    /// How many statements carried them.
    pub statements: u64,
    /// How many calls there were. Those that went alone are not counted.
    pub calls: u64,
}

impl Batches {
    /// `None` if calls are not to be batched. `shared`: where the batches are run.
    pub(super) fn new(batching: Batching, shared: &Shared) -> Option<Arc<Self>> {
        let Batching::On { lanes, max_batch } = batching else {
            return None;
        };
        // More lanes than connections would be of no use.
        let most = shared.pool.status().max_size.max(1);
        let limits = (lanes.clamp(1, most), max_batch.clamp(1, 1000));
        Some(Self::build(limits, Arc::default(), shared))
    }

    /// Lanes like these whose batches are run elsewhere. They are counted together.
    pub(super) fn over(&self, shared: &Shared) -> Arc<Self> {
        Self::build(self.limits, Arc::clone(&self.sent), shared)
    }

    fn build(limits: (usize, usize), sent: Arc<Sent>, shared: &Shared) -> Arc<Self> {
        let shared = Arc::new(shared.clone());
        Arc::new(Batches {
            user_by_id: lanes(limits, &shared, &sent),
            user_by_name: lanes(limits, &shared, &sent),
            register: lanes(limits, &shared, &sent),
            car_by_id: lanes(limits, &shared, &sent),
            owned_by: lanes(limits, &shared, &sent),
            buy: lanes(limits, &shared, &sent),
            buy_with_key: lanes(limits, &shared, &sent),
            limits,
            sent,
        })
    }

    /// How many calls wait for a lane.
    pub(super) fn waiting(&self) -> usize {
        self.user_by_id.waiting()
            + self.user_by_name.waiting()
            + self.register.waiting()
            + self.car_by_id.waiting()
            + self.owned_by.waiting()
            + self.buy.waiting()
            + self.buy_with_key.waiting()
    }

    pub(super) fn sent(&self) -> Batched {
        Batched {
            statements: self.sent.batches.load(Relaxed),
            calls: self.sent.calls.load(Relaxed),
        }
    }
}
