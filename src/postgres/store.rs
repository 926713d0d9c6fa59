//! The store as a host has it.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Pool;

use super::batch::{Batches, Batching};
use super::builder::PgStoreBuilder;
use super::cars::PgCars;
use super::close::Closing;
use super::connect::{Connections, DEFAULT_CALL, Settings};
use super::executor::Executor;
use super::health::Health;
use super::mode::StatementMode;
use super::observe::{Operation, Slow};
use super::replicas::{Position, Replicas, Route, Routed, Session};
use super::shared::{Limits, Shared};
use super::statement::Statement;
use super::tls::CancelRoute;
use super::transaction;
use super::users::PgUsers;
use crate::error::{CommitOutcome, CommitToken, Result};
use crate::repo::{CarRepo, UserRepo};
use crate::store::{Store, Tx, TxOptions};

/// Users and cars in Postgres, over a pool of connections. Clones share the pool.
///
/// ```no_run
/// use motorpool::{NewUser, PgStore, Store};
///
/// # async fn example() -> motorpool::Result<()> {
/// let store = PgStore::connect("postgresql://app@localhost/motorpool").await?;
/// store.migrate().await?;
/// let user = store.users().register(&NewUser::new("Tristan")?).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Runtimes
/// A store is for one tokio runtime, or for several that all keep running. A connection is served by
/// the runtime whose call made it, and so is a batch by that of a call in it. One that has ended is
/// noticed: its connections leave the pool. One that is there and runs nothing (a `current_thread`
/// runtime between two `block_on`) leaves those to wait who share them, up to the time that a call has.
#[derive(Clone)]
pub struct PgStore {
    users: PgUsers,
    cars: PgCars,
    pub(super) shared: Arc<Shared>,
    /// In the place of both where there are replicas.
    pub(super) routed: Option<Routed>,
}

impl PgStore {
    /// Connects with the defaults of [`builder`](Self::builder), and checks that the server can be
    /// reached.
    ///
    /// ```no_run
    /// # async fn example() -> motorpool::Result<()> {
    /// let store = motorpool::PgStore::connect("postgresql://app@localhost/garage").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Config`](crate::Error::Config) for a URL that cannot be read;
    /// [`Unavailable`](crate::Error::Unavailable) with the
    /// [reason](crate::UnavailableReason) when no connection came about.
    pub async fn connect(url: &str) -> Result<PgStore> {
        Self::builder(url)?.build().await
    }

    /// Sets up a store for the server at this URL:
    /// `postgresql://user:password@host:port/database?key=value`, or for one of several servers:
    /// `postgresql://host1,host2/database?target_session_attrs=read-write`.
    ///
    /// It is read as libpq reads it, in this form or as `host=… user=…`, with percent-encoding, Unix
    /// sockets, and its keys: `application_name`, `connect_timeout` (seconds, for each host),
    /// `keepalives` and its kin, `tcp_user_timeout` (milliseconds), `options`, `passfile`,
    /// `target_session_attrs`, `load_balance_hosts` and so on. `postgresql+psycopg2://`, as
    /// SQLAlchemy has it, is understood. An IPv6 address with a network card (`fe80::1%eth0`) is
    /// refused.
    ///
    /// Encryption needs the feature `tls`. Without it connections are in plaintext, a connection to a
    /// host that is not this machine is warned of in the log, and a URL that asks for TLS is an
    /// error, unless it names Unix sockets alone, which are never encrypted. `sslmode` is
    /// `disable`, `prefer` (TLS unless the server says that it has none), `require` (TLS with
    /// anybody), `verify-ca` (with a certificate of an authority in `sslrootcert`, a file) or
    /// `verify-full` (and for this host; without `sslrootcert`, or where it is `system`, of an
    /// authority that the system trusts). With the feature the default is `require` for a host that
    /// is not this machine and `prefer` otherwise. `sslcert` and `sslkey`, `channel_binding`,
    /// `sslnegotiation` and `ssl_min_protocol_version` are libpq's.
    /// Files are PEM; they are read by [`build`](PgStoreBuilder::build) and again for each
    /// connection, and the ones read before are used if that fails.
    ///
    /// A password is sent in clear, where the server asks for it so, only to one that was verified,
    /// through a Unix socket, or within this machine with `sslmode=disable`.
    ///
    /// Several hosts are tried in order, or at random with `load_balance_hosts=random`; each has an
    /// equal share of [`connect_timeout`](PgStoreBuilder::connect_timeout), or of
    /// [`call_timeout`](PgStoreBuilder::call_timeout) if that is shorter, so that one that says
    /// nothing leaves time for the others. For the next 30 s it is tried after them. With
    /// `target_session_attrs` the host that was right the last time comes first. The addresses of a
    /// name are tried one after the other too, and share the time of their host.
    ///
    /// A connection that is suspected, because another one failed, is asked whether its server is
    /// still of the kind that `target_session_attrs` wants; without that, whether it answers, and
    /// once a write was refused whether it takes writes.
    ///
    /// ```no_run
    /// # async fn example() -> motorpool::Result<()> {
    /// use motorpool::PgStore;
    ///
    /// let url = "postgresql://app@host1,host2/garage?target_session_attrs=read-write";
    /// let store = PgStore::builder(url)?.max_connections(8).build().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Config`](crate::Error::Config) for a URL that cannot be read, with the key that is wrong
    /// if it is one of libpq's. It quotes nothing of the URL.
    pub fn builder(url: &str) -> Result<PgStoreBuilder> {
        Settings::from_url(url).map(PgStoreBuilder::new)
    }

