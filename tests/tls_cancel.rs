//! Requests to cancel a statement: on the wire they are as well kept as their connection.
#![cfg(feature = "tls")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod authority;
mod fake;
mod secure;
mod support;
mod tap;
mod watch;

use std::time::Duration;

use motorpool::{Migrator, NewUser, PgStore, StatementMode, Store};
use secure::{connect, server, verify, with_database};
use support::Database;
use tap::Tap;
use watch::Watch;

/// A tap before the server, and the URL of the database through it, encrypted and verified.
async fn tapped(database: &Database) -> (Tap, String) {
    let tap = Tap::start(server().server.port()).await;
    let more = format!("hostaddr=127.0.0.1 {}", verify(&server().root()));
    let url = server().url_at("localhost", tap.port, database, &more);
    (tap, url)
}

/// Each begins with the question for TLS and a handshake.
#[track_caller]
fn all_encrypted(tap: &Tap) {
    for first in tap.connections() {
        let (question, then) = first.split_at(8);
        assert_eq!(question, [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]);
        assert_eq!(then.first(), Some(&0x16), "{first:?}");
    }
}

#[tokio::test]
async fn a_cancel_request_is_encrypted_too_and_arrives() {
    with_database(async |database| {
        let (tap, url) = tapped(&database).await;
        let store = connect(&url).await.unwrap();
        let (lock, look) = (Watch::new(&database).await, Watch::new(&database).await);
        lock.run("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            .await;
        let register = |store: &PgStore| {
            let (store, new) = (store.clone(), NewUser::new("Ada").unwrap());
            tokio::spawn(async move { store.users().register(&new).await })
        };

        let before = tap.connections().len();
        let call = register(&store);
        look.waiting(1).await;
        call.abort();
        look.settled().await;
        let after_call = tap.connections().len();
        assert!(after_call > before);

        let pool = store.pool().clone();
        let undo = tokio::spawn(async move { Migrator::new().undo(&pool, true).await });
        look.waiting(1).await;
        undo.abort();
        look.settled().await;
        let after_migrator = tap.connections().len();
        assert!(after_migrator > after_call);

        let call = register(&store);
        look.waiting(1).await;
        assert_eq!(store.close().within(Duration::ZERO).await, 1);
        look.settled().await;
        assert!(tap.connections().len() > after_migrator);
        assert!(call.await.unwrap().is_err());

        all_encrypted(&tap);
        lock.run("COMMIT").await;
        assert_eq!(look.number("SELECT count(*) FROM users").await, 0);
    })
    .await;
}

/// A call that waits for a lock, and then for nothing, because nobody waits for it.
async fn a_dropped_call_is_cancelled(store: &PgStore, database: &Database) {
    let (lock, look) = (Watch::new(database).await, Watch::new(database).await);
    lock.run("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        .await;
    let new = NewUser::new("Ada").unwrap();
    let call = tokio::spawn({
        let store = store.clone();
        async move { store.users().register(&new).await }
    });
    let blocked = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    look.until(blocked, 1).await;
    call.abort();
    look.until(blocked, 0).await;
}

/// The server itself stands for a pooler: it closes the connection of a request as well.
#[tokio::test]
async fn a_request_that_waits_for_its_pooler_is_encrypted_too() {
    with_database(async |database| {
        let (tap, url) = tapped(&database).await;
        let builder = PgStore::builder(&url).unwrap();
        let builder = builder.statement_mode(StatementMode::Unnamed);
        let store = builder.build().await.unwrap();
        a_dropped_call_is_cancelled(&store, &database).await;
        assert!(tap.connections().len() > 1);
        all_encrypted(&tap);
    })
    .await;
}

/// A pool of the host's own, whose connections are encrypted.
#[tokio::test]
async fn a_cancel_request_for_a_hosts_own_pool_is_encrypted() {
    use deadpool_postgres::{Manager, Pool};
    use tokio_postgres_rustls::MakeRustlsConnect;
    use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

    with_database(async |database| {
        let tap = Tap::start(server().server.port()).await;
        let url = server().url_at(
            "localhost",
            tap.port,
            &database,
            "hostaddr=127.0.0.1 sslmode=require",
        );
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(server().authority.pem.as_bytes()).unwrap();
        roots.add(root).unwrap();
        let builder = ClientConfig::builder_with_provider(ring::default_provider().into());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let tls = builder.with_root_certificates(roots).with_no_client_auth();
        let manager = Manager::new(url.parse().unwrap(), MakeRustlsConnect::new(tls));
        let store = PgStore::from_pool(Pool::builder(manager).build().unwrap());
        a_dropped_call_is_cancelled(&store, &database).await;
        let connections = tap.connections();
        assert!(connections.len() > 1);
        assert!(connections.iter().all(|first| first.get(8) == Some(&0x16)));
    })
    .await;
}

/// A pool of the host's own whose connections are not encrypted, though the server could. It knows
/// an address and no name, so there is no TLS.
#[tokio::test]
async fn a_cancel_request_for_a_hosts_own_pool_in_clear_arrives() {
    use deadpool_postgres::{Manager, Pool};
    use tokio_postgres::{Config, NoTls};

    with_database(async |database| {
        let role = "CREATE ROLE clear LOGIN SUPERUSER PASSWORD 'clear'";
        server().admin().await.batch_execute(role).await.unwrap();
        let mut config = Config::new();
        config
            .hostaddr(std::net::Ipv4Addr::LOCALHOST.into())
            .port(server().server.port())
            .user("clear")
            .password("clear")
            .dbname(&database.name);
        let pool = Pool::builder(Manager::new(config, NoTls)).build().unwrap();
        let store = PgStore::from_pool(pool);
        a_dropped_call_is_cancelled(&store, &database).await;
    })
    .await;
}
