//! What all parts of a store share, and the way from it to a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use deadpool_postgres::{Object, Pool, PoolError, TimeoutType, Timeouts};
use futures_util::FutureExt;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::batch::Batches;
use super::connect::{Connections, PoolLimits};
use super::deadline::Deadline;
use super::error;
use super::flight::Rows;
use super::health::{Health, Reason};
use super::lease::Lease;
use super::mode::StatementMode;
use super::observe::{Slow, figures};
use super::statement::{Params, Statement};
use super::target::SessionAttrs;
use super::wanted;
use crate::error::{Error, Result, UnavailableReason};

/// What all parts of a store share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) pool: Pool,
    pub(super) limits: Limits,
    pub(super) health: Arc<Health>,
    /// Where the pool is the store's own.
    pub(super) connections: Option<Arc<Connections>>,
    pub(super) mode: StatementMode,
    pub(super) closed: Arc<AtomicBool>,
    /// Held by a call with many items that has given way, while it is made again.
    pub(super) turn: Arc<Mutex<()>>,
    /// Where calls that wait go out together.
    pub(super) batches: Option<Arc<Batches>>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// A call altogether.
    pub(super) call: Duration,
    /// Waiting for a connection and making one, where the pool is the store's own; a host's pool
    /// has its own limits.
    pub(super) own_pool: Option<PoolLimits>,
    /// From when on a call is warned about.
    pub(super) slow: Slow,
}

/// How long a connection under suspicion may take to answer.
const CHECK_LIMIT: Duration = Duration::from_secs(1);

/// Who has less time than this left for a check takes no other connection to be checked: a good
/// one would have no chance to answer, and leave the pool.
const LEAST_CHECK: Duration = Duration::from_millis(10);

impl Shared {
    /// Takes a connection out of the pool, or says why there is none.
    pub(super) async fn lease(&self, deadline: Deadline) -> Result<Lease> {
        match self.idle() {
            Some(lease) if !self.is_suspect(&lease) => {
                figures::waited(Duration::ZERO);
                Ok(lease)
            }
            // In a box of its own: what may have to be waited for here would make the future of
            // every call larger by far.
            suspect => Box::pin(self.wait(suspect, deadline)).await,
        }
    }

    /// [`wait_for`](Self::wait_for), and notes how long that took.
    async fn wait(&self, suspect: Option<Lease>, deadline: Deadline) -> Result<Lease> {
        let started = Instant::now();
        figures::waits(started);
        let lease = self.wait_for(suspect, started, deadline).await;
        figures::waited(started.elapsed());
        lease
    }

    /// A connection that can be had without waiting.
    fn idle(&self) -> Option<Lease> {
        // In a host's pool a connection may have to be asked first, and is lost if it is not
        // waited for.
        self.limits.own_pool?;
        if self.closed.load(SeqCst) || self.pool.status().available == 0 {
            return None;
        }
        const AT_ONCE: Timeouts = Timeouts {
            wait: Some(Duration::ZERO),
            create: None,
            recycle: None,
        };
        let object = self.pool.timeout_get(&AT_ONCE).now_or_never()?.ok()?;
        let lease = Lease::new(object, Arc::clone(&self.health), self.mode);
        // Again, now that whoever closes the store counts this connection.
        (!self.closed.load(SeqCst)).then_some(lease)
    }

    fn is_suspect(&self, lease: &Lease) -> bool {
        (self.connections.as_ref())
            .is_some_and(|all| lease.client().is_some_and(|client| all.is_suspect(client)))
    }

    /// [`lease`](Self::lease), by waiting and asking. `suspect` is asked first.
    async fn wait_for(
        &self,
        suspect: Option<Lease>,
        started: Instant,
        deadline: Deadline,
    ) -> Result<Lease> {
        let mut next = suspect;
        loop {
            let mut lease = match next.take() {
                Some(suspect) => suspect,
                None => {
                    let lease = self.acquire(started, deadline).await?;
                    if !self.is_suspect(&lease) {
                        return Ok(lease);
                    }
                    lease
                }
            };
            let wanted = match self.health.is_of_standby() {
                true => SessionAttrs::Standby,
                false => (self.connections.as_ref()).map_or(SessionAttrs::Any, |all| all.wanted),
            };
            let check = wanted::check(wanted, self.health.was_refused());
            // Half of the time is left for the call itself.
            let limit = CHECK_LIMIT.min(deadline.left() / 2);
            match timeout(limit, lease.check(check)).await {
                Ok(true) => return Ok(lease),
                Ok(false) => lease.give_up(Reason::Unanswered),
                Err(_) => {
                    // A caller who had hardly any time to wait says nothing about the others.
                    if limit >= CHECK_LIMIT / 4 {
                        self.health.condemn();
                    }
                    lease.give_up(Reason::Unanswered);
                    if deadline.left() / 2 < LEAST_CHECK {
                        return Err(error::unavailable(UnavailableReason::ConnectTimeout, None));
                    }
                }
            }
        }
    }

