//! Setting up a store.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use deadpool_postgres::{Pool, WeakPool};

use super::PgStore;
use super::batch::Batching;
use super::connect::Settings;
use super::health::{Health, Reason};
use super::mode::StatementMode;
use super::observe;
use super::replicas::{self, Plan};
use super::shared::{Limits, Shared};
use super::tls::CancelRoute;
use crate::error::{Error, Result};

/// Sets up a [`PgStore`]. Made by [`PgStore::builder`].
///
/// ```no_run
/// use std::time::Duration;
/// use motorpool::{Batching, PgStore, Schema, StatementMode};
///
/// # async fn example() -> motorpool::Result<()> {
/// let store = PgStore::builder("postgresql://app@primary/garage")?
///     // Connections.
///     .max_connections(32)
///     .min_idle(4)
///     .max_lifetime(Duration::from_secs(15 * 60))
///     .idle_timeout(Duration::from_secs(60))
///     // Time.
///     .call_timeout(Duration::from_secs(2))
///     .statement_timeout(Duration::from_millis(1_900))
///     .acquire_timeout(Duration::from_secs(1))
///     .connect_timeout(Duration::from_secs(1))
///     // How statements are sent.
///     .statement_mode(StatementMode::Prepared)
///     .batching(Batching::default())
///     // Replicas.
///     .replica("postgresql://app@replica/garage")?
///     .replica_wait(Duration::from_millis(20))
///     .replica_lag(Duration::from_secs(2))
///     // What must hold before it starts.
///     .require_schema(Schema::AtLeastCurrent)
///     .build()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct PgStoreBuilder {
    pub(super) settings: Settings,
    pub(super) demand: Option<Demand>,
    pub(super) batching: Batching,
    pub(super) replicas: Plan,
}

/// What must hold of a database before a store is made on it.
pub(crate) type Demand = fn(Pool) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>;

impl PgStoreBuilder {
    pub(super) fn new(settings: Settings) -> Self {
        PgStoreBuilder {
            settings,
            demand: None,
            batching: Batching::default(),
            replicas: Plan::default(),
        }
    }

    /// Asks this of the database in [`build`](Self::build).
    pub(crate) fn demand(mut self, demand: Demand) -> Self {
        self.demand = Some(demand);
        self
    }

    /// Another database of the same server.
    pub(crate) fn database(mut self, name: &str) -> Self {
        self.settings.database(name);
        self
    }

    /// The most connections that the store works with at once. Default: 16. 0 counts as 1.
    ///
    /// One whose call was dropped during its statement does not count any more; the server has it
    /// for up to 3 s longer, until the statement is cancelled.
    pub fn max_connections(mut self, number: usize) -> Self {
        self.settings.max_connections = number.max(1);
        self
    }

    /// How many idle connections are kept however long they are idle. Default: 1.
    pub fn min_idle(mut self, number: usize) -> Self {
        self.settings.min_idle = number;
        self
    }

    /// How long a call waits for a connection while all are in use, before it gives
    /// [`PoolExhausted`](crate::Error::PoolExhausted). Default: 5 s.
    pub fn acquire_timeout(mut self, limit: Duration) -> Self {
        self.settings.acquire = limit;
        self
    }

