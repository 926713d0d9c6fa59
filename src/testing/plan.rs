//! Which call is to meet which fault. Calls are counted here, one at a time.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Operation;
use crate::error::{CommitOutcome, CommitToken, Error, Result};

/// A fault that was set. It stays set when this is dropped.
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # runtime.block_on(async {
/// use motorpool::testing::{Faulty, Operation};
/// use motorpool::{MemoryStore, Store};
///
/// let store = Faulty::new(MemoryStore::new());
/// let hanging = store.hang(Operation::CountUsers, 1);
/// let call = async { store.users().count().await };
/// let test = async {
///     hanging.reached().await;
///     // The call is on its way; whatever is to happen meanwhile goes here.
///     hanging.release();
/// };
/// let (count, ()) = tokio::join!(call, test);
/// assert_eq!(count?, 0);
/// # Ok::<(), motorpool::Error>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Fault {
    signal: Arc<Signal>,
}

impl Fault {
    /// Waits until the fault has met its call. If it comes after the call was made, the store
    /// inside has made it by then. A fault that [`Faulty::heal`](super::Faulty::heal) took away
    /// meets none.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # runtime.block_on(async {
    /// use motorpool::testing::{self, Faulty, Operation};
    /// use motorpool::{MemoryStore, Store};
    ///
    /// let store = Faulty::new(MemoryStore::new());
    /// let fault = store.fail(Operation::CountUsers, 1, testing::refused);
    /// assert!(store.users().count().await.is_err());
    /// fault.reached().await;
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn reached(&self) {
        // Ends by itself never: the sender lives as long as `self`.
        let _ = self.signal.reached.subscribe().wait_for(|yes| *yes).await;
    }

    /// Whether the fault has met its call.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # runtime.block_on(async {
    /// use motorpool::testing::{self, Faulty, Operation};
    /// use motorpool::{MemoryStore, Store};
    ///
    /// let store = Faulty::new(MemoryStore::new());
    /// let fault = store.fail(Operation::CountUsers, 2, testing::refused);
    /// assert!(store.users().count().await.is_ok());
    /// assert!(!fault.has_struck());
    /// assert!(store.users().count().await.is_err());
    /// assert!(fault.has_struck());
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn has_struck(&self) -> bool {
        *self.signal.reached.borrow()
    }

    /// Lets a call that hangs go on: it is made now, or its answer arrives. Before the call has
    /// come, it will not hang. It does nothing to a fault that is an error.
    ///
    /// The [type](Self) has an example.
    pub fn release(&self) {
        self.signal.released.send_replace(true);
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("has_struck", &self.has_struck())
            .finish_non_exhaustive()
    }
}

struct Signal {
    reached: watch::Sender<bool>,
    released: watch::Sender<bool>,
}

/// Makes the error of a fault. `Error` cannot be cloned.
pub(super) type MakeError = Arc<dyn Fn() -> Error + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// The store inside does not see the call.
    Before,
    /// The store inside has made the call, and nobody sees its answer.
    After,
}

pub(super) enum Effect {
    Fail(MakeError),
    Hang,
}

struct Planned {
    operation: Operation,
    /// How many more calls until it is due; 0 when it is.
    left: u64,
    when: When,
    effect: Effect,
    signal: Arc<Signal>,
}

#[derive(Default)]
struct State {
    calls: BTreeMap<Operation, u64>,
    /// In the order in which they were set.
    planned: Vec<Planned>,
    outages: Vec<(Operation, MakeError)>,
    /// The calls that hang, or did.
    hanging: Vec<Arc<Signal>>,
    /// How the commits ended whose answers said that nobody knows.
    outcomes: HashMap<CommitToken, CommitOutcome>,
}

/// The faults that are set, and how often which call was made.
#[derive(Default)]
pub(super) struct Plan(Mutex<State>);

/// What one call meets on its way, if anything.
pub(super) struct Strike(Option<(When, Effect, Arc<Signal>)>);

impl Plan {
    /// Nothing panics while it holds this lock, so poison would mean nothing.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, operation: Operation, nth: u64, when: When, effect: Effect) -> Fault {
        let signal = Arc::new(Signal::new());
        self.state().planned.push(Planned {
            operation,
            left: nth.max(1),
            when,
            effect,
            signal: Arc::clone(&signal),
        });
        Fault { signal }
    }

    pub(super) fn set_outage(&self, operation: Operation, error: MakeError) {
        self.state().outages.push((operation, error));
    }

    pub(super) fn heal(&self) {
        let state = &mut *self.state();
        state.planned.clear();
        state.outages.clear();
        for signal in state.hanging.drain(..) {
            signal.released.send_replace(true);
        }
    }

    pub(super) fn calls(&self, operation: Operation) -> u64 {
        self.state().calls.get(&operation).copied().unwrap_or(0)
    }

    /// Remembers how a commit ended that met this error.
    pub(super) fn remember(&self, error: &Error, outcome: CommitOutcome) {
        if let Error::CommitUnknown { token } = error {
            self.state().outcomes.insert(token.clone(), outcome);
        }
    }

    /// How the last commit with this token ended.
    pub(super) fn outcome(&self, token: &CommitToken) -> Option<CommitOutcome> {
        self.state().outcomes.get(token).copied()
    }

    /// Counts a call, and says what it is to meet.
    pub(super) fn next(&self, operation: Operation) -> Strike {
        let state = &mut *self.state();
        for counted in [operation, Operation::Any] {
            *state.calls.entry(counted).or_default() += 1;
        }
        let mut due = None;
        for (place, fault) in state.planned.iter_mut().enumerate() {
            if covers(fault.operation, operation) {
                fault.left = fault.left.saturating_sub(1);
                if fault.left == 0 && due.is_none() {
                    due = Some(place);
                }
            }
        }
        if let Some(place) = due {
            let fault = state.planned.remove(place);
            if matches!(fault.effect, Effect::Hang) {
                state.hanging.push(Arc::clone(&fault.signal));
            }
            return Strike(Some((fault.when, fault.effect, fault.signal)));
        }
        let mut outages = state.outages.iter();
        let outage = outages.find(|(of, _)| covers(*of, operation));
        Strike(outage.map(|(_, error)| {
            let effect = Effect::Fail(Arc::clone(error));
            (When::Before, effect, Arc::new(Signal::new()))
        }))
    }
}

fn covers(faulty: Operation, called: Operation) -> bool {
    faulty == Operation::Any || faulty == called
}

impl Signal {
    fn new() -> Self {
        Signal {
            reached: watch::Sender::new(false),
            released: watch::Sender::new(false),
        }
    }
}

impl Strike {
    /// What happens before or after the store inside makes the call.
    pub(super) async fn strike(&self, now: When) -> Result<()> {
        let Some((when, effect, signal)) = &self.0 else {
            return Ok(());
        };
        if *when != now {
            return Ok(());
        }
        signal.reached.send_replace(true);
        match effect {
            Effect::Fail(error) => Err(error()),
            Effect::Hang => {
                // The sender lives as long as `self`.
                let _ = signal.released.subscribe().wait_for(|yes| *yes).await;
                Ok(())
            }
        }
    }
}