    /// Sets up a store for the server that libpq's environment variables name: `PGHOST`, `PGPORT`,
    /// `PGDATABASE`, `PGUSER`, `PGPASSWORD`, `PGSSLMODE` and so on. A password that is not among
    /// them is looked for in the password file, `PGPASSFILE` or `~/.pgpass`.
    ///
    /// ```no_run
    /// # async fn example() -> motorpool::Result<()> {
    /// let store = motorpool::PgStore::from_env()?.build().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Config`](crate::Error::Config) names the variable that cannot be used. It quotes no value.
    pub fn from_env() -> Result<PgStoreBuilder> {
        Settings::from_env().map(PgStoreBuilder::new)
    }

    /// Works on the host's own pool as it is: its size, timeouts and connections are the host's.
    /// A call takes at most 10 s altogether, or what
    /// [`with_call_timeout`](Self::with_call_timeout) says. There is no [batching](Batching).
    /// If it leads to a pooler, see [`with_statement_mode`](Self::with_statement_mode).
    ///
    /// The pool should recycle with `RecyclingMethod::Fast`:
    /// the store hands back no connection that would need more. It relies on the host for the
    /// same: a connection that the host hands back inside an open transaction makes the store's
    /// next write a part of that. A request to cancel a statement is encrypted where the pool's
    /// connections are (with the feature `tls`), but does not verify the server again.
    ///
    /// ```no_run
    /// use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
    /// use motorpool::PgStore;
    /// use tokio_postgres::{Config, NoTls};
    ///
    /// # fn example(config: Config) -> Result<(), deadpool_postgres::BuildError> {
    /// let recycling_method = RecyclingMethod::Fast;
    /// let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method });
    /// let store = PgStore::from_pool(Pool::builder(manager).max_size(8).build()?);
    /// # Ok(()) }
    /// ```
    pub fn from_pool(pool: Pool) -> PgStore {
        let limits = Limits {
            call: DEFAULT_CALL,
            own_pool: None,
            slow: Slow::default(),
        };
        let health = Arc::new(Health::new(Duration::MAX, CancelRoute::of_host()));
        let mode = StatementMode::default();
        Self::new(pool, limits, health, None, mode, Batching::Off)
    }

    pub(super) fn new(
        pool: Pool,
        limits: Limits,
        health: Arc<Health>,
        connections: Option<Arc<Connections>>,
        mode: StatementMode,
        batching: Batching,
    ) -> PgStore {
        let mut shared = Shared {
            pool,
            limits,
            health,
            connections,
            mode,
            closed: AtomicBool::new(false).into(),
            turn: Arc::default(),
            batches: None,
        };
        shared.batches = Batches::new(batching, &shared);
        Self::over(shared)
    }

    fn over(shared: Shared) -> PgStore {
        let shared = Arc::new(shared);
        let executor = Executor::Pool(Arc::clone(&shared));
        PgStore {
            users: PgUsers::new(executor.clone()),
            cars: PgCars::new(executor),
            shared,
            routed: None,
        }
    }

    pub(super) fn with_replicas(self, replicas: &Arc<Replicas>) -> PgStore {
        let route = Route::new(replicas, &self.shared);
        let routed = Some(Routed { route });
        PgStore { routed, ..self }
    }

    pub(super) fn replicas(&self) -> Option<&Arc<Replicas>> {
        self.routed.as_ref().map(|routed| routed.route.replicas())
    }

