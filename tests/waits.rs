//! Reads of sessions that wait for a replica: what a wait leaves behind, and what ends it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/cluster.rs"]
mod cluster;
mod garage;
#[path = "support/relay.rs"]
mod relay;

use std::net::Ipv4Addr;
use std::time::Duration;

use cluster::Cluster;
use futures_util::future::join_all;
use garage::{user, waited_for, with_replicas};
use motorpool::{Error, OutOfRotation, PgStore, PgStoreBuilder, Store, UnavailableReason, UserId};
use relay::Relay;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// More than any of these tests takes, unless it hangs.
const LONG: Duration = Duration::from_secs(60);

async fn there(store: &dyn Store, id: UserId) -> bool {
    store.users().get(id).await.unwrap().is_some()
}

/// A cluster with tables, and a builder whose one replica is at this URL.
async fn builder(cluster: &Cluster, replica: &str) -> PgStoreBuilder {
    let _ = with_replicas(cluster).await;
    let builder = PgStore::builder(&cluster.node(0).url()).unwrap();
    builder.replica(replica).unwrap()
}

/// Whoever waits no longer leaves a question behind that is under way.
#[tokio::test]
async fn a_wait_that_is_over_costs_no_connection() {
    let cluster = Cluster::start(1, false).await;
    let relay = Relay::start(&cluster.node(1).url()).await;
    for wait in [Duration::ZERO, Duration::from_millis(100)] {
        let builder = builder(&cluster, &relay.url()).await.replica_wait(wait);
        let store = builder.build().await.unwrap();
        let session = store.session();
        // So that the time is over between a question and its answer.
        relay.delay(Duration::from_millis(20));
        // Connections enough for a read, and a question before it that nobody waits for.
        let warm = join_all((0..4).map(|_| store.users().count())).await;
        assert!(warm.iter().all(Result::is_ok));
        assert_eq!(store.status().reads.replicas, 4);
        cluster.node(1).pause_replay().await;
        let (reads, accepted) = (store.status().reads, relay.accepted());
        for number in 0..10 {
            let id = user(&session, &format!("{wait:?} {number}")).await;
            assert!(there(&session, id).await);
        }
        assert_eq!(store.status().reads.overdue, reads.overdue + 10);
        assert_eq!(relay.accepted(), accepted, "{wait:?}");
        relay.delay(Duration::ZERO);
        cluster.node(1).resume_replay().await;
        store.close().await;
    }
}

#[tokio::test]
async fn a_wait_ends_when_the_store_is_closed() {
    let cluster = Cluster::start(1, false).await;
    let relay = Relay::start(&cluster.node(1).url()).await;
    let builder = builder(&cluster, &relay.url()).await;
    let builder = builder.replica_wait(2 * LONG).call_timeout(2 * LONG);
    let store = builder.build().await.unwrap();
    let session = store.session();
    cluster.node(1).pause_replay().await;
    let ada = user(&session, "Ada").await;
    let mut read = Box::pin(session.users().get(ada));
    // It asks again and again, and waits.
    let mut asked = 0;
    while asked < 20 {
        asked += relay.flights().len();
        assert!(timeout(Duration::from_millis(10), &mut read).await.is_err());
    }
    let (ended, _) = timeout(LONG, async { tokio::join!(read, store.close()) })
        .await
        .expect("it waits for a store that is closed");
    match ended {
        Err(Error::Unavailable { reason, .. }) => assert_eq!(reason, UnavailableReason::Closed),
        other => panic!("{other:?}"),
    }
}

/// A replica that has no place for one more connection answers on those that it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_without_a_place_stays_in_rotation() {
    let cluster = Cluster::start(1, false).await;
    let _ = with_replicas(&cluster).await;
    let role = "CREATE ROLE reader LOGIN PASSWORD 'reader' CONNECTION LIMIT 3; GRANT pg_read_all_data TO reader";
    let client = cluster.node(0).client().await;
    client.batch_execute(role).await.unwrap();
    garage::replicated(&cluster).await;
    let replica = cluster
        .node(1)
        .url()
        .replace("quick:quick@", "reader:reader@");
    assert_ne!(replica, cluster.node(1).url());
    let builder = PgStore::builder(&cluster.node(0).url()).unwrap();
    let store = builder.replica(&replica).unwrap().build().await.unwrap();
    let out = || store.status().replicas[0].out;
    waited_for("the replica is read from", || out().is_none()).await;
    let watched = store.clone();
    let (done, mut ended) = tokio::sync::oneshot::channel::<()>();
    let watching = tokio::spawn(async move {
        let mut seen = None::<OutOfRotation>;
        while ended.try_recv().is_err() {
            seen = seen.or(watched.status().replicas[0].out);
            tokio::task::yield_now().await;
        }
        seen
    });
    for _ in 0..50 {
        let reads = (0..16).map(|_| store.users().count());
        for read in join_all(reads).await {
            assert_eq!(read.unwrap(), 0);
        }
    }
    done.send(()).unwrap();
    assert_eq!(watching.await.unwrap(), None);
    let reads = store.status().reads;
    assert!(reads.primary > 0 && reads.replicas > 50, "{reads:?}");
}

/// Listens, and leads the first connection to one port and all others to another one.
async fn shared_name(first: u16, others: u16) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut to = first;
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
            to = others;
        }
    });
    port
}

/// Behind the name of a replica there are one of the primary's standbys, which is looked at, and one
/// of a primary that has gone, which is far beyond the promotion.
#[tokio::test]
async fn of_two_servers_the_one_of_the_old_history_shows_nothing_to_a_session() {
    let cluster = Cluster::start(3, false).await;
    let _ = with_replicas(&cluster).await;
    let [old, new, stuck, good] = [0, 1, 2, 3].map(|number| cluster.node(number));
    // What the new one never hears of.
    new.stop_process();
    let client = old.client().await;
    for number in 0..8 {
        // Beyond the rest of a file, which a copy of the new primary takes from its log.
        let more = format!("CREATE TABLE more{number} (); SELECT pg_switch_wal()");
        client.batch_execute(&more).await.unwrap();
    }
    old.has_replayed(stuck).await;
    old.kill9();
    new.resume();
    new.promote().await;
    good.kill9();
    good.rejoin(new).await;
    let port = shared_name(good.port(), stuck.port()).await;
    let replica = stuck
        .url()
        .replace(&stuck.port().to_string(), &port.to_string());
    let builder = PgStore::builder(&new.url()).unwrap();
    let builder = builder.replica(&replica).unwrap();
    let builder = builder.replica_wait(Duration::from_millis(100));
    let store = builder.build().await.unwrap();
    let out = || store.status().replicas[0].out;
    waited_for("the replica is read from", || out().is_none()).await;
    let session = store.session();
    for number in 0..3 {
        let id = user(&session, &format!("user {number}")).await;
        assert!(there(&session, id).await, "{number}");
    }
    let reads = store.status().reads;
    assert_eq!((reads.replicas, reads.overdue), (0, 3), "{reads:?}");
}
