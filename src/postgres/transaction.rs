//! The transaction as a host sees it: its repositories, and its calls, each of which is observed.

use std::pin::{Pin, pin};
use std::sync::Arc;

use async_trait::async_trait;

use super::cars::PgCars;
use super::executor::Executor;
use super::observe::{self, Observed, Operation};
use super::shared::Shared;
use super::tx::{self, TxInner};
use super::users::PgUsers;
use crate::error::Result;
use crate::repo::{CarRepo, UserRepo};
use crate::store::{Transaction, TxOptions};

/// A transaction and its repositories.
pub(super) struct PgTransaction {
    users: PgUsers,
    cars: PgCars,
    inner: Arc<TxInner>,
}

/// Begins a transaction.
pub(super) async fn begin(shared: &Arc<Shared>, options: &TxOptions) -> Result<PgTransaction> {
    let open = pin!(async { tx::open(shared, options, shared.deadline()).await });
    let inner = observe::call(shared, Operation::Begin, open).await?;
    Ok(PgTransaction {
        users: PgUsers::new(Executor::Transaction(Arc::clone(&inner))),
        cars: PgCars::new(Executor::Transaction(Arc::clone(&inner))),
        inner,
    })
}

impl PgTransaction {
    fn call<'w, F>(&self, operation: Operation, work: Pin<&'w mut F>) -> Observed<'_, 'w, F> {
        observe::call(&self.inner.shared, operation, work)
    }
}

#[async_trait]
impl Transaction for PgTransaction {
    fn users(&self) -> &dyn UserRepo {
        &self.users
    }

    fn cars(&self) -> &dyn CarRepo {
        &self.cars
    }

    async fn commit(&self) -> Result<()> {
        let tx = &self.inner;
        let commit = pin!(async { tx.commit(tx.deadline()).await });
        self.call(Operation::Commit, commit).await
    }

    async fn rollback(&self) -> Result<()> {
        let tx = &self.inner;
        let rollback = pin!(async { tx.rollback(tx.deadline()).await });
        self.call(Operation::Rollback, rollback).await
    }

    async fn savepoint(&self) -> Result<u32> {
        let tx = &self.inner;
        let save = async { tx.save(&mut *tx.state.lock().await).await };
        let in_time = pin!(async { tx.in_time(tx.deadline(), save).await });
        self.call(Operation::Savepoint, in_time).await
    }

    async fn release(&self, savepoint: u32) -> Result<()> {
        let tx = &self.inner;
        let release = async { tx.release(&mut *tx.state.lock().await, savepoint).await };
        let in_time = pin!(async { tx.in_time(tx.deadline(), release).await });
        self.call(Operation::Release, in_time).await
    }

    async fn rollback_to(&self, savepoint: u32) -> Result<()> {
        let tx = &self.inner;
        let undo = async { tx.undo(&mut *tx.state.lock().await, savepoint).await };
        let in_time = pin!(async { tx.in_time(tx.deadline(), undo).await });
        self.call(Operation::RollbackTo, in_time).await
    }

    fn gave_way(&self) -> bool {
        self.inner.gave_way()
    }
}
