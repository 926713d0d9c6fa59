//! A store hands out the repositories and makes transactions over both of them.

mod options;
mod running;
mod tx;

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::{CommitOutcome, CommitToken, Error, Result};
use crate::repo::{CarRepo, UserRepo};

pub use options::{IsolationLevel, TxOptions};
pub use running::Running;
pub use tx::{Transaction, Tx};

/// Both repositories, and transactions over them. A host can hold one as `Arc<dyn Store>` and run
/// on Postgres or in memory.
///
/// ```
/// # #[cfg(feature = "memory")] {
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// use std::sync::Arc;
/// use motorpool::{MemoryStore, NewUser, Store};
///
/// // What a host holds, whatever it runs on.
/// let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
/// store.users().register(&NewUser::new("Ada")?).await?;
/// assert_eq!(store.users().count().await?, 1);
/// assert_eq!(store.cars().count().await?, 0);
/// # Ok::<(), motorpool::Error>(())
/// # })?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait Store: Send + Sync {
    /// The users, each call in a transaction of its own.
    ///
    /// ```
    /// # async fn example(store: &dyn motorpool::Store) -> motorpool::Result<()> {
    /// let ada = store.users().get_by_username("Ada").await?;
    /// # Ok(()) }
    /// ```
    fn users(&self) -> &dyn UserRepo;

    /// The cars, each call in a transaction of its own.
    ///
    /// ```
    /// # async fn example(store: &dyn motorpool::Store) -> motorpool::Result<()> {
    /// let cars = store.cars().owned_by(motorpool::UserId::new(7)).await?;
    /// # Ok(()) }
    /// ```
    fn cars(&self) -> &dyn CarRepo;

    /// Begins a transaction, which has a connection of the pool until it ends.
    /// [`StoreExt::transaction`] is the form that cannot be left open and tries again.
    ///
    /// The server hears of it with its first statement: in the same round trip if that is a read,
    /// [`register`](UserRepo::register) or [`buy`](CarRepo::buy), and in one more before any other
    /// write, before a savepoint, and before any write behind a pooler or with
    /// [`StatementMode::Unnamed`](crate::StatementMode::Unnamed). So a server that cannot be reached
    /// may show in the first statement only, and what is seen at `RepeatableRead` and `Serializable`
    /// is what was there at that moment. A transaction in which nothing is done costs no round trip,
    /// but one on each connection for the first one that may write.
    ///
    /// ```
    /// # async fn example(store: &dyn motorpool::Store) -> motorpool::Result<()> {
    /// use motorpool::{NewUser, TxOptions};
    ///
    /// let tx = store.begin(TxOptions::new()).await?;
    /// tx.users().register(&NewUser::new("Ada")?).await?;
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    async fn begin(&self, options: TxOptions) -> Result<Tx>;

    /// How a commit ended whose answer was lost ([`CommitUnknown`](Error::CommitUnknown)).
    /// [`PgStore`](crate::PgStore::commit_outcome) asks the server.
    ///
    /// A store that never gives [`CommitUnknown`](Error::CommitUnknown) need not implement it: it
    /// gives [`Unknown`](CommitOutcome::Unknown) then.
    ///
    /// ```
    /// # async fn example(store: &dyn motorpool::Store, token: &motorpool::CommitToken) -> motorpool::Result<()> {
    /// use motorpool::CommitOutcome;
    ///
    /// match store.commit_outcome(token).await? {
    ///     CommitOutcome::Committed => println!("it is stored"),
    ///     CommitOutcome::RolledBack => println!("it can be made again"),
    ///     _ => println!("not known"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of the connection.
    async fn commit_outcome(&self, token: &CommitToken) -> Result<CommitOutcome> {
        let _ = token;
        Ok(CommitOutcome::Unknown)
    }
}

/// What points to a store is one.
macro_rules! forward {
    ($($pointer:ty),*) => {$(
        #[async_trait]
        impl<S: Store + ?Sized> Store for $pointer {
            fn users(&self) -> &dyn UserRepo {
                (**self).users()
            }

            fn cars(&self) -> &dyn CarRepo {
                (**self).cars()
            }

            async fn begin(&self, options: TxOptions) -> Result<Tx> {
                (**self).begin(options).await
            }

            async fn commit_outcome(&self, token: &CommitToken) -> Result<CommitOutcome> {
                (**self).commit_outcome(token).await
            }
        }
    )*};
}

forward!(&S, Arc<S>, Box<S>);

/// Transactions as a closure. Every [`Store`] has it, `dyn Store` too.
pub trait StoreExt: Store {
    /// Runs the closure in a transaction: commits when it returns `Ok`, rolls back when it returns
    /// `Err` or is dropped.
    ///
    /// When a statement or the commit gave way to another transaction (SQLSTATE 40001 or 40P01),
    /// the whole closure is run again, whatever error it made of that, up to
    /// [`attempts`](TxOptions::attempts) times with a pause between, for which the tokio runtime needs
    /// its timer. It is never run again for anything else, and never after
    /// [`CommitUnknown`](Error::CommitUnknown). What counts is the last statement that ran: one that
    /// gave way in a savepoint, after which others went well, is the closure's own affair. What the
    /// closure does outside the transaction may happen more than once. It must not end the
    /// transaction itself.
    ///
    /// The transaction holds one connection of the pool, and the closure must do its work through
    /// the handle that it is given: a call to the store itself inside the closure waits for a
    /// second connection, and in a pool whose connections are all taken by such transactions it
    /// ends in [`PoolExhausted`](Error::PoolExhausted).
    ///
    /// The closure may be run more than once, so it borrows what it uses: `async |tx| { … }`, without
    /// `move`. Where the compiler does not find its error's type, end it with `Ok::<_, MyError>(…)`.
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
    ///     .transaction(async |tx| {
    ///         let user = tx.users().register(&new).await?.into_user();
    ///         tx.cars().buy(&NewCar::new("Golf", user.id)?).await
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
    fn transaction<T, E, F, Fut>(&self, f: F) -> Running<'_, Self, T, E, F, Fut>
    where
        F: FnMut(Tx) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        self.transaction_with(TxOptions::default(), f)
    }

    /// [`transaction`](Self::transaction) with options.
    ///
    /// ```
    /// # async fn example(store: &dyn motorpool::Store) -> motorpool::Result<()> {
    /// use motorpool::{Error, IsolationLevel, StoreExt, TxOptions};
    ///
    /// // Both numbers at one moment.
    /// let options = TxOptions::new().isolation(IsolationLevel::RepeatableRead).read_only(true);
    /// let (users, cars): (u64, u64) = store
    ///     .transaction_with(options, |tx| async move {
    ///         Ok::<_, Error>((tx.users().count().await?, tx.cars().count().await?))
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The same.
    fn transaction_with<T, E, F, Fut>(
        &self,
        options: TxOptions,
        f: F,
    ) -> Running<'_, Self, T, E, F, Fut>
    where
        F: FnMut(Tx) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        Running::new(self, options, f)
    }
}

impl<S: Store + ?Sized> StoreExt for S {}
