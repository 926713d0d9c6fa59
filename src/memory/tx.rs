//! Transactions: a copy of the rows that becomes the committed one, or is dropped.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::Shared;
use super::repos::{Repos, Run};
use super::state::{Ids, State};
use crate::error::{Error, Failure, Result};
use crate::repo::{CarRepo, UserRepo};
use crate::store::{IsolationLevel, Transaction, TxOptions};

/// A transaction of a [`MemoryStore`](super::MemoryStore). Dropped, it drops its copy and its
/// writer lock with it.
pub(super) struct MemoryTx {
    repos: Repos<InTx>,
}

struct InTx {
    shared: Arc<Shared>,
    options: TxOptions,
    /// Held for the whole of a statement: the statements of all clones of the handle run one
    /// after the other.
    phase: Mutex<Phase>,
}

enum Phase {
    /// Nothing written yet. The snapshot is there after the first statement, unless each
    /// statement sees what is committed.
    Reading { snapshot: Option<Arc<State>> },
    /// The rows with the transaction's changes. No one else can commit meanwhile.
    Writing {
        rows: Arc<State>,
        _writer: OwnedMutexGuard<()>,
    },
    /// This statement failed, and so does everything after it.
    Failed(Failure),
    /// Committed or rolled back.
    Ended,
}

impl MemoryTx {
    pub(super) fn new(shared: Arc<Shared>, options: TxOptions) -> Self {
        MemoryTx {
            repos: Repos(InTx {
                shared,
                options,
                phase: Mutex::new(Phase::Reading { snapshot: None }),
            }),
        }
    }
}

impl InTx {
    /// The committed rows that a statement sees before the transaction has written.
    fn view(&self, snapshot: &mut Option<Arc<State>>) -> Arc<State> {
        match self.options.isolation_level() {
            IsolationLevel::ReadCommitted => self.shared.snapshot(),
            IsolationLevel::RepeatableRead | IsolationLevel::Serializable => {
                Arc::clone(snapshot.get_or_insert_with(|| self.shared.snapshot()))
            }
        }
    }
}

impl Run for InTx {
    async fn read<T: Send>(&self, statement: impl FnOnce(&State) -> T + Send) -> Result<T> {
        match &mut *self.phase.lock().await {
            Phase::Reading { snapshot } => Ok(statement(&self.view(snapshot))),
            Phase::Writing { rows, .. } => Ok(statement(rows)),
            Phase::Failed(first) => Err(Error::RolledBack(first.clone())),
            Phase::Ended => Err(Error::TransactionClosed),
        }
    }

    async fn write<T: Send>(
        &self,
        statement: impl FnOnce(&mut State, &Ids) -> Result<T> + Send,
    ) -> Result<T> {
        let mut phase = self.phase.lock().await;
        match &mut *phase {
            Phase::Reading { .. } if self.options.is_read_only() => {
                let failure = Failure::new("cannot execute a write in a read-only transaction")
                    .with_sqlstate("25006");
                *phase = Phase::Failed(failure.clone());
                Err(Error::Database(failure))
            }
            Phase::Reading { snapshot } => {
                // A statement's view is that of its begin, before it waits.
                let seen = self.view(snapshot).version();
                let writer = self.shared.become_writer().await?;
                let mut rows = self.shared.snapshot();
                if snapshot.is_some() && seen != rows.version() {
                    let message = "could not serialize access due to concurrent update";
                    let failure = Failure::new(message).with_sqlstate("40001");
                    *phase = Phase::Failed(failure.clone());
                    return Err(Error::Conflict(failure));
                }
                let answer = statement(Arc::make_mut(&mut rows), &self.shared.ids);
                *phase = Phase::Writing {
                    rows,
                    _writer: writer,
                };
                answer
            }
            Phase::Writing { rows, .. } => statement(Arc::make_mut(rows), &self.shared.ids),
            Phase::Failed(first) => Err(Error::RolledBack(first.clone())),
            Phase::Ended => Err(Error::TransactionClosed),
        }
    }
}

#[async_trait]
impl Transaction for MemoryTx {
    fn users(&self) -> &dyn UserRepo {
        &self.repos
    }

    fn cars(&self) -> &dyn CarRepo {
        &self.repos
    }

