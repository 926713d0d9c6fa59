//! What is found out about a call while it runs. The rooms that find it out do not know the call:
//! it is the one that is being polled on this thread.

use std::cell::Cell;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) started: Instant,
    /// For a connection, or for a place in a batch. `None`: it needed neither.
    pub(super) waited: Option<Duration>,
    /// Since when it is waiting.
    waiting: Option<Instant>,
    /// How many calls went together, if this one did not go alone.
    pub(super) batch: u32,
    /// How many times it was run again, because it had given way to others.
    pub(super) retries: u32,
    /// The replica that answered.
    pub(super) replica: Option<u16>,
}

impl Figures {
    pub(super) fn new(started: Instant) -> Self {
        Figures {
            started,
            waited: None,
            waiting: None,
            batch: 0,
            retries: 0,
            replica: None,
        }
    }
}

impl Figures {
    fn add(&mut self, time: Duration) {
        *self.waited.get_or_insert_default() += time;
        self.waiting = None;
    }

    /// The call is over, perhaps while it waited.
    pub(super) fn end(&mut self) {
        if let Some(since) = self.waiting {
            self.add(since.elapsed());
        }
    }
}

thread_local! {
    static CURRENT: Cell<Option<Figures>> = const { Cell::new(None) };
}

/// The figures of a call while it is polled.
pub(super) struct Lent<'a> {
    owner: &'a mut Figures,
    before: Option<Figures>,
}

/// Makes these the current ones, until the answer is dropped.
pub(super) fn lend(owner: &mut Figures) -> Lent<'_> {
    let before = CURRENT.replace(Some(*owner));
    Lent { owner, before }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(figures) = CURRENT.replace(self.before) {
            *self.owner = figures;
        }
    }
}

fn change(change: impl FnOnce(&mut Figures)) {
    if let Some(mut figures) = CURRENT.get() {
        change(&mut figures);
        CURRENT.set(Some(figures));
    }
}

/// Whether a call is being polled.
pub(super) fn is_inside() -> bool {
    CURRENT.get().is_some()
}

/// When the current call began.
pub(in crate::postgres) fn started() -> Option<Instant> {
    CURRENT.get().map(|figures| figures.started)
}

/// The current call has begun to wait.
pub(in crate::postgres) fn waits(since: Instant) {
    change(|figures| figures.waiting = Some(since));
}

/// The current call has waited for so long.
pub(in crate::postgres) fn waited(time: Duration) {
    change(|figures| figures.add(time));
}

/// The current call goes together with others, `calls` altogether.
pub(in crate::postgres) fn together(calls: usize) {
    change(|figures| figures.batch = u32::try_from(calls).unwrap_or(u32::MAX));
}

/// The current call is run again.
pub(in crate::postgres) fn again() {
    change(|figures| figures.retries += 1);
}

/// The current call was answered by this replica.
pub(in crate::postgres) fn replica(number: usize) {
    change(|figures| figures.replica = u16::try_from(number).ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_goes_to_the_call_that_is_polled() {
        let mut outer = Figures::new(Instant::now());
        let mut inner = Figures::new(Instant::now());
        {
            let _outer = lend(&mut outer);
            together(2);
            {
                let _inner = lend(&mut inner);
                again();
                waited(Duration::from_secs(1));
            }
            again();
            again();
        }
        assert_eq!((outer.batch, outer.retries), (2, 2));
        assert_eq!((inner.batch, inner.retries), (0, 1));
        assert_eq!(outer.waited, None);
        assert_eq!(inner.waited, Some(Duration::from_secs(1)));
        assert!(!is_inside());
        // Nobody's.
        together(7);
        assert!(!is_inside());
    }

    #[test]
    fn a_panic_ends_the_loan() {
        let mut figures = Figures::new(Instant::now());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _lent = lend(&mut figures);
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(panicked.is_err());
        assert!(!is_inside());
    }
}
