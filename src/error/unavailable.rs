//! Why there is no connection.

use std::fmt;

/// Why there is no usable connection.
///
/// ```
/// use motorpool::{Error, UnavailableReason};
///
/// # fn example(error: Error) {
/// if let Error::Unavailable { reason: UnavailableReason::ReadOnly, .. } = error {
///     println!("the primary has moved");
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnavailableReason {
    /// Nothing listens at the address. [More](crate::docs::errors#refused).
    Refused,
    /// The server's name has no address. [More](crate::docs::errors#namenotfound).
    NameNotFound,
    /// The server does not accept the user or the password.
    /// [More](crate::docs::errors#authentication).
    Authentication,
    /// There is no encrypted connection that can be trusted: the server's certificate was refused,
    /// or ours by the server, or the server has no TLS. The source says which.
    /// [More](crate::docs::errors#tls).
    Tls,
    /// The server asked for the password itself, over a connection on which it is not sent: one
    /// that is not encrypted to a server that was verified. Nothing of the password was sent.
    /// [More](crate::docs::errors#cleartextpassword).
    CleartextPassword,
    /// The server has no database of that name. [More](crate::docs::errors#nosuchdatabase).
    NoSuchDatabase,
    /// The server accepts no more connections. [More](crate::docs::errors#toomanyconnections).
    TooManyConnections,
    /// The server is starting up, shutting down or recovering.
    /// [More](crate::docs::errors#notaccepting).
    NotAccepting,
    /// No connection came about in time. [More](crate::docs::errors#connecttimeout).
    ConnectTimeout,
    /// A connection broke. If a write was under way on it, it may have happened.
    /// [More](crate::docs::errors#connectionlost).
    ConnectionLost,
    /// The server accepts no writes (a standby, or a primary that was demoted).
    /// [More](crate::docs::errors#readonly).
    ReadOnly,
    /// This store was closed. [More](crate::docs::errors#closed).
    Closed,
    /// Something else kept a connection from being made, so nothing was sent; the source says what.
    /// [More](crate::docs::errors#other).
    Other,
}

impl UnavailableReason {
    /// Whether waiting may help. It does not against a wrong password.
    pub(super) fn is_temporary(&self) -> bool {
        !matches!(
            self,
            Self::Authentication
                | Self::Tls
                | Self::CleartextPassword
                | Self::NoSuchDatabase
                | Self::NameNotFound
                | Self::Closed
        )
    }

    /// Whether it is certain that nothing of the statement was stored.
    pub(crate) fn stored_nothing(&self) -> bool {
        *self != Self::ConnectionLost
    }
}

impl fmt::Display for UnavailableReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused, nothing listens at the address",
            Self::NameNotFound => "the name of the server could not be found",
            Self::Authentication => "the server does not accept this user or password",
            Self::Tls => "no encrypted connection that can be trusted came about",
            Self::CleartextPassword => {
                "the server asks for the password in clear, and it was not sent"
            }
            Self::NoSuchDatabase => "the server has no database of that name",
            Self::TooManyConnections => "the server accepts no more connections",
            Self::NotAccepting => "the server is starting up or shutting down",
            Self::ConnectTimeout => "no connection came about in time",
            Self::ConnectionLost => "the connection was lost",
            Self::ReadOnly => "the server accepts no writes",
            Self::Closed => "the store was closed",
            Self::Other => "no connection could be made",
        })
    }
}
