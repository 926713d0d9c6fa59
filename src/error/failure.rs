//! What a database said, without the row that it said it about.

use std::fmt;

use super::Error;

/// What failed, in words that may be logged: the database's SQLSTATE and message, or what this
/// crate found. Never a stored value.
///
/// ```
/// use motorpool::Failure;
///
/// let failure = Failure::new("new row violates check constraint")
///     .with_sqlstate("23514")
///     .with_constraint("users_created_at_finite");
/// assert_eq!(failure.message(), "new row violates check constraint");
/// assert_eq!(failure.sqlstate(), Some("23514"));
/// assert_eq!(failure.constraint(), Some("users_created_at_finite"));
/// assert!(!failure.is_conflict());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    sqlstate: Option<Box<str>>,
    message: Box<str>,
    constraint: Option<Box<str>>,
}

impl Failure {
    /// A failure that no database reported.
    pub fn new(message: impl Into<Box<str>>) -> Self {
        Failure {
            sqlstate: None,
            message: message.into(),
            constraint: None,
        }
    }

    /// What a transaction remembers of an error: its text and SQLSTATE, for the
    /// [`RolledBack`](Error::RolledBack) that comes after it.
    ///
    /// ```
    /// use motorpool::{Error, Failure};
    ///
    /// let conflict = Failure::new("deadlock detected").with_sqlstate("40P01");
    /// assert_eq!(Failure::of(&Error::Conflict(conflict.clone())), conflict);
    /// ```
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Conflict(failure) | Error::RolledBack(failure) | Error::Database(failure) => {
                failure.clone()
            }
            other => Failure {
                sqlstate: other.sqlstate().map(Into::into),
                ..Failure::new(other.to_string())
            },
        }
    }

    /// Adds the SQLSTATE.
    pub fn with_sqlstate(mut self, sqlstate: impl Into<Box<str>>) -> Self {
        self.sqlstate = Some(sqlstate.into());
        self
    }

    /// Adds the name of the constraint that refused a row.
    pub fn with_constraint(mut self, constraint: impl Into<Box<str>>) -> Self {
        self.constraint = Some(constraint.into());
        self
    }

    /// The five characters of the SQLSTATE.
    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }

    /// What happened.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The constraint that refused a row.
    pub fn constraint(&self) -> Option<&str> {
        self.constraint.as_deref()
    }

    /// A serialization failure (40001) or a deadlock (40P01).
    pub fn is_conflict(&self) -> bool {
        matches!(self.sqlstate(), Some("40001" | "40P01"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.sqlstate {
            Some(sqlstate) => write!(f, " (SQLSTATE {sqlstate})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}
