//! A connection on loan from the pool, and what becomes of it when the borrower goes away.
//!
//! A future can be dropped at any await. The driver does not notice: the statement runs on, and
//! the next borrower would wait behind it, inside whatever transaction it left open. So a lease
//! knows at every moment what its connection is doing, and its drop acts on that.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Object};
use futures_util::poll;
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_postgres::Row;

use super::abandon::{Unquiet, abandon};
use super::error;
use super::flight::{
    Around, Driver, First, Left, Noted, Rows, Setback, ahead, guarded, is_stale, query,
};
use super::health::{Health, Reason};
use super::mode::StatementMode;
use super::notes::Note;
use super::number::{Number, TRANSACTION_ID, TRANSACTION_ID_AND_ERA};
use super::statement::{Params, Statement};
use super::wanted::IS_STANDBY;
use crate::error::{Error, Result, UnavailableReason};

/// How long a transaction that was dropped may take to roll back before its connection is closed
/// instead.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(1);

/// Ends a transaction so that it is stored.
pub(super) const COMMIT: &str = "COMMIT";

/// What the connection is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// Nothing: it can go back to the pool.
    Nothing,
    /// It waits inside a transaction, or may do so.
    Transaction,
    /// A statement is on its way, or its answer is.
    Statement,
    /// It is of no more use.
    Broken(Reason),
}

/// A borrowed connection. Dropped, it goes back to the pool if nothing is left to do on it;
/// otherwise that is seen to first, or the connection leaves the pool.
pub(super) struct Lease {
    object: Option<Object>,
    pub(super) note: Arc<Note>,
    mode: StatementMode,
    doing: Doing,
    health: Arc<Health>,
    /// Inside a transaction that its caller made read only.
    read_only: bool,
}

impl Lease {
    pub(super) fn new(object: Object, health: Arc<Health>, mode: StatementMode) -> Self {
        health.lend();
        Lease {
            note: health.notes.of(&object),
            object: Some(object),
            mode,
            doing: Doing::Nothing,
            health,
            read_only: false,
        }
    }

    /// From now on what fails here fails in a transaction that its caller made read only.
    pub(super) fn set_read_only(&mut self) {
        self.read_only = true;
    }

    pub(super) fn client(&self) -> Option<&ClientWrapper> {
        self.object.as_deref()
    }

