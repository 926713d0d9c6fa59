//! For tests of a host (feature `memory`): a store that fails where the test wants it to.
//!
//! [`Faulty`] goes around any [`Store`], usually a [`MemoryStore`](crate::MemoryStore), and is one
//! itself. What hosts get wrong is the call that was made and whose answer was lost:
//!
//! ```
//! # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! # runtime.block_on(async {
//! use motorpool::testing::{self, Faulty, Operation};
//! use motorpool::{Car, Error, MemoryStore, NewCar, NewUser, PurchaseKey, Result, Store};
//!
//! /// The host: tries again, which the key allows.
//! async fn purchase(store: &dyn Store, new: &NewCar) -> Result<Car> {
//!     match store.cars().buy(new).await {
//!         Err(Error::Timeout { .. }) => store.cars().buy(new).await,
//!         answer => answer,
//!     }
//! }
//!
//! let store = Faulty::new(MemoryStore::new());
//! // Past the faults and the counts.
//! let ada = store.store().users().register(&NewUser::new("Ada")?).await?.into_user();
//! let key: PurchaseKey = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse()?;
//! let golf = NewCar::new("Golf", ada.id)?.key(key);
//!
//! store.lose_answer(Operation::Buy, 1, testing::timeout);
//! let bought = purchase(&store, &golf).await?;
//! assert_eq!(store.calls(Operation::Buy), 2);
//! assert_eq!(store.store().cars().owned_by(ada.id).await?, [bought]);
//! # Ok::<(), Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | what happens | set by |
//! |---|---|
//! | the n-th call fails and was not made | [`fail`](Faulty::fail) |
//! | the n-th call was made and fails: its answer is lost | [`lose_answer`](Faulty::lose_answer) |
//! | the n-th call hangs and was not made | [`hang`](Faulty::hang) |
//! | the n-th call was made and hangs | [`hang_answer`](Faulty::hang_answer) |
//! | every call fails, until [`heal`](Faulty::heal) | [`fail_all`](Faulty::fail_all) |
//!
//! # Errors
//! Any [`Error`] can be handed in, as a function that makes it. [`timeout`], [`connection_lost`],
//! [`refused`], [`pool_exhausted`], [`conflict`] and [`commit_unknown`] are such functions.
//!
//! A fault does not look at whether its error makes sense there. After a call whose answer is lost
//! a real store gives [`timeout`] or [`connection_lost`], and after a commit [`commit_unknown`].
//!
//! # Which call
//! Calls are counted in the order in which they begin. `nth` counts from the moment at which the
//! fault is set: 1, or 0, is the next call. Each of these faults meets one call; of several that
//! are due at one call the one that was set first meets it, and the others meet the next ones. They
//! come before what [`fail_all`](Faulty::fail_all) set.
//!
//! # In a transaction
//! Its calls, savepoints, commit and rollback are counted and fail like any other. An error of the
//! connection or the server, or a call that was dropped while it hung, fails the transaction: what
//! comes after is [`RolledBack`](Error::RolledBack), the commit too. A savepoint contains an error
//! of the server and a [`timeout`], but neither a connection that was [lost](connection_lost) nor a
//! call that was dropped.
//! A [`conflict`] makes [`StoreExt::transaction`](crate::StoreExt::transaction) run its closure
//! again. A commit that fails and was not made rolls back. After a [`commit_unknown`]
//! [`commit_outcome`](crate::Store::commit_outcome) tells which of the two it was.
//!
//! # Streams
//! The answer of a stream is all its items. One that fails gives the error in place of the first
//! item; one whose answer is lost gives all items, and the error in place of the end.

mod errors;
mod operation;
mod plan;
mod repos;
mod tx;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::{CommitOutcome, CommitToken, Error, Result};
use crate::repo::{CarRepo, UserRepo};
use crate::store::{Store, Tx, TxOptions};
use plan::{Effect, Plan, Strike, When};
use repos::{Repos, Way};

pub use errors::{commit_unknown, conflict, connection_lost, pool_exhausted, refused, timeout};
pub use operation::Operation;
pub use plan::Fault;

