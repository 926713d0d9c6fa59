//! Which connections are still of use, and how many left the pool for which reason.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use deadpool_postgres::Metrics;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::cancel::{Pooler, Way};
use super::mode::StatementMode;
use super::notes::Notes;
use super::observe::{self, Server};
use super::replicas::log::Log;
use super::tls::CancelRoute;

/// Why a connection left the pool before its time, or at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Cancelled,
    Lost,
    ReadOnly,
    Unanswered,
    Expired,
    Idle,
}

impl Reason {
    /// What figures call it.
    fn name(self) -> &'static str {
        match self {
            Reason::Cancelled => "cancelled",
            Reason::Lost => "lost",
            Reason::ReadOnly => "read_only",
            Reason::Unanswered => "unanswered",
            Reason::Expired => "expired",
            Reason::Idle => "idle",
        }
    }
}

/// How many connections left the pool, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Discarded {
    /// A call was dropped, or ran out of time, while its statement was running.
    pub cancelled: u64,
    /// The connection broke, or the server ended it.
    pub lost: u64,
    /// The server refused a write because it is read only: a standby, or a demoted primary.
    pub read_only: u64,
    /// An idle connection did not answer when it was checked, after another one had failed; or it
    /// was one of those that such a check spoke for.
    pub unanswered: u64,
    /// It had lived for its time.
    pub expired: u64,
    /// It had been idle for its time.
    pub idle: u64,
}

/// The health of the connections of one store.
pub(super) struct Health {
    /// Moments are counted from here, so that they fit into an atomic.
    base: Instant,
    /// Connections that were last used before this moment are checked before they are used again.
    suspected: AtomicU64,
    /// Connections that were last used before this moment are not used again.
    condemned: AtomicU64,
    /// A server has refused a write.
    refused: AtomicBool,
    /// Connections on loan.
    on_loan: AtomicUsize,
    returned: Notify,
    /// What is known of each connection.
    pub(super) notes: Notes,
    /// The way to the server itself.
    route: CancelRoute,
    /// Where a pooler would be, if the pool is the store's own.
    pub(super) pooler: OnceLock<Pooler>,
    /// Where writes are noted that sessions wait for.
    log: Option<Arc<Log>>,
    /// Where the connections lead to, for those who look on.
    pub(super) server: Arc<Server>,
    /// The connections are to a standby.
    standby: bool,
    max_lifetime: Duration,
    jitter: RandomState,
    discarded: [AtomicU64; 6],
}

/// What to do with a connection that is about to be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    /// Ask it first.
    Check,
    Discard(Reason),
}

impl Health {
    pub(super) fn new(max_lifetime: Duration, route: CancelRoute) -> Self {
        Health {
            base: Instant::now(),
            suspected: AtomicU64::new(0),
            condemned: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            on_loan: AtomicUsize::new(0),
            returned: Notify::new(),
            notes: Notes::default(),
            route,
            pooler: OnceLock::new(),
            log: None,
            server: Arc::new(Server::unknown()),
            standby: false,
            max_lifetime,
            jitter: RandomState::new(),
            discarded: Default::default(),
        }
    }

    /// How the statement of a connection is cancelled.
    pub(super) fn way(&self, mode: StatementMode) -> Way {
        match (mode, self.pooler.get()) {
            (StatementMode::Unnamed, Some(pooler)) => Way::Pooler(pooler.clone()),
            (StatementMode::Unnamed, None) => Way::Nowhere,
            // One in session mode, or that knows names.
            (StatementMode::Prepared, Some(pooler)) if pooler.is_known() => {
                Way::Pooler(pooler.clone())
            }
            (StatementMode::Prepared, _) => Way::Direct(self.route.clone()),
        }
    }

    /// The same for connections whose writes are noted there.
    pub(super) fn noting(self, log: Option<Arc<Log>>) -> Self {
        Health { log, ..self }
    }

    /// The same for connections that lead there.
    pub(super) fn of_server(self, server: Server) -> Self {
        Health {
            server: Arc::new(server),
            ..self
        }
    }

    /// The same for connections to a standby.
    pub(super) fn of_standby(self) -> Self {
        Health {
            standby: true,
            ..self
        }
    }

    pub(super) fn is_of_standby(&self) -> bool {
        self.standby
    }

    /// Where a write is noted now, if anybody asks for it.
    pub(super) fn log(&self) -> Option<&Log> {
        self.log.as_deref().filter(|log| log.is_wanted())
    }

