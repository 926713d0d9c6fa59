//! The server is killed while tasks write: nothing that was acknowledged is lost, nothing is there
//! twice, and the store is back as soon as the server is.
//!
//! The full number of kills: `cargo test --all-features --test crash -- --ignored --nocapture`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/busy.rs"]
mod busy;
#[path = "support/quick.rs"]
mod quick;
mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use motorpool::{Batching, NewCar, NewUser, PgStore, PurchaseKey, Result, Store, StoreExt, UserId};
use support::server::{Options, Server};
use tokio::task::block_in_place;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

const WRITERS: u64 = 8;

/// How long the store may take once the server accepts connections again.
const BACK: Duration = Duration::from_secs(2);

/// The pause of a service before it tries again.
const PAUSE: Duration = Duration::from_millis(20);

struct Shared {
    store: PgStore,
    stop: AtomicBool,
    started: Instant,
    /// When the first call since the kill ended well, in nanoseconds; 0: none has.
    first: AtomicU64,
    acknowledged: AtomicU64,
    failed: AtomicU64,
}

/// What a writer tried and what was acknowledged. A number is a user's name, a purchase's key, or
/// both of them in one transaction, by turns.
#[derive(Debug, Default)]
struct Log {
    names: Vec<String>,
    keys: Vec<Uuid>,
    /// Written together.
    pairs: Vec<(String, Uuid)>,
    /// Tried, with an error as its last answer.
    open: Option<u64>,
}

fn name(writer: u64, number: u64) -> String {
    format!("writer {writer}, user {number}")
}

fn key(writer: u64, number: u64) -> Uuid {
    Uuid::from_u64_pair(writer, number)
}

async fn write(store: &PgStore, owner: UserId, writer: u64, number: u64) -> Result<()> {
    let user = NewUser::new(name(writer, number))?;
    let key = PurchaseKey::new(key(writer, number));
    match number % 3 {
        0 => store.users().register(&user).await.map(drop),
        1 => {
            let car = NewCar::new("Golf", owner)?.key(key);
            store.cars().buy(&car).await.map(drop)
        }
        _ => {
            let user = &user;
            let run = store.transaction(|tx| async move {
                let owner = tx.users().register(user).await?.into_user().id;
                let car = NewCar::new("Polo", owner)?.key(key);
                tx.cars().buy(&car).await.map(drop)
            });
            run.await
        }
    }
}

/// Writes until it is told to stop. What failed is tried again with the same name and key.
async fn writer(shared: Arc<Shared>, owner: UserId, writer: u64) -> Log {
    let mut log = Log::default();
    for number in 0.. {
        loop {
            if shared.stop.load(SeqCst) {
                return log;
            }
            let written = write(&shared.store, owner, writer, number).await;
            if written.is_ok() {
                break;
            }
            log.open = Some(number);
            shared.failed.fetch_add(1, SeqCst);
            tokio::time::sleep(PAUSE).await;
        }
        let now = u64::try_from(shared.started.elapsed().as_nanos()).unwrap();
        let _ = shared.first.compare_exchange(0, now, SeqCst, SeqCst);
        shared.acknowledged.fetch_add(1, SeqCst);
        log.open = None;
        let (name, key) = (name(writer, number), key(writer, number));
        match number % 3 {
            0 => log.names.push(name),
            1 => log.keys.push(key),
            _ => log.pairs.push((name, key)),
        }
    }
    log
}

