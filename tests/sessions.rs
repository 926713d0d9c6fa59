//! A session reads what it has written, whatever the replicas are at.
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

use cluster::Cluster;
use futures_util::future::join_all;
use garage::{car, replicated, user, with_replicas};
use motorpool::{Error, NewUser, PgStore, Position, Role, Store, StoreExt, TxOptions, UserId};
use relay::Relay;

/// How long a read of a session waits in these tests.
const WAIT: Duration = Duration::from_millis(80);

async fn pause(cluster: &Cluster) {
    for node in &cluster.nodes()[1..] {
        node.pause_replay().await;
    }
}

async fn resume(cluster: &Cluster) {
    for node in &cluster.nodes()[1..] {
        node.resume_replay().await;
    }
    replicated(cluster).await;
}

async fn there(store: &dyn Store, id: UserId) -> bool {
    store.users().get(id).await.unwrap().is_some()
}

#[tokio::test]
async fn a_read_waits_and_then_goes_to_the_primary() {
    let cluster = Cluster::start(2, false).await;
    let builder = with_replicas(&cluster).await.replica_wait(WAIT);
    let store = builder.build().await.unwrap();
    let session = store.session();
    pause(&cluster).await;
    let ada = user(&session, "Ada").await;
    let started = Instant::now();
    assert!(there(&session, ada).await);
    assert!(started.elapsed() >= WAIT);
    let reads = store.status().reads;
    assert_eq!((reads.primary, reads.overdue), (1, 1));
    // Nobody has promised anything to these.
    assert!(!there(&store, ada).await);
    assert!(!there(&store.session(), ada).await);
    assert_eq!(store.status().reads.primary, 1);
    // It is waited for: the replicas go on in the middle.
    let waiting = store.clone().session_at(session.position());
    let (read, ()) = tokio::join!(there(&waiting, ada), resume(&cluster));
    assert!(read);
    assert!(there(&session, ada).await);
    let after = store.status().reads;
    assert!(after.primary <= 2, "{after:?}");
    assert!(after.replicas >= 3, "{after:?}");
}

#[tokio::test]
async fn a_position_is_handed_to_another_process() {
    let cluster = Cluster::start(1, false).await;
    let builder = with_replicas(&cluster).await.replica_wait(WAIT);
    let one = builder.clone().build().await.unwrap();
    let other = builder.build().await.unwrap();
    pause(&cluster).await;
    let session = one.session();
    assert_eq!(session.position(), Position::default());
    let ada = user(&session, "Ada").await;
    let cookie = session.position().to_string();
    assert!(cookie.len() <= Position::MAX_LENGTH);
    assert!(!there(&other, ada).await);
    let there_too = other.session_at(cookie.parse().unwrap());
    assert!(there(&there_too, ada).await);
    assert_eq!(other.status().reads.overdue, 1);
    let observing = other.session();
    assert!(!there(&observing, ada).await);
    observing.observe(session.position());
    assert!(there(&observing, ada).await);
    assert_eq!(observing.position(), session.position());
    // A place that this database has never reached is waited for once.
    let foreign = other.session_at("1-ffffffffffff".parse().unwrap());
    let overdue = other.status().reads.overdue;
    for _ in 0..3 {
        foreign.users().count().await.unwrap();
        resume(&cluster).await;
    }
    assert_eq!(other.status().reads.overdue, overdue + 1);
    assert!("nonsense".parse::<Position>().is_err());
}

#[tokio::test]
async fn a_replica_that_has_not_heard_of_the_tables_is_waited_for() {
    let cluster = Cluster::start(1, false).await;
    pause(&cluster).await;
    let builder = PgStore::builder(&cluster.node(0).url()).unwrap();
    let builder = builder.replica(&cluster.node(1).url()).unwrap();
    let builder = builder.replica_wait(Duration::from_secs(5));
    let store = builder.build().await.unwrap();
    store.migrate().await.unwrap();
    let session = store.session();
    let ada = user(&session, "Ada").await;
    // Others are answered by the primary.
    assert!(there(&store, ada).await);
    assert_eq!(store.status().reads.primary, 1);
    let (read, ()) = tokio::join!(there(&session, ada), resume(&cluster));
    assert!(read);
    let reads = store.status().reads;
    assert_eq!((reads.replicas, reads.primary), (1, 1));
}

