//! Replicas: reads outside transactions go to them, and a session reads what it has written.
//!
//! - [`repos`] are the repositories over primary and replicas; [`route`] decides where a call of
//!   theirs runs. Each place is a pool of its own, with the executor and the batches that the store
//!   has without replicas.
//! - [`standing`] is what is known of a replica, and [`log`] what is known of the primary's log.
//!   Both are fed by [`watch`], which looks at every server a few times a second, and by the calls.
//! - A [`session`] remembers in its [`state`] how far it has written, as a [`position`]. [`check`]
//!   asks a replica how far it is, in the same flight as a read, and [`wait`] until it is far enough.

mod check;
pub(super) mod log;
mod open;
mod position;
mod repos;
mod route;
mod session;
mod standing;
mod state;
mod status;
mod wait;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};

pub(super) use self::check::Checked;
pub(super) use self::open::{Plan, open};
pub use self::position::Position;
pub(super) use self::repos::Routed;
pub(super) use self::route::Route;
pub use self::session::Session;
pub use self::status::{OutOfRotation, Reads, ReplicaStatus};

use self::log::Log;
use self::standing::Standing;
use super::shared::Shared;

/// The replicas of a store, shared by its clones.
pub(super) struct Replicas {
    replicas: Vec<Replica>,
    log: Arc<Log>,
    /// How long a read of a session waits for one of them.
    wait: Duration,
    /// How long after its end a write of unknown outcome may still take effect.
    doubt: Duration,
    /// Where the search for the least busy one begins.
    turn: AtomicU64,
    primary: AtomicU64,
    overdue: AtomicU64,
    closed: AtomicBool,
    /// Ends the looks at the primary.
    end: Arc<Notify>,
}

struct Replica {
    shared: Arc<Shared>,
    standing: Arc<Standing>,
    /// Whoever waits for it and asks how far it is, for all who wait.
    asking: Arc<Mutex<()>>,
}

impl Replicas {
    pub(super) fn pools(&self) -> impl Iterator<Item = &Arc<Shared>> {
        self.replicas.iter().map(|replica| &replica.shared)
    }

    /// From now on every read is refused by the replicas, and nobody looks at them any more.
    pub(super) fn stop(&self) {
        self.closed.store(true, SeqCst);
        self.pools().for_each(|pool| pool.stop_calls());
        self.wake_all();
    }

    fn wake_all(&self) {
        self.end.notify_one();
        for replica in &self.replicas {
            replica.standing.wake.notify_one();
        }
    }

    pub(super) fn status(&self) -> (Vec<ReplicaStatus>, Reads) {
        let status = |(number, replica): (usize, &Replica)| {
            let state = replica.standing.get();
            ReplicaStatus {
                number,
                out: state.out(),
                lag: state.lag,
                reads: replica.standing.reads(),
                size: replica.shared.pool.status().size,
            }
        };
        let all: Vec<_> = self.replicas.iter().enumerate().map(status).collect();
        let reads = Reads {
            replicas: all.iter().map(|replica| replica.reads).sum(),
            primary: self.primary.load(Relaxed),
            overdue: self.overdue.load(Relaxed),
        };
        (all, reads)
    }

    /// The least busy of those that `busy` gives a number for, and the next in turn where several
    /// are: one that is slow, or far away, so gets what it can serve, which taking turns alone
    /// would not see to.
    fn least_busy(&self, busy: impl Fn(usize, &Replica) -> Option<usize>) -> Option<usize> {
        let turn = self.turn.fetch_add(1, Relaxed);
        let number = self.replicas.len().max(1);
        let first = usize::try_from(turn % number as u64).unwrap_or(0);
        let order = (first..number).chain(0..first);
        let with_busy = order.filter_map(|index| {
            let replica = self.replicas.get(index)?;
            Some((busy(index, replica)?, index))
        });
        // Of equals it gives the first.
        with_busy
            .min_by_key(|(busy, _)| *busy)
            .map(|(_, index)| index)
    }
}

impl Drop for Replicas {
    /// So that whoever looks at them ends now and not at the next look.
    fn drop(&mut self) {
        self.wake_all();
    }
}
