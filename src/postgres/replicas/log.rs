//! What is known of the primary's log: how far it was after the writes that sessions wait for, and
//! when it was where.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::join;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Row, SimpleQueryMessage};

use super::position::Mark;
use crate::postgres::flight::{Driver, First, Noted, Rows, behind, is_stale};
use crate::postgres::lease::COMMIT;
use crate::postgres::statement::{Params, Statement};

/// How far the log is, and a name that begins with its timeline.
///
/// What is flushed, because that is all that replicas are sent; what is only inserted would let a
/// session wait for the unfinished writes of others. A commit is flushed when it is acknowledged,
/// unless `synchronous_commit` is off: then it is somewhere before the end of what is inserted.
pub(super) const POSITION: Statement = Statement::read(
    "SELECT CASE current_setting('synchronous_commit') WHEN 'off' THEN pg_current_wal_insert_lsn()
        ELSE pg_current_wal_flush_lsn() END, pg_walfile_name(pg_current_wal_flush_lsn())",
);

/// The furthest place that there is, whatever the other connections set.
pub(super) const END: Statement = Statement::read(
    "SELECT pg_current_wal_insert_lsn(), pg_walfile_name(pg_current_wal_flush_lsn())",
);

/// The most that is remembered of where the log was when.
const SAMPLES: usize = 4096;

/// The primary's log.
pub(in crate::postgres) struct Log {
    /// Whether any session asks how far its writes are.
    wanted: AtomicBool,
    noted: Mutex<Option<Mark>>,
    /// How many times a write was answered and the question was not.
    unanswered: AtomicU64,
    samples: Mutex<VecDeque<Sample>>,
    /// Samples nearer to each other than this are one.
    spacing: Duration,
}

/// Where the log was from one look to another.
struct Sample {
    first: Instant,
    last: Instant,
    mark: Mark,
}

impl Log {
    /// `lag`: the longest that is to be measured.
    pub(in crate::postgres) fn new(lag: Duration) -> Self {
        Log {
            wanted: AtomicBool::new(false),
            noted: Mutex::default(),
            unanswered: AtomicU64::new(0),
            samples: Mutex::default(),
            spacing: lag / 1000,
        }
    }

    /// From now on every write asks.
    pub(super) fn want(&self) {
        self.wanted.store(true, SeqCst);
    }

    pub(in crate::postgres) fn is_wanted(&self) -> bool {
        self.wanted.load(SeqCst)
    }