#[tokio::test]
async fn transactions_on_a_session_are_remembered_when_they_are_committed() {
    let cluster = Cluster::start(1, false).await;
    let builder = with_replicas(&cluster).await.replica_wait(WAIT);
    let store = builder.build().await.unwrap();
    let session = store.session();
    pause(&cluster).await;
    let tx = session.begin(TxOptions::new()).await.unwrap();
    let ada = user_in(&tx, "Ada").await;
    assert!(tx.users().get(ada).await.unwrap().is_some());
    assert_eq!(session.position(), Position::default());
    tx.rollback().await.unwrap();
    drop(session.begin(TxOptions::new()).await.unwrap());
    assert_eq!(session.position(), Position::default());
    assert!(!there(&session, ada).await);
    assert_eq!(store.status().reads.primary, 0);
    let bob = session
        .transaction(|tx| async move {
            let bob = NewUser::new("Bob")?;
            tx.savepoint(|tx| async move { tx.users().register(&bob).await })
                .await
        })
        .await;
    assert!(there(&session, bob.unwrap().user().id).await);
    // Both ends of a second one: a closed transaction leaves the session as it is.
    let tx = session.begin(TxOptions::new()).await.unwrap();
    let again = tx.clone();
    let eve = user_in(&tx, "Eve").await;
    tx.commit().await.unwrap();
    let position = session.position();
    assert!(matches!(
        again.commit().await,
        Err(Error::TransactionClosed)
    ));
    assert_eq!(session.position(), position);
    assert!(there(&session, eve).await);
    assert_eq!(store.status().reads.overdue, 2);
}

async fn user_in(tx: &motorpool::Tx, name: &str) -> UserId {
    let new = NewUser::new(name).unwrap();
    tx.users().register(&new).await.unwrap().user().id
}

