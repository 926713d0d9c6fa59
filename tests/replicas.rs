//! Where reads go when there are replicas, and what becomes of a replica that cannot serve them.
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

use std::time::{Duration, Instant};

use cluster::{Cluster, url};
use futures_util::TryStreamExt;
use garage::{Readers, car, is_back, is_out, replicated, user, waited_for, with_replicas};
use motorpool::{
    Batching, CarRepo, Error, OutOfRotation, PageRequest, PgStore, Reads, Store, TxOptions,
    UserRepo,
};
use relay::Relay;

#[tokio::test]
async fn reads_go_to_replicas_and_all_else_to_the_primary() {
    let cluster = Cluster::start(2, false).await;
    let store = with_replicas(&cluster).await.build().await.unwrap();
    assert!(store.status().replicas.iter().all(|one| one.out.is_none()));
    let (users, cars) = (store.users(), store.cars());
    let ada = user(&store, "Ada").await;
    let golf = car(&store, "Golf", ada).await;
    replicated(&cluster).await;
    let page = PageRequest::first(10).unwrap();
    for _ in 0..2 {
        assert_eq!(users.get(ada).await.unwrap().unwrap().username, "Ada");
        assert_eq!(users.get_many(&[ada]).await.unwrap().len(), 1);
        let found = users.get_by_username("Ada").await.unwrap();
        assert_eq!(found.unwrap().id, ada);
        assert_eq!(users.list(page).await.unwrap().items.len(), 1);
        assert_eq!(users.count().await.unwrap(), 1);
        assert_eq!(cars.get(golf).await.unwrap().unwrap().model, "Golf");
        assert_eq!(cars.owned_by(ada).await.unwrap().len(), 1);
        assert_eq!(cars.owned_by_many(&[ada]).await.unwrap()[&ada].len(), 1);
        let page = PageRequest::first(10).unwrap();
        assert_eq!(cars.list_owned_by(ada, page).await.unwrap().items.len(), 1);
        assert_eq!(cars.count().await.unwrap(), 1);
    }
    let status = store.status();
    assert_eq!(status.reads.replicas, 20);
    assert_eq!((status.reads.primary, status.reads.overdue), (0, 0));
    // One after the other, so they took turns.
    let each: Vec<u64> = status.replicas.iter().map(|one| one.reads).collect();
    assert_eq!(each, [10, 10]);

    // What they show is what they have replayed, and a transaction shows what the primary has.
    for node in &cluster.nodes()[1..] {
        node.pause_replay().await;
    }
    let bob = user(&store, "Bob").await;
    assert_eq!(users.get(bob).await.unwrap(), None);
    assert_eq!(users.count().await.unwrap(), 1);
    let tx = store.begin(TxOptions::new()).await.unwrap();
    assert!(tx.users().get(bob).await.unwrap().is_some());
    tx.commit().await.unwrap();
    assert_eq!(store.status().reads.primary, 0);
    for node in &cluster.nodes()[1..] {
        node.resume_replay().await;
    }
    replicated(&cluster).await;
    assert!(users.get(bob).await.unwrap().is_some());
    assert_eq!(store.close().await, 0);
}

#[tokio::test]
async fn a_stream_comes_from_the_replicas() {
    let cluster = Cluster::start(2, false).await;
    let store = with_replicas(&cluster).await.build().await.unwrap();
    let client = cluster.node(0).client().await;
    let fill = "INSERT INTO users (username) SELECT 'user ' || n FROM generate_series(1, 5000) n;
        INSERT INTO cars (model, owner_id) SELECT 'car ' || id, id FROM users";
    client.batch_execute(fill).await.unwrap();
    replicated(&cluster).await;
    let users: Vec<_> = store.users().stream().try_collect().await.unwrap();
    assert_eq!(users.len(), 5000);
    assert!(users.is_sorted_by_key(|user| user.id));
    let cars: Vec<_> = store.cars().stream().try_collect().await.unwrap();
    assert_eq!(cars.len(), 5000);
    assert!(
        cars.iter()
            .zip(&users)
            .all(|(car, user)| car.owner_id == user.id)
    );
    let reads = store.status().reads;
    // Chunks of 2000.
    assert_eq!((reads.replicas, reads.primary), (6, 0));
}

