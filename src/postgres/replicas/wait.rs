//! Waiting for a replica that is not far enough yet.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select, select_all};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{sleep, timeout_at};

use super::check::{Told, question};
use super::position::Mark;
use super::route::Route;
use super::standing::Standing;
use crate::postgres::deadline::Deadline;
use crate::postgres::executor::Executor;

/// The first pause between two questions to a replica that is not far enough, which doubles, and
/// the longest.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// How long an answer may take: as long as one to a look.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// How a wait ended.
pub(super) enum Waited {
    /// This one is far enough.
    Reached(usize),
    /// This one is not to be waited for any more.
    Left(usize),
    Overdue,
    /// There is nobody to wait for.
    Nobody,
}

impl Route {
    /// Ends when one of the replicas that were not `tried` is far enough.
    pub(super) async fn wait(
        &self,
        tried: &[bool],
        mark: Mark,
        until: Instant,
        deadline: Deadline,
    ) -> Waited {
        let all = self.replicas.replicas.iter().zip(tried).enumerate();
        let waiting = all.filter(|(_, (replica, tried))| {
            !**tried && replica.standing.admits(Some(mark.timeline)).is_some()
        });
        let waiting: Vec<_> = waiting
            .map(|(index, _)| {
                Box::pin(async move {
                    match self.reaches(index, mark, deadline).await {
                        Some(()) => Waited::Reached(index),
                        None => Waited::Left(index),
                    }
                })
            })
            .collect();
        if waiting.is_empty() {
            return Waited::Nobody;
        }
        if until <= Instant::now() {
            return Waited::Overdue;
        }
        match timeout_at(until.into(), select_all(waiting)).await {
            Ok((waited, ..)) => waited,
            Err(_) => Waited::Overdue,
        }
    }

    /// Ends when the replica is far enough, or with `None`: it will not be waited for any more.
    async fn reaches(&self, index: usize, mark: Mark, deadline: Deadline) -> Option<()> {
        let replica = self.replicas.replicas.get(index)?;
        let standing = &replica.standing;
        let on = Executor::Pool(Arc::clone(self.standbys.get(index)?));
        let mut pause = PAUSE;
        loop {
            let mut news = pin!(standing.news.notified());
            // Listens before it looks.
            news.as_mut().enable();
            if standing.has(mark).is_some() {
                return Some(());
            }
            standing.admits(Some(mark.timeline))?;
            // One of those who wait asks, for all of them.
            let turn = pin!(Arc::clone(&replica.asking).lock_owned());
            let Either::Right((turn, news)) = select(news, turn).await else {
                continue;
            };
            let (told, turn) = ask(on.clone(), Arc::clone(standing), deadline, turn).await?;
            if told?.shows(mark) {
                return Some(());
            }
            select(pin!(sleep(pause)), news).await;
            drop(turn);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Asks a replica how far it is, unless it does not answer or is none. In a task of its own:
/// whoever waits may have done so for long enough before the answer comes, and a connection whose
/// statement is given up is lost. Until then it is not anybody else's turn.
async fn ask(
    on: Executor,
    standing: Arc<Standing>,
    deadline: Deadline,
    turn: Turn,
) -> Option<(Option<Told>, Turn)> {
    let deadline = deadline.min(Deadline::new(Instant::now(), ANSWER_LIMIT));
    let asked = tokio::spawn(async move {
        let row = on.query_opt_by(deadline, question(&standing), &[]).await;
        let told = row
            .ok()
            .map(|row| row.as_ref().map_or(Told::NoStandby, Told::from_row));
        (told.filter(|told| standing.heard(*told)), turn)
    });
    asked.await.ok()
}

type Turn = OwnedMutexGuard<()>;