    async fn acquire(&self, started: Instant, deadline: Deadline) -> Result<Lease> {
        self.refuse_closed()?;
        let left = deadline.left();
        // A moment longer than the pool's own limits, which know what was being waited for.
        let patience = left + Duration::from_millis(5);
        match timeout(patience, self.object(started, left)).await {
            Ok(Ok(object)) => {
                let lease = Lease::new(object, Arc::clone(&self.health), self.mode);
                // Again, now that whoever closes the store counts this connection.
                self.refuse_closed().map(|()| lease)
            }
            // Somebody waits for the server, and not for whoever has a connection.
            Ok(Err(PoolError::Timeout(TimeoutType::Wait))) if self.hardly_any() => {
                Err(error::unavailable(UnavailableReason::ConnectTimeout, None))
            }
            Ok(Err(error)) => Err(error::from_pool(error, started.elapsed())),
            Err(_) if self.all_in_use() => Err(Error::PoolExhausted {
                waited: started.elapsed(),
            }),
            Err(_) => Err(error::unavailable(UnavailableReason::ConnectTimeout, None)),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    fn refuse_closed(&self) -> Result<()> {
        match self.is_closed() {
            true => Err(error::unavailable(UnavailableReason::Closed, None)),
            false => Ok(()),
        }
    }

    async fn object(
        &self,
        started: Instant,
        left: Duration,
    ) -> Result<Object, deadpool_postgres::PoolError> {
        let Some(limits) = self.limits.own_pool else {
            return self.pool.get().await;
        };
        let wait = limits.acquire.saturating_sub(started.elapsed()).min(left);
        let timeouts = Timeouts {
            // Zero would mean not to wait at all, even for a connection that is free.
            wait: Some(wait.max(Duration::from_millis(1))),
            create: Some(limits.connect.min(left)),
            recycle: Some(limits.connect.min(left)),
        };
        self.pool.timeout_get(&timeouts).await
    }

    /// From now on every call is refused.
    pub(super) fn stop_calls(&self) {
        self.closed.store(true, SeqCst);
        if self.connections.is_some() {
            self.pool.close();
        }
    }

    /// Closes every connection of the store's own pool.
    pub(super) async fn end_connections(&self, busy: bool) {
        if let Some(connections) = &self.connections {
            connections.end(busy, &self.health.way(self.mode)).await;
        }
    }

    /// Runs one statement on a connection of the pool.
    pub(super) async fn gather<R: Rows>(
        &self,
        deadline: Deadline,
        statement: &Statement,
        params: &Params<'_>,
    ) -> Result<R> {
        let mut lease = self.lease(deadline).await?;
        let sent = Instant::now();
        let rows = deadline.bound(lease.gather(statement, params)).await;
        rows.map_err(|error| self.timed_out(error, sent))
    }

    /// Whether most connections that there may be are yet to be made. One that is just made anew does
    /// not count.
    fn hardly_any(&self) -> bool {
        let status = self.pool.status();
        status.size < status.max_size.div_ceil(2)
    }

    pub(super) fn all_in_use(&self) -> bool {
        let status = self.pool.status();
        status.size >= status.max_size && status.available == 0
    }

    /// The time that a call has, from its start.
    pub(super) fn deadline(&self) -> Deadline {
        let start = figures::started().unwrap_or_else(Instant::now);
        Deadline::new(start, self.limits.call)
    }

    /// Tells the two kinds of silence apart: a server that ran into its own limit has answered,
    /// one that did not answer puts its other connections under suspicion too.
    pub(super) fn timed_out(&self, error: Error, since: Instant) -> Error {
        let took = since.elapsed();
        let limit = self.limits.own_pool.map(|limits| limits.statement);
        match error {
            Error::Timeout { after } => {
                self.health.suspect();
                Error::Timeout { after }
            }
            Error::Database(failure) if error::is_statement_timeout(&failure, took, limit) => {
                Error::Timeout { after: took }
            }
            other => other,
        }
    }
}
