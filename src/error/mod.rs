//! One error for every store. It knows the model's ids and no database: what a SQLSTATE means is
//! the business of the backend that got it.

mod commit;
mod failure;
mod kind;
mod unavailable;

use std::fmt;
use std::time::Duration;

pub use commit::{CommitOutcome, CommitToken};
pub use failure::Failure;
pub use unavailable::UnavailableReason;

use crate::model::{At, CarId, InvalidInput, UserId};

/// The result of every call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause of an error, where another library found it.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why a call failed.
///
/// The text is one line that says what happened. Neither it nor the `Debug` form nor any
/// [`source`](std::error::Error::source) holds a password, a URL or a stored value; ids are given.
///
/// An error outside a transaction means that the call changed nothing, with three exceptions when
/// the call was a write. Nobody can know after [`Error::Timeout`], nor after
/// [`Error::Unavailable`] because a connection was [lost](UnavailableReason::ConnectionLost):
/// [`register`](crate::UserRepo::register) and [`buy`](crate::CarRepo::buy) with a key can simply
/// be called again. And after [`Error::Decode`] the write was made; it is its answer, a row that
/// something else stored before, that cannot be read. A call with more items than one statement
/// takes has a commit of its own and gives [`Error::CommitUnknown`] if that is in doubt.
///
/// ```
/// # async fn example(store: &dyn motorpool::Store, new: &motorpool::NewCar) {
/// use motorpool::{Error, InvalidInput};
///
/// match store.cars().buy(new).await {
///     Ok(car) => println!("bought {car}"),
///     // The domain's: the caller's mistake.
///     Err(error @ (Error::UnknownOwner { .. } | Error::PurchaseKeyReused { .. })) => {
///         println!("refused: {error}")
///     }
///     Err(Error::Invalid(InvalidInput::TooLong { field, .. })) => println!("a long {field}"),
///     // The database's: try again, if nothing was stored.
///     Err(error) if error.is_retryable() => println!("again: {error}"),
///     Err(error) => println!("failed: {error} ({:?})", error.sqlstate()),
/// }
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// [`rename`](crate::UserRepo::rename) to a name that another user has.
    /// [More](crate::docs::errors#usernametaken).
    #[error("the username is taken by another user")]
    UsernameTaken,

    /// A car was to go to a user that does not exist. [More](crate::docs::errors#unknownowner).
    #[error("{}there is no user {owner} to own the car", At(*index))]
    UnknownOwner {
        /// The owner asked for.
        owner: UserId,
        /// In a call with many items: which one, counted from 0.
        index: Option<usize>,
    },

    /// A user cannot be deleted while there are cars to its name.
    /// [More](crate::docs::errors#userownscars).
    #[error("user {id} owns cars and cannot be deleted")]
    UserOwnsCars {
        /// The user.
        id: UserId,
    },

    /// There is no such user to change. [More](crate::docs::errors#usernotfound).
    #[error("there is no user {id}")]
    UserNotFound {
        /// The user asked for.
        id: UserId,
    },

    /// There is no such car to change. [More](crate::docs::errors#carnotfound).
    #[error("there is no car {id}")]
    CarNotFound {
        /// The car asked for.
        id: CarId,
    },

    /// The car to be transferred is not owned by the user it should come from.
    /// [More](crate::docs::errors#notowner).
    #[error("car {car} is not owned by user {from}")]
    NotOwner {
        /// The car.
        car: CarId,
        /// The user that was said to own it.
        from: UserId,
    },

    /// The purchase key belongs to a purchase of another model or for another owner.
    /// [More](crate::docs::errors#purchasekeyreused).
    #[error("{}the purchase key was used for another purchase", At(*index))]
    PurchaseKeyReused {
        /// In a call with many items: which one, counted from 0.
        index: Option<usize>,
    },

    /// The caller's input is not acceptable. Nothing was sent. [More](crate::docs::errors#invalid).
    #[error(transparent)]
    Invalid(#[from] InvalidInput),

    /// Two transactions got in each other's way (SQLSTATE 40001 or 40P01) and this one gave way.
    /// It has to be run again from its beginning;
    /// [`StoreExt::transaction`](crate::StoreExt::transaction) does.
    /// [More](crate::docs::errors#conflict).
    #[error("gave way to a concurrent transaction: {0}")]
    Conflict(#[source] Failure),

    /// The transaction was not committed, because something in it failed before. Nothing of it is
    /// stored. [More](crate::docs::errors#rolledback).
    #[error("the transaction was rolled back, because in it: {0}")]
    RolledBack(#[source] Failure),

    /// The connection was lost, or the time was over, while a commit was under way: it may have
    /// happened or not. [More](crate::docs::errors#commitunknown).
    #[error("the answer to the commit was lost, so its outcome is not known")]
    CommitUnknown {
        /// Asks later how it ended.
        token: CommitToken,
    },

    /// The transaction has ended already, or a savepoint in it was left out of turn.
    /// [More](crate::docs::errors#transactionclosed).
    #[error("the transaction has ended")]
    TransactionClosed,

    /// The server did not answer in time. A write outside a transaction may have happened.
    /// [More](crate::docs::errors#timeout).
    #[error("no answer within {}", Seconds(*.after))]
    Timeout {
        /// How long the call had.
        after: Duration,
    },

    /// Every connection of the pool was in use for all of the time that the call could wait.
    /// Nothing was sent. [More](crate::docs::errors#poolexhausted).
    #[error("all connections of the pool were in use for {}", Seconds(*.waited))]
    PoolExhausted {
        /// How long the call waited.
        waited: Duration,
    },

    /// There is no usable connection to the database. [More](crate::docs::errors#unavailable).
    #[error("the database is unavailable: {reason}")]
    Unavailable {
        /// What stands in the way.
        reason: UnavailableReason,
        /// What the driver or the operating system said.
        #[source]
        source: Option<Source>,
    },

    /// A stored value is none that this version can read. [More](crate::docs::errors#decode).
    #[error("cannot read {table}.{column}{}", Key(*.key))]
    Decode {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The id of the row, unless it is the id that cannot be read.
        key: Option<i64>,
        /// What is wrong, without the value.
        #[source]
        source: Option<Source>,
    },

    /// The schema could not be brought up to date. [More](crate::docs::errors#migration).
    #[error("migration failed: {reason}")]
    Migration {
        /// What happened.
        reason: String,
        /// What the database said.
        #[source]
        source: Option<Source>,
    },

    /// The store was set up with something that cannot work, such as a URL that is none.
    /// [More](crate::docs::errors#config).
    #[error("configuration: {reason}")]
    Config {
        /// What is wrong, without the value.
        reason: String,
    },

    /// The database refused a statement for a reason that none of the others covers.
    /// [More](crate::docs::errors#database).
    #[error("the database reported: {0}")]
    Database(#[source] Failure),
}

impl Error {
    /// Whether the same call may succeed if it is made again, and nothing of it was stored.
    ///
    /// True for [`Conflict`](Error::Conflict) and a [`RolledBack`](Error::RolledBack) that goes
    /// back to one (run the whole transaction again), [`PoolExhausted`](Error::PoolExhausted), and
    /// [`Unavailable`](Error::Unavailable) for a reason that passes and in which the statement was
    /// not sent, or was answered by the server's refusal. Not for a
    /// [`Timeout`](Error::Timeout): a write may have happened.
    ///
    /// ```
    /// use std::time::Duration;
    /// use motorpool::Error;
    ///
    /// let second = Duration::from_secs(1);
    /// assert!(Error::PoolExhausted { waited: second }.is_retryable());
    /// assert!(!Error::Timeout { after: second }.is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Conflict(_) | Error::PoolExhausted { .. } => true,
            Error::RolledBack(failure) => failure.is_conflict(),
            Error::Unavailable { reason, .. } => reason.is_temporary() && reason.stored_nothing(),
            _ => false,
        }
    }

    /// Whether nobody knows if the call was made: it may be stored, or be stored in a moment.
    ///
    /// True for [`Timeout`](Error::Timeout), for [`Unavailable`](Error::Unavailable) because the
    /// connection was [lost](UnavailableReason::ConnectionLost), and for
    /// [`CommitUnknown`](Error::CommitUnknown). What can do no harm twice can be made again:
    /// [`register`](crate::UserRepo::register), [`buy`](crate::CarRepo::buy) with a key, any read.
    /// For a commit ask [`commit_outcome`](crate::Store::commit_outcome) first.
    ///
    /// ```
    /// use std::time::Duration;
    /// use motorpool::Error;
    ///
    /// let error = Error::Timeout { after: Duration::from_secs(10) };
    /// assert!(error.is_outcome_unknown() && !error.is_retryable());
    /// ```
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Error::Timeout { .. } | Error::CommitUnknown { .. } => true,
            Error::Unavailable { reason, .. } => !reason.stored_nothing(),
            _ => false,
        }
    }

    /// The SQLSTATE, where the error goes back to one that the database sent.
    ///
    /// ```
    /// use motorpool::{Error, Failure};
    ///
    /// let failure = Failure::new("deadlock detected").with_sqlstate("40P01");
    /// assert_eq!(Error::Conflict(failure).sqlstate(), Some("40P01"));
    /// assert_eq!(Error::UsernameTaken.sqlstate(), None);
    /// ```
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Error::Conflict(failure) | Error::RolledBack(failure) | Error::Database(failure) => {
                failure.sqlstate()
            }
            Error::Unavailable { source, .. } | Error::Migration { source, .. } => source
                .as_ref()?
                .downcast_ref::<Failure>()
                .and_then(Failure::sqlstate),
            _ => None,
        }
    }
}

