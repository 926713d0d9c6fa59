//! What the driver and the server say, as the crate's own error. This is the one place that gives
//! SQLSTATEs and constraints their meaning.
//!
//! `DbError` is never kept: its detail holds the values of the row that was refused, and both its
//! `Display` and its `Debug` print it. A configuration error of the driver is never kept either:
//! it may quote a part of the URL.

use std::io;
use std::time::Duration;

use deadpool_postgres::{HookError, PoolError, TimeoutType};
use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::error::{Error, Failure, Source, UnavailableReason};
use crate::model::UserId;

/// What a statement was given up or refused with.
///
/// `read_only`: in a transaction that its caller made so. There a refused write is the caller's
/// own doing, elsewhere it tells that the server is a standby.
pub(super) fn from_driver(error: tokio_postgres::Error, read_only: bool) -> Error {
    if let Some(db) = error.as_db_error() {
        return from_server(db, read_only);
    }
    let words = error.to_string();
    // The driver has no public kind for the last two; these words are its whole text. After them
    // nobody knows where in its answers the server is.
    let closed = error.is_closed()
        || words == "unexpected message from server"
        || words == "error parsing response from server";
    match error.into_source() {
        source if closed => unavailable(UnavailableReason::ConnectionLost, source),
        Some(source) if source.is::<io::Error>() => {
            unavailable(UnavailableReason::ConnectionLost, Some(source))
        }
        _ => Error::Database(Failure::new(words)),
    }
}

/// What the server answered.
fn from_server(db: &DbError, read_only: bool) -> Error {
    let failure = failure(db);
    let reason = match db.code().code() {
        "40001" | "40P01" => return Error::Conflict(failure),
        // "Statement completion unknown": Postgres itself never says it, engines that speak its
        // protocol do. It is as with a lost connection.
        "40003" => UnavailableReason::ConnectionLost,
        "57P01" | "57P02" | "57P03" => UnavailableReason::NotAccepting,
        "25006" if !read_only => UnavailableReason::ReadOnly,
        "3D000" => UnavailableReason::NoSuchDatabase,
        "53300" => UnavailableReason::TooManyConnections,
        other => match other.get(..2).unwrap_or_default() {
            "08" => UnavailableReason::ConnectionLost,
            "28" => UnavailableReason::Authentication,
            // The server ends the connection with it, and it may do so in the middle of a commit.
            _ if ends_session(db) => UnavailableReason::ConnectionLost,
            _ => return Error::Database(failure),
        },
    };
    unavailable(reason, Some(Box::new(failure)))
}

/// Whether BEGIN may have failed with this because the server is a standby, where it is neither
/// READ WRITE nor SERIALIZABLE. The server gives a code for it that says less (0A000).
pub(super) fn hints_at_standby(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED)
}

/// Whether COMMIT of a transaction that may write has ended it with this: conflicts (class 40) and
/// constraints (23) are found while it commits. A standby cancels a statement with the former, too.
pub(super) fn found_by_commit(error: &tokio_postgres::Error) -> bool {
    let class = error.code().and_then(|state| state.code().get(..2));
    matches!(class, Some("40" | "23"))
}

/// What a standby refused because it is one.
pub(super) fn from_standby(error: &tokio_postgres::Error) -> Error {
    let said = error.as_db_error().map(|db| failure(db).into());
    unavailable(UnavailableReason::ReadOnly, said)
}

fn ends_session(db: &DbError) -> bool {
    matches!(
        db.parsed_severity(),
        Some(Severity::Fatal | Severity::Panic)
    )
}

/// The words of the server that may be repeated.
pub(super) fn failure(db: &DbError) -> Failure {
    let words = match *db.code() {
        // The server's own words hold the bytes of the character.
        SqlState::UNTRANSLATABLE_CHARACTER => {
            "a text has a character that the encoding of the database does not have"
        }
        _ => db.message(),
    };
    let failure = Failure::new(words).with_sqlstate(db.code().code());
    match db.constraint() {
        Some(name) => failure.with_constraint(name),
        None => failure,
    }
}

