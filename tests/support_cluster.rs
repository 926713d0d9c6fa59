//! The throwaway cluster itself: that it replicates, fails over and leaves nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/cluster.rs"]
mod cluster;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cluster::{Cluster, Node, Setup};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

async fn number(node: &Node, sql: &str) -> i64 {
    let row = node.client().await.query_one(sql, &[]).await;
    row.unwrap().get(0)
}

async fn run(node: &Node, sql: &str) {
    node.client().await.batch_execute(sql).await.unwrap();
}

const COUNT: &str = "SELECT count(*) FROM t";

async fn has_rows(node: &Node, wanted: i64) {
    let started = Instant::now();
    loop {
        let found = number(node, COUNT).await;
        if found == wanted {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{found} of {wanted} rows");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn dir(node: &Node) -> PathBuf {
    node.server().dir().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_fails_over_and_takes_the_old_primary_back() {
    let cluster = Cluster::set_up(Setup {
        standbys: 2,
        synchronous: Some("remote_apply"),
        fsync: true,
        settings: vec![("work_mem".into(), "5MB".into())],
    })
    .await;
    let dirs: Vec<PathBuf> = cluster.nodes().iter().map(dir).collect();
    let [first, second, third] = [0, 1, 2].map(|number| cluster.node(number));
    run(first, "CREATE TABLE t AS SELECT 1 AS n").await;
    for (node, is_primary) in [(first, true), (second, false), (third, false)] {
        has_rows(node, 1).await;
        assert_eq!(node.is_primary().await, is_primary);
    }

    // Received is not applied.
    third.pause_replay().await;
    run(first, "INSERT INTO t VALUES (2)").await;
    has_rows(second, 2).await;
    assert_eq!(number(third, COUNT).await, 1);
    third.resume_replay().await;
    has_rows(third, 2).await;

    // The one that has more is promoted: this is more than can be on its way to the other one.
    second.stop_process();
    run(first, "INSERT INTO t SELECT generate_series(1, 200000)").await;
    has_rows(third, 200_002).await;
    first.kill9();
    second.resume();
    assert_eq!(cluster.promote_furthest(&[1, 2]).await, 2);
    assert!(third.is_primary().await && !second.is_primary().await);
    run(third, "INSERT INTO t VALUES (3)").await;
    has_rows(second, 200_003).await;

    first.rejoin(third).await;
    assert!(!first.is_primary().await);
    has_rows(first, 200_003).await;
    drop(cluster);
    for dir in dirs {
        assert!(!dir.exists(), "{} is left", dir.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_wait_for_a_standby_if_asked_to() {
    for synchronous in [true, false] {
        let cluster = Cluster::start(1, synchronous).await;
        let (primary, standby) = (cluster.node(0), cluster.node(1));
        run(primary, "CREATE TABLE t AS SELECT 1 AS n").await;
        primary.has_replayed(standby).await;
        standby.stop_process();
        let client = primary.client().await;
        let mut insert = std::pin::pin!(client.batch_execute("INSERT INTO t VALUES (2)"));
        let moment = timeout(Duration::from_millis(200), &mut insert).await;
        assert_eq!(moment.is_err(), synchronous, "{moment:?}");
        standby.resume();
        if synchronous {
            insert.await.unwrap();
        }
        has_rows(standby, 2).await;

        // What has ended starts again as what it was.
        standby.kill9();
        standby.start_again();
        primary.has_standbys(1).await;
        primary.has_replayed(standby).await;
        has_rows(standby, 2).await;
        standby.promote().await;
        assert!(standby.is_primary().await);
    }
}
