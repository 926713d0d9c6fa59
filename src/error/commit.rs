//! A commit whose answer was lost.

use std::fmt;

use crate::model::InvalidInput;

/// Identifies a commit whose outcome is not known.
///
/// The text form ([`Display`](fmt::Display), [`FromStr`](std::str::FromStr)) can be kept and read
/// back, also by another process. It means something only to the server that gave it.
///
/// ```
/// use motorpool::CommitToken;
///
/// let token = CommitToken::new(7_431, 2);
/// let kept = token.to_string();
/// assert_eq!(kept.parse(), Ok(token));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommitToken {
    transaction: u64,
    era: i64,
}

impl CommitToken {
    /// A token for a store of one's own.
    ///
    /// `transaction`: the number that the store gave to the transaction (in Postgres, the 64-bit
    /// form of its transaction id). `era`: what changes when the store may have lost the end of
    /// its log and given a number out again (in Postgres, with every crash).
    pub const fn new(transaction: u64, era: i64) -> Self {
        CommitToken { transaction, era }
    }

    /// The number that the store gave to the transaction.
    pub const fn transaction(&self) -> u64 {
        self.transaction
    }

    /// The time between two crashes in which the number was given.
    pub const fn era(&self) -> i64 {
        self.era
    }
}

impl fmt::Display for CommitToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.transaction, self.era)
    }
}

impl std::str::FromStr for CommitToken {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, InvalidInput> {
        let parts = text.split_once('@').ok_or(InvalidInput::Id)?;
        match (parts.0.parse(), parts.1.parse()) {
            (Ok(transaction), Ok(era)) => Ok(CommitToken { transaction, era }),
            _ => Err(InvalidInput::Id),
        }
    }
}

/// How a commit ended whose answer was lost.
///
/// ```no_run
/// # async fn example(store: motorpool::PgStore, kept: &str) -> motorpool::Result<()> {
/// use motorpool::CommitOutcome;
///
/// let stored = match store.commit_outcome(&kept.parse()?).await? {
///     CommitOutcome::Committed => Some(true),
///     CommitOutcome::RolledBack => Some(false),
///     _ => None,
/// };
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CommitOutcome {
    /// Everything in the transaction is stored.
    Committed,
    /// Nothing in the transaction is stored.
    RolledBack,
    /// The server is still at it; ask again.
    InProgress,
    /// It cannot be told any more: the server is another one, it has crashed and gone on for too
    /// long since, or the transaction is so old that its end was forgotten.
    Unknown,
}