/// A store that passes every call on to another one, unless it was told to fail. Clones share the
/// store inside, the faults and the counts.
///
/// [The module](self) says what holds for every fault.
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # runtime.block_on(async {
/// use motorpool::testing::{self, Faulty, Operation};
/// use motorpool::{MemoryStore, NewUser, Store};
///
/// let store = Faulty::new(MemoryStore::new());
/// store.fail(Operation::Register, 2, testing::pool_exhausted);
/// let ada = NewUser::new("Ada")?;
/// assert!(store.users().register(&ada).await.is_ok());
/// assert!(store.users().register(&ada).await.is_err());
/// assert!(store.users().register(&ada).await.is_ok());
/// # Ok::<(), motorpool::Error>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Faulty<S> {
    repos: Repos<Direct<S>>,
}

/// Calls outside transactions.
struct Direct<S> {
    store: Arc<S>,
    plan: Arc<Plan>,
}

impl<S> Faulty<S> {
    fn plan(&self) -> &Plan {
        &self.repos.0.plan
    }

    /// The store inside: what is done there meets no fault and is not counted.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # runtime.block_on(async {
    /// use motorpool::testing::{self, Faulty, Operation};
    /// use motorpool::{MemoryStore, Store};
    ///
    /// let store = Faulty::new(MemoryStore::new());
    /// store.fail_all(Operation::Any, testing::refused);
    /// assert_eq!(store.store().users().count().await?, 0);
    /// assert_eq!(store.calls(Operation::Any), 0);
    /// # Ok::<(), motorpool::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn store(&self) -> &S {
        &self.repos.0.store
    }

    /// How often this operation was called, those calls included that met a fault.
    /// [`Operation::Any`]: how many calls there were together.
    ///
    /// [`Operation`] has an example.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.plan().calls(operation)
    }

    /// The n-th call from now on fails before it reaches the store inside.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # runtime.block_on(async {
    /// use motorpool::testing::{self, Faulty, Operation};
    /// use motorpool::{MemoryStore, NewUser, Store};
    ///
    /// let store = Faulty::new(MemoryStore::new());
    /// store.fail(Operation::Register, 1, testing::refused);
    /// let refused = store.users().register(&NewUser::new("Ada")?).await;
    /// assert!(refused.is_err_and(|error| error.is_retryable()));
    /// assert_eq!(store.users().count().await?, 0);
    /// # Ok::<(), motorpool::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fail(
        &self,
        operation: Operation,
        nth: u64,
        error: impl Fn() -> Error + Send + Sync + 'static,
    ) -> Fault {
        let effect = Effect::Fail(Arc::new(error));
        self.plan().set(operation, nth, When::Before, effect)
    }

    /// The n-th call from now on is made, and then fails whatever its answer was.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # runtime.block_on(async {
    /// use motorpool::testing::{self, Faulty, Operation};
    /// use motorpool::{Error, MemoryStore, NewUser, Store, TxOptions};
    ///
    /// let store = Faulty::new(MemoryStore::new());
    /// store.lose_answer(Operation::Commit, 1, testing::commit_unknown);
    /// let tx = store.begin(TxOptions::new()).await?;
    /// tx.users().register(&NewUser::new("Ada")?).await?;
    /// assert!(matches!(tx.commit().await, Err(Error::CommitUnknown { .. })));
    /// assert_eq!(store.users().count().await?, 1);
    /// # Ok::<(), Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lose_answer(
        &self,
        operation: Operation,
        nth: u64,
        error: impl Fn() -> Error + Send + Sync + 'static,
    ) -> Fault {
        let effect = Effect::Fail(Arc::new(error));
        self.plan().set(operation, nth, When::After, effect)
    }

    /// The n-th call from now on hangs before it reaches the store inside, until it is
    /// [released](Fault::release) or dropped. Dropped, it is never made.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    /// # runtime.block_on(async {
    /// use std::time::Duration;
    ///
    /// use motorpool::testing::{Faulty, Operation};
    /// use motorpool::{MemoryStore, NewUser, Store};
    ///
    /// let store = Faulty::new(MemoryStore::new());
    /// store.hang(Operation::Register, 1);
    /// let ada = NewUser::new("Ada")?;
    /// let limit = Duration::from_millis(1);
    /// let late = tokio::time::timeout(limit, store.users().register(&ada)).await;
    /// assert!(late.is_err());
    /// assert_eq!(store.users().count().await?, 0);
    /// # Ok::<(), motorpool::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn hang(&self, operation: Operation, nth: u64) -> Fault {
        self.plan().set(operation, nth, When::Before, Effect::Hang)
    }

    /// The n-th call from now on is made, and its answer hangs until it is
    /// [released](Fault::release) or the call is dropped.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    /// # runtime.block_on(async {
    /// use std::time::Duration;
    ///
    /// use motorpool::testing::{Faulty, Operation};
    /// use motorpool::{MemoryStore, NewUser, Store};
    ///
    /// let store = Faulty::new(MemoryStore::new());
    /// store.hang_answer(Operation::Register, 1);
    /// let ada = NewUser::new("Ada")?;
    /// let limit = Duration::from_millis(1);
    /// let late = tokio::time::timeout(limit, store.users().register(&ada)).await;
    /// assert!(late.is_err());
    /// assert_eq!(store.users().count().await?, 1);
    /// # Ok::<(), motorpool::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn hang_answer(&self, operation: Operation, nth: u64) -> Fault {
        self.plan().set(operation, nth, When::After, Effect::Hang)
    }

    /// Every call from now on fails before it reaches the store inside, until
    /// [`heal`](Self::heal).
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # runtime.block_on(async {
    /// use motorpool::testing::{self, Faulty, Operation};
    /// use motorpool::{MemoryStore, Store};
    ///
    /// let store = Faulty::new(MemoryStore::new());
    /// store.fail_all(Operation::Any, testing::refused);
    /// for _ in 0..3 {
    ///     assert!(store.users().count().await.is_err());
    /// }
    /// store.heal();
    /// assert!(store.users().count().await.is_ok());
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn fail_all(
        &self,
        operation: Operation,
        error: impl Fn() -> Error + Send + Sync + 'static,
    ) {
        self.plan().set_outage(operation, Arc::new(error));
    }

    /// Takes away every fault that is set, and lets the calls that hang go on. The counts of
    /// [`calls`](Self::calls) stay.
    ///
    /// [`fail_all`](Self::fail_all) has an example.
    pub fn heal(&self) {
        self.plan().heal();
    }
}