    async fn commit(&self) -> Result<()> {
        let InTx { shared, phase, .. } = &self.repos.0;
        match std::mem::replace(&mut *phase.lock().await, Phase::Ended) {
            Phase::Reading { .. } => Ok(()),
            Phase::Writing { rows, _writer } => {
                *shared.committed() = rows;
                Ok(())
            }
            Phase::Failed(failure) => Err(Error::RolledBack(failure)),
            Phase::Ended => Err(Error::TransactionClosed),
        }
    }

    async fn rollback(&self) -> Result<()> {
        match std::mem::replace(&mut *self.repos.0.phase.lock().await, Phase::Ended) {
            Phase::Ended => Err(Error::TransactionClosed),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::{FutureExt, poll};

    use crate::error::{Error, Result};
    use crate::memory::MemoryStore;
    use crate::model::NewUser;
    use crate::store::{IsolationLevel, Store, TxOptions};

    fn named(name: &str) -> Result<NewUser> {
        Ok(NewUser::new(name)?)
    }

    #[tokio::test]
    async fn a_second_writer_waits_for_the_first() -> Result<()> {
        let store = MemoryStore::new();
        let (anna, bert) = (named("Anna")?, named("Bert")?);
        let first = store.begin(TxOptions::new()).await?;
        first.users().register(&anna).await?;

        let mut second = store.users().register(&bert);
        assert!(matches!(poll!(&mut second), Poll::Pending));
        assert_eq!(store.users().count().await?, 0, "a read does not wait");
        first.commit().await?;
        assert!(second.await?.is_created());
        assert_eq!(store.users().count().await?, 2);
        Ok(())
    }

    #[tokio::test]
    async fn a_call_dropped_while_it_waits_holds_nothing() -> Result<()> {
        let store = MemoryStore::new();
        let (anna, bert) = (named("Anna")?, named("Bert")?);
        let holder = store.begin(TxOptions::new()).await?;
        holder.users().register(&anna).await?;
        let waiting = store.begin(TxOptions::new()).await?;
        assert!(waiting.users().register(&bert).now_or_never().is_none());
        assert!(store.users().register(&bert).now_or_never().is_none());
        drop(holder);
        assert!(store.users().register(&bert).await?.is_created());
        assert_eq!(waiting.users().count().await?, 1);
        Ok(())
    }

    #[tokio::test]
    async fn a_write_on_an_old_snapshot_fails_the_transaction() -> Result<()> {
        for level in [IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
            let store = MemoryStore::new();
            let tx = store.begin(TxOptions::new().isolation(level)).await?;
            assert_eq!(tx.users().count().await?, 0);
            store.users().register(&named("Anna")?).await?;
            assert_eq!(tx.users().count().await?, 0, "the snapshot stays");

            let conflict = tx.users().register(&named("Bert")?).await;
            assert!(matches!(conflict, Err(Error::Conflict(_))));
            let later = tx.users().count().await.err();
            assert!(matches!(&later, Some(Error::RolledBack(_))));
            assert_eq!(later.as_ref().and_then(Error::sqlstate), Some("40001"));
            let refused = tx.commit().await.err();
            assert!(matches!(&refused, Some(Error::RolledBack(_))));
            assert!(refused.is_some_and(|error| error.is_retryable()));
            assert_eq!(store.users().count().await?, 1);
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_write_that_changed_nothing_makes_no_conflict() -> Result<()> {
        let store = MemoryStore::new();
        let anna = named("Anna")?;
        store.users().register(&anna).await?;
        let level = IsolationLevel::Serializable;
        let tx = store.begin(TxOptions::new().isolation(level)).await?;
        assert_eq!(tx.users().count().await?, 1);
        assert!(!store.users().register(&anna).await?.is_created());
        assert!(tx.users().register(&named("Bert")?).await?.is_created());
        tx.commit().await
    }

    #[tokio::test]
    async fn ids_do_not_roll_back() -> Result<()> {
        let store = MemoryStore::new();
        let tx = store.begin(TxOptions::new()).await?;
        let lost = tx.users().register(&named("Anna")?).await?.into_user();
        tx.rollback().await?;
        let kept = store.users().register(&named("Anna")?).await?.into_user();
        assert!(kept.id > lost.id);
        Ok(())
    }
}