    /// The connection, to send something on it.
    fn connection(&self) -> Option<Noted<'_>> {
        let (note, mode) = (&*self.note, self.mode);
        let client = self.object.as_deref();
        client.map(|client| Noted { client, note, mode })
    }

    /// Whether the server answers, and says yes.
    pub(super) async fn check(&mut self, check: &Statement) -> bool {
        self.doing = Doing::Statement;
        let Some(connection) = self.connection() else {
            return false;
        };
        let answer: Driver<Vec<Row>> = query(connection, check, &[]).await;
        self.doing = Doing::Nothing;
        let yes = |rows: Vec<Row>| rows.first().and_then(|row| row.try_get(0).ok());
        answer.ok().and_then(yes).unwrap_or(false)
    }

    /// Takes the connection out of the pool.
    pub(super) fn give_up(mut self, reason: Reason) {
        self.doing = Doing::Broken(reason);
    }

    /// Runs one statement and gives its rows.
    pub(super) fn query(
        &mut self,
        statement: &Statement,
        params: &Params<'_>,
    ) -> impl Future<Output = Result<Vec<Row>>> {
        self.gather(statement, params)
    }

    /// Runs one statement and gathers its rows.
    pub(super) async fn gather<R: Rows>(
        &mut self,
        statement: &Statement,
        params: &Params<'_>,
    ) -> Result<R> {
        if statement.writes && self.health.log().is_some() {
            // In a box, because most stores have no replicas.
            return Box::pin(self.gather_noted(statement, params)).await;
        }
        let then = std::mem::replace(&mut self.doing, Doing::Statement);
        let connection = self.connection().ok_or_else(lost)?;
        let rows = match query(connection, statement, params).await {
            // The server had prepared it for a schema that is gone, or has forgotten it. It was
            // not run.
            Err(error) if is_stale(&error) => {
                self.note.forget(statement.sql);
                Box::pin(query(connection.unnamed(), statement, params)).await
            }
            rows => rows,
        };
        self.concluded(rows, then)
    }

    /// The same for a write that is noted in the log.
    async fn gather_noted<R: Rows>(
        &mut self,
        statement: &Statement,
        params: &Params<'_>,
    ) -> Result<R> {
        let then = std::mem::replace(&mut self.doing, Doing::Statement);
        let (Some(connection), Some(log)) = (self.connection(), self.health.log()) else {
            return Err(lost());
        };
        let rows = match log.noting(connection, statement, params).await {
            Err(error) if is_stale(&error) => {
                self.note.forget(statement.sql);
                log.noting(connection.unnamed(), statement, params).await
            }
            rows => rows,
        };
        self.concluded(rows, then)
    }

    /// Asks a question and runs one statement behind it, in one flight.
    pub(super) async fn checked<R: Rows>(
        &mut self,
        question: &Statement,
        statement: &Statement,
        params: &Params<'_>,
    ) -> Result<(Option<Row>, R)> {
        self.doing = Doing::Statement;
        let connection = self.connection().ok_or_else(lost)?;
        let answers = match ahead(connection, question, statement, params).await {
            // As for one statement. Which of the two it was is not known.
            Err(error) if is_stale(&error) => {
                self.note.forget(question.sql);
                self.note.forget(statement.sql);
                ahead(connection.unnamed(), question, statement, params).await
            }
            answers => answers,
        };
        let answers = answers.map(|(First(answer), rows)| (answer, rows));
        self.concluded(answers, Doing::Nothing)
    }

    /// Begins a transaction.
    pub(super) async fn begin(&mut self, sql: &str) -> Result<()> {
        let object = self.object.as_ref().ok_or_else(lost)?;
        self.doing = Doing::Statement;
        match object.batch_execute(sql).await {
            Ok(()) => {
                self.doing = Doing::Transaction;
                Ok(())
            }
            Err(error) => Err(self.not_begun(error).await),
        }
    }

    /// What it means that a transaction could not be begun.
    async fn not_begun(&mut self, error: tokio_postgres::Error) -> Error {
        let standby = match self.connection() {
            Some(connection) if !self.read_only && error::hints_at_standby(&error) => {
                let rows: Driver<First> = query(connection, &IS_STANDBY, &[]).await;
                if rows.as_ref().is_err_and(is_stale) {
                    self.note.forget(IS_STANDBY.sql);
                }
                let row = rows.ok().and_then(|First(row)| row);
                row.and_then(|row| row.try_get(0).ok()).unwrap_or(false)
            }
            _ => false,
        };
        let error = match standby {
            true => error::from_standby(&error),
            false => error::from_driver(error, self.read_only),
        };
        // A transaction also after a refusal, which may be that of a setting behind BEGIN.
        self.settle(&error, Doing::Transaction);
        error
    }

    /// Whether the connection is known to be closed.
    pub(super) fn is_closed(&self) -> bool {
        self.object.as_ref().is_none_or(|object| object.is_closed())
    }

    /// Ends the transaction with COMMIT or ROLLBACK. After an error it is rolled back when this is
    /// dropped.
    pub(super) async fn end(&mut self, sql: &str) -> Result<()> {
        let then = match std::mem::replace(&mut self.doing, Doing::Statement) {
            broken @ Doing::Broken(_) => broken,
            _ => Doing::Nothing,
        };
        let connection = self.connection().ok_or_else(lost)?;
        let ended = match self.health.log().filter(|_| sql == COMMIT) {
            Some(log) => Box::pin(log.noting_commit(connection)).await,
            None => connection.client.batch_execute(sql).await,
        };
        let then = match &ended {
            Err(error) if sql == COMMIT && !self.read_only && error::found_by_commit(error) => then,
            // The transaction may be open yet: the server can refuse the command before it ends
            // anything.
            Err(_) if then == Doing::Nothing => match sql {
                COMMIT => Doing::Transaction,
                _ => Doing::Broken(Reason::Cancelled),
            },
            _ => then,
        };
        self.concluded(ended, then)
    }

    /// Runs a command about savepoints inside the transaction.
    pub(super) async fn command(&mut self, sql: &str) -> Result<()> {
        let object = self.object.as_ref().ok_or_else(lost)?;
        self.doing = Doing::Statement;
        let done = object.batch_execute(sql).await;
        self.concluded(done, Doing::Transaction)
    }

    /// Runs one statement inside the transaction, in one flight with what belongs around it: what
    /// begins the transaction, the savepoint of a refusable statement, and the question for the
    /// transaction's id.
    pub(super) async fn query_in_transaction<R: Rows>(
        &mut self,
        statement: &Statement,
        params: &Params<'_>,
        around: Around<'_>,
    ) -> Answer<R> {
        self.doing = Doing::Statement;
        let Some(connection) = self.connection() else {
            return Answer::aborted(lost());
        };
        let Setback { error, left } = match guarded(connection, statement, params, around).await {
            Ok((rows, id)) => {
                self.doing = Doing::Transaction;
                return Answer::of(rows, id);
            }
            Err(setback) => setback,
        };
        match left {
            Left::Never => Answer::aborted(Box::pin(self.not_begun(error)).await),
            Left::Aborted => Answer::aborted(self.failed_within(statement, error)),
            Left::Whole => Answer::refused(self.failed_within(statement, error)),
        }
    }

    /// What it means that a statement failed inside a transaction.
    fn failed_within(&mut self, statement: &Statement, error: tokio_postgres::Error) -> Error {
        if is_stale(&error) {
            // For the next transaction; this one is aborted. Which of them it was is not known.
            self.note.forget(statement.sql);
            self.note.forget(TRANSACTION_ID.sql);
            self.note.forget(TRANSACTION_ID_AND_ERA.sql);
            statement.first.inspect(|first| self.note.forget(first));
        }
        let error = error::from_driver(error, self.read_only);
        self.settle(&error, Doing::Transaction);
        error
    }

    /// Notes how a piece of work ended, after which the connection is doing `then`.
    fn concluded<T>(&mut self, result: Driver<T>, then: Doing) -> Result<T> {
        self.doing = then;
        result.map_err(|error| {
            let error = error::from_driver(error, self.read_only);
            self.settle(&error, then);
            error
        })
    }

    /// Notes that a piece of work failed, after which the connection is doing `then`, if it is of
    /// any more use.
    fn settle(&mut self, error: &Error, then: Doing) {
        self.doing = then;
        if let Error::Unavailable { reason, .. } = error {
            // What happened to this connection may have happened to the idle ones.
            if *reason == UnavailableReason::ReadOnly {
                self.health.refuse();
            }
            self.health.suspect();
            self.doing = Doing::Broken(match reason {
                UnavailableReason::ReadOnly => Reason::ReadOnly,
                _ => Reason::Lost,
            });
        }
    }

    /// Lets the server roll back, after which the connection is free.
    async fn roll_back(mut self) {
        // Should this future be dropped too, the connection must not go back to the pool.
        self.doing = Doing::Broken(Reason::Cancelled);
        if let Some(object) = self.object.as_ref() {
            let mut ended = pin!(object.batch_execute("ROLLBACK"));
            let mut answer = poll!(ended.as_mut()).map(Ok);
            if answer.is_pending() {
                // It is sent; whoever polled this first is not to need a timer.
                yield_now().await;
                answer = Poll::Ready(timeout(ROLLBACK_LIMIT, ended).await);
            }
            if matches!(answer, Poll::Ready(Ok(Ok(())))) {
                self.doing = Doing::Nothing;
            }
        }
    }
}