impl<S: Store> Faulty<S> {
    /// A store around another one, with no fault set.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use motorpool::testing::Faulty;
    /// use motorpool::{MemoryStore, Store};
    ///
    /// let store = Faulty::new(MemoryStore::new());
    /// // Any other one as well.
    /// let shared: Arc<dyn Store> = Arc::new(MemoryStore::new());
    /// let also = Faulty::new(shared);
    /// ```
    pub fn new(store: S) -> Self {
        Faulty {
            repos: Repos(Direct {
                store: Arc::new(store),
                plan: Arc::default(),
            }),
        }
    }
}

// Not derived: the store inside need not be `Clone`.
impl<S> Clone for Faulty<S> {
    fn clone(&self) -> Self {
        let Direct { store, plan } = &self.repos.0;
        Faulty {
            repos: Repos(Direct {
                store: Arc::clone(store),
                plan: Arc::clone(plan),
            }),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Faulty<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty")
            .field("store", self.store())
            .finish_non_exhaustive()
    }
}

impl<S: Store> Way for Direct<S> {
    fn inner_users(&self) -> &dyn UserRepo {
        self.store.users()
    }

    fn inner_cars(&self) -> &dyn CarRepo {
        self.store.cars()
    }

    fn plan(&self) -> &Plan {
        &self.plan
    }

    async fn strike(&self, strike: &Strike, now: When) -> Result<()> {
        strike.strike(now).await
    }

    fn statement(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl<S: Store> Store for Faulty<S> {
    fn users(&self) -> &dyn UserRepo {
        &self.repos
    }

    fn cars(&self) -> &dyn CarRepo {
        &self.repos
    }

    async fn begin(&self, options: TxOptions) -> Result<Tx> {
        let Direct { store, plan } = &self.repos.0;
        let begin = || store.begin(options);
        let tx = repos::call(&self.repos.0, Operation::Begin, begin).await?;
        Ok(Tx::new(tx::FaultyTx::new(tx, Arc::clone(plan))))
    }

    async fn commit_outcome(&self, token: &CommitToken) -> Result<CommitOutcome> {
        let Direct { store, plan } = &self.repos.0;
        let ask = || async {
            match plan.outcome(token) {
                Some(outcome) => Ok(outcome),
                None => store.commit_outcome(token).await,
            }
        };
        repos::call(&self.repos.0, Operation::CommitOutcome, ask).await
    }
}
