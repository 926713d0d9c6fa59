//! From a URL to a pool, and the making and ending of its connections.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use deadpool_postgres::{
    ClientWrapper, Connect, Hook, HookError, Manager, ManagerConfig, Pool, QueueMode,
    RecyclingMethod, Runtime, StatementCache,
};
use futures_util::future::join_all;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;
use tokio_postgres::{CancelToken, Client, Config};

use super::cancel::{Pooler, Way};
use super::dial::{Dial, Dialled, Hold};
use super::health::{Health, Verdict};
use super::mode::StatementMode;
use super::observe::{Server, Slow};
use super::target::{SessionAttrs, Target};
use super::tls::{CancelRoute, Connector as Tls};
use crate::error::{Error, Result};

/// How long a call may take altogether where nothing else is said.
pub(super) const DEFAULT_CALL: Duration = Duration::from_secs(10);

/// How long making a connection may take where nothing else is said.
const DEFAULT_CONNECT: Duration = Duration::from_secs(5);

/// What a host can set about its connections.
#[derive(Clone)]
pub(super) struct Settings {
    target: Target,
    pub(super) max_connections: usize,
    pub(super) min_idle: usize,
    pub(super) acquire: Duration,
    pub(super) connect: Duration,
    /// `None`: a little less than a call.
    pub(super) statement: Option<Duration>,
    pub(super) call: Duration,
    pub(super) max_lifetime: Duration,
    pub(super) idle: Duration,
    pub(super) mode: StatementMode,
    pub(super) slow: Slow,
}

/// Limits of a pool that is the store's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolLimits {
    pub(super) acquire: Duration,
    pub(super) connect: Duration,
    pub(super) statement: Duration,
    /// Connections were not told the limit of a statement, so each transaction has to be.
    pub(super) each_transaction: bool,
}

impl Settings {
    pub(super) fn from_url(url: &str) -> Result<Settings> {
        Target::from_url(url).and_then(Settings::new)
    }

    pub(super) fn from_env() -> Result<Settings> {
        Target::from_env(|name| std::env::var_os(name)).and_then(Settings::new)
    }

    fn new(target: Target) -> Result<Settings> {
        // For each host there; here it is for all of them together.
        let hosts = u32::try_from(target.endpoints().len()).unwrap_or(u32::MAX);
        let asked = target.connect_timeout;
        Ok(Settings {
            max_connections: 16,
            min_idle: 1,
            acquire: Duration::from_secs(5),
            connect: asked.map_or(DEFAULT_CONNECT, |limit| limit.saturating_mul(hosts)),
            statement: None,
            call: DEFAULT_CALL,
            max_lifetime: Duration::from_secs(30 * 60),
            idle: Duration::from_secs(10 * 60),
            mode: StatementMode::default(),
            slow: Slow::default(),
            target,
        })
    }

    /// The same server, another database.
    pub(super) fn database(&mut self, name: &str) {
        self.target.database(name);
    }

    pub(super) fn limits(&self) -> PoolLimits {
        PoolLimits {
            acquire: self.acquire,
            connect: self.connect,
            // The server gives up first, so that its answer, not the silence, ends the call.
            statement: self.statement.unwrap_or(self.call / 20 * 19),
            each_transaction: self.mode == StatementMode::Unnamed && !self.url_limits_statements(),
        }
    }

    /// What makes the connections of the pool safe.
    pub(super) fn tls(&self) -> Result<Tls> {
        Tls::new(&self.target)
    }

    /// Whether the URL says itself how long a statement may take.
    fn url_limits_statements(&self) -> bool {
        let hosts = self.target.configs();
        let mut options = hosts.iter().filter_map(Config::get_options);
        options.any(|options| options.contains("statement_timeout"))
    }

    /// The same limits as those, and the server of these.
    pub(super) fn limited_like(&self, other: &Settings) -> Settings {
        Settings {
            target: self.target.clone(),
            ..other.clone()
        }
    }

    /// Whether there are several servers to choose from.
    pub(super) fn has_several_hosts(&self) -> bool {
        self.target.endpoints().len() > 1
    }

    /// Where connections lead to, for those who look on.
    pub(super) fn server(&self) -> Server {
        self.target.server()
    }

    /// What the driver has to know of each host.
    fn hosts(&self) -> Vec<Config> {
        let statement = format!("-c statement_timeout={}", millis(self.limits().statement));
        let mut hosts = self.target.configs();
        // Poolers that know no names of statements refuse it.
        let told = self.mode == StatementMode::Prepared;
        for config in hosts.iter_mut().filter(|_| told) {
            // Set when the connection starts, which costs no round trip. What the URL says comes
            // last and wins.
            let options = match config.get_options() {
                Some(options) => format!("{statement} {options}"),
                None => statement.clone(),
            };
            config.options(options);
        }
        hosts
    }

    /// Where connections are made to.
    pub(super) fn dial(&self, tls: &Tls) -> Dial {
        // A call that makes a connection has no more than its own time for all hosts.
        self.dial_within(tls, self.connect.min(self.call))
    }