    /// The furthest place that a write has noted. It lies after every write that was acknowledged.
    pub(super) fn noted(&self) -> Option<Mark> {
        *self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unanswered(&self) -> u64 {
        self.unanswered.load(SeqCst)
    }

    /// Runs a write and notes how far the log is after it, before anybody hears that it is done.
    pub(in crate::postgres) async fn noting<R: Rows>(
        &self,
        connection: Noted<'_>,
        statement: &Statement,
        params: &Params<'_>,
    ) -> Driver<R> {
        let (rows, asked) = behind(connection, statement, params, &POSITION).await;
        if asked.as_ref().is_err_and(is_stale) {
            connection.note.forget(POSITION.sql);
        }
        let row = asked.ok().and_then(|First(row)| row);
        self.note(row.as_ref().and_then(mark));
        rows
    }

    /// The same for a commit.
    pub(in crate::postgres) async fn noting_commit(&self, connection: Noted<'_>) -> Driver<()> {
        let client = connection.client;
        // Unprepared: preparing it would be a round trip inside the transaction.
        let (done, answer) = join!(
            client.batch_execute(COMMIT),
            client.simple_query(POSITION.sql)
        );
        let answer = answer.unwrap_or_default();
        self.note(answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => place(row.get(0)?.parse().ok()?, row.get(1)?),
            _ => None,
        }));
        done
    }

    fn note(&self, mark: Option<Mark>) {
        if mark.is_none() {
            self.unanswered.fetch_add(1, SeqCst);
            return;
        }
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        *noted = mark.max(*noted);
    }

    /// Notes where the log was at a moment.
    pub(super) fn sample(&self, at: Instant, mark: Mark) {
        let mut samples = self.samples();
        match samples.back_mut() {
            Some(last) if last.mark == mark => return last.last = at,
            Some(last) if last.mark.timeline != mark.timeline => samples.clear(),
            Some(last) if at.saturating_duration_since(last.first) < self.spacing => {
                (last.last, last.mark) = (at, mark);
                return;
            }
            _ => {}
        }
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        let (first, last) = (at, at);
        samples.push_back(Sample { first, last, mark });
    }

    /// Where the log was at the last look.
    pub(super) fn latest(&self) -> Option<Mark> {
        self.samples().back().map(|sample| sample.mark)
    }

    /// How old what a replica shows is at most: the time since the log was last seen not to be
    /// beyond it. An idle primary is not beyond anything, so its replicas do not grow old. Longer
    /// than can be remembered is given as what is remembered.
    pub(super) fn lag(&self, replayed: u64, now: Instant) -> Duration {
        let samples = self.samples();
        let beyond = samples.partition_point(|sample| sample.mark.lsn <= replayed);
        if beyond == samples.len() {
            return Duration::ZERO;
        }
        let since = match beyond.checked_sub(1).and_then(|known| samples.get(known)) {
            Some(known) => Some(known.last),
            None => samples.front().map(|oldest| oldest.first),
        };
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn samples(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to [`POSITION`] or [`END`].
pub(super) fn mark(row: &Row) -> Option<Mark> {
    let lsn: PgLsn = row.try_get(0).ok()?;
    place(lsn, row.try_get(1).ok()?)
}

fn place(lsn: PgLsn, file: &str) -> Option<Mark> {
    let timeline = u32::from_str_radix(file.get(..8)?, 16).ok()?;
    let lsn = lsn.into();
    Some(Mark { timeline, lsn })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(timeline: u32, lsn: u64) -> Mark {
        Mark { timeline, lsn }
    }

    #[test]
    fn a_lag_is_the_time_since_the_log_was_not_beyond() {
        let log = Log::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let lag = |lsn, seconds| log.lag(lsn, at(seconds)).as_secs();
        assert_eq!(lag(5, 100), 0);
        log.sample(at(0), mark(1, 10));
        log.sample(at(5), mark(1, 10));
        // It stood still: nobody grows old.
        assert_eq!(lag(10, 100), 0);
        log.sample(at(6), mark(1, 20));
        log.sample(at(7), mark(1, 30));
        assert_eq!(lag(10, 8), 3);
        assert_eq!(lag(25, 8), 2);
        assert_eq!(lag(30, 8), 0);
        assert_eq!(lag(31, 8), 0);
        // From before the first look.
        assert_eq!(lag(9, 8), 8);
        log.sample(at(9), mark(2, 25));
        assert_eq!(log.latest(), Some(mark(2, 25)));
        assert_eq!(lag(24, 10), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let log = Log::new(Duration::from_secs(10));
        let start = Instant::now();
        for n in 0..10_000_u32 {
            log.sample(start + n * Duration::from_millis(20), mark(1, n.into()));
        }
        assert_eq!(log.samples().len(), SAMPLES);
        // Nearer than a thousandth of the limit: one.
        let close = Log::new(Duration::from_secs(100));
        for n in 0..1000_u32 {
            close.sample(start + n * Duration::from_millis(20), mark(1, n.into()));
        }
        assert_eq!(close.samples().len(), 200);
        let lag = close.lag(500, start + Duration::from_secs(20));
        assert!(lag >= Duration::from_secs(10), "{lag:?}");
        assert!(lag <= Duration::from_millis(10_200), "{lag:?}");
    }

    #[test]
    fn the_furthest_place_counts() {
        let log = Log::new(Duration::ZERO);
        log.note(Some(mark(1, 5)));
        log.note(Some(mark(1, 3)));
        assert_eq!((log.noted(), log.unanswered()), (Some(mark(1, 5)), 0));
        log.note(Some(mark(2, 4)));
        log.note(None);
        assert_eq!((log.noted(), log.unanswered()), (Some(mark(2, 4)), 1));
    }
}
