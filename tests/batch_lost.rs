//! Batches whose connection is lost, and what a call sees of the writes that were acknowledged
//! before it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod queue;
#[path = "support/relay.rs"]
mod relay;
mod support;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use deadpool_postgres::Object;
use futures_util::future::join_all;
use motorpool::{Error, NewCar, PgStore, Result, Store, UnavailableReason, UserId};
use queue::{
    CALLS, Call, Queue, begun, builder, buy, by_name, connect, get, golf, good, key, name,
    register, until,
};
use relay::{Mode, Relay};
use support::with_database;
use watch::Watch;

fn lost<T: std::fmt::Debug>(answer: Result<T>) {
    let reason = UnavailableReason::ConnectionLost;
    assert!(
        matches!(&answer, Err(Error::Unavailable { reason: found, .. }) if *found == reason),
        "{answer:?}"
    );
}

/// The server has stored it and its answer is lost: nobody is told that it is there, and nobody's
/// purchase is made again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_is_lost_is_not_sent_again() {
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let builder = builder(&relay.url(), 1, 256).max_connections(1);
        let store = builder.build().await.unwrap();
        let owner = register(&store, "owner".into()).await.unwrap().user().id;
        // On the one connection the statement is prepared, so that it is its answer that is lost.
        let warm = Queue::form(&store, 1, 8, |_| buy(&store, golf(owner))).await;
        good(warm.answers().await);
        let (holder, look) = (Watch::new(&database).await, Watch::new(&database).await);
        let queue = Queue::form(&store, 1, CALLS, |_| buy(&store, golf(owner))).await;
        holder
            .run("BEGIN; LOCK TABLE cars IN ACCESS EXCLUSIVE MODE")
            .await;
        let calls: Vec<_> = queue.go().into_iter().map(tokio::spawn).collect();
        look.waiting(1).await;
        relay.set(Mode::Hole);
        holder.run("COMMIT").await;
        let stored = "SELECT count(*) FROM cars";
        look.until(stored, 8 + CALLS as i64).await;
        relay.cut_connections();
        for call in calls {
            lost(call.await.unwrap());
        }
        look.settled().await;
        assert_eq!(look.number(stored).await, 8 + CALLS as i64);
        buy(&store, golf(owner)).await.unwrap();
    })
    .await;
}

/// What only reads is asked again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_whose_answer_is_lost_is_sent_again() {
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let store = connect(&relay.url(), 1, 256).await;
        let (holder, look) = (Watch::new(&database).await, Watch::new(&database).await);
        let queue = Queue::form(&store, 1, CALLS, |_| get(&store, UserId::new(1))).await;
        holder
            .run("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            .await;
        let calls: Vec<_> = queue.go().into_iter().map(tokio::spawn).collect();
        look.waiting(1).await;
        relay.cut_connections();
        until(|| store.status().discarded.lost == 1).await;
        holder.run("COMMIT").await;
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap(), None);
        }
    })
    .await;
}

/// A connection that could not be made is told to those who waited for it, and to nobody who came
/// later: for them the next one is tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_while_a_connection_fails_gets_the_next_one() {
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let builder = builder(&relay.url(), 1, 256).max_connections(1);
        let builder = builder.connect_timeout(Duration::from_millis(500));
        let store = builder.build().await.unwrap();
        let mut queue = Queue::form(&store, 1, 8, |_| get(&store, UserId::new(1))).await;
        relay.set(Mode::Hole);
        let before = relay.accepted();
        for lent in std::mem::take(&mut queue.held) {
            drop(Object::take(lent));
        }
        let early: Vec<_> = queue.go().into_iter().map(tokio::spawn).collect();
        // It is being made.
        until(|| relay.accepted() > before).await;
        let late = tokio::spawn(begun(get(&store, UserId::new(1))));
        for call in early {
            let answer = call.await.unwrap();
            let reason = UnavailableReason::ConnectTimeout;
            assert!(
                matches!(&answer, Err(Error::Unavailable { reason: found, .. }) if *found == reason),
                "{answer:?}"
            );
        }
        relay.set(Mode::Pass);
        assert_eq!(late.await.unwrap().unwrap(), None);
    })
    .await;
}

/// What was tried under each name, and whether it was acknowledged.
type Log = Mutex<HashMap<String, bool>>;