#[tokio::test]
async fn a_replica_that_lags_is_left_alone_until_it_has_caught_up() {
    let cluster = Cluster::start(1, false).await;
    let limit = Duration::from_secs(1);
    let builder = with_replicas(&cluster).await.replica_lag(limit);
    let store = builder.build().await.unwrap();
    let ada = user(&store, "Ada").await;
    replicated(&cluster).await;
    is_back(&store, 0).await;
    // Nothing happens, for longer than the limit: nobody grows old.
    let idle = Instant::now();
    while idle.elapsed() < limit * 3 {
        assert_eq!(store.status().replicas[0].out, None);
        assert!(store.users().get(ada).await.unwrap().is_some());
    }
    assert_eq!(store.status().reads.primary, 0);
    cluster.node(1).pause_replay().await;
    let paused = Instant::now();
    let bob = user(&store, "Bob").await;
    let lagging = is_out(&store, 0, OutOfRotation::Lagging).await;
    // It may be given as older than it is by the time between two looks, or two that came late.
    assert!(paused.elapsed() >= limit / 2);
    assert!(lagging.lag.unwrap() > limit, "{lagging:?}");
    assert!(store.users().get(bob).await.unwrap().is_some());
    assert_eq!(store.status().reads.primary, 1);
    cluster.node(1).resume_replay().await;
    is_back(&store, 0).await;
    assert!(store.users().get(bob).await.unwrap().is_some());
    assert_eq!(store.status().reads.primary, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_do_not_notice_that_a_replica_is_killed_and_started() {
    let cluster = Cluster::start(2, false).await;
    let store = with_replicas(&cluster).await.build().await.unwrap();
    let ada = user(&store, "Ada").await;
    replicated(&cluster).await;
    let readers = Readers::start(&store, ada, 8);
    for _ in 0..3 {
        readers.go_on().await;
        cluster.node(1).kill9();
        is_out(&store, 0, OutOfRotation::Unreachable).await;
        readers.go_on().await;
        cluster.node(1).start_again();
        is_back(&store, 0).await;
        let before = store.status().replicas[0].reads;
        waited_for("it serves again", || {
            store.status().replicas[0].reads > before
        })
        .await;
    }
    readers.stop().await;
    assert_eq!(store.close().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_falls_silent_holds_nobody_up_for_long() {
    let cluster = Cluster::start(2, false).await;
    let store = with_replicas(&cluster).await.build().await.unwrap();
    let ada = user(&store, "Ada").await;
    replicated(&cluster).await;
    let readers = Readers::start(&store, ada, 8);
    readers.go_on().await;
    cluster.node(1).stop_process();
    is_out(&store, 0, OutOfRotation::Unreachable).await;
    readers.go_on().await;
    cluster.node(1).resume();
    is_back(&store, 0).await;
    let slowest = readers.stop().await;
    // A look that takes too long, and the pause before it. A call may take 10 s.
    assert!(slowest < Duration::from_secs(4), "{slowest:?}");
}

/// What a read has waited for a replica is no part of its wait for the primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_comes_from_a_replica_waits_for_the_primary_anew() {
    // Shorter than an answer takes, and that is shorter than makes a replica unreachable.
    const ACQUIRE: Duration = Duration::from_millis(600);
    const ANSWER: Duration = Duration::from_millis(900);
    let cluster = Cluster::start(1, false).await;
    drop(with_replicas(&cluster).await);
    let relay = Relay::start(&cluster.node(1).url()).await;
    let builder = PgStore::builder(&cluster.node(0).url()).unwrap();
    let builder = builder.replica(&relay.url()).unwrap().max_connections(1);
    let one = Batching::On {
        lanes: 1,
        max_batch: 16,
    };
    let builder = builder.acquire_timeout(ACQUIRE).batching(one);
    let store = builder.build().await.unwrap();
    let ada = user(&store, "Ada").await;
    replicated(&cluster).await;
    is_back(&store, 0).await;
    assert!(store.users().get(ada).await.unwrap().is_some());
    let held = store.pool().get().await.unwrap();
    relay.delay(ANSWER);
    // One has the replica's connection. The others are refused there, and then one of them has the
    // lane of the primary and waits for its connection, and the other one for the lane.
    let mut reads: Vec<_> = (0..3)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.users().get(ada).await })
        })
        .collect();
    waited_for("two of them wait for the primary", || {
        let ended = reads.iter().any(|read| read.is_finished());
        ended || store.status().waiting == 2
    })
    .await;
    drop(held);
    for read in reads.drain(..) {
        assert!(read.await.unwrap().unwrap().is_some());
    }
    assert_eq!(store.status().reads.primary, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_promoted_serves_no_reads_until_it_is_one_again() {
    let cluster = Cluster::start(2, false).await;
    let store = with_replicas(&cluster).await.build().await.unwrap();
    let ada = user(&store, "Ada").await;
    replicated(&cluster).await;
    let readers = Readers::start(&store, ada, 4);
    readers.go_on().await;
    cluster.node(1).promote().await;
    is_out(&store, 0, OutOfRotation::Promoted).await;
    let served = store.status().replicas[0].reads;
    for _ in 0..5 {
        readers.go_on().await;
    }
    // One that was under way has ended since.
    assert!(store.status().replicas[0].reads <= served + 4);
    assert_eq!(
        store.status().replicas[0].out,
        Some(OutOfRotation::Promoted)
    );
    cluster.node(1).kill9();
    cluster.node(1).rejoin(cluster.node(0)).await;
    is_back(&store, 0).await;
    readers.go_on().await;
    readers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_a_replica_of_the_old_history_is_not_read_from() {
    let cluster = Cluster::start(2, false).await;
    let (first, second, third) = (cluster.node(0), cluster.node(1), cluster.node(2));
    let more = "target_session_attrs=read-write";
    let store = PgStore::builder(&url(&[first, second], more)).unwrap();
    let store = store.replica(&second.url()).unwrap();
    let store = store.replica(&third.url()).unwrap();
    let store = store.build().await.unwrap();
    store.migrate().await.unwrap();
    let session = store.session();
    let ada = user(&session, "Ada").await;
    replicated(&cluster).await;
    first.kill9();
    second.promote().await;
    is_out(&store, 0, OutOfRotation::Promoted).await;
    // The third still waits for the first.
    is_out(&store, 1, OutOfRotation::OtherTimeline).await;
    // The place that the session was at is of the old timeline.
    assert!(session.users().get(ada).await.unwrap().is_some());
    let bob = user(&session, "Bob").await;
    assert!(session.users().get(bob).await.unwrap().is_some());
    assert!(store.users().get(bob).await.unwrap().is_some());
    assert_eq!(store.status().reads.overdue, 0);
    third.follow(second).await;
    is_back(&store, 1).await;
    let before = store.status().reads;
    let eve = user(&session, "Eve").await;
    assert!(session.users().get(eve).await.unwrap().is_some());
    let after = store.status().reads;
    assert_eq!(after.replicas + after.overdue, before.replicas + 1);
}

#[tokio::test]
async fn a_replica_that_was_down_from_the_start_comes_later() {
    let cluster = Cluster::start(1, false).await;
    cluster.node(1).kill9();
    let store = with_replicas(&cluster).await.build().await.unwrap();
    assert_eq!(
        store.status().replicas[0].out,
        Some(OutOfRotation::Unreachable)
    );
    let ada = user(&store, "Ada").await;
    assert!(store.users().get(ada).await.unwrap().is_some());
    let reads = store.status().reads;
    assert_eq!((reads.replicas, reads.primary), (0, 1));
    cluster.node(1).start_again();
    is_back(&store, 0).await;
    replicated(&cluster).await;
    assert!(store.users().get(ada).await.unwrap().is_some());
    assert_eq!(store.status().reads.replicas, 1);
}

#[tokio::test]
async fn nothing_is_left_on_a_replica_by_a_store_that_is_closed_or_dropped() {
    let cluster = Cluster::start(1, false).await;
    // Asked by somebody else than those that are counted.
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'motorpool'";
    for closed in [true, false] {
        let store = with_replicas(&cluster).await.build().await.unwrap();
        store.users().count().await.unwrap();
        match closed {
            true => {
                assert_eq!(store.close().await, 0);
                assert_eq!(store.status().replicas[0].size, 0);
                let refused = store.users().count().await.unwrap_err();
                assert!(matches!(refused, Error::Unavailable { .. }), "{refused}");
            }
            false => drop(store),
        }
        for node in cluster.nodes() {
            let client = node.client().await;
            let started = Instant::now();
            while client.query_one(count, &[]).await.unwrap().get::<_, i64>(0) > 0 {
                assert!(
                    started.elapsed() < Duration::from_secs(5),
                    "closed: {closed}"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

#[tokio::test]
async fn a_replica_has_one_server_and_a_url_that_can_be_read() {
    let builder = || PgStore::builder("postgresql://localhost/garage").unwrap();
    for url in [
        "postgresql://canary@one,canary/garage",
        "postgres://canary@localhost/garage?canary=1",
        "canary",
    ] {
        let refused = builder().replica(url).map(|_| ()).unwrap_err();
        assert!(matches!(refused, Error::Config { .. }), "{refused}");
        let text = format!("{refused} {refused:?}");
        assert!(!text.contains("canary"), "{text}");
    }
    let two = builder()
        .replica("postgresql://user:canary@one/garage")
        .unwrap();
    let two = two.replica("postgresql://two/garage").unwrap();
    let text = format!("{two:?}");
    assert!(
        text.contains("replicas: 2") && !text.contains("canary"),
        "{text}"
    );
}

#[tokio::test]
async fn a_store_without_replicas_counts_nothing() {
    let cluster = Cluster::start(0, false).await;
    let store = PgStore::connect(&cluster.node(0).url()).await.unwrap();
    store.migrate().await.unwrap();
    UserRepo::count(store.users()).await.unwrap();
    CarRepo::owned_by_many(store.cars(), &[]).await.unwrap();
    let status = store.status();
    assert_eq!(status.reads, Reads::default());
    assert!(status.replicas.is_empty());
}
