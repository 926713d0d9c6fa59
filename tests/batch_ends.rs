//! How calls end that wait for each other: dropped, out of time, refused, with the store.
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

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use motorpool::{Error, Store, TxOptions, UserId};
use queue::{
    CALLS, CONNECTIONS, Call, Queue, begun, builder, connect, get, good, mixed, name, register,
    until,
};
use relay::Relay;
use support::with_database;
use watch::Watch;

fn id(number: usize) -> UserId {
    UserId::new(number as i64)
}

const LOCK: &str = "BEGIN; LOCK TABLE users, cars IN ACCESS EXCLUSIVE MODE";

/// How long a condition may take to come true.
const BOUND: Duration = Duration::from_secs(20);

/// How much longer than its time a call may take.
const LATE: Duration = Duration::from_millis(250);

const BUSY: &str = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' \
    AND datname = current_database() AND application_name = 'motorpool'";

#[tokio::test]
async fn who_goes_away_while_it_waits_is_left_out() {
    with_database(async |database| {
        let store = connect(&database.url, 1, 256).await;
        let mut queue =
            Queue::form(&store, 1, CALLS, |number| register(&store, name(number))).await;
        let gone: Vec<_> = queue.calls.drain(10..30).collect();
        drop(gone);
        let answers = good(queue.answers().await);
        assert_eq!(answers.len(), CALLS - 20);
        assert!(answers.iter().all(|answer| answer.is_created()));
        let batched = store.status().batched;
        assert_eq!((batched.statements, batched.calls), (1, CALLS as u64 - 20));
        assert_eq!(store.users().count().await.unwrap(), CALLS as u64 - 20);

        // All of them, and whoever comes later.
        let queue = Queue::form(&store, 1, CALLS, |number| register(&store, name(number))).await;
        drop(queue);
        let later = register(&store, "later".into()).await.unwrap();
        assert!(later.is_created());
        assert_eq!(store.users().count().await.unwrap(), CALLS as u64 - 19);
    })
    .await;
}

#[tokio::test]
async fn nothing_is_sent_for_who_has_no_time_left() {
    with_database(async |database| {
        let limit = Duration::from_millis(300);
        let builder = builder(&database.url, 1, 256).call_timeout(limit);
        let store = builder.build().await.unwrap();
        let queue = Queue::form(&store, 1, CALLS, |number| register(&store, name(number))).await;
        // Nobody polls them meanwhile.
        tokio::time::sleep(limit).await;
        let calls = queue.go();
        // Behind them on the same lane.
        let patient = store.with_call_timeout(BOUND);
        assert!(
            register(&patient, "later".into())
                .await
                .unwrap()
                .is_created()
        );
        for answer in join_all(calls).await {
            assert!(matches!(answer, Err(Error::Timeout { .. })), "{answer:?}");
        }
        assert_eq!(patient.users().count().await.unwrap(), 1);
        let batched = store.status().batched;
        assert_eq!((batched.statements, batched.calls), (1, 1));
        assert_eq!(store.status().discarded, motorpool::Discarded::default());
    })
    .await;
}

