//! A lane in somebody's hands, and what becomes of it when they are done.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::Kind;
use super::lanes::{Answer, Lane, Lanes, State, Word};
use super::run::run;

/// A lane that somebody has. Dropped, it goes to those who wait.
pub(super) struct Place<K: Kind> {
    pub(super) lanes: Arc<Lanes<K>>,
    pub(super) lane: usize,
    pub(super) times: u64,
    /// Held by the task that runs batches. If that is dropped, its runtime is at its end, or the
    /// task has panicked, and another task would fare no better.
    pub(super) task: bool,
}

impl<K: Kind> Place<K> {
    /// The lane, unless it was taken over.
    pub(super) fn own<'a>(&self, state: &'a mut State<K>) -> Option<&'a mut Lane> {
        let lane = state.lanes.get_mut(self.lane)?;
        (lane.times == self.times).then_some(lane)
    }

    /// The same lane, for somebody else.
    fn again(&self, task: bool) -> Self {
        Place {
            lanes: Arc::clone(&self.lanes),
            lane: self.lane,
            times: self.times,
            task,
        }
    }
}

impl<K: Kind> Drop for Place<K> {
    fn drop(&mut self) {
        let mut state = self.lanes.state();
        let idle = state.waiting.is_empty();
        match self.own(&mut state) {
            Some(lane) if idle => lane.taken = None,
            Some(_) => {
                drop(state);
                match (self.task, Handle::try_current()) {
                    (false, Ok(runtime)) => drop(runtime.spawn(run(self.again(true)))),
                    _ => self.hand_over(),
                }
            }
            None => {}
        }
    }
}

impl<K: Kind> Place<K> {
    /// Gives the lane to one of those who wait: they have a runtime.
    fn hand_over(&self) {
        let mut lead = Word::Answer(Answer::Lead(self.again(false)));
        loop {
            let first = self.lanes.state().waiting.pop_front();
            let Some(waiting) = first else {
                // Its drop frees the lane.
                return;
            };
            match waiting.caller.answer.send(lead) {
                Ok(()) => return,
                Err(back) => lead = back,
            }
        }
    }
}
