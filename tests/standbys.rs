//! Stores that want a certain kind of server, on a cluster: they find it, stay with it as long as it
//! is of that kind, and leave it when it is not any more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/cluster.rs"]
mod cluster;

use std::collections::BTreeMap;

use cluster::{Cluster, Node, url};
use futures_util::future::join_all;
use motorpool::{
    Error, IsolationLevel, NewUser, PgStore, Store, TxOptions, UnavailableReason, UserId,
};

const CONNECTIONS: usize = 3;

async fn connect(url: &str) -> PgStore {
    let builder = PgStore::builder(url).unwrap();
    builder.max_connections(CONNECTIONS).build().await.unwrap()
}

fn read_only() -> TxOptions {
    TxOptions::new().read_only(true)
}

/// Uses all connections that the store can have, at once.
async fn use_all(store: &PgStore) {
    let all = join_all((0..CONNECTIONS).map(|_| store.begin(read_only()))).await;
    for tx in all {
        tx.unwrap().rollback().await.unwrap();
    }
}

/// To how many connections each node is the other end, by port.
async fn places(store: &PgStore, number: usize) -> BTreeMap<u16, usize> {
    let all = join_all((0..number).map(|_| store.pool().get())).await;
    let mut places = BTreeMap::new();
    for client in all {
        let sql = "SELECT inet_server_port()";
        let row = client.unwrap().query_one(sql, &[]).await.unwrap();
        let port: i32 = row.get(0);
        *places.entry(port.try_into().unwrap()).or_default() += 1;
    }
    places
}

async fn only_at(store: &PgStore, node: &Node) {
    let expected = BTreeMap::from([(node.port(), CONNECTIONS)]);
    assert_eq!(places(store, CONNECTIONS).await, expected);
}

/// Ends one of the store's connections while it is in use, so that the others are suspected.
async fn scare(store: &PgStore, node: &Node) {
    let tx = store.begin(read_only()).await.unwrap();
    tx.users().count().await.unwrap();
    let sql = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity \
               WHERE application_name = 'motorpool' AND state = 'idle in transaction'";
    let ended = node.client().await.query_one(sql, &[]).await.unwrap();
    assert_eq!(ended.get::<_, i64>(0), 1);
    let answer = tx.users().count().await;
    assert!(
        matches!(answer, Err(Error::Unavailable { .. })),
        "{answer:?}"
    );
}

