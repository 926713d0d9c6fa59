//! The state of a transaction: a connection, what has failed on it, and whether it is over.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use futures_util::FutureExt;
use tokio::sync::Mutex;

use super::begin;
use super::deadline::Deadline;
use super::era::{self, Era};
use super::flight::{Around, Rows};
use super::lease::{COMMIT, Lease};
use super::mode::StatementMode;
use super::number::{Asked, Number};
use super::shared::Shared;
use super::statement::{Params, Statement};
use crate::error::{CommitToken, Error, Failure, Result};
use crate::store::TxOptions;

/// What the repositories of a transaction work on.
pub(super) struct TxInner {
    pub(super) shared: Arc<Shared>,
    /// For the token of a commit.
    era: era::Scope,
    // Statements of one transaction run one after the other.
    pub(super) state: Mutex<State>,
    /// See [`Transaction::gave_way`](crate::store::Transaction::gave_way).
    gave_way: AtomicBool,
}

pub(super) struct State {
    phase: Phase,
    /// What begins the transaction, as long as nothing has been sent. It travels with the first
    /// statement.
    begin: Option<Cow<'static, str>>,
    /// The transaction's id, known from the first write on.
    id: Option<Number>,
    /// The savepoints that are open, the outermost first, and how many there have been.
    saved: Vec<u32>,
    savepoints: u32,
}

enum Phase {
    /// Statements can be run.
    Open(Lease),
    /// Something failed. The connection, if there still is one, waits for the rollback.
    Failed {
        lease: Option<Lease>,
        first: Failure,
    },
    /// Committed or rolled back.
    Ended,
}

// Savepoints share a name: each of these speaks of the innermost one.
const SAVE: &str = "SAVEPOINT motorpool_savepoint";
const RELEASE: &str = "RELEASE SAVEPOINT motorpool_savepoint";
const UNDO: &str =
    "ROLLBACK TO SAVEPOINT motorpool_savepoint; RELEASE SAVEPOINT motorpool_savepoint;";

/// Opens a transaction: the connection is there, and the server hears of it with the first
/// statement.
pub(super) async fn open(
    shared: &Arc<Shared>,
    options: &TxOptions,
    deadline: Deadline,
) -> Result<Arc<TxInner>> {
    let mut lease = shared.lease(deadline).await?;
    let era = match options.is_read_only() {
        true => {
            lease.set_read_only();
            era::Scope::nothing()
        }
        false if shared.mode == StatementMode::Unnamed => era::Scope::Transaction,
        false => {
            let sent = Instant::now();
            let era = deadline.bound(lease.era()).await;
            era.map_err(|error| shared.timed_out(error, sent))?
        }
    };
    Ok(Arc::new(TxInner {
        shared: Arc::clone(shared),
        era,
        state: Mutex::new(State {
            phase: Phase::Open(lease),
            begin: Some(begin::message(shared, options)),
            id: None,
            saved: Vec::new(),
            savepoints: 0,
        }),
        gave_way: AtomicBool::new(false),
    }))
}

