//! A store hands out the repositories and makes transactions over both of them.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::{Error, Result};
use crate::repo::{CarRepo, UserRepo};

/// Both repositories, and transactions over them. A host can hold one as `Arc<dyn Store>` and run
/// on Postgres or in memory.
#[async_trait]
pub trait Store: Send + Sync {
    /// The users, each call in a transaction of its own.
    fn users(&self) -> &dyn UserRepo;

    /// The cars, each call in a transaction of its own.
    fn cars(&self) -> &dyn CarRepo;

    /// Begins a transaction: one round trip, and a connection of the pool until the transaction
    /// ends. [`StoreExt::transaction`] is the form that cannot be left open and tries again.
    async fn begin(&self, options: TxOptions) -> Result<Tx>;
}

#[async_trait]
impl<S: Store + ?Sized> Store for Arc<S> {
    fn users(&self) -> &dyn UserRepo {
        (**self).users()
    }

    fn cars(&self) -> &dyn CarRepo {
        (**self).cars()
    }

    async fn begin(&self, options: TxOptions) -> Result<Tx> {
        (**self).begin(options).await
    }
}

/// How much of other transactions a transaction sees, by the names of the SQL standard. The
/// default is [`ReadCommitted`](IsolationLevel::ReadCommitted).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IsolationLevel {
    /// Each statement sees what was committed when it began.
    #[default]
    ReadCommitted,
    /// The whole transaction sees what was committed when its first statement began. A write to
    /// what another one has changed since is a [`Conflict`](Error::Conflict).
    RepeatableRead,
    /// As if transactions ran one after the other. What cannot be fitted into such an order is a
    /// [`Conflict`](Error::Conflict).
    Serializable,
}

/// How a transaction is run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct TxOptions {
    isolation: IsolationLevel,
    read_only: bool,
}

impl TxOptions {
    /// Read committed, read and write.
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

    /// What the transaction sees of others.
    pub fn isolation_level(&self) -> IsolationLevel {
        self.isolation
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }
}

/// A transaction of a store: what a backend implements so that [`Tx`] can hand it out.
///
/// When it is dropped without [`commit`](Self::commit) or [`rollback`](Self::rollback), it rolls
/// back. After either of them, every call gives [`Error::TransactionClosed`].
#[async_trait]
pub trait Transaction: Send + Sync {
    /// The users as the transaction sees them.
    fn users(&self) -> &dyn UserRepo;

    /// The cars as the transaction sees them.
    fn cars(&self) -> &dyn CarRepo;

    /// Makes everything in the transaction durable and visible, or fails and leaves nothing.
    async fn commit(&self) -> Result<()>;

    /// Undoes everything in the transaction.
    async fn rollback(&self) -> Result<()>;
}

/// The handle of a transaction. It is owned and can be cloned into the futures that work in it;
/// they share one transaction and one connection, and their statements run one after the other.
///
/// Dropped with all its clones and unfinished, the transaction is rolled back.
#[derive(Clone)]
pub struct Tx {
    inner: Arc<dyn Transaction>,
}

impl Tx {
    /// Makes a handle of a backend's transaction.
    pub fn new(transaction: impl Transaction + 'static) -> Self {
        Tx {
            inner: Arc::new(transaction),
        }
    }

    /// The users as the transaction sees them.
    pub fn users(&self) -> &dyn UserRepo {
        self.inner.users()
    }

    /// The cars as the transaction sees them.
    pub fn cars(&self) -> &dyn CarRepo {
        self.inner.cars()
    }

    /// Commits. Clones of the handle are closed by it. One round trip.
    ///
    /// # Errors
    /// [`RolledBack`](Error::RolledBack) if anything in the transaction failed, also when the
    /// caller went on after it; [`TransactionClosed`](Error::TransactionClosed) if it has ended
    /// already.
    pub async fn commit(self) -> Result<()> {
        self.inner.commit().await
    }

    /// Rolls back. Clones of the handle are closed by it. One round trip.
    ///
    /// # Errors
    /// [`TransactionClosed`](Error::TransactionClosed) if it has ended already.
    pub async fn rollback(self) -> Result<()> {
        self.inner.rollback().await
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}

/// Transactions as a closure. Every [`Store`] has it, `dyn Store` too.
pub trait StoreExt: Store {
    /// Runs the closure in a transaction: commits when it returns `Ok`, rolls back when it returns
    /// `Err` or is dropped.
    ///
    /// The transaction holds one connection of the pool, and the closure must do its work through
    /// the handle that it is given: a call to the store itself inside the closure waits for a
    /// second connection, and in a pool whose connections are all taken by such transactions it
    /// ends in [`PoolExhausted`](Error::PoolExhausted).
    ///
    /// ```
    /// # #[cfg(feature = "memory")] {
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    /// # runtime.block_on(async {
    /// use motorpool::{Error, MemoryStore, NewCar, NewUser, Store, StoreExt};
    ///
    /// let store = MemoryStore::new();
    /// let new = NewUser::new("Tristan")?;
    /// let car = store
    ///     .transaction(|tx| {
    ///         let new = &new;
    ///         async move {
    ///             let user = tx.users().register(new).await?.into_user();
    ///             tx.cars().buy(&NewCar::new("Golf", user.id)?).await
    ///         }
    ///     })
    ///     .await?;
    /// assert_eq!(store.cars().owned_by(car.owner_id).await?, [car]);
    /// # Ok::<(), Error>(())
    /// # })?;
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// What the closure returned, or what [`Store::begin`] or [`Tx::commit`] gave.
    fn transaction<T, E, F, Fut>(&self, f: F) -> impl Future<Output = Result<T, E>>
    where
        F: FnMut(Tx) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        self.transaction_with(TxOptions::default(), f)
    }

    /// [`transaction`](Self::transaction) with options.
    ///
    /// # Errors
    /// The same.
    fn transaction_with<T, E, F, Fut>(
        &self,
        options: TxOptions,
        mut f: F,
    ) -> impl Future<Output = Result<T, E>>
    where
        F: FnMut(Tx) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        async move {
            let tx = self.begin(options).await?;
            match f(tx.clone()).await {
                Ok(value) => {
                    tx.commit().await?;
                    Ok(value)
                }
                Err(error) => {
                    // The closure's error is the one to tell; a rollback that fails leaves nothing
                    // stored either.
                    let _ = tx.rollback().await;
                    Err(error)
                }
            }
        }
    }
}

impl<S: Store + ?Sized> StoreExt for S {}
