//! Tasks that write as a service does, and what was acknowledged to them.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use motorpool::{NewCar, NewUser, PgStore, PurchaseKey, Result, Store, UserId};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use uuid::Uuid;

const WRITERS: usize = 8;

/// The pause of a service before it tries again.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writers over one store.
pub(crate) struct Service {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<Log>>,
}

struct Shared {
    store: PgStore,
    stop: AtomicBool,
    /// When the first write since [`Service::expect_writes`] was acknowledged.
    first: Mutex<Option<Instant>>,
    /// For each writer.
    acknowledged: [AtomicU64; WRITERS],
    failed: AtomicU64,
    longest: Mutex<Duration>,
}

/// What was acknowledged to a writer, with the ids that it was told.
#[derive(Default)]
struct Log {
    users: Vec<(String, i64)>,
    cars: Vec<(Uuid, i64)>,
    /// Tried, with an error as its last answer.
    open: Option<u64>,
}

/// What the writers met, once they have ended.
pub(crate) struct Outcome {
    logs: Vec<Log>,
    pub(crate) acknowledged: u64,
    pub(crate) failed: u64,
    /// The slowest call, whatever its answer was.
    pub(crate) longest: Duration,
}

/// How the tables differ from what was acknowledged.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Acknowledged, and not there with this id.
    lost: usize,
    /// There more than once.
    doubled: usize,
    /// There without anybody having tried to write it.
    invented: usize,
}

fn name(writer: usize, number: u64) -> String {
    format!("writer {writer}, user {number}")
}

fn key(writer: usize, number: u64) -> Uuid {
    Uuid::from_u64_pair(writer as u64, number)
}

impl Service {
    pub(crate) async fn start(store: PgStore) -> Service {
        let owner = NewUser::new("owner").unwrap();
        let owner = store.users().register(&owner).await.unwrap().user().id;
        let shared = Arc::new(Shared {
            store,
            stop: AtomicBool::new(false),
            first: Mutex::new(None),
            acknowledged: Default::default(),
            failed: AtomicU64::new(0),
            longest: Mutex::default(),
        });
        let writer = |writer| tokio::spawn(write(Arc::clone(&shared), owner, writer));
        Service {
            writers: (0..WRITERS).map(writer).collect(),
            shared,
        }
    }

    /// Waits until they are in the midst of their work.
    pub(crate) async fn busy(&self) {
        let enough = self.shared.acknowledged() + 50;
        until(|| self.shared.acknowledged() >= enough).await;
    }

    /// From now on, a write is waited for.
    pub(crate) fn expect_writes(&self) {
        *self.shared.first.lock().unwrap() = None;
    }

    /// When the first write since then was acknowledged.
    pub(crate) async fn written_by_one(&self) -> Instant {
        let first = || *self.shared.first.lock().unwrap();
        until(|| first().is_some()).await;
        first().unwrap()
    }

    /// Waits until each of them has written twice, so that nobody waits for anything older.
    pub(crate) async fn written_by_all(&self) {
        let now = || (self.shared.acknowledged.each_ref()).map(|count| count.load(SeqCst));
        let before = now();
        until(|| {
            now()
                .iter()
                .zip(before)
                .all(|(now, before)| *now >= before + 2)
        })
        .await;
    }

    pub(crate) async fn stop(self) -> Outcome {
        self.shared.stop.store(true, SeqCst);
        let mut logs = Vec::new();
        for writer in self.writers {
            logs.push(writer.await.expect("no writer panics"));
        }
        Outcome {
            logs,
            acknowledged: self.shared.acknowledged(),
            failed: self.shared.failed.load(SeqCst),
            longest: *self.shared.longest.lock().unwrap(),
        }
    }
}

async fn until(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "nothing is written");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl Shared {
    fn acknowledged(&self) -> u64 {
        let counts = self.acknowledged.iter();
        counts.map(|count| count.load(SeqCst)).sum()
    }

    /// Users and cars by turns. Gives the id.
    async fn call(&self, owner: UserId, writer: usize, number: u64) -> Result<i64> {
        let store = &self.store;
        if number.is_multiple_of(2) {
            let user = NewUser::new(name(writer, number))?;
            let registered = store.users().register(&user).await?;
            return Ok(registered.user().id.get());
        }
        let key = PurchaseKey::new(key(writer, number));
        let car = NewCar::new("Golf", owner)?.key(key);
        Ok(store.cars().buy(&car).await?.id.get())
    }
}

/// Writes until it is told to stop. What failed is tried again with the same name or key, whether
/// it is known to have failed or not.
async fn write(shared: Arc<Shared>, owner: UserId, writer: usize) -> Log {
    let mut log = Log::default();
    for number in 0.. {
        let id = loop {
            if shared.stop.load(SeqCst) {
                return log;
            }
            let started = Instant::now();
            let written = shared.call(owner, writer, number).await;
            let took = started.elapsed();
            {
                let mut longest = shared.longest.lock().unwrap();
                *longest = longest.max(took);
            }
            match written {
                Ok(id) => break id,
                Err(_) => {
                    log.open = Some(number);
                    shared.failed.fetch_add(1, SeqCst);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        shared
            .first
            .lock()
            .unwrap()
            .get_or_insert_with(Instant::now);
        shared.acknowledged[writer].fetch_add(1, SeqCst);
        log.open = None;
        match number.is_multiple_of(2) {
            true => log.users.push((name(writer, number), id)),
            false => log.cars.push((key(writer, number), id)),
        }
    }
    log
}

impl Outcome {
    /// Compares what the tables hold with what was acknowledged.
    pub(crate) async fn compare(&self, client: &Client) -> Found {
        let rows = client
            .query(
                "SELECT username, id FROM users WHERE username <> 'owner'",
                &[],
            )
            .await
            .unwrap();
        let mut users: Vec<(String, i64)> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
        let rows = client.query("SELECT purchase_key, id FROM cars", &[]).await;
        let rows = rows.unwrap();
        let mut cars: Vec<(Uuid, i64)> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
        let logs = || (0..).zip(&self.logs);
        let open = |of: u64| {
            logs().filter_map(move |(writer, log)| {
                let number = log.open.filter(|number| number % 2 == of)?;
                Some((writer, number))
            })
        };
        let open_users = open(0).map(|(writer, number)| name(writer, number));
        let open_cars = open(1).map(|(writer, number)| key(writer, number));
        let mut found = Found::default();
        let told = logs().flat_map(|(_, log)| log.users.iter().cloned());
        found.add(&mut users, told, open_users);
        let told = logs().flat_map(|(_, log)| log.cars.iter().copied());
        found.add(&mut cars, told, open_cars);
        found
    }
}

impl Found {
    fn add<K: Eq + Hash>(
        &mut self,
        stored: &mut Vec<(K, i64)>,
        told: impl Iterator<Item = (K, i64)>,
        open: impl Iterator<Item = K>,
    ) {
        let rows = stored.len();
        let mut by_key: HashMap<K, i64> = stored.drain(..).collect();
        self.doubled += rows - by_key.len();
        for (key, id) in told {
            self.lost += usize::from(by_key.remove(&key) != Some(id));
        }
        // It may be there or not.
        for key in open {
            by_key.remove(&key);
        }
        self.invented += by_key.len();
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (acknowledged, failed) = (self.acknowledged, self.failed);
        let longest = self.longest;
        write!(
            f,
            "{acknowledged} acknowledged, {failed} failed, the slowest call {longest:?}"
        )
    }
}
