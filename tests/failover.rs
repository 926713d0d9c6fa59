//! The primary of a cluster goes away while tasks write, and a standby takes its place: nothing that
//! was acknowledged is lost, nothing is there twice, every call ends in its time, and the same store
//! writes again as soon as somebody takes writes.
//!
//! The full number: `cargo test --all-features --test failover -- --ignored --nocapture`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "failover/writers.rs"]
mod writers;

use std::time::{Duration, Instant};

use cluster::{Cluster, Node};
use motorpool::{PgStore, Store};
use writers::Service;

/// What a call has altogether; one that was under way when the primary stopped takes it.
const CALL: Duration = Duration::from_secs(1);

/// What making a connection has, for the three hosts together. No call has more than its own time.
const CONNECT: Duration = Duration::from_secs(3);

/// How long one host can be waited for: a third of a call.
const SHARE: Duration = Duration::from_millis(334);

/// How much longer than its time a call may take.
const LATE: Duration = Duration::from_millis(250);

/// How long after the promotion a write may take to succeed.
const BACK: Duration = Duration::from_secs(2);

/// How the primary goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Its processes are killed, and the operating system closes their connections.
    Killed,
    /// Its processes stop, as in a machine that hangs: connections stay open, new ones are taken,
    /// and nothing answers.
    Stopped,
}

async fn connect(cluster: &Cluster) -> PgStore {
    let url = cluster.url("target_session_attrs=read-write");
    let builder = PgStore::builder(&url).unwrap().max_connections(8);
    let builder = builder.connect_timeout(CONNECT).call_timeout(CALL);
    builder.build().await.unwrap()
}

/// The primary goes away and the standby that has most is promoted. Gives the new primary, and how
/// long after its promotion the first write was acknowledged.
async fn fail_over(
    cluster: &Cluster,
    primary: usize,
    end: End,
    round: u32,
    service: &Service,
) -> (usize, Duration) {
    let old = cluster.node(primary);
    match end {
        End::Killed => old.kill9(),
        End::Stopped => old.stop_process(),
    }
    // What it takes to find out, more or less than the calls that are under way have. Answers from
    // before it are heard meanwhile.
    let unnoticed = Duration::from_millis(u64::from(50 + round * 397 % 1500));
    tokio::time::sleep(unnoticed).await;
    service.expect_writes();
    let standbys = (0..cluster.nodes().len()).filter(|number| *number != primary);
    let new = (cluster.promote_furthest(&standbys.collect::<Vec<_>>())).await;
    let promoted = Instant::now();
    let back = service.written_by_one().await;
    service.written_by_all().await;
    // Only now, because its end would have closed the connections of those who wait for it. It must
    // not go on: it does not know that it was replaced.
    if end == End::Stopped {
        old.kill9();
    }
    old.rejoin(cluster.node(new)).await;
    (new, back.saturating_duration_since(promoted))
}

async fn rounds(times: u32, end: End) {
    let cluster = Cluster::start(2, true).await;
    let store = connect(&cluster).await;
    store.migrate().await.unwrap();
    let service = Service::start(store).await;
    let (mut primary, mut took) = (0, Vec::new());
    for round in 0..times {
        service.busy().await;
        let (new, back) = fail_over(&cluster, primary, end, round, &service).await;
        println!("{end:?} {round}: node {primary} to {new}, written {back:?} after the promotion");
        primary = new;
        took.push(back);
    }
    service.busy().await;
    let outcome = service.stop().await;
    took.sort();
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    println!(
        "{times} times {end:?}: {outcome}, written {median:?} after the promotion, at most {most:?}"
    );
    let longest = outcome.longest;
    assert!(longest < CALL + LATE, "a call took {longest:?}");
    assert!(outcome.failed > 0, "no call met a failover");
    let limit = match end {
        End::Killed => BACK,
        End::Stopped => BACK + SHARE,
    };
    assert!(most < limit, "back {most:?} after the promotion");
    let found = outcome.compare(&cluster.node(primary).client().await).await;
    println!("{found:?}");
    assert_eq!(found, writers::Found::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_costs_nothing_that_was_acknowledged() {
    rounds(3, End::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_primary_costs_nothing_that_was_acknowledged() {
    rounds(2, End::Stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long"]
async fn primaries_killed_50_times_cost_nothing_that_was_acknowledged() {
    rounds(50, End::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long"]
async fn primaries_stopped_20_times_cost_nothing_that_was_acknowledged() {
    rounds(20, End::Stopped).await;
}

/// To which node a new connection of the store goes, or one that is idle.
async fn place(store: &PgStore) -> u16 {
    let client = store.pool().get().await.unwrap();
    let row = client.query_one("SELECT inet_server_port()", &[]).await;
    row.unwrap().get::<_, i32>(0).try_into().unwrap()
}

/// The default limit for connections is longer than the calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_host_leaves_short_calls_the_time_for_the_others() {
    let cluster = Cluster::start(1, false).await;
    let [old, new] = [0, 1].map(|number| cluster.node(number));
    old.stop_process();
    new.promote().await;
    let url = cluster.url("target_session_attrs=read-write");
    let builder = PgStore::builder(&url).unwrap().call_timeout(CALL);
    let store = builder.build().await.unwrap();
    assert_eq!(place(&store).await, new.port());
    for _ in 0..3 {
        // Where it was the last time it is asked first.
        store.pool().retain(|_, _| false);
        let started = Instant::now();
        store.ping().await.unwrap();
        let took = started.elapsed();
        assert!(took < CALL / 2, "{took:?}");
    }
}

/// Waits until a setting has reached the sessions that a node has.
async fn set(node: &Node, setting: &str) {
    let client = node.client().await;
    for sql in [
        &format!("ALTER SYSTEM SET {setting}"),
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
}

/// It still answers, and refuses to write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_primary_leaves_the_pool_at_its_first_refusal() {
    use motorpool::{Error, NewUser, TxOptions, UnavailableReason::ReadOnly};

    const CONNECTIONS: usize = 4;
    let cluster = Cluster::start(1, false).await;
    let [old, new] = [0, 1].map(|number| cluster.node(number));
    let store = connect(&cluster).await;
    store.migrate().await.unwrap();
    let open = async || {
        let mut all = Vec::new();
        for _ in 0..CONNECTIONS {
            all.push(store.begin(TxOptions::new()).await.unwrap());
        }
        for tx in all {
            tx.rollback().await.unwrap();
        }
    };
    open().await;
    set(old, "default_transaction_read_only = on").await;
    let mut number = 0;
    let mut register = async || {
        number += 1;
        let user = NewUser::new(format!("user {number}")).unwrap();
        store.users().register(&user).await
    };
    let started = Instant::now();
    let refused = loop {
        match register().await {
            // The setting is on its way to the sessions.
            Ok(_) => assert!(started.elapsed() < Duration::from_secs(30)),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(
            refused,
            Error::Unavailable {
                reason: ReadOnly,
                ..
            }
        ),
        "{refused:?}"
    );
    assert_eq!(store.status().discarded.read_only, 1);
    old.has_replayed(new).await;
    new.promote().await;
    // No other call has to learn it.
    register().await.unwrap();
    open().await;
    assert_eq!(place(&store).await, new.port());
    let discarded = store.status().discarded;
    assert_eq!(discarded.read_only, 1);
    assert_eq!(discarded.unanswered, CONNECTIONS as u64 - 1);
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'motorpool'";
    let client = old.client().await;
    let started = Instant::now();
    while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "connections are left"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
