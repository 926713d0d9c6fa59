//! The errors that a host has to live with, ready to be handed to a fault.

use std::time::Duration;

use crate::error::{CommitToken, Error, Failure, UnavailableReason};

/// [`Error::Timeout`]: a write outside a transaction may have happened.
///
/// ```
/// use motorpool::testing;
///
/// assert!(!testing::timeout().is_retryable());
/// ```
pub fn timeout() -> Error {
    Error::Timeout {
        after: Duration::from_secs(10),
    }
}

/// [`Error::Unavailable`] because a connection was lost while the call was under way: a write
/// outside a transaction may have happened.
///
/// ```
/// use motorpool::testing;
///
/// assert!(!testing::connection_lost().is_retryable());
/// ```
pub fn connection_lost() -> Error {
    unavailable(UnavailableReason::ConnectionLost)
}

/// [`Error::Unavailable`] because nothing listens: nothing was sent.
///
/// ```
/// use motorpool::testing;
///
/// assert!(testing::refused().is_retryable());
/// ```
pub fn refused() -> Error {
    unavailable(UnavailableReason::Refused)
}

/// [`Error::PoolExhausted`]: nothing was sent.
///
/// ```
/// use motorpool::testing;
///
/// assert!(testing::pool_exhausted().is_retryable());
/// ```
pub fn pool_exhausted() -> Error {
    Error::PoolExhausted {
        waited: Duration::from_secs(5),
    }
}

/// [`Error::Conflict`] with SQLSTATE 40001: the transaction gave way to another one.
///
/// ```
/// use motorpool::testing;
///
/// assert_eq!(testing::conflict().sqlstate(), Some("40001"));
/// assert!(testing::conflict().is_retryable());
/// ```
pub fn conflict() -> Error {
    let failure = Failure::new("could not serialize access due to concurrent update");
    Error::Conflict(failure.with_sqlstate("40001"))
}

/// [`Error::CommitUnknown`], for [`Operation::Commit`](super::Operation::Commit). Its token is always
/// the same, and stands for the last commit that met this fault.
///
/// ```
/// use motorpool::{Error, testing};
///
/// assert!(matches!(testing::commit_unknown(), Error::CommitUnknown { .. }));
/// ```
pub fn commit_unknown() -> Error {
    Error::CommitUnknown {
        token: CommitToken::new(0, 0),
    }
}

fn unavailable(reason: UnavailableReason) -> Error {
    Error::Unavailable {
        reason,
        source: None,
    }
}
