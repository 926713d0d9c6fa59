//! The errors by name, and which of them are answers.

use super::{Error, UnavailableReason};

impl Error {
    /// The error in a word, for a machine: the `type` of a problem that an HTTP service answers, a
    /// label to count by. The variant's name, in snake case; for [`Unavailable`](Error::Unavailable)
    /// that of its reason, and `unavailable` for [`Other`](UnavailableReason::Other). The word of a
    /// variant stays as it is, where the words of a message may change.
    ///
    /// The spans and figures of a call have it as `error.type`, but for the SQLSTATE of a
    /// [`Database`](Error::Database).
    ///
    /// ```
    /// use motorpool::{Error, UnavailableReason};
    ///
    /// assert_eq!(Error::UsernameTaken.kind(), "username_taken");
    /// let reason = UnavailableReason::ReadOnly;
    /// assert_eq!(Error::Unavailable { reason, source: None }.kind(), "read_only");
    /// ```
    pub fn kind(&self) -> &'static str {
        match self {
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
            Error::Unavailable { reason, .. } => reason.kind(),
            Error::Decode { .. } => "decode",
            Error::Migration { .. } => "migration",
            Error::Config { .. } => "config",
            Error::Database(_) => "database",
        }
    }

    /// Whether this is an answer of the domain, or input that was refused: the caller asked for
    /// something that cannot be, and nothing is wrong with the store. The text is fit for who asked.
    ///
    /// ```
    /// use motorpool::{Error, InvalidInput, UserId};
    ///
    /// assert!(Error::UserNotFound { id: UserId::new(7) }.is_domain());
    /// assert!(Error::Invalid(InvalidInput::Role).is_domain());
    /// assert!(!Error::TransactionClosed.is_domain());
    /// ```
    pub fn is_domain(&self) -> bool {
        match self {
            Error::UsernameTaken
            | Error::UnknownOwner { .. }
            | Error::UserOwnsCars { .. }
            | Error::UserNotFound { .. }
            | Error::CarNotFound { .. }
            | Error::NotOwner { .. }
            | Error::PurchaseKeyReused { .. }
            | Error::Invalid(_) => true,
            // All of them, so that a new one is not forgotten.
            Error::Conflict(_)
            | Error::RolledBack(_)
            | Error::CommitUnknown { .. }
            | Error::TransactionClosed
            | Error::Timeout { .. }
            | Error::PoolExhausted { .. }
            | Error::Unavailable { .. }
            | Error::Decode { .. }
            | Error::Migration { .. }
            | Error::Config { .. }
            | Error::Database(_) => false,
        }
    }
}

impl UnavailableReason {
    fn kind(&self) -> &'static str {
        match self {
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
        }
    }
}
