//! From a URL to a pool, and the making and ending of its connections.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_postgres::{
    ClientWrapper, Connect, Hook, HookError, Manager, ManagerConfig, Pool, QueueMode,
    RecyclingMethod, Runtime,
};
use futures_util::future::join_all;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;
use tokio_postgres::{CancelToken, Client, Config, NoTls};

use super::health::{Health, Verdict};
use crate::error::{Error, Result};

/// How long a call may take altogether where nothing else is said.
pub(super) const DEFAULT_CALL: Duration = Duration::from_secs(10);

/// What a host can set about its connections.
#[derive(Clone)]
pub(super) struct Settings {
    config: Config,
    pub(super) max_connections: usize,
    pub(super) min_idle: usize,
    pub(super) acquire: Duration,
    pub(super) connect: Duration,
    /// `None`: a little less than a call.
    pub(super) statement: Option<Duration>,
    pub(super) call: Duration,
    pub(super) max_lifetime: Duration,
    pub(super) idle: Duration,
}

/// Limits of a pool that is the store's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolLimits {
    pub(super) acquire: Duration,
    pub(super) connect: Duration,
    pub(super) statement: Duration,
}

impl Settings {
    pub(super) fn from_url(url: &str) -> Result<Settings> {
        let mut config: Config = url.parse().map_err(|_| unreadable(url))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(unreadable(url));
        }
        if config.get_application_name().is_none() {
            config.application_name("motorpool");
        }
        // Without these, a peer that vanished is noticed after hours. What the URL says wins.
        if !names_keepalives(url) {
            config
                .keepalives_idle(Duration::from_secs(10))
                .keepalives_interval(Duration::from_secs(3))
                .keepalives_retries(3);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(Duration::from_secs(5));
        }
        Ok(Settings {
            config,
            max_connections: 16,
            min_idle: 1,
            acquire: Duration::from_secs(5),
            connect: Duration::from_secs(5),
            statement: None,
            call: DEFAULT_CALL,
            max_lifetime: Duration::from_secs(30 * 60),
            idle: Duration::from_secs(10 * 60),
        })
    }

    /// The same server, another database.
    pub(super) fn database(&mut self, name: &str) {
        self.config.dbname(name);
    }

    pub(super) fn limits(&self) -> PoolLimits {
        PoolLimits {
            acquire: self.acquire,
            connect: self.connect,
            // The server gives up first, so that its answer, not the silence, ends the call.
            statement: self.statement.unwrap_or(self.call / 20 * 19),
        }
    }

    /// The pool, which connects when it is first asked to, and what can end its connections.
    pub(super) fn pool(&self, health: &Arc<Health>) -> Result<(Pool, Arc<Connections>)> {
        let mut config = self.config.clone();
        let statement = format!("-c statement_timeout={}", millis(self.limits().statement));
        // Set when the connection starts, which costs no round trip. What the URL says comes last
        // and wins.
        config.options(match self.config.get_options() {
            Some(options) => format!("{statement} {options}"),
            None => statement,
        });
        let connections = Arc::new(Connections::default());
        let manager = Manager::from_connect(
            config,
            Connector(Arc::clone(&connections)),
            ManagerConfig {
                // The lease sees to it that nothing is left to clean up, so a check before each
                // use would only cost a round trip.
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let pool = Pool::builder(manager)
            .max_size(self.max_connections)
            .runtime(Runtime::Tokio1)
            // The one used last is used next, so that those beyond what is needed become idle.
            .queue_mode(QueueMode::Lifo)
            .wait_timeout(Some(self.acquire))
            .create_timeout(Some(self.connect))
            .recycle_timeout(Some(self.connect))
            .pre_recycle(discard_useless(health))
            .post_recycle(note_suspects(health, &connections))
            .build()
            .map_err(|error| Error::Config {
                reason: error.to_string(),
            })?;
        Ok((pool, connections))
    }
}

/// Takes a connection that is of no more use out of the pool before it is used again.
fn discard_useless(health: &Arc<Health>) -> Hook {
    let health = Arc::clone(health);
    Hook::sync_fn(move |_, metrics| match health.verdict(metrics) {
        Verdict::Good | Verdict::Check => Ok(()),
        Verdict::Discard(reason) => {
            health.discard(reason);
            Err(HookError::message("no longer of use"))
        }
    })
}

/// Notes that a connection is to be checked by whoever takes it. After the pool has looked whether
/// it is open: of a closed one nobody would hear again.
fn note_suspects(health: &Arc<Health>, connections: &Arc<Connections>) -> Hook {
    let (health, connections) = (Arc::clone(health), Arc::clone(connections));
    Hook::sync_fn(move |client, metrics| {
        if health.verdict(metrics) == Verdict::Check {
            connections.suspect(client);
        }
        Ok(())
    })
}

/// What tells the open connections of one process apart.
fn identity(client: &ClientWrapper) -> usize {
    Arc::as_ptr(&client.statement_cache).addr()
}

/// The connections that a store has made.
#[derive(Default)]
pub(super) struct Connections {
    tasks: Mutex<Vec<(AbortHandle, CancelToken)>>,
    /// Those that were taken from the pool to be checked, and how many they are: nearly always
    /// none, and then nobody takes the lock.
    suspects: Mutex<HashSet<usize>>,
    suspected: AtomicUsize,
}

impl Connections {
    fn suspects(&self) -> MutexGuard<'_, HashSet<usize>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn suspect(&self, client: &ClientWrapper) {
        let mut suspects = self.suspects();
        suspects.insert(identity(client));
        self.suspected.store(suspects.len(), Relaxed);
    }

    /// Whether this connection is to be checked. It is asked once, by the task that has just
    /// taken it from the pool.
    pub(super) fn is_suspect(&self, client: &ClientWrapper) -> bool {
        if self.suspected.load(Relaxed) == 0 {
            return false;
        }
        let mut suspects = self.suspects();
        let found = suspects.remove(&identity(client));
        self.suspected.store(suspects.len(), Relaxed);
        found
    }

    /// Closes every connection, whatever it is doing. A server that works or waits does not notice
    /// that, so if any is `busy` it is told to stop as well.
    pub(super) async fn end(&self, busy: bool) {
        let tasks = std::mem::take(&mut *self.tasks());
        let cancel = tasks.into_iter().filter_map(|(task, cancel)| {
            let open = !task.is_finished();
            task.abort();
            (busy && open).then_some(async move { cancel.cancel_query(NoTls).await })
        });
        let _ = timeout(CANCEL_LIMIT, join_all(cancel)).await;
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<(AbortHandle, CancelToken)>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, task: &JoinHandle<()>, client: &Client) {
        let mut tasks = self.tasks();
        tasks.retain(|(task, _)| !task.is_finished());
        tasks.push((task.abort_handle(), client.cancel_token()));
    }
}

