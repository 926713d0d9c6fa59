//! How a store is set up: what is said when no connection comes about, the limits of the builder,
//! a host's own pool, and the end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod support;
mod watch;

use std::collections::BTreeSet;
use std::error::Error as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use motorpool::{Batching, Error, NewUser, PgStore, Result, Store, TxOptions, UnavailableReason};
use support::{Database, with_database};
use tokio::task::JoinSet;
use tokio_postgres::NoTls;
use tokio_postgres::config::{Config, Host};
use watch::Watch;

const CANARY: &str = "canary-in-the-password";

fn new_user(name: &str) -> NewUser {
    NewUser::new(name).unwrap()
}

/// The database's address in the other form of a connection string, with a password and a
/// database of that name.
fn with(database: &Database, password: &str, name: &str) -> String {
    let config: Config = database.url.parse().unwrap();
    let host = match &config.get_hosts()[0] {
        Host::Tcp(host) => host.clone(),
        Host::Unix(path) => path.display().to_string(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let user = config.get_user().unwrap_or("postgres");
    format!("host='{host}' port={port} user='{user}' password='{password}' dbname='{name}'")
}

fn password(database: &Database) -> String {
    let config: Config = database.url.parse().unwrap();
    String::from_utf8_lossy(config.get_password().unwrap_or_default()).into_owned()
}

/// Everything that an error and its causes can print.
fn everything_said(error: &Error) -> String {
    let mut said = format!("{error}\n{error:?}\n{error:#?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        said += &format!("\n{error}\n{error:?}");
        cause = error.source();
    }
    said
}

async fn refused(url: &str) -> Error {
    let error = PgStore::connect(url).await.expect_err("no connection");
    let said = everything_said(&error);
    assert!(!said.contains(CANARY), "{said}");
    error
}

#[tokio::test]
async fn each_reason_has_its_sentence_without_the_password() {
    with_database(async |database| {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        // A server that trusts everybody would not mind the wrong password.
        let secret = password(&database);
        let cases = [
            (
                with(&database, CANARY, &database.name),
                UnavailableReason::Authentication,
            ),
            (
                with(&database, &secret, "no_such_database"),
                UnavailableReason::NoSuchDatabase,
            ),
            (
                format!("postgresql://postgres:{CANARY}@127.0.0.1:{port}/db"),
                UnavailableReason::Refused,
            ),
            (
                format!("postgresql://postgres:{CANARY}@nohost.invalid/db"),
                UnavailableReason::NameNotFound,
            ),
            (
                format!("host=/no/such/directory user=postgres password={CANARY}"),
                UnavailableReason::Refused,
            ),
        ];
        let mut sentences = BTreeSet::new();
        for (url, wanted) in cases {
            let error = refused(&url).await;
            let Error::Unavailable { reason, .. } = &error else {
                panic!("{wanted:?}: {error:?}");
            };
            assert_eq!(*reason, wanted, "{error:?}");
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
            assert!(!everything_said(&error).contains(&secret) || secret.is_empty());
            sentences.insert(error.to_string());
        }
        assert_eq!(sentences.len(), 4, "{sentences:?}");
    })
    .await;
}

/// Of a server that accepts and then says nothing.
#[tokio::test]
async fn a_silent_server_is_given_up_within_the_connect_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!("postgresql://postgres:{CANARY}@127.0.0.1:{port}/db");
    let builder = PgStore::builder(&url).unwrap();
    let builder = builder.connect_timeout(Duration::from_millis(200));
    let said = format!("{builder:?}");
    assert!(!said.contains(CANARY), "{said}");
    let started = Instant::now();
    let error = builder.build().await.expect_err("no connection");
    let reason = UnavailableReason::ConnectTimeout;
    assert!(
        matches!(&error, Error::Unavailable { reason: found, .. } if *found == reason),
        "{error:?}"
    );
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(200), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn there_are_never_more_connections_than_allowed() {
    with_database(async |database| {
        let builder = PgStore::builder(&database.url).unwrap();
        let builder = builder.batching(Batching::Off);
        let store = builder.max_connections(3).build().await.unwrap();
        let watch = Watch::new(&database).await;
        let mut tasks = JoinSet::new();
        for number in 0..64 {
            let store = store.clone();
            let new = new_user(&format!("user {number}"));
            tasks.spawn(async move { store.users().register(&new).await });
        }
        let mut most = 0;
        while let Some(answer) = tasks.join_next().await {
            assert!(answer.unwrap().unwrap().is_created());
            most = most.max(watch.backends().await);
        }
        assert_eq!(most, 3);
        let status = store.pool().status();
        assert_eq!((status.max_size, status.size, status.available), (3, 3, 3));
    })
    .await;
}

#[tokio::test]
async fn a_pool_in_use_is_waited_for_as_long_as_allowed() {
    with_database(async |database| {
        let limit = Duration::from_millis(100);
        let builder = PgStore::builder(&database.url).unwrap().max_connections(1);
        let store = builder.acquire_timeout(limit).build().await.unwrap();
        let tx = store.begin(TxOptions::new()).await.unwrap();
        let error = store.ping().await.expect_err("the pool is in use");
        let enough = |waited| waited >= limit && waited < Duration::from_secs(5);
        assert!(
            matches!(error, Error::PoolExhausted { waited } if enough(waited)),
            "{error:?}"
        );
        assert!(error.is_retryable());
        tx.users().register(&new_user("Anna")).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(store.users().count().await.unwrap(), 1);
    })
    .await;
}

async fn show(store: &PgStore, setting: &str) -> String {
    let client = store.pool().get().await.unwrap();
    let row = client.query_one(&format!("SHOW {setting}"), &[]).await;
    row.unwrap().get(0)
}

#[tokio::test]
async fn connections_have_the_settings_of_the_builder_and_the_url() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        // A little less than the 10 s of a call.
        assert_eq!(show(&store, "statement_timeout").await, "9500ms");
        assert_eq!(show(&store, "application_name").await, "motorpool");
        let builder = PgStore::builder(&database.url).unwrap();
        let builder = builder.statement_timeout(Duration::from_millis(200));
        let store = builder.build().await.unwrap();
        assert_eq!(show(&store, "statement_timeout").await, "200ms");
        let joint = if database.url.contains('?') { '&' } else { '?' };
        let options = "options=-c%20statement_timeout%3D1234&application_name=host";
        let url = format!("{}{joint}{options}", database.url);
        let store = PgStore::connect(&url).await.unwrap();
        assert_eq!(show(&store, "statement_timeout").await, "1234ms");
        assert_eq!(show(&store, "application_name").await, "host");
        let password = password(&database);
        assert!(password.is_empty() || !format!("{store:?}").contains(&password));
    })
    .await;
}