/// The end of a sentence about one row.
struct Key(Option<i64>);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(key) => write!(f, " of the row with id {key}"),
            None => Ok(()),
        }
    }
}

/// A duration as an operator reads it.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stored_nothing_is_retryable() {
        let unavailable = |reason| Error::Unavailable {
            reason,
            source: None,
        };
        let conflict = Failure::new("deadlock detected").with_sqlstate("40P01");
        let retryable = [
            Error::Conflict(conflict.clone()),
            Error::RolledBack(conflict),
            unavailable(UnavailableReason::Refused),
            unavailable(UnavailableReason::NotAccepting),
            unavailable(UnavailableReason::Other),
            Error::PoolExhausted {
                waited: Duration::from_secs(1),
            },
        ];
        assert!(retryable.iter().all(Error::is_retryable));
        let after = Duration::from_secs(1);
        let final_ones = [
            Error::UsernameTaken,
            Error::Timeout { after },
            Error::RolledBack(Failure::new("cancelled")),
            unavailable(UnavailableReason::ConnectionLost),
            unavailable(UnavailableReason::Authentication),
            unavailable(UnavailableReason::Tls),
            unavailable(UnavailableReason::CleartextPassword),
        ];
        assert!(!final_ones.iter().any(Error::is_retryable));
    }

    #[test]
    fn sentences_are_one_line() {
        let owner = UserId::new(7);
        let error = Error::UnknownOwner {
            owner,
            index: Some(3),
        };
        assert_eq!(
            error.to_string(),
            "item 3: there is no user 7 to own the car"
        );
        let error = Error::Decode {
            table: "users",
            column: "role",
            key: Some(7),
            source: None,
        };
        assert_eq!(
            error.to_string(),
            "cannot read users.role of the row with id 7"
        );
        let failure = Failure::new("deadlock detected").with_sqlstate("40P01");
        assert_eq!(Error::Conflict(failure).sqlstate(), Some("40P01"));
    }
}
