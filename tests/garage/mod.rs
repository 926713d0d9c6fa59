//! A store on a cluster, and what is waited for there.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use motorpool::{
    CarId, NewCar, NewUser, OutOfRotation, PgStore, PgStoreBuilder, ReplicaStatus, Store, UserId,
};
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, Node};

const PATIENCE: Duration = Duration::from_secs(30);

/// A store on the primary, yet to be built, with all standbys as its replicas. The primary is
/// migrated.
pub async fn with_replicas(cluster: &Cluster) -> PgStoreBuilder {
    let store = PgStore::connect(&cluster.node(0).url()).await.unwrap();
    store.migrate().await.unwrap();
    store.close().await;
    replicated(cluster).await;
    let builder = PgStore::builder(&cluster.node(0).url()).unwrap();
    let replicas = cluster.nodes()[1..].iter();
    replicas.fold(builder, |builder, node| {
        builder.replica(&node.url()).unwrap()
    })
}

pub async fn user(store: &dyn Store, name: &str) -> UserId {
    let new = NewUser::new(name).unwrap();
    store.users().register(&new).await.unwrap().user().id
}

pub async fn car(store: &dyn Store, model: &str, owner: UserId) -> CarId {
    let new = NewCar::new(model, owner).unwrap();
    store.cars().buy(&new).await.unwrap().id
}

/// Waits until every standby that runs has replayed what the primary has written up to now.
pub async fn replicated(cluster: &Cluster) {
    let client = cluster.node(0).client().await;
    let row = client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]);
    let lsn: String = row.await.unwrap().get(0);
    for node in &cluster.nodes()[1..] {
        if node.server().pid().is_some() {
            replayed(node, &lsn).await;
        }
    }
}

async fn replayed(node: &Node, lsn: &str) {
    let client = node.client().await;
    let sql = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
    let started = Instant::now();
    while !client
        .query_one(sql, &[&lsn])
        .await
        .unwrap()
        .get::<_, bool>(0)
    {
        assert!(started.elapsed() < PATIENCE, "it does not catch up");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub async fn waited_for(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until a replica is out of the rotation for this reason.
pub async fn is_out(store: &PgStore, number: usize, reason: OutOfRotation) -> ReplicaStatus {
    let out = || store.status().replicas[number].out;
    waited_for(&format!("{reason:?}"), || out() == Some(reason)).await;
    store.status().replicas[number]
}

/// Waits until a replica is in the rotation.
pub async fn is_back(store: &PgStore, number: usize) {
    let out = || store.status().replicas[number].out;
    waited_for("it is back", || out().is_none()).await;
}

/// Tasks that read the same user again and again, and get it each time.
pub struct Readers {
    tasks: Vec<JoinHandle<Duration>>,
    stop: Arc<AtomicBool>,
    /// Of each one.
    done: Vec<Arc<AtomicU64>>,
}

impl Readers {
    pub fn start(store: &PgStore, id: UserId, number: usize) -> Readers {
        let stop = Arc::<AtomicBool>::default();
        let done: Vec<_> = (0..number).map(|_| Arc::<AtomicU64>::default()).collect();
        let tasks = done.iter().map(|done| {
            let (store, stop, done) = (store.clone(), Arc::clone(&stop), Arc::clone(done));
            tokio::spawn(async move {
                let mut slowest = Duration::ZERO;
                while !stop.load(SeqCst) {
                    let started = Instant::now();
                    let found = store.users().get(id).await;
                    assert!(found.expect("no error").is_some());
                    slowest = slowest.max(started.elapsed());
                    done.fetch_add(1, SeqCst);
                }
                slowest
            })
        });
        Readers {
            tasks: tasks.collect(),
            stop,
            done,
        }
    }

    /// Waits until each has done a good number of reads more.
    pub async fn go_on(&self) {
        let done = || self.done.iter().map(|done| done.load(SeqCst));
        let enough: Vec<u64> = done().map(|done| done + 30).collect();
        let all = || done().zip(&enough).all(|(done, enough)| done >= *enough);
        waited_for("readers read", all).await;
    }

    /// Gives the time of the slowest read.
    pub async fn stop(self) -> Duration {
        self.stop.store(true, SeqCst);
        let mut slowest = Duration::ZERO;
        for task in self.tasks {
            slowest = slowest.max(task.await.expect("no read failed"));
        }
        slowest
    }
}