impl TxInner {
    /// Runs a statement in the transaction.
    pub(super) fn query<'a, R: Rows + 'a>(
        &'a self,
        deadline: Deadline,
        statement: &'a Statement,
        params: &'a Params<'a>,
    ) -> impl Future<Output = Result<R>> + 'a {
        let run = async move {
            self.run(&mut *self.state.lock().await, statement, params)
                .await
        };
        self.in_time(deadline, run)
    }

    /// Fails where no statement could be run, for a call that needs none.
    pub(super) async fn refuse_ended(&self) -> Result<()> {
        let state = self.state.lock().await;
        match state.is_open() {
            true => Ok(()),
            false => Err(state.refusal()),
        }
    }

    pub(super) fn gave_way(&self) -> bool {
        self.gave_way.load(Relaxed)
    }

    pub(super) fn deadline(&self) -> Deadline {
        self.shared.deadline()
    }

    /// Bounds a piece of work by the time that a call has.
    pub(super) fn in_time<'a, T: 'a>(
        &'a self,
        deadline: Deadline,
        work: impl Future<Output = Result<T>> + 'a,
    ) -> impl Future<Output = Result<T>> + 'a {
        let started = Instant::now();
        // Not an async function, which would hold the work twice.
        deadline.bound(work).map(move |result| match result {
            // A call that waited for another one in its transaction says nothing of the server.
            Err(error @ Error::Timeout { .. }) if self.state.try_lock().is_err() => Err(error),
            result => result.map_err(|error| self.shared.timed_out(error, started)),
        })
    }

    pub(super) async fn run<R: Rows>(
        &self,
        state: &mut State,
        statement: &Statement,
        params: &Params<'_>,
    ) -> Result<R> {
        let mut lease = state.take()?;
        let begin = state.begin.take();
        let around = Around {
            begin: begin.as_deref(),
            ask: match self.era {
                _ if !statement.writes || state.id.is_some() => None,
                era::Scope::Connection(_) => Some(Asked::Number),
                era::Scope::Transaction => Some(Asked::NumberAndEra),
            },
        };
        let answer = lease.query_in_transaction(statement, params, around).await;
        state.id = state.id.or(answer.id);
        match &answer.rows {
            Err(error) if answer.aborted => self.fail(state, lease, error),
            _ => {
                self.gave_way.store(false, Relaxed);
                state.phase = Phase::Open(lease);
            }
        }
        answer.rows
    }

    /// Runs a command about savepoints.
    async fn command(&self, state: &mut State, mut lease: Lease, sql: &str) -> Result<()> {
        let done = lease.command(sql).await;
        match &done {
            Ok(()) => state.phase = Phase::Open(lease),
            Err(error) => self.fail(state, lease, error),
        }
        done
    }

    fn fail(&self, state: &mut State, lease: Lease, error: &Error) {
        let first = Failure::of(error);
        if first.is_conflict() {
            self.gave_way.store(true, Relaxed);
        }
        let lease = Some(lease);
        state.phase = Phase::Failed { lease, first };
    }

    pub(super) async fn save(&self, state: &mut State) -> Result<u32> {
        let mut lease = state.take()?;
        if let Some(begin) = state.begin.take()
            && let Err(error) = lease.begin(&begin).await
        {
            self.fail(state, lease, &error);
            return Err(error);
        }
        self.command(state, lease, SAVE).await?;
        state.savepoints += 1;
        state.saved.push(state.savepoints);
        Ok(state.savepoints)
    }

    pub(super) async fn release(&self, state: &mut State, savepoint: u32) -> Result<()> {
        let outside = state.outside(savepoint)?;
        state.fail_unfinished(outside + 1);
        let lease = state.take()?;
        self.command(state, lease, RELEASE).await?;
        state.saved.truncate(outside);
        Ok(())
    }

    pub(super) async fn undo(&self, state: &mut State, savepoint: u32) -> Result<()> {
        let outside = state.outside(savepoint)?;
        let lease = match std::mem::replace(&mut state.phase, given_up()) {
            Phase::Open(lease)
            | Phase::Failed {
                lease: Some(lease), ..
            } => lease,
            other => {
                state.phase = other;
                return Err(state.refusal());
            }
        };
        // Those inside it that were dropped unfinished first.
        let sql = UNDO.repeat(state.saved.len() - outside);
        self.command(state, lease, &sql).await?;
        state.saved.truncate(outside);
        Ok(())
    }

    /// Takes the state for good; whoever comes later finds the transaction ended. `None` if there
    /// is nothing to end.
    async fn end(&self, deadline: Deadline) -> Result<Option<(Phase, Option<Number>)>> {
        let ended = async {
            let mut state = self.state.lock().await;
            state.fail_unfinished(0);
            let id = state.id;
            Ok(match std::mem::replace(&mut state.phase, Phase::Ended) {
                // The server has not heard of it.
                Phase::Open(_) if state.begin.is_some() => None,
                phase => Some((phase, id)),
            })
        };
        deadline.bound(ended).await
    }

    pub(super) async fn commit(&self, deadline: Deadline) -> Result<()> {
        let Some(end) = self.end(deadline).await? else {
            return Ok(());
        };
        match end {
            // What the server has not been asked to commit it rolls back.
            (Phase::Open(lease), _) if lease.is_closed() => {
                let first = Failure::new("the connection was lost before the commit");
                Err(Error::RolledBack(first))
            }
            (Phase::Open(mut lease), id) => {
                let sent = Instant::now();
                let committed = deadline.bound(lease.end(COMMIT)).await;
                self.gave_way.store(false, Relaxed);
                committed.map_err(|error| self.not_committed(error, id, sent))
            }
            (Phase::Failed { lease, first }, _) => {
                if let Some(mut lease) = lease {
                    // The server has rolled back in any case; this frees the connection.
                    let _ = deadline.bound(lease.end("ROLLBACK")).await;
                }
                Err(Error::RolledBack(first))
            }
            (Phase::Ended, _) => Err(Error::TransactionClosed),
        }
    }

    /// What it means that COMMIT failed.
    fn not_committed(&self, error: Error, id: Option<Number>, sent: Instant) -> Error {
        match (error, id) {
            // The server answered, and what it refuses to commit it has rolled back.
            (Error::Database(failure), _) => Error::RolledBack(failure),
            (error @ Error::Conflict(_), _) => {
                self.gave_way.store(true, Relaxed);
                error
            }
            // No answer, or one from a server that is going down.
            (error, Some(id)) => {
                self.shared.timed_out(error, sent);
                let era = match (id.era, self.era) {
                    (Some(era), _) | (None, era::Scope::Connection(era)) => era,
                    (None, era::Scope::Transaction) => Era::default(),
                };
                let token = CommitToken::new(id.id.cast_unsigned(), era.crash);
                Error::CommitUnknown {
                    token: token.on_timeline(era.timeline),
                }
            }
            // It wrote nothing, so there was nothing to commit.
            (error, None) => self.shared.timed_out(error, sent),
        }
    }

    pub(super) async fn rollback(&self, deadline: Deadline) -> Result<()> {
        let Some((phase, _)) = self.end(deadline).await? else {
            return Ok(());
        };
        match phase {
            Phase::Open(mut lease)
            | Phase::Failed {
                lease: Some(mut lease),
                ..
            } => {
                // Without an answer the connection is closed, and the server rolls back by itself.
                let _ = deadline.bound(lease.end("ROLLBACK")).await;
                Ok(())
            }
            Phase::Failed { lease: None, .. } => Ok(()),
            Phase::Ended => Err(Error::TransactionClosed),
        }
    }
}