#[tokio::test]
async fn a_write_of_unknown_outcome_is_read_from_the_primary() {
    let cluster = Cluster::start(1, false).await;
    let builder = with_replicas(&cluster).await;
    let builder = builder.statement_timeout(Duration::from_millis(300));
    let store = builder
        .call_timeout(Duration::from_millis(200))
        .build()
        .await
        .unwrap();
    let session = store.session();
    let ada = user(&session, "Ada").await;
    pause(&cluster).await;
    // Somebody has the row, so the write waits until its time is over.
    let mut client = cluster.node(0).client().await;
    let lock = client.transaction().await.unwrap();
    let sql = "SELECT FROM users WHERE id = $1 FOR UPDATE";
    lock.execute(sql, &[&ada.get()]).await.unwrap();
    let missed = session.users().set_role(ada, Role::Student).await;
    let ended = Instant::now();
    assert!(matches!(missed, Err(Error::Timeout { .. })), "{missed:?}");
    drop(lock);
    // Written behind its back: it shows where a read comes from.
    let rename = "UPDATE users SET username = 'Ida'";
    client.execute(rename, &[]).await.unwrap();
    let name = async |store: &dyn Store| store.users().get(ada).await.unwrap().unwrap().username;
    assert_eq!(name(&session).await, "Ida");
    let other = store.session_at(session.position().to_string().parse().unwrap());
    assert_eq!(name(&other).await, "Ida");
    assert_eq!(name(&store).await, "Ada");
    let reads = store.status().reads;
    assert_eq!((reads.primary, reads.overdue), (2, 0));
    // The server's limit and 5 s later, the first read finds out where to go on from.
    resume(&cluster).await;
    while !session.position().to_string().ends_with("-1") {
        assert!(ended.elapsed() < Duration::from_secs(10));
        assert_eq!(name(&session).await, "Ida");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(ended.elapsed() > Duration::from_secs(5));
    let before = store.status().reads;
    assert_eq!(name(&session).await, "Ida");
    assert_eq!(store.status().reads.primary, before.primary + 1);
    assert_eq!(name(&session).await, "Ida");
    let after = store.status().reads;
    assert_eq!(after.primary, before.primary + 1);
    assert_eq!(after.replicas, before.replicas + 1);
}

#[tokio::test]
async fn a_dropped_write_is_one_of_unknown_outcome() {
    let cluster = Cluster::start(1, false).await;
    let store = with_replicas(&cluster).await.build().await.unwrap();
    let session = store.session();
    let ada = user(&session, "Ada").await;
    let none = session.position();
    let mut client = cluster.node(0).client().await;
    let lock = client.transaction().await.unwrap();
    lock.execute("LOCK TABLE users", &[]).await.unwrap();
    let write = session.users().set_role(ada, Role::Student);
    let dropped = tokio::time::timeout(Duration::from_millis(100), write).await;
    assert!(dropped.is_err());
    lock.rollback().await.unwrap();
    assert_ne!(session.position(), none);
    let before = store.status().reads;
    assert!(there(&session, ada).await);
    assert_eq!(store.status().reads.primary, before.primary + 1);
}

#[tokio::test]
async fn neither_a_write_nor_a_read_costs_a_round_trip_more() {
    let cluster = Cluster::start(1, false).await;
    drop(with_replicas(&cluster).await);
    let primary = Relay::start(&cluster.node(0).url()).await;
    let replica = Relay::start(&cluster.node(1).url()).await;
    let builder = PgStore::builder(&primary.url()).unwrap();
    let builder = builder.replica(&replica.url()).unwrap();
    let store = builder.replica_wait(Duration::from_secs(10));
    let store = store.max_connections(1).build().await.unwrap();
    let session = store.session();
    // The relay sees the looks as well, on connections of their own: until none came between.
    let flights = async |relay: &Relay,
                         run: &dyn Fn() -> futures_util::future::BoxFuture<'static, ()>,
                         wanted: &[&str]| {
        let mut seen = Vec::new();
        for _ in 0..20 {
            relay.flights();
            run().await;
            seen = relay.flights();
            if seen == wanted {
                return;
            }
        }
        panic!("{seen:?}, not {wanted:?}");
    };
    let ada = user(&session, "Ada").await;
    user(&session, "Ada").await;
    let clone = session.clone();
    let write = move || -> futures_util::future::BoxFuture<'static, ()> {
        let session = clone.clone();
        Box::pin(async move {
            let role = session.users().set_role(ada, Role::Student);
            role.await.unwrap();
        })
    };
    // Both are bound, executed and answered together.
    flights(&primary, &write, &["BESBES"]).await;
    let (clone, origin) = (session.clone(), store.clone());
    let read = move || -> futures_util::future::BoxFuture<'static, ()> {
        let (session, _store) = (clone.clone(), origin.clone());
        Box::pin(async move { assert!(there(&session, ada).await) })
    };
    assert!(there(&session, ada).await);
    // Known to be far enough: nothing is asked.
    flights(&replica, &read, &["BES"]).await;
    // Unknown: asked in front of the read. The write itself goes elsewhere.
    let clone = session.clone();
    let cluster = &cluster;
    let mut asked = false;
    for _ in 0..50 {
        let role = clone.users().set_role(ada, Role::Teacher).await;
        role.unwrap();
        replicated(cluster).await;
        replica.flights();
        assert!(there(&clone, ada).await);
        asked |= replica.flights() == ["BESBES"];
    }
    assert!(asked);
    // Behind COMMIT.
    let tx = session.begin(TxOptions::new()).await.unwrap();
    user_in(&tx, "Bob").await;
    primary.flights();
    tx.commit().await.unwrap();
    let commit = primary.flights();
    assert!(commit[0].starts_with("QQ"), "{commit:?}");
    assert_eq!(store.status().reads.primary, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_at_once_read_what_each_has_written() {
    let cluster = Cluster::start(2, false).await;
    let store = with_replicas(&cluster).await.build().await.unwrap();
    let work = (0..64).map(|number| {
        let session = store.session();
        tokio::spawn(async move {
            let id = user(&session, &format!("user {number}")).await;
            for round in 1..=10 {
                car(&session, "Golf", id).await;
                assert_eq!(session.cars().owned_by(id).await.unwrap().len(), round);
            }
        })
    });
    for done in join_all(work).await {
        done.unwrap();
    }
    let status = store.status();
    // Writes of different sessions went together, and shared the question.
    assert!(status.batched.calls > 0, "{status:?}");
    assert!(status.reads.replicas > 0, "{status:?}");
    assert_eq!(store.close().await, 0);
}

#[tokio::test]
async fn a_session_of_a_store_without_replicas_asks_nothing() {
    let cluster = Cluster::start(0, false).await;
    drop(with_replicas(&cluster).await);
    let relay = Relay::start(&cluster.node(0).url()).await;
    let builder = PgStore::builder(&relay.url()).unwrap().max_connections(1);
    let store = builder.build().await.unwrap();
    let session = store.session();
    let ada = user(&session, "Ada").await;
    user(&session, "Ada").await;
    relay.flights();
    user(&session, "Ada").await;
    assert_eq!(relay.flights(), ["BES"]);
    assert!(there(&session, ada).await);
    assert_eq!(session.position(), Position::default());
    let position: Position = "1-10".parse().unwrap();
    session.observe(position);
    assert_eq!(session.position(), position);
    assert!(there(&session, ada).await);
    let tx = session.begin(TxOptions::new()).await.unwrap();
    tx.commit().await.unwrap();
    fn shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    shared(&session);
}
