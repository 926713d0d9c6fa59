//! The end of a store whose calls wait for each other, and of the runtimes they run on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod queue;
mod support;
mod watch;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use motorpool::{Error, Result, Store, UnavailableReason};
use queue::{
    CONNECTIONS, Queue, begun, builder, buy, connect, golf, good, mixed, name, register, until,
};
use support::with_database;
use tokio::runtime::Runtime;
use watch::Watch;

const LOCK: &str = "BEGIN; LOCK TABLE users, cars IN ACCESS EXCLUSIVE MODE";

/// How long a condition may take to come true.
const BOUND: Duration = Duration::from_secs(20);

fn closed<T: std::fmt::Debug>(answer: Result<T>) {
    let reason = UnavailableReason::Closed;
    assert!(
        matches!(&answer, Err(Error::Unavailable { reason: found, .. }) if *found == reason),
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_refuses_those_who_wait() {
    with_database(async |database| {
        let builder = builder(&database.url, 1, 256).call_timeout(BOUND);
        let store = builder.acquire_timeout(BOUND).build().await.unwrap();
        let (holder, look) = (Watch::new(&database).await, Watch::new(&database).await);
        holder.run(LOCK).await;
        // One of each kind has the lane, and is stuck.
        let running: Vec<_> = (0..6)
            .map(|number| tokio::spawn(mixed(&store, number)))
            .collect();
        look.waiting(6).await;
        let waiting: Vec<_> = (6..60).map(|number| begun(mixed(&store, number))).collect();
        let started = Instant::now();
        let closing = tokio::spawn(store.close().within(BOUND));
        for answer in join_all(waiting).await {
            closed(answer);
        }
        for number in 0..6 {
            closed(mixed(&store, number).await);
        }
        let took = started.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert!(!closing.is_finished(), "some calls still run");
        holder.run("COMMIT").await;
        for (number, call) in running.into_iter().enumerate() {
            match (number, call.await.unwrap()) {
                (1, Err(Error::UnknownOwner { .. })) => {}
                (_, answer) => answer.unwrap(),
            }
        }
        assert_eq!(closing.await.unwrap(), 0);
        look.ended().await;
    })
    .await;
}

/// At any moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_under_load_leaves_nothing_behind() {
    with_database(async |database| {
        let look = Watch::new(&database).await;
        let mut refused = 0;
        for round in 0..10 {
            let store = connect(&database.url, 4, 4).await;
            let owner = register(&store, "owner".into()).await.unwrap().user().id;
            let tasks = (0..48).map(|task| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut stored = 0;
                    for number in 0.. {
                        let made = match task % 2 {
                            0 => register(&store, format!("{round} {task} {number}"))
                                .await
                                .map(drop),
                            _ => buy(&store, golf(owner)).await.map(drop),
                        };
                        if let Err(error) = made {
                            closed(Err::<(), _>(error));
                            break;
                        }
                        stored += 1;
                    }
                    stored
                })
            });
            let tasks: Vec<_> = tasks.collect();
            let enough = 50 + 10 * round;
            until(|| store.status().batched.calls > enough).await;
            assert_eq!(store.close().await, 0);
            let mut stored = 0;
            for task in tasks {
                stored += task.await.unwrap();
                refused += 1;
            }
            look.ended().await;
            let rows = "SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM cars)";
            // Nobody is told of a failure whose row is there.
            assert_eq!(look.number(rows).await, stored + 1);
            look.run("TRUNCATE users, cars").await;
        }
        assert_eq!(refused, 480);
    })
    .await;
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// Whoever has a lane and goes away outside any runtime leaves it to somebody who has one.
#[test]
fn a_lane_left_outside_a_runtime_goes_to_who_waits() {
    runtime().block_on(with_database(async |database| {
        let store = connect(&database.url, 1, 256).await;
        let mut queue = Queue::form(&store, 1, 2, |number| register(&store, name(number))).await;
        let leaders = std::mem::take(&mut queue.leaders);
        std::thread::spawn(move || drop(leaders)).join().unwrap();
        // With no connection to be had it can only be the lane that it waited for.
        assert_eq!(store.pool().status().waiting, 0);
        queue.calls = queue.calls.into_iter().map(begun).collect();
        assert_eq!(store.pool().status().waiting, 1);
        // And if that one goes away, to the next.
        let first = queue.calls.remove(0);
        std::thread::spawn(move || drop(first)).join().unwrap();
        assert_eq!(store.pool().status().waiting, 0);
        queue.calls = queue.calls.into_iter().map(begun).collect();
        assert_eq!(store.pool().status().waiting, 1);
        let answers = good(queue.answers().await);
        assert!(answers[0].is_created());
        assert_eq!(store.users().count().await.unwrap(), 1);
    }));
}

/// The same where the task that runs batches is dropped with its runtime.
#[test]
fn a_lane_whose_runtime_ends_goes_to_who_waits() {
    runtime().block_on(with_database(async |database| {
        let store = connect(&database.url, 1, 256).await;
        let mut queue = Queue::form(&store, 1, 2, |number| register(&store, name(number))).await;
        let leaders = std::mem::take(&mut queue.leaders);
        std::thread::spawn(move || {
            let runtime = runtime();
            // Its task begins to wait for a connection.
            runtime.block_on(async {
                drop(leaders);
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
            });
        })
        .join()
        .unwrap();
        assert_eq!(store.pool().status().waiting, 0);
        queue.calls = queue.calls.into_iter().map(begun).collect();
        assert_eq!(store.pool().status().waiting, 1);
        good(queue.answers().await);
        assert_eq!(store.users().count().await.unwrap(), 2);
    }));
}

/// A store that two runtimes share, one of which ends in the middle of its batches. Its
/// connections end with it, so some calls of the other fail; but all of them end.
#[test]
fn the_end_of_one_runtime_is_not_the_end_of_another() {
    runtime().block_on(with_database(async |database| {
        let (mut good, mut failed) = (0, 0);
        for round in 0..100 {
            let builder = builder(&database.url, 1, 4).call_timeout(BOUND);
            let store = builder.build().await.unwrap();
            let theirs = store.clone();
            let other = std::thread::spawn(move || {
                runtime().block_on(async {
                    let calls = (0..48).map(|number| mixed(&theirs, number));
                    let end = Duration::from_micros(200 * (round % 25));
                    let _ = tokio::time::timeout(end, join_all(calls)).await;
                });
            });
            let started = Instant::now();
            loop {
                for answer in join_all((0..24).map(|number| mixed(&store, number))).await {
                    match answer {
                        Ok(()) | Err(Error::UnknownOwner { .. }) => good += 1,
                        Err(Error::Unavailable { .. }) => failed += 1,
                        Err(error) => panic!("{error:?}"),
                    }
                }
                if other.is_finished() {
                    break;
                }
            }
            other.join().unwrap();
            // No lane is lost, and no place in the pool.
            for number in 0..6 {
                let mut last = mixed(&store, number).await;
                for _ in 0..CONNECTIONS {
                    if !matches!(last, Err(Error::Unavailable { .. })) {
                        break;
                    }
                    last = mixed(&store, number).await;
                }
                assert!(
                    matches!(last, Ok(()) | Err(Error::UnknownOwner { .. })),
                    "{last:?}"
                );
            }
            let took = started.elapsed();
            assert!(took < BOUND / 4, "round {round}: {took:?}");
            assert_eq!(store.close().await, 0);
        }
        println!("{good} calls ended well, {failed} lost their connection");
        assert!(good + failed >= 2400 && good > failed);
    }));
}