fn manager(database: &Database) -> Manager {
    let config: Config = database.url.parse().unwrap();
    let recycling_method = RecyclingMethod::Fast;
    Manager::from_config(config, NoTls, ManagerConfig { recycling_method })
}

#[tokio::test]
async fn a_pool_of_the_host_is_used_as_it_is() {
    with_database(async |database| {
        let pool = Pool::builder(manager(&database)).max_size(2).build();
        let store = PgStore::from_pool(pool.unwrap());
        assert!(store.users().register(&new_user("Anna")).await.is_ok());
        assert_eq!(show(&store, "statement_timeout").await, "0");
        assert_eq!(store.pool().status().max_size, 2);
        let tx = store.begin(TxOptions::new()).await.unwrap();
        tx.users().register(&new_user("Bert")).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(store.users().count().await.unwrap(), 2);

        let limit = Duration::from_millis(100);
        let builder = Pool::builder(manager(&database)).max_size(1);
        let builder = builder.runtime(Runtime::Tokio1).wait_timeout(Some(limit));
        let store = PgStore::from_pool(builder.build().unwrap());
        let tx = store.begin(TxOptions::new()).await.unwrap();
        let error = store.ping().await.expect_err("the pool is in use");
        assert!(
            matches!(error, Error::PoolExhausted { waited } if waited >= limit),
            "{error:?}"
        );
        tx.rollback().await.unwrap();
        store.ping().await.unwrap();
    })
    .await;
}

fn assert_closed<T: std::fmt::Debug>(answer: Result<T>) {
    let error = answer.expect_err("the store is closed");
    let reason = UnavailableReason::Closed;
    assert!(
        matches!(&error, Error::Unavailable { reason: found, .. } if *found == reason),
        "{error:?}"
    );
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_closed_store_says_so() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        let clone = store.clone();
        let tx = store.begin(TxOptions::new()).await.unwrap();
        tx.users().register(&new_user("Anna")).await.unwrap();
        store.close();
        assert_closed(store.ping().await);
        assert_closed(clone.users().count().await);
        assert_closed(clone.users().register(&new_user("Bert")).await);
        assert_closed(clone.begin(TxOptions::new()).await);
        assert_closed(store.migrate().await);
        // What has its connection already runs to its end.
        tx.commit().await.unwrap();
        assert_eq!(watch.number("SELECT count(*) FROM users").await, 1);
        let connections = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND application_name = 'motorpool'";
        watch.until(connections, 0).await;
        store.close();
    })
    .await;
}
