//! Random histories of several sessions while the replicas stand still, go on and fall behind: no
//! session ever reads anything older than its own last write. And the share of reads that leave the
//! primary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/cluster.rs"]
mod cluster;
mod garage;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use cluster::Cluster;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use garage::{car, replicated, user, with_replicas};
use motorpool::{CarId, PageRequest, Role, Session, Store, StoreExt, UserId};

const SESSIONS: usize = 8;

/// Numbers that nobody can foresee.
struct Random {
    hasher: RandomState,
    drawn: u64,
}

impl Random {
    fn new() -> Random {
        Random {
            hasher: RandomState::new(),
            drawn: 0,
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.drawn += 1;
        self.hasher.hash_one(self.drawn) % end
    }
}

/// What a session has written, to compare with what it reads.
struct Writer {
    session: Session,
    id: UserId,
    name: String,
    role: Role,
    cars: Vec<(CarId, String)>,
    random: Random,
}

impl Writer {
    async fn new(session: Session, number: usize) -> Writer {
        let name = format!("writer {number}");
        let id = user(&session, &name).await;
        Writer {
            session,
            id,
            name,
            role: Role::Employee,
            cars: Vec::new(),
            random: Random::new(),
        }
    }

    async fn write(&mut self) {
        let drawn = self.random.below(1 << 32);
        let (users, cars) = (self.session.users(), self.session.cars());
        match drawn % 5 {
            0 => {
                self.role = [Role::Student, Role::Teacher, Role::Employee][drawn as usize % 3];
                users.set_role(self.id, self.role).await.unwrap();
            }
            1 => {
                self.name = format!("{} {drawn}", self.id);
                users.rename(self.id, &self.name).await.unwrap();
            }
            2 if self.cars.len() > 3 => {
                let (car, _) = self.cars.remove(drawn as usize % self.cars.len());
                assert!(cars.delete(car).await.unwrap());
            }
            3 => {
                let (id, model) = (self.id, format!("in a transaction {drawn}"));
                let model = &model;
                let bought = self.session.transaction(|tx| async move {
                    tx.cars()
                        .buy(&motorpool::NewCar::new(model.as_str(), id)?)
                        .await
                });
                let bought: motorpool::Car = bought
                    .await
                    .unwrap_or_else(|error: motorpool::Error| panic!("{error}"));
                self.cars.push((bought.id, model.clone()));
            }
            _ => {
                let model = format!("car {drawn}");
                let bought = car(&self.session, &model, self.id).await;
                self.cars.push((bought, model));
            }
        }
    }

    async fn read(&mut self) {
        let (users, cars) = (self.session.users(), self.session.cars());
        let same = |read: motorpool::User| {
            assert_eq!((read.username, read.role), (self.name.clone(), self.role));
        };
        match self.random.below(6) {
            0 => same(users.get(self.id).await.unwrap().unwrap()),
            1 => same(users.get_by_username(&self.name).await.unwrap().unwrap()),
            2 => same(users.get_many(&[self.id]).await.unwrap().remove(0)),
            3 => self.same_cars(cars.owned_by(self.id).await.unwrap()),
            4 => {
                let page = PageRequest::first(1000).unwrap();
                self.same_cars(cars.list_owned_by(self.id, page).await.unwrap().items);
            }
            _ => {
                let all: Vec<_> = users.stream().try_collect().await.unwrap();
                same(all.into_iter().find(|user| user.id == self.id).unwrap());
            }
        }
    }

    fn same_cars(&self, read: Vec<motorpool::Car>) {
        let read: Vec<_> = read.into_iter().map(|car| (car.id, car.model)).collect();
        assert_eq!(read, self.cars);
    }
}

async fn histories(steps: usize) {
    let cluster = Cluster::start(2, false).await;
    let builder = with_replicas(&cluster).await;
    let builder = builder.replica_wait(Duration::from_millis(20));
    let store = builder.build().await.unwrap();
    let stop = AtomicBool::new(false);
    let standing_still = async {
        let mut random = Random::new();
        let mut pauses = 0;
        while !stop.load(SeqCst) {
            // One of them, or both, so that there is none left to go to.
            let nodes = match random.below(3) {
                0 if pauses > 0 => &cluster.nodes()[1..2],
                1 if pauses > 0 => &cluster.nodes()[2..3],
                _ => &cluster.nodes()[1..3],
            };
            for node in nodes {
                node.pause_replay().await;
            }
            // For how long is what is tried out.
            tokio::time::sleep(Duration::from_millis(20 + random.below(130))).await;
            for node in nodes {
                node.resume_replay().await;
            }
            pauses += 1;
            tokio::time::sleep(Duration::from_millis(random.below(60))).await;
        }
        pauses
    };
    let writers = (0..SESSIONS).map(|number| {
        let session = store.session();
        tokio::spawn(async move {
            let mut writer = Writer::new(session, number).await;
            for _ in 0..steps / SESSIONS {
                match writer.random.below(3) {
                    0 => writer.write().await,
                    _ => writer.read().await,
                }
            }
        })
    });
    let work = async {
        let done = join_all(writers).await;
        stop.store(true, SeqCst);
        done
    };
    let (pauses, done) = tokio::join!(standing_still, work);
    for done in done {
        done.expect("no session read anything old");
    }
    let status = store.status();
    println!(
        "{steps} reads and writes, {pauses} pauses: {:?}",
        status.reads
    );
    assert!(pauses > 0);
    assert!(
        status.reads.replicas > 0 && status.reads.overdue > 0,
        "{status:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_reads_anything_older_than_its_last_write() {
    histories(3_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the full count"]
async fn no_session_reads_anything_older_than_its_last_write_in_full() {
    histories(10_000).await;
}

/// One write for every nine reads, by sessions, with two replicas that nothing holds up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn the_share_of_reads_that_leave_the_primary() {
    let cluster = Cluster::start(2, false).await;
    let store = with_replicas(&cluster).await.build().await.unwrap();
    let mut writers = Vec::new();
    for number in 0..SESSIONS {
        writers.push(Writer::new(store.session(), number).await);
    }
    replicated(&cluster).await;
    let (before, started) = (store.status().reads, Instant::now());
    let work = writers.into_iter().map(|mut writer| {
        tokio::spawn(async move {
            for step in 0..2_000 {
                match step % 10 {
                    0 => writer.write().await,
                    _ => writer.read().await,
                }
            }
        })
    });
    for done in join_all(work).await {
        done.unwrap();
    }
    let took = started.elapsed();
    let status = store.status();
    let replicas = status.reads.replicas - before.replicas;
    let primary = status.reads.primary - before.primary;
    let share = 100.0 * replicas as f64 / (replicas + primary) as f64;
    println!(
        "{share:.2} % of {} reads in {took:?}: {status:?}",
        replicas + primary
    );
    assert!(share > 90.0);
}
