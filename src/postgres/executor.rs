//! Runs one statement of a repository: on a connection of the pool, in a transaction, or on a
//! replica.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::TryFutureExt;
use tokio_postgres::Row;

use super::batch::Batches;
use super::deadline::Deadline;
use super::error;
use super::flight::{First, Rows};
use super::observe::{Observed, Operation, call, figures};
use super::replicas::Checked;
use super::shared::Shared;
use super::statement::{Params, Statement};
use super::tx::TxInner;
use crate::error::{Error, Result};

/// How often a statement outside a transaction is run at most, when it gives way to others.
const ATTEMPTS: u32 = 5;

/// Where the statements of a repository run.
#[derive(Clone)]
pub(super) enum Executor {
    /// Each on a connection of the pool, in a transaction of its own.
    Pool(Arc<Shared>),
    /// All in one transaction.
    Transaction(Arc<TxInner>),
    /// Each on a connection to a replica, which is asked in the same flight how far it is.
    Checked(Arc<Checked>),
}

impl Executor {
    /// Where calls that wait go out together, if they do.
    pub(super) fn batches(&self) -> Option<&Batches> {
        match self {
            Executor::Pool(shared) => shared.batches.as_deref(),
            // What is asked before one statement holds for that one.
            Executor::Transaction(_) | Executor::Checked(_) => None,
        }
    }

    pub(super) fn is_transaction(&self) -> bool {
        matches!(self, Executor::Transaction(_))
    }

    /// Runs a statement and gives its rows. One round trip, and another one where the connection
    /// has not prepared the statement yet.
    pub(super) async fn query(
        &self,
        statement: &Statement,
        params: &Params<'_>,
    ) -> Result<Vec<Row>> {
        self.query_by(self.deadline(), statement, params).await
    }

    /// The answer of a call that can be given without asking the server, where calls can be made at
    /// all: not in a transaction that has failed or ended.
    pub(super) async fn without_asking<T>(&self, answer: T) -> Result<T> {
        if let Executor::Transaction(tx) = self {
            tx.refuse_ended().await?;
        }
        Ok(answer)
    }

    /// Observes a call of a repository.
    pub(super) fn call<'a, 'w, F>(
        &'a self,
        operation: Operation,
        work: Pin<&'w mut F>,
    ) -> Observed<'a, 'w, F> {
        let shared = match self {
            Executor::Pool(shared) => shared,
            Executor::Transaction(tx) => &tx.shared,
            Executor::Checked(checked) => &checked.shared,
        };
        call(shared, operation, work)
    }

    /// The time that a call has, from its start.
    pub(super) fn deadline(&self) -> Deadline {
        match self {
            Executor::Pool(shared) => shared.deadline(),
            Executor::Transaction(tx) => tx.deadline(),
            Executor::Checked(checked) => checked.shared.deadline(),
        }
    }

    /// [`query`](Self::query), for a call that may need more than one, or has waited before.
    pub(super) fn query_by<'a>(
        &'a self,
        deadline: Deadline,
        statement: &'a Statement,
        params: &'a Params<'a>,
    ) -> impl Future<Output = Result<Vec<Row>>> + 'a {
        self.gather(deadline, statement, params)
    }

    #[expect(
        clippy::manual_async_fn,
        reason = "an async function's future holds its arguments twice"
    )]
    fn gather<'a, R: Rows>(
        &'a self,
        deadline: Deadline,
        statement: &'a Statement,
        params: &'a Params<'a>,
    ) -> impl Future<Output = Result<R>> + 'a {
        // Each in a box of its own: a call that goes together with others needs none of it, and three
        // quarters of its future would be this.
        async move {
            match self {
                Executor::Pool(shared) => {
                    let mut attempt = 1;
                    loop {
                        match Box::pin(shared.gather(deadline, statement, params)).await {
                            // A transaction of one statement that gave way has stored nothing.
                            Err(Error::Conflict(_)) if attempt < ATTEMPTS => {
                                attempt += 1;
                                figures::again();
                            }
                            rows => return rows,
                        }
                    }
                }
                Executor::Transaction(tx) => Box::pin(tx.query(deadline, statement, params)).await,
                Executor::Checked(on) => Box::pin(on.gather(deadline, statement, params)).await,
            }
        }
    }

    /// Runs a statement that always gives exactly one row.
    pub(super) async fn query_one(
        &self,
        statement: &Statement,
        params: &Params<'_>,
    ) -> Result<Row> {
        let row = self.query_opt(statement, params).await?;
        row.ok_or_else(error::no_row)
    }

    /// Runs a statement that gives a row or none.
    pub(super) async fn query_opt(
        &self,
        statement: &Statement,
        params: &Params<'_>,
    ) -> Result<Option<Row>> {
        self.query_opt_by(self.deadline(), statement, params).await
    }

    /// The same, for a call that may have waited before.
    pub(super) fn query_opt_by<'a>(
        &'a self,
        deadline: Deadline,
        statement: &'a Statement,
        params: &'a Params<'a>,
    ) -> impl Future<Output = Result<Option<Row>>> + 'a {
        let first = self.gather(deadline, statement, params);
        first.map_ok(|First(row)| row)
    }
}