    /// How long making a connection may take, name look-up, TCP, TLS and authentication together,
    /// before the call gives [`Unavailable`](crate::Error::Unavailable). All hosts of a URL share
    /// it, or [`call_timeout`](Self::call_timeout) if that is shorter. Default: 5 s, or the URL's
    /// `connect_timeout` for each host.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.settings.connect = limit;
        self
    }

    /// How long the server works on one statement before it gives up and the call gives
    /// [`Timeout`](crate::Error::Timeout); `statement_timeout` of each connection, in whole
    /// milliseconds. Less than one counts as one: a 0 here is not the server's "no limit", for which
    /// there is [`Duration::MAX`], 24 days there. Default: 95 % of
    /// [`call_timeout`](Self::call_timeout). With [`Unnamed`](StatementMode::Unnamed) it holds inside
    /// transactions alone.
    pub fn statement_timeout(mut self, limit: Duration) -> Self {
        self.settings.statement = Some(limit);
        self
    }

    /// How long a call may take altogether, from its start to its answer: waiting for a
    /// connection, making or checking one, and the statement. In a transaction each call has this
    /// time. Default: 10 s.
    pub fn call_timeout(mut self, limit: Duration) -> Self {
        self.settings.call = limit;
        self
    }

    /// How long a connection lives before it is made anew: each for a random time between nine
    /// tenths of this and all of it. Default: 30 minutes.
    pub fn max_lifetime(mut self, limit: Duration) -> Self {
        self.settings.max_lifetime = limit;
        self
    }

    /// How long a connection may be idle before it is closed, if more than
    /// [`min_idle`](Self::min_idle) are. Default: 10 minutes.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.settings.idle = limit;
        self
    }

    /// From what time on a call is warned about in the log, once, with what it spent it on. Default:
    /// 1 s. [`Duration::MAX`]: never.
    pub fn slow_call(mut self, limit: Duration) -> Self {
        self.settings.slow.call = limit;
        self
    }

    /// From what time on the wait of a call for a connection, or to [go out together](Batching)
    /// with others, is warned about in the log, once, with the state of the pool. Default: 2 s.
    /// [`Duration::MAX`]: never.
    pub fn slow_acquire(mut self, limit: Duration) -> Self {
        self.settings.slow.acquire = limit;
        self
    }

    /// Whether calls that wait for a connection anyway go to the server together. Default: on,
    /// with four lanes (two for writes) and at most 256 calls in a batch.
    ///
    /// ```
    /// # fn example(builder: motorpool::PgStoreBuilder) {
    /// use motorpool::Batching;
    ///
    /// let builder = builder.batching(Batching::On { lanes: 2, max_batch: 64 });
    /// # }
    /// ```
    pub fn batching(mut self, batching: Batching) -> Self {
        self.batching = batching;
        self
    }

    /// Whether statements have names on the server. Default: [`Prepared`](StatementMode::Prepared).
    /// [`Unnamed`](StatementMode::Unnamed) is for poolers that share connections between
    /// transactions.
    ///
    /// ```no_run
    /// use motorpool::{PgStore, StatementMode};
    ///
    /// # async fn example() -> motorpool::Result<()> {
    /// let builder = PgStore::builder("postgresql://app@pooler:6432/garage")?;
    /// let store = builder.statement_mode(StatementMode::Unnamed).build().await?;
    /// # Ok(()) }
    /// ```
    pub fn statement_mode(mut self, mode: StatementMode) -> Self {
        self.settings.mode = mode;
        self
    }

    /// Adds a replica, a standby of the server: reads outside transactions go there, everything
    /// else to the primary. Can be called for each of several.
    ///
    /// The URL is read as that of [`PgStore::builder`], and has to name one server. (Behind one
    /// name that leads to several, a [`Session`](crate::Session) asks with each of its reads, and a
    /// lag is that of one of them.) Every replica has a pool of its own with the limits of this
    /// builder. The store looks at each server four times a second, on one more connection to each,
    /// the primary included.
    ///
    /// A replica that does not answer, [lags](Self::replica_lag), has been promoted or follows
    /// another timeline is not read from until that is over; [`PgStore::status`] says which. As long
    /// as the primary does not answer, a lag is measured against what was last heard of it. A read
    /// that fails on one is made on another, and at last on the primary; each replica has three
    /// quarters of the time that is left. A read that nobody has promised anything for may show what
    /// the replica shows at that moment; one of a [`Session`](crate::Session) shows what the session
    /// has written.
    ///
    /// That a replica has followed a failover is seen at once if the role may see
    /// `pg_stat_wal_receiver` (it is a member of `pg_monitor`, say), or else after its next
    /// restartpoint.
    ///
    /// ```no_run
    /// # async fn example() -> motorpool::Result<()> {
    /// let store = motorpool::PgStore::builder("postgresql://app@primary/garage")?
    ///     .replica("postgresql://app@replica1/garage")?
    ///     .replica("postgresql://app@replica2/garage")?
    ///     .build()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Config`](crate::Error::Config) for a URL that cannot be read, or that names several
    /// servers.
    pub fn replica(mut self, url: &str) -> Result<PgStoreBuilder> {
        let replica = Settings::from_url(url)?;
        if replica.has_several_hosts() {
            return Err(Error::Config {
                reason: "a replica is one server: name each of several by a URL of its own".into(),
            });
        }
        self.replicas.replicas.push(replica);
        Ok(self)
    }

    /// How long a read of a [`Session`](crate::Session) waits until a replica has replayed what the
    /// session has written, before it goes to the primary. Default: 100 ms. Zero: it does not wait.
    pub fn replica_wait(mut self, limit: Duration) -> Self {
        self.replicas.wait = limit;
        self
    }

    /// How old what a replica shows may be before it is not read from any more. Default: 10 s.
    ///
    /// It is measured by the primary's log: the time since that was last seen not to be beyond what
    /// the replica has replayed, to about a quarter of a second. A primary on which nothing happens
    /// lets nobody grow old.
    pub fn replica_lag(mut self, limit: Duration) -> Self {
        self.replicas.lag = limit;
        self
    }

    /// Makes the store, and checks that the server can be reached.
    ///
    /// It starts a task on the current runtime that closes idle connections and ends with the
    /// store, and with replicas such a task for each and one that looks at them. A replica that
    /// does not answer keeps nobody waiting for longer than a second or two, and comes into the
    /// rotation when it does.
    ///
    /// ```no_run
    /// # async fn example(builder: motorpool::PgStoreBuilder) -> motorpool::Result<()> {
    /// use motorpool::Error;
    ///
    /// let built = builder.build().await;
    /// if let Err(Error::Unavailable { reason, .. }) = &built {
    ///     eprintln!("cannot start: {reason}");
    /// }
    /// let store = built?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) with the
    /// [reason](crate::UnavailableReason) when no connection came about;
    /// [`Config`](crate::Error::Config) for a certificate or key that cannot be read, or for TLS
    /// without the feature `tls`; [`Migration`](crate::Error::Migration) when the schema is not as it was
    /// [required](Self::require_schema).
    pub async fn build(self) -> Result<PgStore> {
        let tls = self.settings.tls()?;
        let (life, route) = (self.settings.max_lifetime, CancelRoute::of_store(&tls));
        let log = self.replicas.log();
        let health = Health::new(life, route).of_server(self.settings.server());
        let health = Arc::new(health.noting(log.clone()));
        let (pool, connections) = self.settings.pool(&health, &tls, None)?;
        let limits = Limits {
            call: self.settings.call,
            own_pool: Some(self.settings.limits()),
            slow: self.settings.slow,
        };
        let mode = self.settings.mode;
        let store = PgStore::new(pool, limits, health, Some(connections), mode, self.batching);
        store.shared.lease(store.shared.deadline()).await?;
        if let Some(demand) = self.demand {
            demand(store.pool().clone()).await?;
        }
        keep_few_idle(&store.shared, &self.settings);
        observe::publish(&store.shared);
        let Some(log) = log else {
            return Ok(store);
        };
        let (plan, settings) = (&self.replicas, &self.settings);
        let replicas = replicas::open(plan, log, settings, &tls, limits, self.batching);
        // In a box: it is large, and most stores have none.
        let replicas = Box::pin(replicas).await?;
        Ok(store.with_replicas(&replicas))
    }
}

