//! Everything in a table, in chunks that are a statement each.

use std::pin::pin;

use futures_util::stream::BoxStream;
use tokio_postgres::Row;

use super::executor::Executor;
use super::observe::Operation;
use super::row;
use super::statement::Statement;
use crate::error::Result;
use crate::page::walk;

/// The most rows of a chunk. Enough that a round trip is little beside it, and few enough that it
/// takes no time to speak of.
const CHUNK: usize = 2000;

/// All rows in order of id, each chunk a call of its own. The statement takes the first id and a number of rows, and its first
/// column is the id.
pub(super) fn stream<'a, T: Send + 'a>(
    executor: &'a Executor,
    operation: Operation,
    statement: &'static Statement,
    decode: fn(&Row) -> Result<T>,
) -> BoxStream<'a, Result<T>> {
    walk(move |after| async move {
        let chunk = pin!(chunk(executor, statement, after));
        let (rows, next) = executor.call(operation, chunk).await?;
        Ok((rows.into_iter().map(move |row| decode(&row)), next))
    })
}

/// The rows after this id, and the id after which there may be more.
pub(super) async fn chunk(
    executor: &Executor,
    statement: &Statement,
    after: Option<i64>,
) -> Result<(Vec<Row>, Option<i64>)> {
    let (mut rows, mut next) = (Vec::new(), None);
    if let Some((first, limit)) = row::range(after, CHUNK - 1) {
        rows = executor.query(statement, &[&first, &limit]).await?;
        // One that is not full is the last.
        if let Some(last) = rows.last().filter(|_| rows.len() >= CHUNK) {
            next = Some(row::computed(last, 0)?);
        }
    }
    Ok((rows, next))
}
