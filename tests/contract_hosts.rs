//! The contract through TCP: on one host without encryption, and on a URL with three, of which the
//! last is the one that takes writes.
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

use cluster::{Cluster, url};
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
    let cluster = Cluster::start(2, false).await;
    let admin = cluster.node(0).client().await;
    let create = "CREATE DATABASE contract";
    admin.batch_execute(create).await.expect("a database");
    let template = on(&cluster.node(0).url(), "contract");
    let migrating = PgStore::connect(&template).await.expect("connects");
    migrating.migrate().await.expect("is migrated");
    migrating.close().await;
    let alone = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
        WHERE datname = 'contract'";
    admin.batch_execute(alone).await.expect("is left alone");
    cluster
}

fn on(url: &str, database: &str) -> String {
    url.replace("/postgres?", &format!("/{database}?"))
}

async fn run_at(url: &str, rule: Rule) {
    static SHELF: Shelf = Shelf::new();
    let admin = cluster().await.node(0).client().await;
    let name = SHELF.take_or_copy(&admin, "contract").await;
    let store = PgStore::connect(&on(url, &name)).await.expect("connects");
    rule.run(&store).await;
    let theirs =
        "SELECT count(*) > 0, coalesce(bool_and(client_addr IS NOT NULL AND NOT ssl), false)
        FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
        WHERE datname = $1 AND application_name = 'motorpool'";
    let row = admin.query_one(theirs, &[&name]).await.expect("tells");
    assert_eq!(
        (row.get(0), row.get(1)),
        (true, true),
        "all through TCP, none encrypted"
    );
    store.users().count().await.expect("the store is usable");
    assert_eq!(store.close().await, 0);
    let client = cluster().await.node(0).client_of(&name).await;
    SHELF.put(name, &client).await;
}

async fn run_on_one(rule: Rule) {
    let url = url(&[cluster().await.node(0)], "sslmode=disable");
    run_at(&url, rule).await;
}

motorpool::contract_tests!(one_host, run_on_one);

/// A standby may not have the database yet, which is one more reason to go on to the next.
async fn run_on_three(rule: Rule) {
    let nodes = cluster().await.nodes();
    let url = url(
        &[&nodes[1], &nodes[2], &nodes[0]],
        "target_session_attrs=read-write",
    );
    run_at(&url, rule).await;
}

motorpool::contract_tests!(three_hosts, run_on_three);
