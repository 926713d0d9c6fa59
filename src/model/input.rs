//! The checks on what a caller hands in, all of them in this file and all before any I/O.

use chrono::NaiveDate;

/// The most characters (Unicode scalar values, not bytes) that a username or a model may have.
pub const MAX_NAME_LENGTH: usize = 255;

/// The text that an [`InvalidInput`] speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// [`User::username`](crate::User::username)
    Username,
    /// [`Car::model`](crate::Car::model)
    Model,
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Field::Username => "username",
            Field::Model => "model",
        })
    }
}

/// What is wrong with a value that a caller handed in. It never holds the value itself.
///
/// It is found before any I/O, so nothing was sent and nothing has changed.
///
/// ```
/// use motorpool::{Field, InvalidInput, NewUser};
///
/// let field = Field::Username;
/// assert_eq!(NewUser::new(""), Err(InvalidInput::Empty { field }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidInput {
    /// A name without a character.
    #[error("the {field} is empty")]
    Empty {
        /// Which text.
        field: Field,
    },
    /// A name of more than [`MAX_NAME_LENGTH`] characters.
    #[error("the {field} has {length} characters, more than {MAX_NAME_LENGTH}")]
    TooLong {
        /// Which text.
        field: Field,
        /// Its length in characters.
        length: usize,
    },
    /// A name with a control character (Unicode category Cc: NUL, newline, tab, …).
    #[error("the {field} has a control character at position {position}")]
    ControlCharacter {
        /// Which text.
        field: Field,
        /// Where the first one stands, counted in characters from 0.
        position: usize,
    },
    /// A name that begins or ends with white space.
    #[error("the {field} begins or ends with white space")]
    SurroundingWhitespace {
        /// Which text.
        field: Field,
    },
    /// A date before the first one that Postgres can store, 24 November 4714 BC.
    #[error("{}the date is before the first one that can be stored", At(*index))]
    DateTooEarly {
        /// In a call with many items: which one, counted from 0.
        index: Option<usize>,
    },
    /// A page limit outside 1 to 1000.
    #[error("a page holds 1 to 1000 items, not {limit}")]
    PageLimit {
        /// The limit asked for.
        limit: usize,
    },
    /// A text that is not a 64-bit number.
    #[error("an id is a 64-bit number")]
    Id,
    /// A text that names no [`Role`](crate::Role).
    #[error("a role is student, teacher or employee")]
    Role,
    /// A text that is not a UUID.
    #[error("a purchase key is a UUID")]
    PurchaseKey,
    /// A text that is not the form of a [`CommitToken`](crate::CommitToken).
    #[error("a token of a commit is what an error gave as one")]
    CommitToken,
    /// A text that is not the [position](crate::Position) of a session.
    #[error("a position is what a session gave as one")]
    Position,
}

/// The start of a sentence about one of many items.
pub(crate) struct At(pub(crate) Option<usize>);

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(index) => write!(f, "item {index}: "),
            None => Ok(()),
        }
    }
}

/// A username or model as it may be stored: 1 to 255 characters, no control character, no white
/// space at either end. Case and normal form are the caller's.
pub(crate) fn check_name(field: Field, name: &str) -> Result<(), InvalidInput> {
    if name.is_empty() {
        return Err(InvalidInput::Empty { field });
    }
    if let Some(position) = name.chars().position(char::is_control) {
        return Err(InvalidInput::ControlCharacter { field, position });
    }
    if name.trim().len() != name.len() {
        return Err(InvalidInput::SurroundingWhitespace { field });
    }
    let length = name.chars().count();
    if length > MAX_NAME_LENGTH {
        return Err(InvalidInput::TooLong { field, length });
    }
    Ok(())
}

/// The date can be stored. chrono's first date lies before Postgres's first, its last one well
/// before Postgres's last.
pub(super) fn check_date(date: NaiveDate) -> Result<(), InvalidInput> {
    // Day 0 of the Julian calendar, in chrono's astronomical years (year 0 is 1 BC).
    match NaiveDate::from_ymd_opt(-4713, 11, 24) {
        Some(first) if date < first => Err(InvalidInput::DateTooEarly { index: None }),
        _ => Ok(()),
    }
}

/// Whether any row can hold this text at all: Postgres refuses a NUL in a text, and refusing it
/// there would abort the caller's transaction.
pub(crate) fn storable(name: &str) -> bool {
    !name.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str) -> Result<(), InvalidInput> {
        check_name(Field::Username, name)
    }

    #[test]
    fn length_counts_characters_not_bytes() {
        assert_eq!(check(&"é".repeat(255)), Ok(()));
        assert_eq!(check(&"🚗".repeat(255)), Ok(()));
        let too_long = InvalidInput::TooLong {
            field: Field::Username,
            length: 256,
        };
        assert_eq!(check(&"a".repeat(256)), Err(too_long));
    }

    #[test]
    fn a_lone_combining_mark_is_a_name() {
        assert_eq!(check("\u{301}"), Ok(()));
    }

    #[test]
    fn white_space_counts_at_the_ends_only() {
        assert_eq!(check("a b"), Ok(()));
        for name in [" a", "a ", "\u{a0}a", "a\u{2003}", " "] {
            let field = Field::Username;
            assert_eq!(
                check(name),
                Err(InvalidInput::SurroundingWhitespace { field })
            );
        }
    }

    #[test]
    fn control_characters_are_named_by_position() {
        for (name, position) in [("\0", 0), ("é\n", 1), ("ab\u{85}c", 2), ("\u{7f}", 0)] {
            let field = Field::Username;
            assert_eq!(
                check(name),
                Err(InvalidInput::ControlCharacter { field, position })
            );
        }
    }

    #[test]
    fn dates_end_where_postgres_ends() {
        let day = |y, m, d| NaiveDate::from_ymd_opt(y, m, d).expect("a date");
        assert_eq!(check_date(day(-4713, 11, 24)), Ok(()));
        assert_eq!(
            check_date(day(-4713, 11, 23)),
            Err(InvalidInput::DateTooEarly { index: None })
        );
        assert_eq!(check_date(NaiveDate::MAX), Ok(()));
        assert_eq!(
            check_date(NaiveDate::MIN),
            Err(InvalidInput::DateTooEarly { index: None })
        );
    }
}
