//! The transaction as an owned value: a connection, what has failed on it, and whether it is over.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio_postgres::Row;

use super::cars::PgCars;
use super::executor::{Deadline, Executor, Shared};
use super::lease::Lease;
use super::statement::{Params, Statement};
use super::users::PgUsers;
use crate::error::{CommitToken, Error, Failure, Result};
use crate::repo::{CarRepo, UserRepo};
use crate::store::{IsolationLevel, Transaction, Tx, TxOptions};

/// The transaction and its repositories.
struct PgTransaction {
    users: PgUsers,
    cars: PgCars,
    inner: Arc<TxInner>,
}

/// What the repositories of a transaction work on.
pub(super) struct TxInner {
    shared: Arc<Shared>,
    // Statements of one transaction run one after the other.
    state: Mutex<State>,
}

enum State {
    /// Statements can be run.
    Open {
        lease: Lease,
        /// The id, known from the first write on.
        id: Option<i64>,
    },
    /// Something failed. The connection, if there still is one, waits for the rollback.
    Failed {
        lease: Option<Lease>,
        first: Failure,
    },
    /// Committed or rolled back.
    Ended,
}

/// Begins a transaction.
pub(super) async fn begin(shared: &Arc<Shared>, options: &TxOptions) -> Result<Tx> {
    let deadline = shared.deadline();
    let mut lease = shared.lease(deadline).await?;
    deadline
        .bound(lease.begin(begin_sql(options), options.is_read_only()))
        .await?;
    let inner = Arc::new(TxInner {
        shared: Arc::clone(shared),
        state: Mutex::new(State::Open { lease, id: None }),
    });
    Ok(Tx::new(PgTransaction {
        users: PgUsers::new(Executor::Transaction(Arc::clone(&inner))),
        cars: PgCars::new(Executor::Transaction(Arc::clone(&inner))),
        inner,
    }))
}

fn begin_sql(options: &TxOptions) -> &'static str {
    use IsolationLevel::{ReadCommitted, RepeatableRead, Serializable};
    match (options.isolation_level(), options.is_read_only()) {
        (ReadCommitted, false) => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
        (ReadCommitted, true) => "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
        (RepeatableRead, false) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE",
        (RepeatableRead, true) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        (Serializable, false) => "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE",
        (Serializable, true) => "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
    }
}

impl TxInner {
    /// Runs a statement in the transaction.
    pub(super) async fn query(
        &self,
        statement: &Statement,
        params: &Params<'_>,
    ) -> Result<Vec<Row>> {
        let deadline = self.shared.deadline();
        deadline.bound(self.run(statement, params)).await
    }

    async fn run(&self, statement: &Statement, params: &Params<'_>) -> Result<Vec<Row>> {
        let mut state = self.state.lock().await;
        // What remains if this future is dropped during the statement; the connection is dropped
        // with it, which cancels the statement.
        let given_up = State::Failed {
            lease: None,
            first: Failure::new("a call in it was given up before its answer"),
        };
        let (mut lease, id) = match std::mem::replace(&mut *state, given_up) {
            State::Open { lease, id } => (lease, id),
            other => {
                let error = other.refusal();
                *state = other;
                return Err(error);
            }
        };
        let sent = Instant::now();
        let ask_id = statement.writes && id.is_none();
        let answer = lease.query_in_transaction(statement, params, ask_id).await;
        let rows = answer
            .rows
            .map_err(|error| self.shared.timed_out(error, sent));
        *state = match &rows {
            Err(error) if answer.aborted => State::Failed {
                lease: Some(lease),
                first: failure_of(error),
            },
            _ => State::Open {
                lease,
                id: id.or(answer.id),
            },
        };
        rows
    }

    /// Takes the state for good; whoever comes later finds the transaction ended.
    async fn end(&self, deadline: Deadline) -> Result<State> {
        let state = async {
            Ok(std::mem::replace(
                &mut *self.state.lock().await,
                State::Ended,
            ))
        };
        deadline.bound(state).await
    }
}

impl State {
    /// Why no statement can be run.
    fn refusal(&self) -> Error {
        match self {
            State::Failed { first, .. } => Error::RolledBack(first.clone()),
            State::Open { .. } | State::Ended => Error::TransactionClosed,
        }
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
        let deadline = self.inner.shared.deadline();
        match self.inner.end(deadline).await? {
            State::Open { mut lease, id } => deadline
                .bound(lease.end("COMMIT"))
                .await
                .map_err(|error| not_committed(error, id)),
            State::Failed { lease, first } => {
                if let Some(mut lease) = lease {
                    // The server has rolled back in any case; this frees the connection.
                    let _ = deadline.bound(lease.end("ROLLBACK")).await;
                }
                Err(Error::RolledBack(first))
            }
            State::Ended => Err(Error::TransactionClosed),
        }
    }

    async fn rollback(&self) -> Result<()> {
        let deadline = self.inner.shared.deadline();
        match self.inner.end(deadline).await? {
            State::Open { mut lease, .. }
            | State::Failed {
                lease: Some(mut lease),
                ..
            } => {
                // Without an answer the connection is closed, and the server rolls back by itself.
                let _ = deadline.bound(lease.end("ROLLBACK")).await;
                Ok(())
            }
            State::Failed { lease: None, .. } => Ok(()),
            State::Ended => Err(Error::TransactionClosed),
        }
    }
}

/// What it means that COMMIT failed.
fn not_committed(error: Error, id: Option<i64>) -> Error {
    match (error, id) {
        // The server answered, and what it refuses to commit it has rolled back.
        (Error::Database(failure), _) => Error::RolledBack(failure),
        (error @ Error::Conflict(_), _) => error,
        // No answer, or one from a server that is going down.
        (_, Some(id)) => Error::CommitUnknown {
            token: CommitToken::new(id.cast_unsigned()),
        },
        // It wrote nothing, so there was nothing to commit.
        (error, None) => error,
    }
}

/// What a transaction remembers of its first failure.
fn failure_of(error: &Error) -> Failure {
    match error {
        Error::Conflict(failure) | Error::Database(failure) => failure.clone(),
        other => {
            let failure = Failure::new(other.to_string());
            match other.sqlstate() {
                Some(sqlstate) => failure.with_sqlstate(sqlstate),
                None => failure,
            }
        }
    }
}