/// What remains of a transaction while a statement runs in it: should the statement's future be
/// dropped, the connection is dropped with it, which cancels the statement.
fn given_up() -> Phase {
    Phase::Failed {
        lease: None,
        first: Failure::new("a call in it was given up before its answer"),
    }
}

impl State {
    /// The connection, for one statement.
    fn take(&mut self) -> Result<Lease> {
        match std::mem::replace(&mut self.phase, given_up()) {
            Phase::Open(lease) => Ok(lease),
            other => {
                self.phase = other;
                Err(self.refusal())
            }
        }
    }

    /// Whether statements can be run.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Why no statement can be run.
    fn refusal(&self) -> Error {
        match &self.phase {
            Phase::Failed { first, .. } => Error::RolledBack(first.clone()),
            Phase::Open(_) | Phase::Ended => Error::TransactionClosed,
        }
    }

    /// How many savepoints are around this one. It may have ended with one of them, when others have
    /// been opened since.
    fn outside(&self, savepoint: u32) -> Result<usize> {
        let place = self.saved.iter().position(|open| *open == savepoint);
        place.ok_or(Error::TransactionClosed)
    }

    /// Savepoints beyond this many that are still open were dropped unfinished.
    fn fail_unfinished(&mut self, finished: usize) {
        if self.saved.len() <= finished {
            return;
        }
        if let Ok(lease) = self.take() {
            self.phase = Phase::Failed {
                lease: Some(lease),
                first: Failure::new("a savepoint in it was dropped unfinished"),
            };
        }
    }
}
