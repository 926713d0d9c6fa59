//! What a session remembers: how far it has written, and until when it cannot know.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::log::Log;
use super::position::{Mark, Position};
use crate::error::{Error, Result};
use crate::postgres::deadline::after;

/// What a session remembers.
#[derive(Default)]
pub(super) struct State(Mutex<Before>);

/// The same at one moment.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) struct Before {
    mark: Option<Mark>,
    /// Until when a write of unknown outcome may take effect.
    doubt: Option<Instant>,
}

/// What a read of a session needs.
pub(super) enum Need {
    Nothing,
    /// A server that is at least so far.
    Mark(Mark),
    Primary,
    /// The primary, and the question how far that is.
    News(Before),
}

/// The longest doubt that is taken over from a position that comes from elsewhere.
const LONGEST: Duration = Duration::from_secs(60 * 60);

impl State {
    fn now(&self) -> MutexGuard<'_, Before> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `timeline`: the one that the primary was last seen on.
    pub(super) fn need(&self, timeline: impl FnOnce() -> Option<u32>) -> Need {
        let now = *self.now();
        let mark = match (now.doubt, now.mark) {
            (Some(until), _) if Instant::now() < until => return Need::Primary,
            (Some(_), _) => return Need::News(now),
            (None, None) => return Need::Nothing,
            (None, Some(mark)) => mark,
        };
        match timeline() {
            Some(timeline) if timeline > mark.timeline => Need::News(now),
            // What is taken for the primary is an older one.
            Some(timeline) if timeline < mark.timeline => Need::Primary,
            _ => Need::Mark(mark),
        }
    }

    pub(super) fn position(&self) -> Position {
        let now = *self.now();
        // A doubt that is over is one until a read has resolved it.
        let doubt = now.doubt.map_or(Duration::ZERO, |until| {
            let left = until.saturating_duration_since(Instant::now());
            left.max(Duration::from_millis(1))
        });
        Position::new(now.mark, doubt)
    }

    pub(super) fn observe(&self, position: Position) {
        let mut now = self.now();
        now.mark = now.mark.max(position.mark);
        if position.doubt > 0 {
            let left = Duration::from_millis(position.doubt.into()).min(LONGEST);
            now.doubt = now.doubt.max(Some(after(Instant::now(), left)));
        }
    }

    fn wrote(&self, mark: Option<Mark>) {
        let mut now = self.now();
        now.mark = mark.max(now.mark);
    }

    fn doubt(&self, for_so_long: Duration) {
        let mut now = self.now();
        now.doubt = now.doubt.max(Some(after(Instant::now(), for_so_long)));
    }

    /// The primary was here, after everything that there was `before` had taken effect.
    pub(super) fn learn(&self, before: Before, mark: Mark) {
        let mut now = self.now();
        if before
            .mark
            .is_some_and(|known| known.timeline > mark.timeline)
        {
            return;
        }
        if now.doubt == before.doubt {
            now.doubt = None;
        }
        if now.mark == before.mark {
            now.mark = Some(mark);
        } else {
            now.mark = now.mark.max(Some(mark));
        }
    }

    /// This place is of a history that was lost.
    pub(super) fn replace(&self, lost: Mark, mark: Mark) {
        let mut now = self.now();
        if now.mark == Some(lost) {
            now.mark = Some(mark);
        }
    }

    /// Makes a write, and remembers how far it went.
    pub(super) async fn write<T>(
        &self,
        log: &Log,
        doubt: Duration,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut writing = Writing {
            state: self,
            doubt: Some(doubt),
        };
        let unanswered = log.unanswered();
        let answer = call.await;
        match &answer {
            Err(error) if stored_nothing(error) => writing.doubt = None,
            Err(error) if !stored(error) => {}
            // Without an answer to the question it might be anywhere.
            _ if log.unanswered() != unanswered => {}
            _ => {
                // This write asked before it was acknowledged, and what others have noted since
                // then lies after it.
                self.wrote(log.noted());
                writing.doubt = None;
            }
        }
        answer
    }
}

/// A write that is under way. Dropped before its end is known, it may have happened.
struct Writing<'a> {
    state: &'a State,
    doubt: Option<Duration>,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if let Some(doubt) = self.doubt {
            self.state.doubt(doubt);
        }
    }
}

/// Whether it is certain that nothing was stored, and nothing of the database was told.
fn stored_nothing(error: &Error) -> bool {
    match error {
        Error::Invalid(_)
        | Error::Conflict(_)
        | Error::RolledBack(_)
        | Error::PoolExhausted { .. }
        // Whoever ended it has remembered it.
        | Error::TransactionClosed
        | Error::Config { .. } => true,
        Error::Database(failure) => failure.sqlstate().is_some(),
        Error::Unavailable { reason, .. } => reason.stored_nothing(),
        _ => false,
    }
}

