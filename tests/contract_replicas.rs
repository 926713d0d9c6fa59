//! The contract on a store with replicas, through a session: every rule reads what it has written.
#![cfg(feature = "contract")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/shelf.rs"]
mod shelf;

use std::time::{Duration, Instant};

use cluster::{Cluster, Node};
use motorpool::contract::Rule;
use motorpool::{PgStore, Store};
use shelf::Shelf;
use tokio::sync::OnceCell;

/// Lives as long as the program; its servers notice the end of that.
async fn cluster() -> &'static Cluster {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    CLUSTER.get_or_init(start).await
}

/// With a migrated database that nobody is connected to.
async fn start() -> Cluster {
    let cluster = Cluster::start(1, false).await;
    let admin = cluster.node(0).client().await;
    let create = "CREATE DATABASE contract";
    admin.batch_execute(create).await.expect("a database");
    let template = on(cluster.node(0), "contract");
    let migrating = PgStore::connect(&template).await.expect("connects");
    migrating.migrate().await.expect("is migrated");
    migrating.close().await;
    let alone = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
        WHERE datname = 'contract'";
    admin.batch_execute(alone).await.expect("is left alone");
    cluster
}

fn on(node: &Node, database: &str) -> String {
    node.url().replace("/postgres?", &format!("/{database}?"))
}

async fn run_on_replicas(rule: Rule) {
    static SHELF: Shelf = Shelf::new();
    let cluster = cluster().await;
    let admin = cluster.node(0).client().await;
    let name = SHELF.take_or_copy(&admin, "contract").await;
    let primary = on(cluster.node(0), &name);
    let builder = PgStore::builder(&primary).expect("a URL");
    let builder = builder.replica(&on(cluster.node(1), &name)).expect("a URL");
    let builder = builder.replica_wait(Duration::from_secs(5));
    let store = builder.build().await.expect("connects");
    let migrated = "SELECT pg_current_wal_flush_lsn()::text";
    let migrated = admin.query_one(migrated, &[]).await.expect("a place");
    let migrated: String = migrated.get(0);
    let standby = cluster.node(1).client().await;
    let replayed = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
    let replayed = async || standby.query_one(replayed, &[&migrated]).await;
    let started = Instant::now();
    // The database itself may not have got there yet.
    while !replayed().await.expect("a place").get::<_, bool>(0)
        || store.status().replicas[0].out.is_some()
    {
        assert!(started.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let session = store.session();
    rule.run(&session).await;
    let before = store.status();
    let count = session.users().count().await.expect("counts");
    assert_eq!(store.users().count().await.expect("counts"), count);
    let reads = store.status().reads;
    assert_eq!(
        reads.replicas,
        before.reads.replicas + 2,
        "{before:?} {reads:?}"
    );
    assert_eq!(reads.overdue, 0, "{reads:?}");
    assert_eq!(store.close().await, 0);
    let client = cluster.node(0).client_of(&name).await;
    SHELF.put(name, &client).await;
}

motorpool::contract_tests!(replicas, run_on_replicas);
