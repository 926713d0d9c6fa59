//! Transactions: a copy of the rows that becomes the committed one, or is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

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
    state: Mutex<TxState>,
    /// See [`Transaction::gave_way`].
    gave_way: AtomicBool,
}

struct TxState {
    phase: Phase,
    /// What the transaction sees while it has not written, unless each statement sees what is
    /// committed. There from the first statement on.
    snapshot: Option<Arc<State>>,
    /// The open savepoints, the outermost first: the number of each, and the rows at its begin if the
    /// transaction had written by then.
    saved: Vec<(u32, Option<Arc<State>>)>,
    /// How many there have been.
    savepoints: u32,
}

enum Phase {
    /// Nothing written yet.
    Reading,
    /// The rows with the transaction's changes.
    Writing { rows: Arc<State>, writer: Writer },
    /// This statement failed, and so does everything after it. A transaction that had written
    /// stays the writer.
    Failed(Failure, Option<Writer>),
    /// A statement was dropped while it waited, and no savepoint brings the transaction back.
    GivenUp,
    /// Committed or rolled back.
    Ended,
}

/// As long as it is held no one else can commit.
type Writer = OwnedMutexGuard<()>;

impl MemoryTx {
    pub(super) fn new(shared: Arc<Shared>, options: TxOptions) -> Self {
        MemoryTx {
            repos: Repos(InTx {
                shared,
                options,
                state: Mutex::new(TxState {
                    phase: Phase::Reading,
                    snapshot: None,
                    saved: Vec::new(),
                    savepoints: 0,
                }),
                gave_way: AtomicBool::new(false),
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

    /// Makes the transaction the writer, with the rows that it may change from now on.
    async fn start_writing(&self, state: &mut TxState) -> Result<()> {
        if self.options.is_read_only() {
            let failure = Failure::new("cannot execute a write in a read-only transaction")
                .with_sqlstate("25006");
            state.phase = Phase::Failed(failure.clone(), None);
            return Err(Error::Database(failure));
        }
        // A statement's view is that of its begin, before it waits.
        let seen = self.view(&mut state.snapshot).version();
        // What is found by whoever comes after one who does not wait for it.
        state.phase = Phase::GivenUp;
        let writer = self.shared.become_writer().await;
        state.phase = Phase::Reading;
        let writer = writer?;
        let rows = self.shared.snapshot();
        if state.snapshot.is_some() && seen != rows.version() {
            let message = "could not serialize access due to concurrent update";
            let failure = Failure::new(message).with_sqlstate("40001");
            state.phase = Phase::Failed(failure.clone(), None);
            self.gave_way.store(true, Relaxed);
            return Err(Error::Conflict(failure));
        }
        state.phase = Phase::Writing { rows, writer };
        Ok(())
    }
}

impl TxState {
    /// Why no statement can be run, if none can.
    fn refusal(&self) -> Result<()> {
        match &self.phase {
            Phase::Reading | Phase::Writing { .. } => Ok(()),
            Phase::Failed(first, _) => Err(Error::RolledBack(first.clone())),
            Phase::GivenUp => {
                let first = Failure::new("a call in it was given up before its answer");
                Err(Error::RolledBack(first))
            }
            Phase::Ended => Err(Error::TransactionClosed),
        }
    }

    /// How many savepoints are around this one. It may have ended with one of them, when others have
    /// been opened since.
    fn outside(&self, savepoint: u32) -> Result<usize> {
        let place = self.saved.iter().position(|(open, _)| *open == savepoint);
        place.ok_or(Error::TransactionClosed)
    }

    /// Savepoints beyond this many were dropped unfinished.
    fn fail_unfinished(&mut self, finished: usize) -> Result<()> {
        self.refusal()?;
        if self.saved.len() > finished {
            let failure = Failure::new("a savepoint in it was dropped unfinished");
            let writer = match std::mem::replace(&mut self.phase, Phase::Ended) {
                Phase::Writing { writer, .. } => Some(writer),
                _ => None,
            };
            self.phase = Phase::Failed(failure, writer);
        }
        self.refusal()
    }
}

impl Run for InTx {
    async fn read<T: Send>(&self, statement: impl FnOnce(&State) -> T + Send) -> Result<T> {
        let state = &mut *self.state.lock().await;
        state.refusal()?;
        self.gave_way.store(false, Relaxed);
        match &state.phase {
            Phase::Writing { rows, .. } => Ok(statement(rows)),
            _ => Ok(statement(&self.view(&mut state.snapshot))),
        }
    }

    async fn write<T: Send>(
        &self,
        statement: impl FnOnce(&mut State, &Ids) -> Result<T> + Send,
    ) -> Result<T> {
        let state = &mut *self.state.lock().await;
        state.refusal()?;
        if !matches!(state.phase, Phase::Writing { .. }) {
            self.start_writing(state).await?;
        }
        self.gave_way.store(false, Relaxed);
        match &mut state.phase {
            Phase::Writing { rows, .. } => statement(Arc::make_mut(rows), &self.shared.ids),
            _ => Err(Error::TransactionClosed),
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
        let InTx { shared, state, .. } = &self.repos.0;
        let state = &mut *state.lock().await;
        let sound = state.fail_unfinished(0);
        let phase = std::mem::replace(&mut state.phase, Phase::Ended);
        sound?;
        self.repos.0.gave_way.store(false, Relaxed);
        if let Phase::Writing { rows, writer } = phase {
            *shared.committed() = rows;
            drop(writer);
        }
        Ok(())
    }

    async fn rollback(&self) -> Result<()> {
        let state = &mut *self.repos.0.state.lock().await;
        match std::mem::replace(&mut state.phase, Phase::Ended) {
            Phase::Ended => Err(Error::TransactionClosed),
            _ => Ok(()),
        }
    }

    async fn savepoint(&self) -> Result<u32> {
        let state = &mut *self.repos.0.state.lock().await;
        state.refusal()?;
        let rows = match &state.phase {
            Phase::Writing { rows, .. } => Some(Arc::clone(rows)),
            _ => None,
        };
        state.savepoints += 1;
        state.saved.push((state.savepoints, rows));
        Ok(state.savepoints)
    }

    async fn release(&self, savepoint: u32) -> Result<()> {
        let state = &mut *self.repos.0.state.lock().await;
        let outside = state.outside(savepoint)?;
        state.fail_unfinished(outside + 1)?;
        state.saved.truncate(outside);
        Ok(())
    }

    async fn rollback_to(&self, savepoint: u32) -> Result<()> {
        let state = &mut *self.repos.0.state.lock().await;
        if matches!(state.phase, Phase::Ended) {
            return Err(Error::TransactionClosed);
        }
        let outside = state.outside(savepoint)?;
        if matches!(state.phase, Phase::GivenUp) {
            return state.refusal();
        }
        // Those inside it that were dropped unfinished go with it.
        let saved = state.saved.drain(outside..).next();
        let saved = saved.and_then(|(_, rows)| rows);
        let phase = std::mem::replace(&mut state.phase, Phase::Reading);
        let writer = match phase {
            Phase::Writing { writer, .. } => Some(writer),
            Phase::Failed(_, writer) => writer,
            Phase::Reading | Phase::GivenUp | Phase::Ended => None,
        };
        if let (Some(rows), Some(writer)) = (saved, writer) {
            state.phase = Phase::Writing { rows, writer };
        }
        Ok(())
    }

    fn gave_way(&self) -> bool {
        self.repos.0.gave_way.load(Relaxed)
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
        let refused = waiting.users().count().await;
        assert!(matches!(refused, Err(Error::RolledBack(_))), "{refused:?}");
        assert!(matches!(waiting.commit().await, Err(Error::RolledBack(_))));
        Ok(())
    }

    #[tokio::test]
    async fn a_savepoint_does_not_bring_back_what_was_given_up() -> Result<()> {
        let store = MemoryStore::new();
        let (anna, bert) = (named("Anna")?, named("Bert")?);
        let holder = store.begin(TxOptions::new()).await?;
        holder.users().register(&anna).await?;
        let waiting = store.begin(TxOptions::new()).await?;
        let undone = waiting.savepoint(|tx| {
            let bert = bert.clone();
            async move {
                assert!(tx.users().register(&bert).now_or_never().is_none());
                Err::<(), _>(Error::UsernameTaken)
            }
        });
        assert!(undone.await.is_err());
        holder.commit().await?;
        let refused = waiting.users().register(&bert).await;
        assert!(matches!(refused, Err(Error::RolledBack(_))), "{refused:?}");
        assert!(matches!(waiting.commit().await, Err(Error::RolledBack(_))));
        assert_eq!(store.users().count().await?, 1);
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
