//! Migrations through PgBouncer: refused in transaction mode, whatever its pools look like, and done
//! in session mode.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod pooler;
#[path = "support/relay.rs"]
mod relay;
mod support;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use futures_util::future::join_all;
use motorpool::{Error, Migrator, PgStore, Result, Schema, StatementMode};
use pooler::pgbouncer::{Options, PgBouncer};
use pooler::{builder, connect};
use relay::Relay;
use support::server::{self, Server};

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(server::Options::default()).unwrap())
}

/// A database of its own, empty. They go with the server.
async fn database() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("garage_{}", COUNT.fetch_add(1, SeqCst));
    let admin = connect(&server().url("postgres")).await;
    let sql = format!("CREATE DATABASE {name}");
    admin.batch_execute(&sql).await.unwrap();
    name
}

async fn store(url: &str, connections: usize) -> PgStore {
    let builder = builder(url).max_connections(connections);
    builder.build().await.unwrap()
}

fn assert_refused<T: std::fmt::Debug>(result: Result<T>) {
    match result {
        Err(Error::Config { reason }) => assert!(reason.contains("direct URL"), "{reason}"),
        other => panic!("it was not refused: {other:?}"),
    }
}

/// What is set in the session of whoever answers, and the advisory locks there.
async fn left_behind(url: &str) -> Vec<String> {
    let client = connect(url).await;
    let sql = "SELECT name || ' = ' || setting FROM pg_settings
            WHERE source = 'session' AND name NOT IN ('application_name', 'client_encoding')
        UNION ALL SELECT 'lock ' || objid FROM pg_locks
            WHERE locktype = 'advisory' AND database = (
                SELECT oid FROM pg_database WHERE datname = current_database())
        ORDER BY 1";
    let rows = client.query_typed(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn everything_that_takes_the_lock_is_refused_in_transaction_mode() {
    for (size, round_robin) in [(1, false), (1, true), (2, false), (2, true), (5, true)] {
        let options = Options {
            round_robin,
            ..Options::transactions(size)
        };
        let bouncer = PgBouncer::start(server(), &options);
        for connections in [1, 4] {
            let name = database().await;
            let url = bouncer.url(&name);
            // As many connections as it may have.
            let clients = join_all((0..size).map(|_| connect(&url))).await;
            join_all(
                clients
                    .iter()
                    .map(|client| client.simple_query("SELECT pg_sleep(0.05)")),
            )
            .await;
            let before = left_behind(&url).await;

            let store = store(&url, connections).await;
            let migrator = Migrator::new();
            assert_refused(store.migrate().await);
            assert_refused(migrator.up(store.pool()).await);
            assert_refused(migrator.adopt(store.pool()).await);
            assert_refused(migrator.check(store.pool()).await);
            assert_refused(migrator.undo(store.pool(), false).await);
            // Whoever only looks may.
            assert_eq!(migrator.status(store.pool()).await.unwrap().version(), 0);
            // Nothing is made, and nothing is left.
            assert_eq!(left_behind(&url).await, before);

            // Nor is it a matter of what is pending.
            let direct = PgStore::connect(&server().url(&name)).await.unwrap();
            direct.migrate().await.unwrap();
            assert_refused(store.migrate().await);
            let current = builder(&url).require_schema(Schema::AtLeastCurrent);
            current.build().await.unwrap();
        }
    }
}

/// While others use the pooler, chance has a hand in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_refused_while_others_are_busy() {
    for round_robin in [false, true] {
        let options = Options {
            round_robin,
            ..Options::transactions(2)
        };
        let bouncer = PgBouncer::start(server(), &options);
        let url = bouncer.url(&database().await);
        let clients = join_all((0..4).map(|_| connect(&url))).await;
        let over = AtomicBool::new(false);
        let noise = join_all(clients.iter().map(async |client| {
            while !over.load(SeqCst) {
                client.simple_query("SELECT 1").await.unwrap();
            }
        }));
        let tries = async {
            for _ in 0..20 {
                assert_refused(store(&url, 2).await.migrate().await);
            }
            over.store(true, SeqCst);
        };
        futures_util::join!(noise, tries);
    }
}

#[tokio::test]
async fn session_mode_is_a_session_of_its_own() {
    for size in [1, 4] {
        let bouncer = PgBouncer::start(server(), &Options::sessions(size));
        for connections in [1, 4] {
            let url = bouncer.url(&database().await);
            let store = store(&url, connections).await;
            assert_eq!(store.migrate().await.unwrap().applied().len(), 2);
            assert!(store.migrate().await.unwrap().applied().is_empty());
            store.close().await;
        }
    }
}

#[tokio::test]
async fn a_direct_connection_is_asked_six_times() {
    let relay = Relay::start(&server().url(&database().await)).await;
    let builder = PgStore::builder(&relay.url()).unwrap().max_connections(1);
    let store = builder.clone().build().await.unwrap();
    store.migrate().await.unwrap();
    relay.flights();
    let (named, before) = relay.parsed();
    // Nothing is pending.
    store.migrate().await.unwrap();
    let (still, after) = relay.parsed();
    assert_eq!(named, still, "a statement with a name");
    // Six questions, the lock, the grants and whether there is anybody to grant to, and twice two
    // about the state. Who holds the lock, the lock given back.
    assert_eq!(after - before, 15);
    // Where connections were there before, a pooler is not excluded.
    let store = builder.max_connections(3).build().await.unwrap();
    let held = (
        store.pool().get().await.unwrap(),
        store.pool().get().await.unwrap(),
    );
    drop(held);
    let before = relay.parsed().1;
    store.migrate().await.unwrap();
    assert_eq!(relay.parsed().1 - before, 15 + 16);
}

#[tokio::test]
async fn a_direct_store_without_names_migrates() {
    let url = server().url(&database().await);
    let store = store(&url, 1).await;
    assert_eq!(store.migrate().await.unwrap().applied().len(), 2);
    let named = store.with_statement_mode(StatementMode::Prepared);
    assert!(named.migrate().await.unwrap().applied().is_empty());
}
