//! How far a session has written, as it is handed from one process to another. No I/O.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::model::InvalidInput;

/// A place in the primary's log. A later timeline comes after an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::postgres) struct Mark {
    /// It changes when a standby is promoted. Two histories of one database share their places up
    /// to the promotion and none after it, so a place says nothing without it.
    pub(super) timeline: u32,
    pub(super) lsn: u64,
}

/// How far a [`Session`](crate::Session) has written: what a replica must have replayed before the
/// session reads from it.
///
/// The text form ([`Display`](fmt::Display), [`FromStr`]) is for a cookie or a header: at most
/// [`MAX_LENGTH`](Self::MAX_LENGTH) characters, digits, `a` to `f` and `-`. It is opaque, holds no
/// secret and no data, and whoever forges one gets reads that are older or slower, of what they may
/// read anyway.
///
/// It means something only to stores on the same database. It holds the timeline of the log, so
/// that after a failover a replica that goes on with the old history does not pass for a fresh one.
/// It holds nothing that tells databases apart: a position of another one makes one read wait for
/// nothing, after which the session knows that it was none of this database. One of a timeline that
/// the primary has not come to yet leads all reads to the primary; so after `pg_upgrade`, which
/// counts timelines from 1 again, let positions go and start the services anew.
///
/// ```
/// use motorpool::Position;
///
/// let position: Position = "1-3000060".parse()?;
/// assert_eq!(position.to_string(), "1-3000060");
/// assert!("1-3000060; DROP".parse::<Position>().is_err());
/// // Nothing was written yet: every replica will do.
/// assert_eq!(Position::default().to_string(), "0-0");
/// # Ok::<(), motorpool::InvalidInput>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    pub(super) mark: Option<Mark>,
    /// For how many milliseconds a write of unknown outcome may still take effect.
    pub(super) doubt: u32,
}

impl Position {
    /// The longest text form, in bytes.
    pub const MAX_LENGTH: usize = 8 + 1 + 16 + 1 + 8;

    pub(super) fn new(mark: Option<Mark>, doubt: Duration) -> Self {
        // Rounded up: any doubt at all is one.
        let doubt = doubt.as_nanos().div_ceil(1_000_000);
        Position {
            mark,
            doubt: u32::try_from(doubt).unwrap_or(u32::MAX),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (timeline, lsn) = self.mark.map_or((0, 0), |mark| (mark.timeline, mark.lsn));
        write!(f, "{timeline:x}-{lsn:x}")?;
        match self.doubt {
            0 => Ok(()),
            doubt => write!(f, "-{doubt:x}"),
        }
    }
}

impl FromStr for Position {
    type Err = InvalidInput;

    /// Reads what [`Display`](fmt::Display) wrote, and nothing else.
    fn from_str(text: &str) -> Result<Self, InvalidInput> {
        let position = read(text).ok_or(InvalidInput::Position)?;
        // One form for each position: no sign, no leading zero, no upper case.
        match position.to_string() == text {
            true => Ok(position),
            false => Err(InvalidInput::Position),
        }
    }
}

fn read(text: &str) -> Option<Position> {
    if text.len() > Position::MAX_LENGTH {
        return None;
    }
    let mut parts = text.split('-');
    let timeline = u32::from_str_radix(parts.next()?, 16).ok()?;
    let lsn = u64::from_str_radix(parts.next()?, 16).ok()?;
    let doubt = match parts.next() {
        Some(doubt) => u32::from_str_radix(doubt, 16).ok()?,
        None => 0,
    };
    let mark = match (timeline, lsn) {
        (0, 0) => None,
        (0, _) | (_, 0) => return None,
        (timeline, lsn) => Some(Mark { timeline, lsn }),
    };
    parts.next().is_none().then_some(Position { mark, doubt })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(timeline: u32, lsn: u64) -> Option<Mark> {
        Some(Mark { timeline, lsn })
    }

    #[test]
    fn a_position_is_read_back() {
        let ms = Duration::from_millis;
        for (position, text) in [
            (Position::default(), "0-0"),
            (Position::new(at(1, 0x300_0060), ms(0)), "1-3000060"),
            (Position::new(at(10, 1), ms(16)), "a-1-10"),
            (Position::new(None, Duration::from_nanos(1)), "0-0-1"),
            (
                Position::new(at(u32::MAX, u64::MAX), Duration::MAX),
                "ffffffff-ffffffffffffffff-ffffffff",
            ),
        ] {
            assert_eq!(position.to_string(), text);
            assert_eq!(text.parse(), Ok(position));
            assert!(text.len() <= Position::MAX_LENGTH);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let long = "1".repeat(1_000_000);
        for text in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "1-1-",
            "1-1-0",
            "1-1-1-1",
            "+1-1",
            "1-+1",
            "01-1",
            "1-01",
            "A-1",
            "1-1 ",
            " 1-1",
            "1-1\n",
            "1-0",
            "0-1",
            "1_1",
            "1–1",
            "g-1",
            "1-1-g",
            "١-1",
            "100000000-1",
            "1-10000000000000000",
            "1-1-100000000",
            &long,
        ] {
            assert_eq!(
                text.parse::<Position>(),
                Err(InvalidInput::Position),
                "{text:.40}"
            );
        }
    }

    #[test]
    fn a_later_timeline_comes_after_an_earlier_one() {
        assert!(at(2, 1) > at(1, 9));
        assert!(at(1, 9) > at(1, 8));
        assert!(at(1, 1) > None);
    }
}
