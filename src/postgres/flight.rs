//! What goes to the server together: a statement, and in a transaction what belongs around it.

use std::borrow::Cow;

use deadpool_postgres::ClientWrapper;
use futures_util::{TryStreamExt, join};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::begin::BEGUN;
use super::mode::StatementMode;
use super::notes::Note;
use super::number::{Asked, Number};
use super::statement::{Bound, Params, Statement};

/// The savepoint around a statement that may be refused.
const SAVE: &str = "SAVEPOINT motorpool_statement";
const RELEASE: &str = "RELEASE SAVEPOINT motorpool_statement";
const UNDO: &str =
    "ROLLBACK TO SAVEPOINT motorpool_statement; RELEASE SAVEPOINT motorpool_statement";

pub(super) type Driver<T> = Result<T, tokio_postgres::Error>;

/// A connection and what is noted about it.
#[derive(Clone, Copy)]
pub(super) struct Noted<'a> {
    pub(super) client: &'a ClientWrapper,
    pub(super) note: &'a Note,
    pub(super) mode: StatementMode,
}

/// A statement as it is sent.
enum Ready<'a> {
    /// By the name that it was prepared under.
    Named(tokio_postgres::Statement),
    /// As a text, which the server forgets after it.
    Unnamed(&'a Statement),
}

impl Noted<'_> {
    /// The same, to send a text without a name on it: where a name does not stand any more for what it
    /// stood for. A pooler may go on giving the text the old one.
    pub(super) fn unnamed(self) -> Self {
        let mode = StatementMode::Unnamed;
        Noted { mode, ..self }
    }

    /// Makes a statement ready. Where they have names a round trip for the first time, then none.
    async fn prepare<'s>(&self, statement: &'s Statement) -> Driver<Ready<'s>> {
        match self.mode {
            StatementMode::Prepared => self.named(statement.sql).await.map(Ready::Named),
            StatementMode::Unnamed => Ok(Ready::Unnamed(statement)),
        }
    }

    async fn named(&self, sql: &'static str) -> Driver<tokio_postgres::Statement> {
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
pub(super) trait Rows: Default + Extend<Row> + Send {
    fn first(&self) -> Option<&Row>;
}

impl Rows for Vec<Row> {
    fn first(&self) -> Option<&Row> {
        <[Row]>::first(self)
    }
}

/// The first row alone, which needs no list.
#[derive(Default)]
pub(super) struct First(pub(super) Option<Row>);

impl Rows for First {
    fn first(&self) -> Option<&Row> {
        self.0.as_ref()
    }
}

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
    let ready = connection.prepare(statement).await?;
    rows(connection.client, &ready, params).await
}

/// Runs one statement, and behind it asks a question in a transaction of its own.
pub(super) async fn behind<R: Rows>(
    connection: Noted<'_>,
    statement: &Statement,
    params: &Params<'_>,
    question: &Statement,
) -> (Driver<R>, Driver<First>) {
    match ready(connection, statement, question).await {
        Ok(()) => join!(
            query(connection, statement, params),
            query(connection, question, &[])
        ),
        // Nothing was sent. Should it be the statement, it finds the same again.
        Err(error) => (query(connection, statement, params).await, Err(error)),
    }
}

/// Asks a question, and behind it runs one statement, in a transaction of its own.
pub(super) async fn ahead<R: Rows>(
    connection: Noted<'_>,
    question: &Statement,
    statement: &Statement,
    params: &Params<'_>,
) -> Driver<(First, R)> {
    ready(connection, statement, question).await?;
    let (answer, rows) = join!(
        query(connection, question, &[]),
        query(connection, statement, params)
    );
    Ok((answer?, rows?))
}

/// Prepares both: each sends when it is first polled, so they leave in order and travel together,
/// but only if neither has to be prepared first.
async fn ready(connection: Noted<'_>, one: &Statement, other: &Statement) -> Driver<()> {
    connection.prepare(one).await?;
    connection.prepare(other).await.map(drop)
}

async fn rows<R: Rows>(
    client: &ClientWrapper,
    ready: &Ready<'_>,
    params: &Params<'_>,
) -> Driver<R> {
    let bound = params.iter().map(|param| Bound(*param));
    match ready {
        Ready::Named(prepared) => client.query_raw(prepared, bound).await?.try_collect().await,
        // In a box, so that it makes no call larger that has a name.
        Ready::Unnamed(statement) => {
            let typed = bound.zip(statement.types.iter().cloned());
            Box::pin(async {
                client
                    .query_typed_raw(statement.sql, typed)
                    .await?
                    .try_collect()
                    .await
            })
            .await
        }
    }
}

/// What belongs around a statement in a transaction.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// What begins the transaction, if that has not been sent.
    pub(super) begin: Option<&'a str>,
    /// What is wanted to be known about the transaction.
    pub(super) ask: Option<Asked>,
}