#[tokio::test]
async fn who_goes_away_while_the_batch_runs_harms_no_other() {
    with_database(async |database| {
        let store = connect(&database.url, 1, 256).await;
        let (holder, look) = (Watch::new(&database).await, Watch::new(&database).await);
        let queue = Queue::form(&store, 1, CALLS, |number| register(&store, name(number))).await;
        holder.run(LOCK).await;
        let mut calls = queue.go();
        look.waiting(1).await;
        drop(calls.drain(5..CALLS).collect::<Vec<_>>());
        // Longer than it takes to find out that nobody is left.
        for _ in 0..30 {
            assert_eq!(look.number(BUSY).await, 1);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        holder.run("COMMIT").await;
        assert!(
            good(join_all(calls).await)
                .iter()
                .all(|answer| answer.is_created())
        );
        assert_eq!(store.users().count().await.unwrap(), CALLS as u64);
        assert_eq!(store.status().discarded, motorpool::Discarded::default());
    })
    .await;
}

#[tokio::test]
async fn a_batch_that_nobody_waits_for_is_cancelled() {
    with_database(async |database| {
        let store = connect(&database.url, 1, 256).await;
        let (holder, look) = (Watch::new(&database).await, Watch::new(&database).await);
        let queue = Queue::form(&store, 1, CALLS, |number| register(&store, name(number))).await;
        holder.run(LOCK).await;
        let calls = queue.go();
        look.waiting(1).await;
        let dropped = Instant::now();
        drop(calls);
        look.until(BUSY, 0).await;
        let took = dropped.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(store.status().discarded.cancelled, 1);
        holder.run("COMMIT").await;
        // The lane is free again.
        assert!(register(&store, "Anna".into()).await.unwrap().is_created());
        assert_eq!(store.users().count().await.unwrap(), 1);
    })
    .await;
}

#[tokio::test]
async fn every_caller_has_a_deadline_of_its_own() {
    with_database(async |database| {
        let store = connect(&database.url, 1, 256).await;
        let (holder, look) = (Watch::new(&database).await, Watch::new(&database).await);
        let limits = [50, 150, 400, 800].map(Duration::from_millis);
        for writes in [true, false] {
            let started = Instant::now();
            let queue = Queue::form(&store, 1, 16, |number| {
                let store = match number {
                    15 => store.clone(),
                    _ => store.with_call_timeout(limits[number % 4]),
                };
                let call: Call<()> = match writes {
                    true => Box::pin(async move { register(&store, name(number)).await.map(drop) }),
                    false => Box::pin(async move { get(&store, UserId::new(1)).await.map(drop) }),
                };
                Box::pin(async move { Ok((call.await, started.elapsed())) }) as Call<_>
            })
            .await;
            holder.run(LOCK).await;
            let formed = started.elapsed();
            let mut calls = queue.go();
            let last = tokio::spawn(calls.remove(15));
            let ended = join_all(calls).await;
            for (number, ended) in ended.into_iter().enumerate() {
                let ((answer, took), limit) = (ended.unwrap(), limits[number % 4]);
                let timeout = matches!(&answer, Err(Error::Timeout { after }) if *after == limit);
                assert!(timeout, "{answer:?}");
                assert!(took >= limit, "{took:?} of {limit:?}");
                assert!(took < limit.max(formed) + LATE, "{took:?} of {limit:?}");
            }
            look.waiting(1).await;
            holder.run("COMMIT").await;
            last.await.unwrap().unwrap().0.unwrap();
        }
        // The connection was never given up, because one went on waiting for it.
        assert_eq!(store.status().discarded, motorpool::Discarded::default());
    })
    .await;
}

/// Whoever is out of time has nothing more to send, and no connection to spoil with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_runs_out_of_time_costs_one_connection() {
    with_database(async |database| {
        let limit = Duration::from_millis(300);
        let builder = builder(&database.url, 1, 256).statement_timeout(BOUND);
        let store = builder.build().await.unwrap().with_call_timeout(limit);
        let holder = Watch::new(&database).await;
        for round in 1..=5 {
            let queue = Queue::form(&store, 1, CALLS, |_| get(&store, UserId::new(1))).await;
            holder.run(LOCK).await;
            let calls = queue.go().into_iter().map(tokio::spawn);
            for answer in join_all(calls).await {
                let answer = answer.unwrap();
                assert!(matches!(answer, Err(Error::Timeout { .. })), "{answer:?}");
            }
            holder.run("COMMIT").await;
            assert_eq!(store.status().discarded.cancelled, round);
        }
    })
    .await;
}

#[tokio::test]
async fn callers_of_a_pool_in_use_are_refused_in_time() {
    with_database(async |database| {
        let limit = Duration::from_millis(500);
        let builder = builder(&database.url, 1, 256).acquire_timeout(limit);
        let store = builder.build().await.unwrap();
        let held = join_all((0..CONNECTIONS).map(|_| store.begin(TxOptions::new()))).await;
        let calls = (0..96).map(|number| {
            let call = mixed(&store, number);
            async {
                let started = Instant::now();
                (call.await, started.elapsed())
            }
        });
        let status = async {
            tokio::time::sleep(limit / 2).await;
            store.status().waiting
        };
        let (answers, waiting) = futures_util::join!(join_all(calls), status);
        for (answer, took) in answers {
            let exhausted =
                matches!(answer, Err(Error::PoolExhausted { waited }) if waited >= limit);
            assert!(exhausted, "{answer:?}");
            assert!(took >= limit && took <= limit + LATE, "{took:?}");
        }
        for tx in good(held) {
            tx.rollback().await.unwrap();
        }
        good(join_all((2..6).map(|number| mixed(&store, number))).await);
        assert_eq!(waiting, 96, "all of them waited for a connection");
    })
    .await;
}

