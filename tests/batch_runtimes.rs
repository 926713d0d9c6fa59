//! Callers on several runtimes who wait for each other: each ends in its own time, whatever becomes
//! of the runtime of another one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod queue;
mod support;
mod watch;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use motorpool::{Error, PgStore, UnavailableReason, User, UserId};
use queue::{Queue, begun, builder, get, name, register};
use support::{Database, with_database};
use tokio::runtime::Builder;
use tokio::time::timeout;
use watch::Watch;

/// How long a call may take.
const LIMIT: Duration = Duration::from_millis(500);

/// How long a condition may take to come true.
const BOUND: Duration = Duration::from_secs(20);

/// A store whose only lane is taken, so that every further call waits.
async fn busy(database: &Database) -> (PgStore, Queue<Option<User>>) {
    let builder = builder(&database.url, 1, 256).call_timeout(LIMIT);
    let store = builder.build().await.unwrap();
    let queue = Queue::form(&store, 1, 0, |_| get(&store, UserId::new(1))).await;
    (store, queue)
}

async fn ends_in_time(call: queue::Call<Option<User>>) {
    let answer = timeout(BOUND, call).await.expect("it ends");
    let missed = matches!(answer, Err(Error::Timeout { after }) if after == LIMIT);
    assert!(missed, "{answer:?}");
}

#[tokio::test]
async fn a_runtime_that_is_blocked_holds_up_nobody_on_another() {
    with_database(async |database| {
        let (store, queue) = busy(&database).await;
        let (waits, has_waited) = tokio::sync::oneshot::channel();
        let (go_on, blocked) = mpsc::channel::<()>();
        let other = store.clone();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let call = begun(get(&other, UserId::new(1)));
                waits.send(()).unwrap();
                // Neither this call nor anything else on this runtime gets on.
                blocked.recv().unwrap();
                ends_in_time(call).await;
            });
        });
        has_waited.await.unwrap();
        assert_eq!(store.status().waiting, 2, "the lane and the call");
        ends_in_time(get(&store, UserId::new(1))).await;
        go_on.send(()).unwrap();
        thread.join().unwrap();
        drop(queue);
    })
    .await;
}

#[tokio::test]
async fn a_call_that_is_moved_outlives_the_runtime_that_it_began_on() {
    with_database(async |database| {
        let (store, queue) = busy(&database).await;
        let runtime = (Builder::new_multi_thread().worker_threads(1).enable_all())
            .build()
            .unwrap();
        let moved = {
            let _inside = runtime.enter();
            begun(get(&store, UserId::new(1)))
        };
        let ends = tokio::spawn(ends_in_time(moved));
        runtime.shutdown_background();
        ends.await.unwrap();
        // And those who come later are looked after here.
        ends_in_time(get(&store, UserId::new(1))).await;
        drop(queue);
    })
    .await;
}

/// What becomes of a batch whose runtime has ended is not known, and nobody waits for it any more.
#[tokio::test]
async fn callers_hear_at_once_that_the_runtime_of_their_batch_has_ended() {
    with_database(async |database| {
        // Longer than the callers may take to hear it.
        let builder = builder(&database.url, 1, 256).call_timeout(2 * BOUND);
        let store = builder.build().await.unwrap();
        let queue = Queue::form(&store, 1, 2, |number| register(&store, name(number))).await;
        let holder = Watch::new(&database).await;
        holder.run("BEGIN; LOCK TABLE users").await;
        let runtime = (Builder::new_multi_thread().worker_threads(1).enable_all())
            .build()
            .unwrap();
        {
            // The lane goes on there.
            let _inside = runtime.enter();
            drop(queue.leaders);
        }
        drop(queue.held);
        holder.waiting(1).await;
        runtime.shutdown_background();
        let calls = timeout(BOUND, join_all(queue.calls)).await;
        for answer in calls.expect("they hear it") {
            let lost = matches!(
                answer,
                Err(Error::Unavailable {
                    reason: UnavailableReason::ConnectionLost,
                    ..
                })
            );
            assert!(lost, "{answer:?}");
        }
        holder.run("ROLLBACK").await;
    })
    .await;
}
