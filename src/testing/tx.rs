//! Transactions of a [`Faulty`](super::Faulty) store. An error that comes from a fault does to them
//! what the same error would do to a transaction on a server.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::Operation;
use super::plan::{Plan, Strike, When};
use super::repos::{Repos, Way};
use crate::error::{CommitOutcome, Error, Failure, Result};
use crate::repo::{CarRepo, UserRepo};
use crate::store::{Transaction, Tx};

pub(super) struct FaultyTx {
    repos: Repos<InTx>,
}

struct InTx {
    tx: Tx,
    plan: Arc<Plan>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The first fault that the transaction does not survive. The transaction inside knows nothing
    /// of it.
    failed: Option<Failure>,
    /// A server has nothing left of it: no savepoint brings it back.
    lost: bool,
    /// If the last statement or the commit met a fault, whether that was a conflict.
    gave_way: Option<bool>,
    /// Committed or rolled back.
    ended: bool,
}

impl State {
    fn fail(&mut self, first: Failure) {
        if !self.ended {
            self.failed.get_or_insert(first);
        }
    }
}

impl FaultyTx {
    pub(super) fn new(tx: Tx, plan: Arc<Plan>) -> Self {
        FaultyTx {
            repos: Repos(InTx {
                tx,
                plan,
                state: Mutex::default(),
            }),
        }
    }
}

impl InTx {
    /// Nothing panics while it holds this lock, so poison would mean nothing.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inner(&self) -> &dyn Transaction {
        self.tx.as_transaction()
    }

    /// From here on the transaction inside answers, and says that it has ended.
    fn end(&self) {
        let state = &mut *self.state();
        state.ended = true;
        (state.failed, state.lost) = (None, false);
    }

    /// Rolls back in place of a commit, as a server does whose client has gone.
    async fn give_up(&self, error: Error) -> Result<()> {
        self.end();
        self.inner().rollback().await.and(Err(error))
    }

    fn refusal(&self) -> Result<()> {
        match &self.state().failed {
            Some(first) => Err(Error::RolledBack(first.clone())),
            None => Ok(()),
        }
    }

    /// A command about savepoints.
    async fn command<T, Fut>(
        &self,
        operation: Operation,
        inner: impl FnOnce() -> Fut + Send,
    ) -> Result<T>
    where
        Fut: Future<Output = Result<T>> + Send,
    {
        let strike = self.plan.next(operation);
        self.strike(&strike, When::Before).await?;
        self.refusal()?;
        let answer = inner().await;
        self.strike(&strike, When::After).await?;
        answer
    }
}

impl Way for InTx {
    fn inner_users(&self) -> &dyn UserRepo {
        self.tx.users()
    }

    fn inner_cars(&self) -> &dyn CarRepo {
        self.tx.cars()
    }

    fn plan(&self) -> &Plan {
        &self.plan
    }

    async fn strike(&self, strike: &Strike, now: When) -> Result<()> {
        let mut hanging = Hanging(Some(self));
        let result = strike.strike(now).await;
        hanging.0 = None;
        if let Err(error) = &result {
            let failure = Failure::of(error);
            let state = &mut *self.state();
            state.gave_way = Some(failure.is_conflict());
            if ends_the_transaction(error) {
                state.fail(failure);
                state.lost |= matches!(error, Error::Unavailable { .. });
            }
        }
        result
    }

    fn statement(&self) -> Result<()> {
        self.refusal()?;
        self.state().gave_way = None;
        Ok(())
    }
}

/// A call that may be dropped before it goes on; that fails the transaction.
struct Hanging<'a>(Option<&'a InTx>);

impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        if let Some(tx) = self.0 {
            let first = Failure::new("a call in it was given up before its answer");
            let state = &mut *tx.state();
            state.fail(first);
            state.lost = true;
        }
    }
}

/// Whether a statement that gave this error has failed its transaction. Errors of the domain have
/// not, nor has what was found before or after the statement.
fn ends_the_transaction(error: &Error) -> bool {
    matches!(
        error,
        Error::Conflict(_)
            | Error::RolledBack(_)
            | Error::CommitUnknown { .. }
            | Error::Timeout { .. }
            | Error::PoolExhausted { .. }
            | Error::Unavailable { .. }
            | Error::Database(_)
    )
}

#[async_trait]
impl Transaction for FaultyTx {
    fn users(&self) -> &dyn UserRepo {
        &self.repos
    }

    fn cars(&self) -> &dyn CarRepo {
        &self.repos
    }

    async fn commit(&self) -> Result<()> {
        let tx = &self.repos.0;
        let strike = tx.plan.next(Operation::Commit);
        if let Err(error) = tx.strike(&strike, When::Before).await {
            tx.plan.remember(&error, CommitOutcome::RolledBack);
            return tx.give_up(error).await;
        }
        let committed = match tx.statement() {
            Ok(()) => {
                tx.end();
                tx.inner().commit().await
            }
            Err(refusal) => tx.give_up(refusal).await,
        };
        let answer = tx.strike(&strike, When::After).await;
        if let Err(error) = &answer {
            let outcome = match &committed {
                Ok(()) => CommitOutcome::Committed,
                Err(error) if error.is_outcome_unknown() => CommitOutcome::Unknown,
                Err(_) => CommitOutcome::RolledBack,
            };
            tx.plan.remember(error, outcome);
        }
        answer.and(committed)
    }

    async fn rollback(&self) -> Result<()> {
        let tx = &self.repos.0;
        let strike = tx.plan.next(Operation::Rollback);
        if let Err(error) = tx.strike(&strike, When::Before).await {
            return tx.give_up(error).await;
        }
        tx.end();
        let rolled_back = tx.inner().rollback().await;
        tx.strike(&strike, When::After).await?;
        rolled_back
    }

    async fn savepoint(&self) -> Result<u32> {
        let tx = &self.repos.0;
        let open = || tx.inner().savepoint();
        tx.command(Operation::Savepoint, open).await
    }

    async fn release(&self, savepoint: u32) -> Result<()> {
        let tx = &self.repos.0;
        let release = || tx.inner().release(savepoint);
        tx.command(Operation::ReleaseSavepoint, release).await
    }

    async fn rollback_to(&self, savepoint: u32) -> Result<()> {
        let tx = &self.repos.0;
        let strike = tx.plan.next(Operation::UndoSavepoint);
        tx.strike(&strike, When::Before).await?;
        let lost = tx.state().lost;
        if lost {
            return tx.refusal();
        }
        let undone = tx.inner().rollback_to(savepoint).await;
        if undone.is_ok() {
            // It was opened before the failure: nothing can be opened after one.
            tx.state().failed = None;
        }
        tx.strike(&strike, When::After).await?;
        undone
    }

    fn gave_way(&self) -> bool {
        let gave_way = self.repos.0.state().gave_way;
        gave_way.unwrap_or_else(|| self.repos.0.inner().gave_way())
    }
}