/// How the transaction of a statement begins.
#[derive(Clone, Copy)]
enum Begin<'a> {
    /// It has begun.
    Done,
    /// By this, whose answer has to be waited for: should it fail, the statement would be stored by
    /// itself.
    Ahead(&'a str),
    /// By this, which travels with a statement that stores nothing.
    Along(&'a str),
    /// By this, which travels with another text of the statement: that sees whether the transaction
    /// has begun, stores nothing if it has not, and gives its number.
    Seen(&'a str, &'static str),
}

impl<'a> Around<'a> {
    fn begin(&self, statement: &Statement, mode: StatementMode) -> Begin<'a> {
        let named = mode == StatementMode::Prepared;
        match (self.begin, statement.first) {
            (None, _) => Begin::Done,
            (Some(begin), _) if !statement.writes => Begin::Along(begin),
            // The text gives the number alone.
            (Some(begin), Some(first)) if named && self.ask == Some(Asked::Number) => {
                Begin::Seen(begin, first)
            }
            (Some(begin), _) => Begin::Ahead(begin),
        }
    }
}

/// What failed around a statement in a transaction, or the statement itself.
pub(super) struct Setback {
    pub(super) error: tokio_postgres::Error,
    pub(super) left: Left,
}

/// What a setback leaves of the transaction.
pub(super) enum Left {
    /// Nothing: it was not begun.
    Never,
    /// Nothing but its rollback.
    Aborted,
    /// All of it: the refusal was undone.
    Whole,
}

impl Setback {
    fn not_begun(error: tokio_postgres::Error) -> Self {
        let left = Left::Never;
        Setback { error, left }
    }
}

impl From<tokio_postgres::Error> for Setback {
    fn from(error: tokio_postgres::Error) -> Self {
        let left = Left::Aborted;
        Setback { error, left }
    }
}

/// The rows and the transaction's number.
pub(super) async fn guarded<R: Rows>(
    connection: Noted<'_>,
    statement: &Statement,
    params: &Params<'_>,
    around: Around<'_>,
) -> Result<(R, Option<Number>), Setback> {
    if around.begin.is_none() && around.ask.is_none() && !statement.refusable {
        return Ok((query(connection, statement, params).await?, None));
    }
    // In a box, because most statements have nothing around them.
    Box::pin(surrounded(connection, statement, params, around)).await
}

async fn surrounded<R: Rows>(
    connection: Noted<'_>,
    statement: &Statement,
    params: &Params<'_>,
    around: Around<'_>,
) -> Result<(R, Option<Number>), Setback> {
    let client = connection.client;
    let begin = around.begin(statement, connection.mode);
    if let Begin::Ahead(sql) = begin {
        client
            .batch_execute(sql)
            .await
            .map_err(Setback::not_begun)?;
    }
    let (ready, question) = prepare(connection, statement, begin, around.ask).await?;
    // Each of these sends when it is first polled, so they leave in this order and travel
    // together.
    let send = async |sql: Option<&str>| match sql {
        Some(sql) => client.batch_execute(sql).await,
        None => Ok(()),
    };
    let first = match begin {
        Begin::Done | Begin::Ahead(_) => None,
        Begin::Along(sql) => Some(Cow::Borrowed(sql)),
        Begin::Seen(sql, _) => Some(Cow::Owned(format!("{sql}{BEGUN}"))),
    };
    let guard = |sql| send(statement.refusable.then_some(sql));
    let number = async {
        match &question {
            Some(question) => {
                let First(row) = rows(client, question, &[]).await?;
                Number::answered(row.as_ref())
            }
            None => Ok(None),
        }
    };
    let (begun, saved, rows, released, number) = join!(
        send(first.as_deref()),
        guard(SAVE),
        rows::<R>(client, &ready, params),
        guard(RELEASE),
        number
    );
    if let Err(error) = begun {
        // Whatever the statement gave, it was in no transaction.
        return Err(Setback::not_begun(error));
    }
    match rows {
        Ok(rows) => {
            let number = match begin {
                Begin::Seen(..) => Number::within(rows.first()),
                _ => number,
            };
            // If any of them failed the server has aborted the transaction, whatever the
            // statement itself gave.
            let number = saved.and(released).and(number)?;
            Ok((rows, number))
        }
        Err(error) if statement.refusable && refused(&error) => {
            let left = match client.batch_execute(UNDO).await {
                Ok(()) => Left::Whole,
                Err(_) => Left::Aborted,
            };
            Err(Setback { error, left })
        }
        Err(error) => Err(error.into()),
    }
}

/// The statement and the question behind it.
async fn prepare<'s>(
    connection: Noted<'_>,
    statement: &'s Statement,
    begin: Begin<'_>,
    ask: Option<Asked>,
) -> Driver<(Ready<'s>, Option<Ready<'s>>)> {
    if let Begin::Seen(_, sql) = begin {
        return Ok((Ready::Named(connection.named(sql).await?), None));
    }
    let ready = connection.prepare(statement).await?;
    let question = match ask {
        Some(asked) => Some(connection.prepare(asked.question()).await?),
        None => None,
    };
    Ok((ready, question))
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