    /// The same, for who has so much time for all hosts.
    pub(super) fn dial_within(&self, tls: &Tls, limit: Duration) -> Dial {
        let (session, balance) = (self.target.session, self.target.balance);
        Dial::new(self.hosts(), tls.clone(), session, balance, limit)
    }

    /// The pool, which connects when it is first asked to, and what can end its connections.
    /// `greet`: what is done with each new one.
    pub(super) fn pool(
        &self,
        health: &Arc<Health>,
        tls: &Tls,
        greet: Option<Hook>,
    ) -> Result<(Pool, Arc<Connections>)> {
        // A second time is the same.
        let _ = health.pooler.set(Pooler::at(self.hosts(), tls));
        let dial = self.dial(tls).telling(&health.server);
        let connections = Arc::new(Connections::new(self.target.session, dial.hold()));
        let manager = Manager::from_connect(
            // Not looked at: the connector knows where to go.
            Config::new(),
            Connector {
                dial: Arc::new(dial),
                connections: Arc::clone(&connections),
            },
            ManagerConfig {
                // The lease sees to it that nothing is left to clean up, so a check before each
                // use would only cost a round trip.
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let builder = Pool::builder(manager);
        let builder = match greet {
            Some(greet) => builder.post_create(greet),
            None => builder,
        };
        let pool = builder
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
        CancelRoute::remember(&pool, tls);
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
pub(super) struct Connections {
    /// The kind of server that they are to.
    pub(super) wanted: SessionAttrs,
    hold: Hold,
    tasks: Mutex<Vec<(AbortHandle, CancelToken)>>,
    /// Those that were taken from the pool to be checked, and how many they are: nearly always
    /// none, and then nobody takes the lock.
    suspects: Mutex<HashMap<usize, Weak<StatementCache>>>,
    suspected: AtomicUsize,
}

impl Connections {
    fn new(wanted: SessionAttrs, hold: Hold) -> Self {
        Connections {
            wanted,
            hold,
            tasks: Mutex::default(),
            suspects: Mutex::default(),
            suspected: AtomicUsize::new(0),
        }
    }

    fn suspects(&self) -> MutexGuard<'_, HashMap<usize, Weak<StatementCache>>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn suspect(&self, client: &ClientWrapper) {
        let mut suspects = self.suspects();
        // Those that ended in the hands of a host, which asks nobody.
        suspects.retain(|_, cache| cache.strong_count() > 0);
        suspects.insert(identity(client), Arc::downgrade(&client.statement_cache));
        self.suspected.store(suspects.len(), Relaxed);
    }

    /// Whether this connection is to be checked. It is asked once, by the task that has just
    /// taken it from the pool.
    pub(super) fn is_suspect(&self, client: &ClientWrapper) -> bool {
        if self.suspected.load(Relaxed) == 0 {
            return false;
        }
        let mut suspects = self.suspects();
        let found = suspects.remove(&identity(client)).is_some();
        self.suspected.store(suspects.len(), Relaxed);
        found
    }

    /// Closes every connection, whatever it is doing. A server that works or waits does not notice
    /// that, so if any is `busy` it is told to stop before: a pooler passes nothing on for a
    /// connection that is closed. Nobody hears what comes of it: a commit that waited for a standby
    /// would look well.
    pub(super) async fn end(&self, busy: bool, way: &Way) {
        self.hold.begin();
        let tasks = std::mem::take(&mut *self.tasks());
        let open = tasks.iter().filter(|(task, _)| busy && !task.is_finished());
        let cancel = open.map(|(_, cancel)| way.cancel(cancel));
        let _ = timeout(CANCEL_LIMIT, join_all(cancel)).await;
        tasks.iter().for_each(|(task, _)| task.abort());
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
struct Connector {
    dial: Arc<Dial>,
    connections: Arc<Connections>,
}

type Connecting<'a> =
    Pin<Box<dyn Future<Output = Result<Dialled, tokio_postgres::Error>> + Send + 'a>>;

impl Connect for Connector {
    fn connect(&self, _: &Config) -> Connecting<'_> {
        Box::pin(async move {
            let (client, task) = self.dial.connect().await?;
            self.connections.add(&task, &client);
            Ok((client, task))
        })
    }
}

/// Milliseconds as the server takes them: at most `i32::MAX`, and never 0, which would mean no
/// limit.
pub(super) fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis())
        .unwrap_or(i32::MAX)
        .max(1)
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
        let config = |url| {
            let settings = Settings::from_url(url).expect("a URL");
            settings.target.configs().remove(0)
        };
        let own = config("postgresql://keepalives:keepalives@localhost/keepalives");
        assert_eq!(own.get_keepalives_idle(), Duration::from_secs(10));
        assert_eq!(own.get_keepalives_interval(), Some(Duration::from_secs(3)));
        assert_eq!(own.get_keepalives_retries(), Some(3));
        let five = Duration::from_secs(5);
        assert_eq!(own.get_tcp_user_timeout(), Some(&five));
        let theirs = config("postgresql://localhost/db?keepalives_idle=60&tcp_user_timeout=7000");
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