/// Why no connection was handed out. `waited` is for how long one was waited for.
pub(crate) fn from_pool(error: PoolError, waited: Duration) -> Error {
    match error {
        PoolError::Timeout(TimeoutType::Wait) => Error::PoolExhausted { waited },
        PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle) => {
            unavailable(UnavailableReason::ConnectTimeout, None)
        }
        PoolError::Closed => unavailable(UnavailableReason::Closed, None),
        PoolError::NoRuntimeSpecified => Error::Config {
            reason: "the pool has timeouts but no runtime to measure them".into(),
        },
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
            from_connect(error)
        }
        PoolError::PostCreateHook(HookError::Message(message)) => {
            unavailable(UnavailableReason::Other, Some(message.into()))
        }
    }
}

/// Why no connection came about. Nothing that was said here can have changed a row.
fn from_connect(error: tokio_postgres::Error) -> Error {
    if error.as_db_error().is_some() {
        return match from_driver(error, false) {
            // While connecting no statement was under way that could be lost. What the server says
            // is the reason.
            Error::Unavailable {
                source,
                reason: UnavailableReason::ConnectionLost,
            } => unavailable(UnavailableReason::Other, source),
            Error::Database(failure) => {
                unavailable(UnavailableReason::Other, Some(Box::new(failure)))
            }
            other => other,
        };
    }
    // The driver has no public kind for it; these words are its whole text.
    let words = error.to_string();
    let Some(source) = error.into_source() else {
        let reason = match words.as_str() {
            "connection closed" => UnavailableReason::NotAccepting,
            "timeout waiting for server" => UnavailableReason::ConnectTimeout,
            _ => UnavailableReason::Other,
        };
        return unavailable(reason, Some(words.into()));
    };
    if let Some(reason) = super::tls::reason(&*source) {
        return unavailable(reason, Some(source));
    }
    let reason = match source.downcast_ref::<io::Error>() {
        Some(io) => reason_of_io(io),
        None if words == "authentication error" => UnavailableReason::Authentication,
        None => UnavailableReason::Other,
    };
    if words == "invalid configuration" {
        return Error::Config {
            reason: "the server asks for a password, and none was given".into(),
        };
    }
    unavailable(reason, Some(source))
}

fn reason_of_io(error: &io::Error) -> UnavailableReason {
    match error.kind() {
        // A Unix socket that is not there is a server that is not there.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => UnavailableReason::Refused,
        io::ErrorKind::TimedOut => UnavailableReason::ConnectTimeout,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => UnavailableReason::NotAccepting,
        // The standard library has no kind for a failed look-up; it begins its text like this.
        _ if error.to_string().starts_with("failed to lookup address") => {
            UnavailableReason::NameNotFound
        }
        _ => UnavailableReason::Other,
    }
}

pub(crate) fn unavailable(reason: UnavailableReason, source: Option<Source>) -> Error {
    Error::Unavailable { reason, source }
}

/// The server gave a statement up because it ran into its time limit, not because an operator
/// cancelled it. The text tells where it is English, the time where the limit is known.
pub(super) fn is_statement_timeout(
    failure: &Failure,
    took: Duration,
    limit: Option<Duration>,
) -> bool {
    failure.sqlstate() == Some(SqlState::QUERY_CANCELED.code())
        && (failure.message().contains("statement timeout")
            || limit.is_some_and(|limit| took >= limit))
}

/// The encoding of the database has no characters for a text, so no row has it either.
pub(super) fn has_no_characters(error: &Error) -> bool {
    error.sqlstate() == Some(SqlState::UNTRANSLATABLE_CHARACTER.code())
}

/// A statement that always gives a row gave none.
pub(super) fn no_row() -> Error {
    Error::Database(Failure::new("the statement gave no row"))
}

/// Gives a refused constraint the domain's name, where a statement could not find out by itself
/// because a concurrent transaction came between.
pub(super) fn username_taken(error: Error) -> Error {
    match &error {
        Error::Database(failure) if failure.constraint() == Some("users_username_key") => {
            Error::UsernameTaken
        }
        _ => error,
    }
}

/// The same for a user who bought a car while being deleted.
pub(super) fn owns_cars(error: Error, id: UserId) -> Error {
    match &error {
        Error::Database(failure) if failure.constraint() == Some("cars_owner_id_fkey") => {
            Error::UserOwnsCars { id }
        }
        _ => error,
    }
}

/// Finds what the server said in a chain of causes.
pub(crate) fn failure_in(error: &(dyn std::error::Error + 'static)) -> Option<Failure> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(db) = error.downcast_ref::<DbError>() {
            return Some(failure(db));
        }
        next = error.source();
    }
    None
}
