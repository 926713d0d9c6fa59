//! A store in memory: the behaviour of the Postgres store without a database (feature `memory`).

mod repos;
mod state;
mod tx;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;

use crate::error::{Error, Result};
use crate::repo::{CarRepo, UserRepo};
use crate::store::{Store, Tx, TxOptions};
use repos::{Repos, Run};
use state::{Ids, State};

/// A store in memory, for tests of a host: it answers as the Postgres store does, transactions
/// included, and starts empty. Clones share their data.
///
/// There is one writer at a time for the whole store: a transaction that has written holds up
/// every other write until it ends. A write waits at most
/// [`WRITE_TIMEOUT`](MemoryStore::WRITE_TIMEOUT) for its turn, for which the tokio runtime needs its
/// timer (`enable_time`). Reads never wait.
///
/// At `RepeatableRead` and above, the first write of a transaction is a
/// [`Conflict`](Error::Conflict) if anything at all was committed since its first statement; a
/// database looks at the rows concerned and gives fewer.
///
/// The first write of a transaction copies all rows, so many transactions on much data are slow.
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # runtime.block_on(async {
/// use motorpool::{MemoryStore, NewCar, NewUser, Store};
///
/// let store = MemoryStore::new();
/// let user = store.users().register(&NewUser::new("Tristan")?).await?.into_user();
/// store.cars().buy(&NewCar::new("Golf", user.id)?).await?;
/// assert_eq!(store.cars().owned_by(user.id).await?.len(), 1);
/// # Ok::<(), motorpool::Error>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct MemoryStore {
    repos: Repos<Direct>,
}

impl MemoryStore {
    /// How long a write waits for another writer before it gives [`Error::Timeout`]. Nothing has
    /// happened then, and a transaction can go on.
    pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

    /// An empty store.
    ///
    /// ```
    /// use motorpool::{MemoryStore, Store};
    ///
    /// let store = MemoryStore::new();
    /// let users = store.users();
    /// ```
    pub fn new() -> Self {
        MemoryStore::default()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn users(&self) -> &dyn UserRepo {
        &self.repos
    }

    fn cars(&self) -> &dyn CarRepo {
        &self.repos
    }

    async fn begin(&self, options: TxOptions) -> Result<Tx> {
        let shared = Arc::clone(&self.repos.0.shared);
        Ok(Tx::new(tx::MemoryTx::new(shared, options)))
    }
}

/// What the clones of a store and their transactions have in common.
#[derive(Default)]
struct Shared {
    committed: Mutex<Arc<State>>,
    /// Held by whoever is to change `committed`, from looking at it until the change. A
    /// transaction holds it across awaits, hence tokio's.
    writer: Arc<tokio::sync::Mutex<()>>,
    ids: Ids,
}

impl Shared {
    /// Nothing panics while it holds this lock, so poison would mean nothing.
    fn committed(&self) -> MutexGuard<'_, Arc<State>> {
        self.committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> Arc<State> {
        Arc::clone(&self.committed())
    }

    async fn become_writer(&self) -> Result<OwnedMutexGuard<()>> {
        // Without a wait there is no timer, so that a runtime without one will do.
        if let Ok(guard) = Arc::clone(&self.writer).try_lock_owned() {
            return Ok(guard);
        }
        let after = MemoryStore::WRITE_TIMEOUT;
        tokio::time::timeout(after, Arc::clone(&self.writer).lock_owned())
            .await
            .map_err(|_| Error::Timeout { after })
    }
}

/// Statements outside a transaction.
#[derive(Clone, Default)]
struct Direct {
    shared: Arc<Shared>,
}

impl Run for Direct {
    async fn read<T: Send>(&self, statement: impl FnOnce(&State) -> T + Send) -> Result<T> {
        Ok(statement(&self.shared.committed()))
    }

    async fn write<T: Send>(
        &self,
        statement: impl FnOnce(&mut State, &Ids) -> Result<T> + Send,
    ) -> Result<T> {
        let _writer = self.shared.become_writer().await?;
        let mut committed = self.shared.committed();
        statement(Arc::make_mut(&mut committed), &self.shared.ids)
    }
}