/// How long the server may take to be told.
const CANCEL_LIMIT: Duration = Duration::from_secs(1);

/// Makes connections and remembers them.
struct Connector(Arc<Connections>);

type Connecting<'a> = Pin<
    Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + 'a>,
>;

impl Connect for Connector {
    fn connect(&self, config: &Config) -> Connecting<'_> {
        let config = config.clone();
        Box::pin(async move {
            let (client, connection) = config.connect(NoTls).await?;
            let task = tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection ended");
                }
            });
            self.0.add(&task, &client);
            Ok((client, task))
        })
    }
}

/// Whether the URL says something about keepalives itself, in its parameters or as a key.
fn names_keepalives(url: &str) -> bool {
    let parameters = match url.contains("://") {
        true => url.split_once('?').map_or("", |(_, parameters)| parameters),
        false => url,
    };
    let mut keys = parameters.split(['&', ' ']).map(str::trim_start);
    keys.any(|key| key.starts_with("keepalives"))
}

/// Milliseconds as the server takes them: at most `i32::MAX`, and never 0, which would mean no
/// limit.
fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis())
        .unwrap_or(i32::MAX)
        .max(1)
}

/// A URL that the driver cannot read. The driver's own words are left out, because they may quote
/// what was meant to be the password.
fn unreadable(url: &str) -> Error {
    let scheme = ["postgresql://", "postgres://"]
        .iter()
        .any(|scheme| url.starts_with(scheme));
    let reason = match scheme || !url.contains("://") {
        true => {
            "the database URL cannot be read; expected is \
             postgresql://user:password@host:port/database with percent-encoded parts, and only \
             parameters that the driver knows"
        }
        false => "the database URL has to begin with postgresql:// or postgres://",
    };
    Error::Config {
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_url_is_refused_without_being_quoted() {
        for url in [
            "",
            "postgress://user:canary@host/db",
            "postgresql://user:canary@host/db?sslmod=disable",
            "postgresql://user:canary@host:port/db",
            "postgresql://user:can%zzary@host/db?x=canary",
            "mysql://canary",
            "host=localhost password='canary",
            "user=canary",
        ] {
            let error = Settings::from_url(url).map(|_| ()).expect_err(url);
            assert!(matches!(error, Error::Config { .. }), "{url}: {error}");
            assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
        }
    }

    #[test]
    fn limits_are_whole_milliseconds() {
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::from_secs(30)), 30_000);
        assert_eq!(millis(Duration::MAX), i32::MAX);
    }

    #[test]
    fn a_vanished_server_is_noticed_unless_the_url_says_otherwise() {
        let config = |url| Settings::from_url(url).expect("a URL").config;
        let own = config("postgresql://keepalives:keepalives@localhost/keepalives");
        assert_eq!(own.get_keepalives_idle(), Duration::from_secs(10));
        assert_eq!(own.get_keepalives_interval(), Some(Duration::from_secs(3)));
        assert_eq!(own.get_keepalives_retries(), Some(3));
        let five = Duration::from_secs(5);
        assert_eq!(own.get_tcp_user_timeout(), Some(&five));
        let theirs = config("postgresql://localhost/db?keepalives_idle=60&tcp_user_timeout=7");
        assert_eq!(theirs.get_keepalives_idle(), Duration::from_secs(60));
        assert_eq!(theirs.get_keepalives_interval(), None);
        let seven = Duration::from_secs(7);
        assert_eq!(theirs.get_tcp_user_timeout(), Some(&seven));
    }

    #[test]
    fn the_server_gives_up_before_the_call_does() {
        let settings = Settings::from_url("postgresql://localhost").expect("a URL");
        assert_eq!(settings.call, Duration::from_secs(10));
        assert_eq!(settings.limits().statement, Duration::from_millis(9500));
    }
}