#[tokio::test]
async fn a_lane_goes_on_for_nobody_who_has_gone_away() {
    with_database(async |database| {
        let limit = Duration::from_millis(100);
        let builder = builder(&database.url, 1, 256).acquire_timeout(limit);
        let store = builder.build().await.unwrap();
        let queue = Queue::form(&store, 1, CALLS, |number| get(&store, id(number))).await;
        // The lane goes to those who wait, and then they go away.
        drop(queue.leaders);
        drop(queue.calls);
        // With every connection still in use it asks for one, and then no more.
        let waiting = || store.pool().status().waiting;
        until(|| waiting() == 1).await;
        until(|| waiting() == 0).await;
        for _ in 0..60 {
            assert_eq!(waiting(), 0);
            tokio::time::sleep(limit / 20).await;
        }
        drop(queue.held);
        assert_eq!(get(&store, id(1)).await.unwrap(), None);
    })
    .await;
}

/// What the limit is about is a pool in use, and this one is not.
#[tokio::test]
async fn a_short_patience_with_the_pool_is_none_with_lanes() {
    with_database(async |database| {
        for limit in [Duration::ZERO, Duration::from_millis(20)] {
            let builder = builder(&database.url, 1, 256).acquire_timeout(limit);
            let store = builder.build().await.unwrap();
            let (holder, look) = (Watch::new(&database).await, Watch::new(&database).await);
            holder
                .run("BEGIN; INSERT INTO users (username) VALUES ('user 0')")
                .await;
            let stuck = tokio::spawn(register(&store, name(0)));
            look.waiting(1).await;
            let calls = (1..4).map(|number| register(&store, name(number)));
            assert_eq!(good(join_all(calls).await).len(), 3);
            assert!(!stuck.is_finished());
            holder.run("ROLLBACK").await;
            assert!(stuck.await.unwrap().unwrap().is_created());
            holder.run("DELETE FROM users").await;
        }
    })
    .await;
}

/// The store that was made with a short limit for its calls is the one that the others were made
/// from.
#[tokio::test]
async fn more_time_for_a_call_is_more_time_for_its_connection() {
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let builder = builder(&relay.url(), 1, 256).call_timeout(Duration::from_millis(700));
        let hasty = builder.build().await.unwrap();
        let patient = hasty.with_call_timeout(BOUND);
        let queue = Queue::form(&patient, 1, CALLS, |_| get(&patient, UserId::new(1))).await;
        // Every new connection takes longer than the hasty ones have.
        relay.delay(Duration::from_millis(300));
        for object in queue.held {
            drop(deadpool_postgres::Object::take(object));
        }
        drop(queue.leaders);
        for answer in join_all(queue.calls).await {
            assert_eq!(answer.unwrap(), None);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_panics_harms_nobody() {
    with_database(async |database| {
        let store = connect(&database.url, 1, 256).await;
        let queue = Queue::form(&store, 1, CALLS, |number| register(&store, name(number))).await;
        // One of them has the lane.
        let Queue {
            leaders,
            calls,
            held,
        } = queue;
        let tasks: Vec<_> = leaders
            .into_iter()
            .chain(calls)
            .enumerate()
            .map(|(number, call)| {
                tokio::spawn(async move {
                    let mut call = begun_again(call);
                    match number % 4 {
                        0 => {
                            let _ = (&mut call).now_or_never();
                            panic!("on purpose")
                        }
                        _ => call.await,
                    }
                })
            })
            .collect();
        until(|| tasks.iter().filter(|task| task.is_finished()).count() >= 17).await;
        drop(held);
        let mut panicked = 0;
        for task in tasks {
            match task.await {
                Ok(answer) => assert!(answer.unwrap().is_created()),
                Err(error) => panicked += usize::from(error.is_panic()),
            }
        }
        assert_eq!(panicked, 17);
        let again = join_all((0..CALLS).map(|number| register(&store, name(number)))).await;
        let fresh = good(again)
            .iter()
            .filter(|answer| answer.is_created())
            .count();
        assert_eq!(fresh, 16);
    })
    .await;
}

/// It was begun in another task.
fn begun_again<T>(call: Call<T>) -> Call<T> {
    begun(call)
}