/// Writes until it is told to stop; each thing is tried once, but for what has a key or a name.
async fn write(
    store: PgStore,
    owner: UserId,
    task: usize,
    stop: Arc<AtomicBool>,
    log: Arc<Log>,
) -> u64 {
    let mut failed = 0;
    for number in 0.. {
        let own = name(task * 1_000_000 + number);
        let car = NewCar::new(own.clone(), owner).unwrap();
        let call = || -> Call<()> {
            let (store, car) = (store.clone(), car.clone());
            match number % 3 {
                0 => {
                    let call = register(&store, own.clone());
                    Box::pin(async move { call.await.map(drop) })
                }
                1 => Box::pin(async move { buy(&store, car).await.map(drop) }),
                _ => {
                    let key = key((task * 1_000_000 + number) as u128);
                    Box::pin(async move { buy(&store, car.key(key)).await.map(drop) })
                }
            }
        };
        let acknowledged = loop {
            if stop.load(SeqCst) {
                return failed;
            }
            match call().await {
                Ok(()) => break true,
                Err(Error::Unavailable { .. }) => failed += 1,
                Err(error) => panic!("{error:?}"),
            }
            if number % 3 == 1 {
                break false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        log.lock().unwrap().insert(own, acknowledged);
    }
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_once_after_every_cut() {
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let store = connect(&relay.url(), 2, 8).await;
        let owner = register(&store, "owner".into()).await.unwrap().user().id;
        let (stop, log) = (Arc::new(AtomicBool::new(false)), Arc::new(Log::default()));
        let tasks = (0..32).map(|task| {
            let (store, stop, log) = (store.clone(), Arc::clone(&stop), Arc::clone(&log));
            tokio::spawn(write(store, owner, task, stop, log))
        });
        let tasks: Vec<_> = tasks.collect();
        for round in 0..40 {
            let enough = store.status().batched.calls + 50;
            until(|| store.status().batched.calls > enough).await;
            tokio::time::sleep(Duration::from_micros(round * 137 % 5000)).await;
            relay.cut_connections();
        }
        stop.store(true, SeqCst);
        let mut failed = 0;
        for task in tasks {
            failed += task.await.unwrap();
        }
        store.close().await;
        let look = Watch::new(&database).await;
        look.ended().await;
        let names = look.texts("SELECT username FROM users").await;
        let models = look.texts("SELECT model FROM cars").await;
        let mut stored: HashMap<String, usize> = HashMap::new();
        for found in names.into_iter().chain(models) {
            *stored.entry(found).or_default() += 1;
        }
        let twice: Vec<_> = stored.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "{twice:?}");
        let log = log.lock().unwrap();
        let acknowledged = log.iter().filter(|(_, acknowledged)| **acknowledged);
        let (mut number, mut missing) = (0, 0);
        for (own, _) in acknowledged {
            number += 1;
            missing += usize::from(!stored.contains_key(own));
        }
        println!(
            "{number} acknowledged, {failed} failed, {:?}",
            store.status().batched
        );
        assert_eq!(missing, 0);
        assert!(failed > 40, "{failed}");
    })
    .await;
}

/// Whoever reads what somebody was told of finds it, whichever lanes and batches both were in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_sees_what_was_acknowledged_before_it() {
    with_database(async |database| {
        for (lanes, most) in [(1, 2), (2, 256)] {
            let store = connect(&database.url, lanes, most).await;
            let user = register(&store, format!("{lanes}"))
                .await
                .unwrap()
                .into_user();
            let car = buy(&store, golf(user.id)).await.unwrap();
            let latest = Arc::new(Mutex::new((user, car)));
            let rounds = Arc::new(AtomicU64::new(0));
            let tasks = (0..32).map(|task| {
                let (store, latest) = (store.clone(), Arc::clone(&latest));
                let rounds = Arc::clone(&rounds);
                tokio::spawn(async move {
                    let mut number = 0;
                    while rounds.fetch_add(1, SeqCst) < 5000 {
                        number += 1;
                        if task % 4 == 0 {
                            let own = format!("{lanes} {task} {number}");
                            let user = register(&store, own).await.unwrap().into_user();
                            latest.lock().unwrap().0 = user.clone();
                            let car = buy(&store, golf(user.id)).await.unwrap();
                            latest.lock().unwrap().1 = car;
                            continue;
                        }
                        let (user, car) = latest.lock().unwrap().clone();
                        let found = match task % 2 {
                            0 => by_name(&store, user.username.clone()).await,
                            _ => get(&store, user.id).await,
                        };
                        assert_eq!(found.unwrap(), Some(user));
                        let owned = store.cars().owned_by(car.owner_id).await;
                        assert_eq!(owned.unwrap(), std::slice::from_ref(&car));
                        let found = store.cars().get(car.id).await;
                        assert_eq!(found.unwrap(), Some(car));
                    }
                })
            });
            for task in join_all(tasks).await {
                task.unwrap();
            }
            let batched = store.status().batched;
            println!("{lanes} lanes: {batched:?}");
            assert!(batched.calls > 2500, "{batched:?}");
        }
    })
    .await;
}