    /// The same store, on the same pool, with another limit for each of its calls: a short one for
    /// a page that somebody waits for. A longer one needs a longer
    /// [`statement_timeout`](PgStoreBuilder::statement_timeout) too, because that of the
    /// connections stays what it is.
    ///
    /// ```no_run
    /// # async fn example(store: motorpool::PgStore) -> motorpool::Result<()> {
    /// use std::time::Duration;
    /// use motorpool::Store;
    ///
    /// let hasty = store.with_call_timeout(Duration::from_millis(300));
    /// let ada = hasty.users().get_by_username("Ada").await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_call_timeout(&self, limit: Duration) -> PgStore {
        let mut shared = (*self.shared).clone();
        shared.limits.call = limit;
        self.changed(shared)
    }

    /// The same replicas beside a primary that is used in another way.
    fn changed(&self, shared: Shared) -> PgStore {
        let store = Self::over(shared);
        match self.replicas() {
            Some(replicas) => store.with_replicas(replicas),
            None => store,
        }
    }

    /// A session that has written nothing yet: what it reads will never be older than what it has
    /// written. It costs nothing to make, and on a store without
    /// [replicas](PgStoreBuilder::replica) nothing at all.
    ///
    /// ```no_run
    /// # async fn example(store: motorpool::PgStore) -> motorpool::Result<()> {
    /// use motorpool::{NewUser, Store};
    ///
    /// let session = store.session();
    /// let ada = session.users().register(&NewUser::new("Ada")?).await?.into_user();
    /// // From a replica, and not older than that.
    /// let ada = session.users().get(ada.id).await?;
    /// # Ok(()) }
    /// ```
    pub fn session(&self) -> Session {
        self.session_at(Position::default())
    }

    /// A session that reads nothing older than this position, which another one gave.
    ///
    /// ```no_run
    /// # fn example(store: motorpool::PgStore, cookie: &str) -> motorpool::Result<()> {
    /// // A cookie that cannot be read is no reason to fail: the session promises nothing then.
    /// let session = store.session_at(cookie.parse().unwrap_or_default());
    /// # Ok(()) }
    /// ```
    pub fn session_at(&self, position: Position) -> Session {
        Session::new(self, position)
    }

    /// The same store, on the same pool, with statements sent in another way: what a host's own
    /// [pool](Self::from_pool) needs when it connects to a pooler. Calls of this one and of the
    /// other are not [batched](Batching) together.
    ///
    /// Where a host's own pool leads is not known here. So with
    /// [`Unnamed`](StatementMode::Unnamed) the statement of a call that is dropped or out of time is
    /// not cancelled on it: it runs on the server to its end, or into a limit there. The connections
    /// of a store's own pool start as its [builder](PgStoreBuilder::statement_mode) was told,
    /// whatever is said here, and its replicas are asked as before.
    ///
    /// ```no_run
    /// use motorpool::{PgStore, StatementMode};
    ///
    /// # fn example(pool: deadpool_postgres::Pool) {
    /// let store = PgStore::from_pool(pool).with_statement_mode(StatementMode::Unnamed);
    /// # }
    /// ```
    #[must_use]
    pub fn with_statement_mode(&self, mode: StatementMode) -> PgStore {
        let mut shared = (*self.shared).clone();
        shared.mode = mode;
        if let Some(batches) = shared.batches.take() {
            shared.batches = Some(batches.over(&shared));
        }
        self.changed(shared)
    }

    /// The pool, for the host's own queries. What the host sets on a connection, and a transaction
    /// that it leaves open, is there for the next who takes it.
    ///
    /// ```no_run
    /// # async fn example(store: motorpool::PgStore) -> Result<(), Box<dyn std::error::Error>> {
    /// let connection = store.pool().get().await?;
    /// let row = connection.query_one("SELECT pg_database_size(current_database())", &[]).await?;
    /// let bytes: i64 = row.try_get(0)?;
    /// # Ok(()) }
    /// ```
    pub fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    /// Checks that a connection can be had and answers. One round trip.
    ///
    /// ```no_run
    /// # async fn example(store: motorpool::PgStore) -> bool {
    /// // What a health check answers.
    /// store.ping().await.is_ok()
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn ping(&self) -> Result<()> {
        let executor = Executor::Pool(Arc::clone(&self.shared));
        let ping = pin!(executor.query_one(&PING, &[]));
        executor.call(Operation::Ping, ping).await.map(drop)
    }

    /// Closes the store and all its clones. From this moment on new calls give
    /// [`Unavailable`](crate::Error::Unavailable), those that wait for a connection too. Calls and
    /// transactions that have a connection go on; await the returned value to wait for them.
    ///
    /// A host's own pool ([`from_pool`](Self::from_pool)) stays open.
    ///
    /// ```no_run
    /// # async fn example(store: motorpool::PgStore) {
    /// // Ten seconds for what is still running, then the connections are cut.
    /// let cut = store.close().within(std::time::Duration::from_secs(10)).await;
    /// # }
    /// ```
    pub fn close(&self) -> Closing {
        Closing::start(&self.shared, self.replicas())
    }
}

const PING: Statement = Statement::read("SELECT 1");

#[async_trait]
impl Store for PgStore {
    fn users(&self) -> &dyn UserRepo {
        match &self.routed {
            None => &self.users,
            Some(routed) => routed,
        }
    }

    fn cars(&self) -> &dyn CarRepo {
        match &self.routed {
            None => &self.cars,
            Some(routed) => routed,
        }
    }

    async fn begin(&self, options: TxOptions) -> Result<Tx> {
        transaction::begin(&self.shared, &options)
            .await
            .map(Tx::new)
    }

    async fn commit_outcome(&self, token: &CommitToken) -> Result<CommitOutcome> {
        PgStore::commit_outcome(self, token).await
    }
}

impl fmt::Debug for PgStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgStore")
            .field("limits", &self.shared.limits)
            .field("pool", &self.shared.pool.status())
            .finish()
    }
}