    pub(super) fn verdict(&self, metrics: &Metrics) -> Verdict {
        let used = self.moment(metrics.recycled.unwrap_or(metrics.created));
        if used < self.condemned.load(Relaxed) {
            Verdict::Discard(Reason::Unanswered)
        } else if self.has_expired(metrics) {
            Verdict::Discard(Reason::Expired)
        } else if used < self.suspected.load(Relaxed) {
            Verdict::Check
        } else {
            Verdict::Good
        }
    }

    /// Connections that were made together must not all be made anew together: each lives for its
    /// own part of the time, between nine tenths and all of it.
    pub(super) fn has_expired(&self, metrics: &Metrics) -> bool {
        let random = (self.jitter.hash_one(metrics.created) % 1000) as u32;
        let shorter = self.max_lifetime / 10 / 1000 * random;
        metrics.created.elapsed() > self.max_lifetime - shorter
    }

    /// A connection failed in a way that others may share.
    pub(super) fn suspect(&self) {
        self.suspected.fetch_max(self.now(), Relaxed);
    }

    /// A server refused a write, so that from now on it matters whether the others take them.
    pub(super) fn refuse(&self) {
        self.refused.store(true, Relaxed);
    }

    pub(super) fn was_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// A suspected connection did not answer; the others are not worth the wait.
    pub(super) fn condemn(&self) {
        let suspected = self.suspected.load(Relaxed);
        self.condemned.fetch_max(suspected, Relaxed);
    }

    pub(super) fn discard(&self, reason: Reason) {
        self.discarded[reason as usize].fetch_add(1, Relaxed);
        observe::discarded(&self.server, reason.name());
        tracing::debug!(?reason, "a connection leaves the pool");
    }

    pub(super) fn discarded(&self) -> Discarded {
        let count = |reason: Reason| self.discarded[reason as usize].load(Relaxed);
        Discarded {
            cancelled: count(Reason::Cancelled),
            lost: count(Reason::Lost),
            read_only: count(Reason::ReadOnly),
            unanswered: count(Reason::Unanswered),
            expired: count(Reason::Expired),
            idle: count(Reason::Idle),
        }
    }

    pub(super) fn lend(&self) {
        self.on_loan.fetch_add(1, SeqCst);
    }

    pub(super) fn take_back(&self) {
        self.on_loan.fetch_sub(1, SeqCst);
        self.returned.notify_waiters();
    }

    pub(super) fn on_loan(&self) -> usize {
        self.on_loan.load(SeqCst)
    }

    /// Ends when a connection comes back, or goes.
    pub(super) fn returned(&self) -> Notified<'_> {
        self.returned.notified()
    }

    fn now(&self) -> u64 {
        self.moment(Instant::now())
    }

    fn moment(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.base);
        // The first moment is 1: a connection older than the store is older than any suspicion.
        u64::try_from(since.as_nanos()).map_or(u64::MAX, |nanos| nanos.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used_at(created: Instant, recycled: Option<Instant>) -> Metrics {
        Metrics {
            created,
            recycled,
            ..Metrics::default()
        }
    }

    #[test]
    fn a_suspicion_concerns_what_was_used_before_it() {
        let health = Health::new(Duration::from_secs(1800), CancelRoute::of_host());
        let before = used_at(Instant::now(), None);
        assert_eq!(health.verdict(&before), Verdict::Good);
        health.suspect();
        assert_eq!(health.verdict(&before), Verdict::Check);
        let after = used_at(before.created, Some(Instant::now()));
        assert_eq!(health.verdict(&after), Verdict::Good);
        health.condemn();
        let discard = Verdict::Discard(Reason::Unanswered);
        assert_eq!(health.verdict(&before), discard);
        assert_eq!(health.verdict(&after), Verdict::Good);
    }

    #[test]
    fn lifetimes_lie_between_nine_tenths_and_all() {
        let life = Duration::from_secs(100);
        let health = Health::new(life, CancelRoute::of_host());
        let now = Instant::now();
        // Each another moment, because its part of the time hangs on that.
        let aged = |seconds, n: u32| {
            let age = Duration::from_secs(seconds) + Duration::from_nanos(n.into());
            let created = now.checked_sub(age);
            used_at(created.expect("a machine that has run for so long"), None)
        };
        let mut expired = 0;
        for n in 0..100 {
            let (young, middle, old) = (aged(89, n), aged(95, n), aged(101, n));
            assert!(!health.has_expired(&young));
            assert!(health.has_expired(&old));
            expired += usize::from(health.has_expired(&middle));
        }
        assert!((20..80).contains(&expired), "{expired} of 100 by half-time");
    }
}
