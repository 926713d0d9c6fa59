//! Calls with more items than go into one statement: several statements, and still all or nothing.
//! Outside a transaction they are one of their own, inside one they are in a savepoint.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::MutexGuard;
use tokio_postgres::Row;

use super::deadline::Deadline;
use super::error;
use super::executor::Executor;
use super::observe::figures;
use super::shared::Shared;
use super::statement::{Params, Statement};
use super::tx::{self, State, TxInner};
use crate::error::{Error, Result, UnavailableReason};
use crate::store::TxOptions;

/// The most items of one statement. A message holds them all: some megabytes, and a hundred of
/// them if every text is as long as it may be.
const AT_ONCE: usize = 100_000;

/// How often a call outside a transaction is made at most, when it gives way to others: as often
/// as one that is a single statement.
const ATTEMPTS: u32 = 5;

/// A call with many items.
pub(super) trait Bulk: Sync {
    /// Its answer.
    type Answer: Send;

    /// How many items there are to send.
    fn items(&self) -> usize;

    /// Sends all of them. It may be called again from the start, when nothing of it is stored.
    fn send(&self, on: &mut Statements<'_>) -> impl Future<Output = Result<Self::Answer>> + Send;
}

/// The items of each statement.
pub(super) fn pieces(items: usize) -> impl Iterator<Item = Range<usize>> {
    let starts = (0..items).step_by(AT_ONCE);
    starts.map(move |start| start..items.min(start.saturating_add(AT_ONCE)))
}

/// Makes the call. One round trip if it fits into one statement; otherwise one for each statement
/// and two around them.
pub(super) async fn run<B: Bulk>(executor: &Executor, bulk: &B) -> Result<B::Answer> {
    let deadline = executor.deadline();
    let single = bulk.items() <= AT_ONCE;
    match executor {
        Executor::Pool(shared) => again_if_it_gives_way(shared, deadline, bulk).await,
        Executor::Transaction(_) if single => {
            bulk.send(&mut Statements::Single(executor, deadline)).await
        }
        Executor::Transaction(tx) => in_savepoint(tx, deadline, bulk).await,
        // Such a call is a write, and there only reads are made.
        Executor::Checked(on) => in_transaction(&on.shared, deadline, bulk).await,
    }
}

/// Outside a transaction. Calls of this store that have given way are made again one at a time: the
/// same items in other orders deadlock, which the server finds after a second, and they would be in
/// each other's way again.
async fn again_if_it_gives_way<B: Bulk>(
    shared: &Arc<Shared>,
    deadline: Deadline,
    bulk: &B,
) -> Result<B::Answer> {
    let make = async || match bulk.items() <= AT_ONCE {
        true => bulk.send(&mut Statements::Alone(shared, deadline)).await,
        false => in_transaction(shared, deadline, bulk).await,
    };
    let mut answer = make().await;
    for _ in 1..ATTEMPTS {
        if !matches!(answer, Err(Error::Conflict(_))) {
            break;
        }
        let turn = deadline.bound(async { Ok(shared.turn.lock().await) });
        // Out of time, the answer is still that nothing was stored.
        let Ok(_turn) = turn.await else {
            break;
        };
        figures::again();
        answer = make().await;
    }
    answer
}

/// Where the statements of a call run.
pub(super) enum Statements<'a> {
    /// There is only one, and nothing around it.
    Single(&'a Executor, Deadline),
    /// There is only one, which is a transaction of its own.
    Alone(&'a Shared, Deadline),
    /// In a transaction whose other users wait meanwhile.
    Held(&'a TxInner, &'a mut State, Deadline),
}

impl Statements<'_> {
    /// Runs a statement and gives its rows.
    pub(super) async fn query(
        &mut self,
        statement: &Statement,
        params: &Params<'_>,
    ) -> Result<Vec<Row>> {
        match self {
            Statements::Single(executor, deadline) => {
                executor.query_by(*deadline, statement, params).await
            }
            Statements::Alone(shared, deadline) => {
                shared.gather(*deadline, statement, params).await
            }
            Statements::Held(tx, state, deadline) => {
                step(tx, *deadline, tx.run(state, statement, params)).await
            }
        }
    }
}

async fn in_transaction<B: Bulk>(
    shared: &Arc<Shared>,
    deadline: Deadline,
    bulk: &B,
) -> Result<B::Answer> {
    let tx = tx::open(shared, &TxOptions::default(), deadline).await?;
    let answer = {
        let mut state = hold(&tx, deadline).await?;
        let mut on = Statements::Held(&tx, &mut state, deadline);
        bulk.send(&mut on).await
    };
    match answer {
        Ok(answer) => match tx.commit(deadline).await {
            Ok(()) => Ok(answer),
            Err(error) => Err(as_of_one_statement(error)),
        },
        Err(error) => {
            // Without an answer the connection is closed, which rolls back as well.
            let _ = tx.rollback(deadline).await;
            Err(error)
        }
    }
}

/// What a statement that is its own transaction gives when nothing is stored.
fn as_of_one_statement(error: Error) -> Error {
    match error {
        Error::RolledBack(failure) if failure.sqlstate().is_some() => Error::Database(failure),
        Error::RolledBack(failure) => {
            error::unavailable(UnavailableReason::ConnectionLost, Some(Box::new(failure)))
        }
        other => other,
    }
}

async fn in_savepoint<B: Bulk>(tx: &TxInner, deadline: Deadline, bulk: &B) -> Result<B::Answer> {
    // Until the savepoint is gone: what others do in the transaction must not be undone with it.
    let mut state = hold(tx, deadline).await?;
    let level = step(tx, deadline, tx.save(&mut state)).await?;
    let mut on = Statements::Held(tx, &mut state, deadline);
    match bulk.send(&mut on).await {
        Ok(answer) => {
            step(tx, deadline, tx.release(&mut state, level)).await?;
            Ok(answer)
        }
        Err(error) => {
            // A refusal leaves the transaction usable, a failure does not: as with one statement.
            if state.is_open() {
                // If this fails, so does everything after it, up to the commit.
                let _ = step(tx, deadline, tx.undo(&mut state, level)).await;
            }
            Err(error)
        }
    }
}

/// Keeps the transaction from its other users.
async fn hold(tx: &TxInner, deadline: Deadline) -> Result<MutexGuard<'_, State>> {
    deadline.bound(async { Ok(tx.state.lock().await) }).await
}

/// Bounds one statement by the time that is left for the call.
async fn step<T>(
    tx: &TxInner,
    deadline: Deadline,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let started = Instant::now();
    let done = deadline.bound(work).await;
    done.map_err(|error| tx.shared.timed_out(error, started))
}

#[cfg(test)]
mod tests {
    use super::{AT_ONCE, pieces};

    #[test]
    fn pieces_hold_every_item_once_and_none_too_many() {
        let all = |items| {
            let pieces = pieces(items).map(|piece| (piece.start, piece.end));
            pieces.collect::<Vec<_>>()
        };
        assert_eq!(all(0), []);
        assert_eq!(all(AT_ONCE), [(0, AT_ONCE)]);
        let last = 2 * AT_ONCE + 1;
        let three = [(0, AT_ONCE), (AT_ONCE, 2 * AT_ONCE), (2 * AT_ONCE, last)];
        assert_eq!(all(last), three);
    }
}