async fn connect(url: &str) -> Client {
    let started = Instant::now();
    loop {
        if let Ok((client, connection)) = tokio_postgres::connect(url, NoTls).await {
            tokio::spawn(connection);
            return client;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "no connection");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// How long after the server the store was back.
async fn kill(server: &Mutex<Server>, shared: &Shared, url: &str) -> Duration {
    block_in_place(|| server.lock().unwrap().kill().unwrap());
    // Answers from before the kill are counted before this.
    tokio::time::sleep(Duration::from_millis(50)).await;
    shared.first.store(0, SeqCst);
    block_in_place(|| server.lock().unwrap().start_again().unwrap());
    connect(url).await;
    let accepting = shared.started.elapsed();
    loop {
        let first = Duration::from_nanos(shared.first.load(SeqCst));
        if !first.is_zero() {
            return first.saturating_sub(accepting);
        }
        let waited = shared.started.elapsed() - accepting;
        assert!(waited < Duration::from_secs(30), "the store is not back");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn crash(kills: u32, batching: Batching) {
    let options = Options {
        fsync: true,
        ..Options::default()
    };
    let server = Mutex::new(block_in_place(|| Server::start(options)).unwrap());
    let url = server.lock().unwrap().url("postgres");
    let url = quick::user(&url).await;
    let builder = PgStore::builder(&url).unwrap().max_connections(8);
    let builder = builder.batching(batching);
    let store = builder.build().await.unwrap();
    store.migrate().await.unwrap();
    let owner = NewUser::new("owner").unwrap();
    let owner = store.users().register(&owner).await.unwrap().user().id;
    let shared = Arc::new(Shared {
        store,
        stop: AtomicBool::new(false),
        started: Instant::now(),
        first: AtomicU64::new(0),
        acknowledged: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    });
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| tokio::spawn(writer(Arc::clone(&shared), owner, number)))
        .collect();
    let mut longest = Duration::ZERO;
    for number in 0..kills {
        // In the midst of their work.
        let enough = shared.acknowledged.load(SeqCst) + 50;
        let waited = Instant::now();
        while shared.acknowledged.load(SeqCst) < enough {
            assert!(waited.elapsed() < BACK * 10, "nothing is written");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(u64::from(number * 37 % 200))).await;
        let back = kill(&server, &shared, &url).await;
        longest = longest.max(back);
        assert!(back < BACK, "back {back:?} after the server");
    }
    shared.stop.store(true, SeqCst);
    let mut logs = Vec::new();
    for writer in writers {
        logs.push(writer.await.expect("no writer panics"));
    }
    let (acknowledged, failed) = (&shared.acknowledged, &shared.failed);
    println!("{kills} kills: {acknowledged:?} acknowledged, {failed:?} failed, back {longest:?}");
    let batched = shared.store.status().batched;
    println!("{batched:?}");
    assert!(batching == Batching::Off || batched.calls > 0);
    assert!(failed.load(SeqCst) > 0, "no call met a crash");
    verify(&connect(&url).await, &logs).await;
}

/// Compares what the tables hold with what was acknowledged.
async fn verify(client: &Client, logs: &[Log]) {
    let rows = client
        .query("SELECT username FROM users", &[])
        .await
        .unwrap();
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let sql = "SELECT purchase_key FROM cars";
    let rows = client.query(sql, &[]).await.unwrap();
    let keys: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    let stored_names: HashSet<&String> = names.iter().collect();
    let stored_keys: HashSet<&Uuid> = keys.iter().collect();
    assert_eq!(stored_names.len(), names.len(), "a user is there twice");
    assert_eq!(stored_keys.len(), keys.len(), "a car is there twice");

    let (mut lost, mut users, mut cars) = (0, 1, 0);
    for (writer, log) in (0..).zip(logs) {
        let pairs = log.pairs.iter();
        let (pair_names, pair_keys): (Vec<_>, Vec<_>) = pairs.map(|(n, k)| (n, k)).unzip();
        let acknowledged_names = log.names.iter().chain(pair_names);
        let acknowledged_keys = log.keys.iter().chain(pair_keys);
        for name in acknowledged_names {
            users += 1;
            lost += usize::from(!stored_names.contains(name));
        }
        for key in acknowledged_keys {
            cars += 1;
            lost += usize::from(!stored_keys.contains(key));
        }
        // Of what had no good answer, all is there or nothing.
        if let Some(open) = log.open {
            let user = stored_names.contains(&name(writer, open));
            let car = stored_keys.contains(&key(writer, open));
            assert!(open % 3 != 2 || user == car, "half of a transaction");
            users += usize::from(user);
            cars += usize::from(car);
        }
    }
    assert_eq!(lost, 0, "acknowledged rows are lost");
    // And nothing is there that nobody wrote.
    assert_eq!((names.len(), keys.len()), (users, cars));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing() {
    crash(3, Batching::Off).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_while_it_stores_batches_loses_nothing() {
    crash(4, busy::tiny()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long"]
async fn a_server_killed_50_times_loses_nothing() {
    crash(25, Batching::default()).await;
    crash(25, busy::tiny()).await;
}
