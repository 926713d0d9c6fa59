//! What goes to the server together: a statement, and in a transaction what belongs around it.

use deadpool_postgres::ClientWrapper;
use futures_util::{TryStreamExt, join};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::notes::Note;
use super::statement::{Bound, Params, Statement};

/// The savepoint around a statement that may be refused.
const SAVE: &str = "SAVEPOINT motorpool_statement";
const RELEASE: &str = "RELEASE SAVEPOINT motorpool_statement";
const UNDO: &str =
    "ROLLBACK TO SAVEPOINT motorpool_statement; RELEASE SAVEPOINT motorpool_statement";

/// The transaction's id once it has one, in 64 bits.
pub(super) const TRANSACTION_ID: &str = "SELECT pg_current_xact_id_if_assigned()::text::bigint";

pub(super) type Driver<T> = Result<T, tokio_postgres::Error>;

/// A connection and what is noted about it.
#[derive(Clone, Copy)]
pub(super) struct Noted<'a> {
    pub(super) client: &'a ClientWrapper,
    pub(super) note: &'a Note,
}

impl Noted<'_> {
    /// The prepared form of a text. A round trip for the first time, then none.
    async fn prepare(&self, sql: &'static str) -> Driver<tokio_postgres::Statement> {
        if let Some(prepared) = self.note.prepared(sql) {
            return Ok(prepared);
        }
        // In a box, because it is rare and would make every call larger.
        let prepared = Box::pin(self.client.prepare(sql)).await?;
        self.note.keep(sql, &prepared);
        Ok(prepared)
    }
}

/// What the rows of an answer are gathered in.
pub(super) trait Rows: Default + Extend<Row> + Send {}

impl Rows for Vec<Row> {}

/// The first row alone, which needs no list.
#[derive(Default)]
pub(super) struct First(pub(super) Option<Row>);

impl Rows for First {}

impl Extend<Row> for First {
    fn extend<I: IntoIterator<Item = Row>>(&mut self, rows: I) {
        for row in rows {
            self.0.get_or_insert(row);
        }
    }
}

/// Runs one statement.
pub(super) async fn query<R: Rows>(
    connection: Noted<'_>,
    statement: &Statement,
    params: &Params<'_>,
) -> Driver<R> {
    let prepared = connection.prepare(statement.sql).await?;
    rows(connection.client, &prepared, params).await
}

async fn rows<R: Rows>(
    client: &ClientWrapper,
    prepared: &tokio_postgres::Statement,
    params: &Params<'_>,
) -> Driver<R> {
    let bound = params.iter().map(|param| Bound(*param));
    client.query_raw(prepared, bound).await?.try_collect().await
}

/// The rows and the transaction's id, and whether a refusal was undone.
pub(super) async fn guarded<R: Rows>(
    connection: Noted<'_>,
    statement: &Statement,
    params: &Params<'_>,
    ask_id: bool,
) -> (Driver<(R, Option<i64>)>, bool) {
    let client = connection.client;
    let prepared = match prepare(connection, statement, ask_id).await {
        Ok(prepared) => prepared,
        Err(error) => return (Err(error), false),
    };
    // Each of these sends when it is first polled, so they leave in this order and travel
    // together.
    let guard = async |sql| match statement.refusable {
        true => client.batch_execute(sql).await,
        false => Ok(()),
    };
    let id = async {
        match &prepared.1 {
            Some(ask) => client.query_one(ask, &[]).await?.try_get(0),
            None => Ok(None),
        }
    };
    let (saved, rows, released, id) = join!(
        guard(SAVE),
        rows(client, &prepared.0, params),
        guard(RELEASE),
        id
    );
    match rows {
        Ok(rows) => {
            // If any of them failed the server has aborted the transaction, whatever the
            // statement itself gave.
            let all = saved.and(released).and(id);
            (all.map(|id| (rows, id)), false)
        }
        Err(error) if statement.refusable && refused(&error) => {
            let undone = client.batch_execute(UNDO).await;
            (Err(error), undone.is_ok())
        }
        Err(error) => (Err(error), false),
    }
}

/// The statement, and the question for the transaction's id if it is to be asked.
async fn prepare(
    connection: Noted<'_>,
    statement: &Statement,
    ask_id: bool,
) -> Driver<(tokio_postgres::Statement, Option<tokio_postgres::Statement>)> {
    let prepared = connection.prepare(statement.sql).await?;
    let ask = match ask_id {
        true => Some(connection.prepare(TRANSACTION_ID).await?),
        false => None,
    };
    Ok((prepared, ask))
}

/// The prepared statement is of no more use: its result has another type now (0A000), or the
/// server does not know it (26000).
pub(super) fn is_stale(error: &tokio_postgres::Error) -> bool {
    let stale = [
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::INVALID_SQL_STATEMENT_NAME,
    ];
    error.code().is_some_and(|code| stale.contains(code))
}

/// The statement was refused for a reason of the domain: by a constraint, or by its own check
/// that all of it is stored (22012).
fn refused(error: &tokio_postgres::Error) -> bool {
    error
        .as_db_error()
        .is_some_and(|db| db.constraint().is_some() || *db.code() == SqlState::DIVISION_BY_ZERO)
}
