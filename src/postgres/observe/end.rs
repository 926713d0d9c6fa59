//! How a call ended, in words that may be counted: there are few of them.

use crate::error::Error;

/// How a call ended.
#[derive(Clone, Copy)]
pub(super) enum End<'a> {
    Answered,
    Failed(&'a Error),
    /// Its future was dropped.
    Dropped,
}

impl<'a> End<'a> {
    /// `error.type`.
    pub(super) fn kind(self) -> Option<&'a str> {
        match self {
            End::Answered => None,
            End::Failed(error) => Some(kind(error)),
            End::Dropped => Some("dropped"),
        }
    }

    /// `db.response.status_code`.
    pub(super) fn sqlstate(self) -> Option<&'a str> {
        match self {
            End::Failed(error) => error.sqlstate(),
            End::Answered | End::Dropped => None,
        }
    }

    /// Whether something is wrong. The answers of the domain are none of that.
    pub(super) fn is_fault(self) -> bool {
        match self {
            End::Answered | End::Dropped => false,
            End::Failed(error) => !error.is_domain(),
        }
    }

    /// No connection was to be had in time.
    #[cfg(feature = "metrics")]
    pub(super) fn is_without_connection(self) -> bool {
        use crate::error::UnavailableReason::ConnectTimeout;
        match self {
            End::Failed(Error::Unavailable { reason, .. }) => *reason == ConnectTimeout,
            End::Failed(error) => matches!(error, Error::PoolExhausted { .. }),
            End::Answered | End::Dropped => false,
        }
    }
}

fn kind(error: &Error) -> &str {
    match error {
        // The database's own name for it says more.
        Error::Database(failure) => failure.sqlstate().unwrap_or(error.kind()),
        _ => error.kind(),
    }
}