async fn migrate(cluster: &Cluster) {
    let store = connect(&cluster.node(0).url()).await;
    store.migrate().await.unwrap();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_the_wanted_kind_stay_after_another_one_was_lost() {
    let cluster = Cluster::start(1, false).await;
    migrate(&cluster).await;
    let [primary, standby] = [0, 1].map(|number| cluster.node(number));
    primary.has_replayed(standby).await;
    for (wanted, node) in [
        ("read-write", primary),
        ("primary", primary),
        ("read-only", standby),
        ("standby", standby),
        ("prefer-standby", standby),
    ] {
        let store = connect(&cluster.url(&format!("target_session_attrs={wanted}"))).await;
        stay(&store, node).await;
    }
    for node in cluster.nodes() {
        stay(&connect(&node.url()).await, node).await;
    }

    refuse_transactions(standby).await;

    // One that is for reading says so, and the others of its kind need not go for it.
    let store = connect(&cluster.url("target_session_attrs=standby")).await;
    use_all(&store).await;
    let answer = store.users().register(&NewUser::new("Anna").unwrap()).await;
    let reason = UnavailableReason::ReadOnly;
    assert!(
        matches!(&answer, Err(Error::Unavailable { reason: found, .. }) if *found == reason),
        "{answer:?}"
    );
    use_all(&store).await;
    let discarded = store.status().discarded;
    assert_eq!((discarded.read_only, discarded.unanswered), (1, 0));
}

/// A transaction that may write cannot be begun on a standby, whatever its first statement is, and
/// its connection leaves the pool.
async fn refuse_transactions(standby: &Node) {
    let store = connect(&standby.url()).await;
    let mut refused = 0;
    for isolation in [
        IsolationLevel::ReadCommitted,
        IsolationLevel::RepeatableRead,
        IsolationLevel::Serializable,
    ] {
        for first in ["read", "write", "write that waits", "savepoint"] {
            let options = TxOptions::new().isolation(isolation);
            let tx = store.begin(options).await.unwrap();
            let answer = match first {
                "read" => tx.users().count().await.map(drop),
                "write" => {
                    let anna = NewUser::new("Anna").unwrap();
                    tx.users().register(&anna).await.map(drop)
                }
                "write that waits" => tx.users().delete(UserId::new(1)).await.map(drop),
                _ => tx.savepoint(async |_| Ok::<_, Error>(())).await,
            };
            let reason = UnavailableReason::ReadOnly;
            assert!(
                matches!(&answer, Err(Error::Unavailable { reason: found, .. }) if *found == reason),
                "{isolation:?}, {first}: {answer:?}"
            );
            let end = tx.commit().await;
            assert!(matches!(end, Err(Error::RolledBack(_))), "{end:?}");
            refused += 1;
            assert_eq!(store.status().discarded.read_only, refused);
        }
    }
    // What the caller made so is the caller's own doing.
    let options = read_only().isolation(IsolationLevel::Serializable);
    let tx = store.begin(options).await.unwrap();
    let answer = tx.users().count().await.unwrap_err();
    assert_eq!(answer.sqlstate(), Some("0A000"), "{answer:?}");
    tx.rollback().await.unwrap();
    use_all(&store).await;
    let discarded = store.status().discarded;
    assert_eq!((discarded.read_only, discarded.lost), (refused, 0));
    store.close().await;
}

async fn stay(store: &PgStore, node: &Node) {
    use_all(store).await;
    only_at(store, node).await;
    scare(store, node).await;
    use_all(store).await;
    let discarded = store.status().discarded;
    assert_eq!((discarded.lost, discarded.unanswered), (1, 0));
    only_at(store, node).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_was_promoted_is_left_for_another_one() {
    let cluster = Cluster::start(2, false).await;
    migrate(&cluster).await;
    let [first, second, third] = [0, 1, 2].map(|number| cluster.node(number));
    first.has_replayed(second).await;
    first.has_replayed(third).await;
    let mut stores = Vec::new();
    for (wanted, then) in [
        ("standby", vec![(third, 3)]),
        ("read-only", vec![(third, 3)]),
        // It stays where it is, and prefers the standby for the connection that was lost.
        ("prefer-standby", vec![(second, 2), (third, 1)]),
    ] {
        let store = connect(&cluster.url(&format!("target_session_attrs={wanted}"))).await;
        use_all(&store).await;
        only_at(&store, second).await;
        stores.push((store, then));
    }
    first.kill9();
    third.follow(second).await;
    second.promote().await;
    for (store, then) in stores {
        scare(&store, second).await;
        use_all(&store).await;
        let then = then.into_iter().map(|(node, number)| (node.port(), number));
        assert_eq!(places(&store, CONNECTIONS).await, then.collect());
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standbys_are_balanced_and_stand_in_for_each_other() {
    const MANY: usize = 40;
    let cluster = Cluster::start(2, false).await;
    let [primary, second, third] = [0, 1, 2].map(|number| cluster.node(number));
    let new = async |keys: &str| {
        let builder = PgStore::builder(&cluster.url(keys)).unwrap();
        builder.max_connections(MANY).build().await.unwrap()
    };
    let standby = new("target_session_attrs=standby&load_balance_hosts=random").await;
    let any = new("load_balance_hosts=random").await;
    // By chance less than once in 10^6 runs, one is left out.
    let found: Vec<u16> = places(&standby, MANY).await.into_keys().collect();
    let mut both = vec![second.port(), third.port()];
    both.sort();
    assert_eq!(found, both);
    assert_eq!(places(&any, MANY).await.len(), 3);
    any.close().await;

    let prefer = new("target_session_attrs=prefer-standby").await;
    let at = async |store: &PgStore| {
        // On connections that are new.
        store.pool().retain(|_, _| false);
        places(store, CONNECTIONS).await
    };
    assert_eq!(at(&prefer).await, BTreeMap::from([(second.port(), 3)]));
    second.kill9();
    assert_eq!(at(&standby).await, BTreeMap::from([(third.port(), 3)]));
    assert_eq!(at(&prefer).await, BTreeMap::from([(third.port(), 3)]));
    third.kill9();
    assert_eq!(at(&prefer).await, BTreeMap::from([(primary.port(), 3)]));
    standby.pool().retain(|_, _| false);
    let error = standby.ping().await.expect_err("no standby is left");
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    second.start_again();
    assert_eq!(at(&standby).await, BTreeMap::from([(second.port(), 3)]));
    assert_eq!(at(&prefer).await, BTreeMap::from([(second.port(), 3)]));
    // A URL of this one alone may want anything that it is.
    connect(&url(&[second], "target_session_attrs=prefer-standby")).await;
}