/// Starts the task that closes idle connections of a pool.
pub(super) fn keep_few_idle(shared: &Shared, settings: &Settings) {
    let (pool, health) = (&shared.pool, &shared.health);
    let (pool, health) = (pool.weak(), Arc::downgrade(health));
    // A runtime that waits for no timer, or for a later one, is woken up to hear of that of a call,
    // at the price of two system calls. This one ends before that of a call that begins meanwhile, if
    // calls have the time that the builder was told, and a second at least.
    let sooner = (settings.call / 2).max(Duration::from_secs(1));
    let pause = (settings.idle / 10).clamp(Duration::from_millis(50), Duration::from_secs(30));
    let (idle, keep) = (settings.idle, settings.min_idle);
    tokio::spawn(close_idle(pool, health, idle, keep, pause.min(sooner)));
}

/// Closes connections that have been idle for too long or have lived for too long, as long as the
/// store lives.
async fn close_idle(
    pool: WeakPool,
    health: Weak<Health>,
    limit: Duration,
    keep: usize,
    pause: Duration,
) {
    loop {
        tokio::time::sleep(pause).await;
        let (Some(pool), Some(health)) = (pool.upgrade(), health.upgrade()) else {
            return;
        };
        // The oldest stand in front.
        let mut left = pool.status().available;
        pool.retain(|_, metrics| {
            if health.has_expired(&metrics) {
                left = left.saturating_sub(1);
                health.discard(Reason::Expired);
                return false;
            }
            if left > keep && metrics.last_used() > limit {
                left -= 1;
                health.discard(Reason::Idle);
                return false;
            }
            true
        });
    }
}

impl fmt::Debug for PgStoreBuilder {
    // The URL's password is in there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgStoreBuilder")
            .field("max_connections", &self.settings.max_connections)
            .field("limits", &self.settings.limits())
            .field("statement_mode", &self.settings.mode)
            .field("batching", &self.batching)
            .field("replicas", &self.replicas.replicas.len())
            .finish_non_exhaustive()
    }
}
