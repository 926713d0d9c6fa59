//! How a call ended, in words that may be counted: there are few of them.

use crate::error::{Error, UnavailableReason};

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
            End::Failed(error) => !matches!(
                error,
                Error::UsernameTaken
                    | Error::UnknownOwner { .. }
                    | Error::UserOwnsCars { .. }
                    | Error::UserNotFound { .. }
                    | Error::CarNotFound { .. }
                    | Error::NotOwner { .. }
                    | Error::PurchaseKeyReused { .. }
                    | Error::Invalid(_)
            ),
        }
    }

    /// No connection was to be had in time.
    #[cfg(feature = "metrics")]
    pub(super) fn is_without_connection(self) -> bool {
        use UnavailableReason::ConnectTimeout;
        match self {
            End::Failed(Error::Unavailable { reason, .. }) => *reason == ConnectTimeout,
            End::Failed(error) => matches!(error, Error::PoolExhausted { .. }),
            End::Answered | End::Dropped => false,
        }
    }
}

fn kind(error: &Error) -> &str {
    match error {
        Error::UsernameTaken => "username_taken",
        Error::UnknownOwner { .. } => "unknown_owner",
        Error::UserOwnsCars { .. } => "user_owns_cars",
        Error::UserNotFound { .. } => "user_not_found",
        Error::CarNotFound { .. } => "car_not_found",
        Error::NotOwner { .. } => "not_owner",
        Error::PurchaseKeyReused { .. } => "purchase_key_reused",
        Error::Invalid(_) => "invalid",
        Error::Conflict(_) => "conflict",
        Error::RolledBack(_) => "rolled_back",
        Error::CommitUnknown { .. } => "commit_unknown",
        Error::TransactionClosed => "transaction_closed",
        Error::Timeout { .. } => "timeout",
        Error::PoolExhausted { .. } => "pool_exhausted",
        Error::Unavailable { reason, .. } => match reason {
            UnavailableReason::Refused => "refused",
            UnavailableReason::NameNotFound => "name_not_found",
            UnavailableReason::Authentication => "authentication",
            UnavailableReason::Tls => "tls",
            UnavailableReason::CleartextPassword => "cleartext_password",
            UnavailableReason::NoSuchDatabase => "no_such_database",
            UnavailableReason::TooManyConnections => "too_many_connections",
            UnavailableReason::NotAccepting => "not_accepting",
            UnavailableReason::ConnectTimeout => "connect_timeout",
            UnavailableReason::ConnectionLost => "connection_lost",
            UnavailableReason::ReadOnly => "read_only",
            UnavailableReason::Closed => "closed",
            UnavailableReason::Other => "unavailable",
        },
        Error::Decode { .. } => "decode",
        Error::Migration { .. } => "migration",
        Error::Config { .. } => "config",
        // The database's own name for it says more.
        Error::Database(failure) => failure.sqlstate().unwrap_or("database"),
    }
}
