//! The store in Postgres: what a host sees of it. How a call runs is in the modules below.

mod cars;
mod connect;
pub(crate) mod error;
mod executor;
mod lease;
mod purchases;
mod row;
mod statement;
mod tx;
mod users;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Pool;

use self::cars::PgCars;
use self::connect::Settings;
use self::executor::{Executor, Limits, Shared};
use self::users::PgUsers;
use crate::error::Result;
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
#[derive(Clone)]
pub struct PgStore {
    users: PgUsers,
    cars: PgCars,
    shared: Arc<Shared>,
}

impl PgStore {
    /// Connects with the defaults of [`builder`](Self::builder), and checks that the server can be
    /// reached.
    ///
    /// # Errors
    /// [`Config`](crate::Error::Config) for a URL that cannot be read;
    /// [`Unavailable`](crate::Error::Unavailable) with the
    /// [reason](crate::UnavailableReason) when no connection came about.
    pub async fn connect(url: &str) -> Result<PgStore> {
        Self::builder(url)?.build().await
    }

    /// Sets up a store for the server at this URL:
    /// `postgresql://user:password@host:port/database`.
    ///
    /// # Errors
    /// [`Config`](crate::Error::Config) for a URL that cannot be read. It does not quote the URL.
    pub fn builder(url: &str) -> Result<PgStoreBuilder> {
        Ok(PgStoreBuilder {
            settings: Settings::from_url(url)?,
        })
    }

    /// Works on the host's own pool as it is: its size, timeouts and connections are the host's.
    /// A call takes at most 40 s altogether.
    ///
    /// The pool should recycle with [`RecyclingMethod::Fast`](deadpool_postgres::RecyclingMethod):
    /// the store hands back no connection that would need more.
    pub fn from_pool(pool: Pool) -> PgStore {
        let limits = Limits {
            call: connect::DEFAULT_CALL,
            own_pool: None,
        };
        Self::new(pool, limits)
    }

    fn new(pool: Pool, limits: Limits) -> PgStore {
        let shared = Arc::new(Shared { pool, limits });
        let executor = Executor::Pool(Arc::clone(&shared));
        PgStore {
            users: PgUsers::new(executor.clone()),
            cars: PgCars::new(executor),
            shared,
        }
    }

    /// The pool, for the host's own queries.
    pub fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    /// Checks that a connection can be had and answers. One round trip.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn ping(&self) -> Result<()> {
        let executor = Executor::Pool(Arc::clone(&self.shared));
        executor.query_one(&PING, &[]).await.map(drop)
    }

    /// Closes the store and all its clones: from now on every call gives
    /// [`Unavailable`](crate::Error::Unavailable). Calls that have their connection already run to
    /// their end, after which it is closed.
    pub fn close(&self) {
        self.shared.pool.close();
    }
}

const PING: statement::Statement = statement::Statement::read("SELECT 1");

#[async_trait]
impl Store for PgStore {
    fn users(&self) -> &dyn UserRepo {
        &self.users
    }

    fn cars(&self) -> &dyn CarRepo {
        &self.cars
    }

    async fn begin(&self, options: TxOptions) -> Result<Tx> {
        tx::begin(&self.shared, &options).await
    }
}

impl fmt::Debug for PgStore {
    // The pool's own form would print the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgStore")
            .field("limits", &self.shared.limits)
            .field("pool", &self.shared.pool.status())
            .finish()
    }
}

/// Sets up a [`PgStore`]. Made by [`PgStore::builder`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct PgStoreBuilder {
    settings: Settings,
}

impl PgStoreBuilder {
    /// The most connections that the store holds at once. Default: 16. 0 counts as 1.
    pub fn max_connections(mut self, number: usize) -> Self {
        self.settings.max_connections = number.max(1);
        self
    }

    /// How long a call waits for a connection while all are in use, before it gives
    /// [`PoolExhausted`](crate::Error::PoolExhausted). Default: 5 s.
    pub fn acquire_timeout(mut self, limit: Duration) -> Self {
        self.settings.limits.acquire = limit;
        self
    }

    /// How long making a connection may take, name look-up, TCP, TLS and authentication together,
    /// before the call gives [`Unavailable`](crate::Error::Unavailable). Default: 5 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.settings.limits.connect = limit;
        self
    }

    /// How long the server works on one statement before it gives up and the call gives
    /// [`Timeout`](crate::Error::Timeout); `statement_timeout` of each connection, in whole
    /// milliseconds. Default: 30 s.
    pub fn statement_timeout(mut self, limit: Duration) -> Self {
        self.settings.limits.statement = limit;
        self
    }

    /// How long a call may take altogether, from its start to its answer. Default: 40 s.
    pub fn call_timeout(mut self, limit: Duration) -> Self {
        self.settings.call = limit;
        self
    }

    /// Makes the store, and checks that the server can be reached.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) with the
    /// [reason](crate::UnavailableReason) when no connection came about.
    pub async fn build(self) -> Result<PgStore> {
        let (pool, limits) = self.settings.pool()?;
        let store = PgStore::new(pool, limits);
        store.shared.lease(store.shared.deadline()).await?;
        Ok(store)
    }
}

impl fmt::Debug for PgStoreBuilder {
    // The URL's password is in there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgStoreBuilder")
            .field("max_connections", &self.settings.max_connections)
            .field("limits", &self.settings.limits)
            .finish_non_exhaustive()
    }
}