/// Whether the database answered, so that a position was noted. What an error of the domain tells
/// the caller must not be untold by the next read.
fn stored(error: &Error) -> bool {
    match error {
        // Nothing was sent.
        Error::Invalid(_) => false,
        Error::Decode { .. } => true,
        error => error.is_domain(),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const DOUBT: Duration = Duration::from_secs(10);

    fn mark(timeline: u32, lsn: u64) -> Mark {
        Mark { timeline, lsn }
    }

    fn at(mark: Mark) -> State {
        let state = State::default();
        state.wrote(Some(mark));
        state
    }

    fn is_mark(need: &Need, wanted: Mark) -> bool {
        matches!(need, Need::Mark(mark) if *mark == wanted)
    }

    #[test]
    fn a_session_needs_what_it_has_written() {
        let fresh = State::default();
        assert!(matches!(fresh.need(|| Some(1)), Need::Nothing));
        let state = at(mark(1, 7));
        state.wrote(Some(mark(1, 5)));
        assert!(is_mark(&state.need(|| Some(1)), mark(1, 7)));
        // An older primary cannot show it, and a newer one is asked.
        assert!(matches!(at(mark(2, 7)).need(|| Some(1)), Need::Primary));
        assert!(matches!(state.need(|| Some(2)), Need::News(_)));
    }

    #[test]
    fn a_write_of_unknown_outcome_is_a_doubt() {
        let log = Log::new(Duration::ZERO);
        let lost = || Error::Timeout { after: DOUBT };
        let write = |state: &State, answer: Result<()>| {
            let call = state.write(&log, DOUBT, std::future::ready(answer));
            call.now_or_never().expect("nothing to wait for").is_ok()
        };
        let state = at(mark(1, 7));
        assert!(!write(&state, Err(lost())));
        assert!(matches!(state.need(|| Some(1)), Need::Primary));
        // One that was acknowledged afterwards says nothing of it.
        assert!(write(&state, Ok(())));
        assert!(matches!(state.need(|| Some(1)), Need::Primary));
        for certain in [Error::PoolExhausted { waited: DOUBT }, Error::UsernameTaken] {
            let state = at(mark(1, 7));
            assert!(!write(&state, Err(certain)));
            assert!(is_mark(&state.need(|| Some(1)), mark(1, 7)));
        }
        // Dropped halfway.
        let state = at(mark(1, 7));
        let call = state.write(&log, DOUBT, std::future::pending::<Result<()>>());
        assert!(call.now_or_never().is_none());
        assert!(matches!(state.need(|| Some(1)), Need::Primary));
    }

    #[test]
    fn a_doubt_that_is_over_is_resolved_by_a_read() {
        let state = at(mark(1, 7));
        state.doubt(Duration::ZERO);
        assert!(state.position().doubt > 0);
        let Need::News(before) = state.need(|| Some(1)) else {
            panic!("it reads without asking");
        };
        state.learn(before, mark(1, 9));
        assert!(is_mark(&state.need(|| Some(1)), mark(1, 9)));
        // Another doubt came up meanwhile.
        state.doubt(Duration::ZERO);
        let Need::News(before) = state.need(|| Some(1)) else {
            panic!("it reads without asking");
        };
        state.doubt(DOUBT);
        state.learn(before, mark(1, 11));
        assert!(matches!(state.need(|| Some(1)), Need::Primary));
    }

    #[test]
    fn a_position_is_handed_on_with_its_doubt() {
        let state = at(mark(1, 7));
        let other = State::default();
        other.observe(state.position());
        assert!(is_mark(&other.need(|| Some(1)), mark(1, 7)));
        state.doubt(DOUBT);
        other.observe(state.position());
        assert!(matches!(other.need(|| Some(1)), Need::Primary));
        // Whatever it says, it ends.
        other.observe(Position::new(None, Duration::MAX));
        assert!(other.position().doubt <= 3_600_000);
    }

    #[test]
    fn a_place_that_was_lost_is_let_go() {
        let state = at(mark(1, 7));
        state.replace(mark(1, 8), mark(1, 1));
        assert!(is_mark(&state.need(|| Some(1)), mark(1, 7)));
        state.replace(mark(1, 7), mark(1, 1));
        assert!(is_mark(&state.need(|| Some(1)), mark(1, 1)));
        // After a failover.
        let Need::News(before) = state.need(|| Some(2)) else {
            panic!("it reads without asking");
        };
        state.learn(before, mark(2, 1));
        assert!(is_mark(&state.need(|| Some(2)), mark(2, 1)));
    }
}
