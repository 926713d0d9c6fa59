//! A commit whose answer was lost.

use std::fmt;

use crate::model::InvalidInput;

/// Identifies a commit whose outcome is not known.
///
/// The text form ([`Display`](fmt::Display), [`FromStr`](std::str::FromStr)) can be kept and read
/// back, also by another process. It means something only to the server that gave it, and to the
/// standbys that take its place.
///
/// ```
/// use motorpool::CommitToken;
///
/// let token = CommitToken::new(7_431, 2).on_timeline(1);
/// let kept = token.to_string();
/// assert_eq!(kept.parse(), Ok(token));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommitToken {
    transaction: u64,
    era: i64,
    timeline: u32,
}

impl CommitToken {
    /// A token for a store of one's own.
    ///
    /// `transaction`: the number that the store gave to the transaction (in Postgres, the 64-bit
    /// form of its transaction id). `era`: what changes when the store may have lost the end of
    /// its log and given a number out again (in Postgres, with every crash).
    pub const fn new(transaction: u64, era: i64) -> Self {
        CommitToken {
            transaction,
            era,
            timeline: 0,
        }
    }

    /// The same, with what changes when another server takes the place of the store's and may give
    /// numbers out again that it has not seen (in Postgres, the timeline, which a promotion
    /// raises). 0, as it is without this: not known.
    #[must_use]
    pub const fn on_timeline(self, timeline: u32) -> Self {
        CommitToken { timeline, ..self }
    }

    /// The number that the store gave to the transaction.
    pub const fn transaction(&self) -> u64 {
        self.transaction
    }

    /// The time between two crashes in which the number was given.
    pub const fn era(&self) -> i64 {
        self.era
    }

    /// The time between two promotions in which the number was given; 0 if it is not known.
    pub const fn timeline(&self) -> u32 {
        self.timeline
    }
}

impl fmt::Display for CommitToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}/{}", self.transaction, self.era, self.timeline)
    }
}

impl std::str::FromStr for CommitToken {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, InvalidInput> {
        let parse = || {
            let (transaction, era) = text.split_once('@')?;
            let (era, timeline) = era.split_once('/')?;
            Some(CommitToken {
                transaction: transaction.parse().ok()?,
                era: era.parse().ok()?,
                timeline: timeline.parse().ok()?,
            })
        };
        parse().ok_or(InvalidInput::CommitToken)
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
