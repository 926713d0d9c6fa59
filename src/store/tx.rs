//! The transaction that a store hands out.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::{Error, Result};
use crate::repo::{CarRepo, UserRepo};

/// A transaction of a store: what a backend implements so that [`Tx`] can hand it out.
///
/// When it is dropped without [`commit`](Self::commit) or [`rollback`](Self::rollback), it rolls
/// back. After either of them, every call gives [`Error::TransactionClosed`].
///
/// A savepoint is named by a number that no other one of the transaction has had. The one that a call
/// names is the innermost, unless savepoints inside it were dropped unfinished; then those count as
/// failed. One that has ended, also because one around it has, is [`Error::TransactionClosed`].
#[async_trait]
pub trait Transaction: Send + Sync {
    /// The users as the transaction sees them.
    fn users(&self) -> &dyn UserRepo;

    /// The cars as the transaction sees them.
    fn cars(&self) -> &dyn CarRepo;

    /// Makes everything in the transaction durable and visible, or fails and leaves nothing. Fails
    /// when anything in the transaction failed, or a savepoint in it is unfinished.
    async fn commit(&self) -> Result<()>;

    /// Undoes everything in the transaction.
    async fn rollback(&self) -> Result<()>;

    /// Opens a savepoint inside the innermost one and returns its number.
    async fn savepoint(&self) -> Result<u32>;

    /// Keeps what was done since the savepoint. Fails when anything since then failed.
    async fn release(&self, savepoint: u32) -> Result<()>;

    /// Undoes what was done since the savepoint, failures included, and ends it.
    async fn rollback_to(&self, savepoint: u32) -> Result<()>;

    /// Whether the last statement that ran in it, or its commit, gave way to another transaction
    /// ([`Conflict`](Error::Conflict)), so that running the whole of it again may succeed.
    fn gave_way(&self) -> bool;
}

/// The handle of a transaction. It is owned and can be cloned into the futures that work in it;
/// they share one transaction and one connection, and their statements run one after the other.
///
/// Dropped with all its clones and unfinished, the transaction is rolled back. A future that works
/// in the transaction has to be polled or dropped: one that is kept halfway through a statement
/// lets the others wait until their time is over.
///
/// ```
/// # #[cfg(feature = "memory")] {
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// use motorpool::{MemoryStore, NewCar, NewUser, Store, TxOptions};
///
/// let store = MemoryStore::new();
/// let tx = store.begin(TxOptions::new()).await?;
/// let ada = tx.users().register(&NewUser::new("Ada")?).await?.into_user();
/// tx.cars().buy(&NewCar::new("Golf", ada.id)?).await?;
/// assert_eq!(store.users().count().await?, 0);
/// tx.commit().await?;
/// assert_eq!(store.cars().owned_by(ada.id).await?.len(), 1);
///
/// let tx = store.begin(TxOptions::new()).await?;
/// tx.users().register(&NewUser::new("Grace")?).await?;
/// tx.rollback().await?;
/// assert_eq!(store.users().count().await?, 1);
/// # Ok::<(), motorpool::Error>(())
/// # })?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Tx {
    pub(super) inner: Arc<dyn Transaction>,
}

impl Tx {
    /// Makes a handle of a backend's transaction.
    pub fn new(transaction: impl Transaction + 'static) -> Self {
        Tx {
            inner: Arc::new(transaction),
        }
    }

    /// What the store handed in, with its savepoints by number: for a store that wraps another one.
    /// A host has no use for it.
    pub fn as_transaction(&self) -> &dyn Transaction {
        &*self.inner
    }

    /// The users as the transaction sees them.
    pub fn users(&self) -> &dyn UserRepo {
        self.inner.users()
    }

    /// The cars as the transaction sees them.
    pub fn cars(&self) -> &dyn CarRepo {
        self.inner.cars()
    }

    /// Commits. Clones of the handle are closed by it. One round trip, none if nothing was done.
    ///
    /// `Ok` means that everything in the transaction is stored.
    ///
    /// ```
    /// # async fn example(tx: motorpool::Tx) -> motorpool::Result<()> {
    /// use motorpool::Error;
    ///
    /// match tx.commit().await {
    ///     Ok(()) => println!("stored"),
    ///     Err(Error::RolledBack(failure)) => println!("nothing is stored, because {failure}"),
    ///     Err(Error::CommitUnknown { token }) => println!("to be asked later: {token}"),
    ///     Err(other) => return Err(other),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`RolledBack`](Error::RolledBack), with the first failure, if anything in the transaction
    /// failed, also when the caller went on after it; [`Conflict`](Error::Conflict) if it gave way
    /// at the commit itself; [`CommitUnknown`](Error::CommitUnknown) if the connection or the time
    /// was lost before the answer; [`Timeout`](Error::Timeout) if a statement of a clone went on
    /// for all of the time, after which the transaction is still open; [`TransactionClosed`](Error::TransactionClosed) if it has ended already.
    pub async fn commit(self) -> Result<()> {
        self.inner.commit().await
    }

    /// Rolls back. Clones of the handle are closed by it. One round trip, none if nothing was done.
    ///
    /// # Errors
    /// [`TransactionClosed`](Error::TransactionClosed) if it has ended already.
    pub async fn rollback(self) -> Result<()> {
        self.inner.rollback().await
    }

    /// Runs the closure in a savepoint: what it did is kept when it returns `Ok`, and undone when
    /// it returns `Err` or when a statement in it failed. Either way the transaction itself goes
    /// on. Savepoints can be nested. Two round trips, the closure's own apart; three where nothing
    /// was done in the transaction before.
    ///
    /// A savepoint covers everything that is done in the transaction while it is open, by clones
    /// of the handle too. One that is dropped unfinished counts as a failure of what is around
    /// it: the savepoint around it is undone, or the transaction. So are two of different clones
    /// of which the first ends before the second, which was opened inside it; what is done in the
    /// second one after that is in no savepoint any more.
    ///
    /// ```
    /// # #[cfg(feature = "memory")] {
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    /// # runtime.block_on(async {
    /// use motorpool::{Error, MemoryStore, NewUser, Store, TxOptions};
    ///
    /// let store = MemoryStore::new();
    /// let tx = store.begin(TxOptions::new()).await?;
    /// tx.users().register(&NewUser::new("Ada")?).await?;
    /// let undone: Result<(), Error> = tx
    ///     .savepoint(|tx| async move {
    ///         tx.users().register(&NewUser::new("Bob")?).await?;
    ///         Err(Error::UsernameTaken)
    ///     })
    ///     .await;
    /// assert!(undone.is_err());
    /// tx.commit().await?;
    /// assert_eq!(store.users().count().await?, 1);
    /// # Ok::<(), Error>(())
    /// # })?;
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// What the closure returned; [`RolledBack`](Error::RolledBack) when it returned `Ok` though
    /// something in it had failed; [`TransactionClosed`](Error::TransactionClosed) when the
    /// transaction, or a savepoint around this one, has ended meanwhile.
    pub async fn savepoint<T, E, F, Fut>(&self, f: F) -> Result<T, E>
    where
        F: FnOnce(Tx) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let savepoint = self.inner.savepoint().await?;
        let undo = match f(self.clone()).await {
            Ok(value) => match self.inner.release(savepoint).await {
                Ok(()) => return Ok(value),
                Err(error) => E::from(error),
            },
            Err(error) => error,
        };
        // If this fails, so does everything after it, up to the commit.
        let _ = self.inner.rollback_to(savepoint).await;
        Err(undo)
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}
