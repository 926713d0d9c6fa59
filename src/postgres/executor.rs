//! Runs one statement: on a connection of the pool or in a transaction, within the time that the
//! call has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::{Pool, Timeouts};
use tokio::time::{timeout, timeout_at};
use tokio_postgres::Row;

use super::error;
use super::lease::Lease;
use super::statement::{Params, Statement};
use super::tx::TxInner;
use crate::error::{Error, Result, UnavailableReason};

/// What all parts of a store share.
pub(super) struct Shared {
    pub(super) pool: Pool,
    pub(super) limits: Limits,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// A call altogether.
    pub(super) call: Duration,
    /// Waiting for a connection and making one, where the pool is the store's own; a host's pool
    /// has its own limits.
    pub(super) own_pool: Option<PoolLimits>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PoolLimits {
    pub(super) acquire: Duration,
    pub(super) connect: Duration,
    pub(super) statement: Duration,
}

impl Shared {
    /// Takes a connection out of the pool, or says why there is none.
    pub(super) async fn lease(&self, deadline: Deadline) -> Result<Lease> {
        let started = Instant::now();
        let left = deadline.left();
        let acquire = async {
            match self.limits.own_pool {
                Some(limits) => {
                    let timeouts = Timeouts {
                        wait: Some(limits.acquire.min(left)),
                        create: Some(limits.connect.min(left)),
                        recycle: Some(limits.connect.min(left)),
                    };
                    self.pool.timeout_get(&timeouts).await
                }
                None => self.pool.get().await,
            }
        };
        // A moment longer than the pool's own limits, which know what was being waited for.
        match timeout(left + Duration::from_millis(5), acquire).await {
            Ok(Ok(object)) => Ok(Lease::new(object)),
            Ok(Err(error)) => Err(error::from_pool(error, started.elapsed())),
            Err(_) if self.all_in_use() => Err(Error::PoolExhausted {
                waited: started.elapsed(),
            }),
            Err(_) => Err(error::unavailable(UnavailableReason::ConnectTimeout, None)),
        }
    }

    fn all_in_use(&self) -> bool {
        let status = self.pool.status();
        status.size >= status.max_size && status.available == 0
    }

    /// The time that a call has, from now.
    pub(super) fn deadline(&self) -> Deadline {
        let now = Instant::now();
        Deadline {
            given: self.limits.call,
            // A limit too large to be added means none that anybody lives to see.
            at: now.checked_add(self.limits.call).unwrap_or(now),
        }
    }

    /// An error that means that the server ran into its own limit says so.
    pub(super) fn timed_out(&self, error: Error, since: Instant) -> Error {
        let took = since.elapsed();
        let limit = self.limits.own_pool.map(|limits| limits.statement);
        match error {
            Error::Database(failure) if error::is_statement_timeout(&failure, took, limit) => {
                Error::Timeout { after: took }
            }
            other => other,
        }
    }
}

/// When a call has to end.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    given: Duration,
    at: Instant,
}

impl Deadline {
    fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// The work, or the error that says that it took too long. Work that did is dropped.
    pub(super) async fn bound<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match timeout_at(self.at.into(), work).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { after: self.given }),
        }
    }
}

/// Where the statements of a repository run.
#[derive(Clone)]
pub(super) enum Executor {
    /// Each on a connection of the pool, in a transaction of its own.
    Pool(Arc<Shared>),
    /// All in one transaction.
    Transaction(Arc<TxInner>),
}

impl Executor {
    /// Runs a statement and gives its rows. One round trip, and another one where the connection
    /// has not prepared the statement yet.
    pub(super) async fn query(
        &self,
        statement: &Statement,
        params: &Params<'_>,
    ) -> Result<Vec<Row>> {
        match self {
            Executor::Pool(shared) => {
                let deadline = shared.deadline();
                let mut lease = shared.lease(deadline).await?;
                let sent = Instant::now();
                deadline
                    .bound(lease.query(statement, params))
                    .await
                    .map_err(|error| shared.timed_out(error, sent))
            }
            Executor::Transaction(tx) => tx.query(statement, params).await,
        }
    }

    /// Runs a statement that always gives exactly one row.
    pub(super) async fn query_one(
        &self,
        statement: &Statement,
        params: &Params<'_>,
    ) -> Result<Row> {
        let rows = self.query(statement, params).await?;
        rows.into_iter().next().ok_or_else(error::no_row)
    }

    /// Runs a statement that gives a row or none.
    pub(super) async fn query_opt(
        &self,
        statement: &Statement,
        params: &Params<'_>,
    ) -> Result<Option<Row>> {
        let rows = self.query(statement, params).await?;
        Ok(rows.into_iter().next())
    }
}