/// How a statement in a transaction ended.
pub(super) struct Answer<R> {
    pub(super) rows: Result<R>,
    /// The transaction's id, if it was asked for and there is one.
    pub(super) id: Option<Number>,
    /// Whether the transaction can only be rolled back now.
    pub(super) aborted: bool,
}

impl<R> Answer<R> {
    fn of(rows: R, id: Option<Number>) -> Self {
        Answer {
            rows: Ok(rows),
            id,
            aborted: false,
        }
    }

    /// The transaction goes on.
    fn refused(error: Error) -> Self {
        Answer {
            rows: Err(error),
            id: None,
            aborted: false,
        }
    }

    fn aborted(error: Error) -> Self {
        Answer {
            aborted: true,
            ..Answer::refused(error)
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            self.leave(object);
        }
        self.health.take_back();
    }
}

impl Lease {
    /// What becomes of the connection.
    fn leave(&self, object: Object) {
        match self.doing {
            Doing::Nothing => drop(object),
            Doing::Broken(reason) => {
                self.health.discard(reason);
                drop(Object::take(object));
            }
            Doing::Statement => {
                self.health.discard(Reason::Cancelled);
                let busy = Unquiet::new(&self.health);
                abandon(Object::take(object), self.health.way(self.mode), busy);
            }
            Doing::Transaction => match Handle::try_current() {
                Ok(runtime) => {
                    let mut lease = Lease::new(object, Arc::clone(&self.health), self.mode);
                    // Until it runs: a runtime that shuts down drops it unrun.
                    lease.doing = Doing::Broken(Reason::Cancelled);
                    let mut ending = Box::pin(lease.roll_back());
                    // Sent at once: who knows when this runtime runs anything again.
                    let mut nobody = Context::from_waker(Waker::noop());
                    if ending.as_mut().poll(&mut nobody).is_pending() {
                        runtime.spawn(ending);
                    }
                }
                // Without a runtime nothing can be sent; the server rolls back when the
                // connection closes.
                Err(_) => {
                    self.health.discard(Reason::Cancelled);
                    drop(Object::take(object));
                }
            },
        }
    }
}

/// Only its drop takes the connection out of a lease, so nobody sees this.
fn lost() -> Error {
    error::unavailable(UnavailableReason::ConnectionLost, None)
}
