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
use motorpool::{Error, NewUser, PgStore, Store, TxOptions, UnavailableReason, User, UserId};
use queue::{Queue, begun, builder, get, name, register, until};
use support::{Database, with_database};
use tokio::runtime::{Builder, Handle};
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

/// Everything on this thread's runtime, whoever looks after those who wait among them.
async fn all_have_begun() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

async fn ends_in_time(call: queue::Call<Option<User>>) {
    let answer = timeout(BOUND, call).await.expect("it ends");
    let missed = matches!(answer, Err(Error::Timeout { after }) if after == LIMIT);
    assert!(missed, "{answer:?}");
}

/// A runtime on which a call has begun to wait, and somebody to look after the others there, and
/// that gets on no more.
struct Blocked {
    runtime: Handle,
    go_on: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Blocked {
    async fn new(store: &PgStore) -> Blocked {
        let store = store.clone();
        let (runs, is_running) = tokio::sync::oneshot::channel();
        let (go_on, blocked) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let call = begun(get(&store, UserId::new(1)));
                all_have_begun().await;
                runs.send(Handle::current()).unwrap();
                blocked.recv().unwrap();
                ends_in_time(call).await;
            });
        });
        Blocked {
            runtime: is_running.await.unwrap(),
            go_on,
            thread,
        }
    }

    fn go_on(self) {
        self.go_on.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

#[tokio::test]
async fn a_runtime_that_is_blocked_holds_up_nobody_on_another() {
    with_database(async |database| {
        let (store, queue) = busy(&database).await;
        let blocked = Blocked::new(&store).await;
        assert_eq!(store.status().waiting, 2, "the lane and the call");
        ends_in_time(get(&store, UserId::new(1))).await;
        blocked.go_on();
        drop(queue);
    })
    .await;
}

/// Whoever is the first to wait sends for somebody who looks after the others, on its own thread.
#[tokio::test]
async fn a_thread_that_is_blocked_holds_up_nobody_on_another_one_of_its_runtime() {
    with_database(async |database| {
        let (store, queue) = busy(&database).await;
        let runtime = (Builder::new_multi_thread().worker_threads(2).enable_all())
            .build()
            .unwrap();
        let (waits, has_waited) = tokio::sync::oneshot::channel();
        let (go_on, blocked) = mpsc::channel::<()>();
        let other = store.clone();
        let first = runtime.spawn(async move {
            let call = begun(get(&other, UserId::new(1)));
            waits.send(()).unwrap();
            blocked.recv().unwrap();
            ends_in_time(call).await;
        });
        has_waited.await.unwrap();
        let other = store.clone();
        let second = runtime.spawn(async move { ends_in_time(get(&other, UserId::new(1))).await });
        second.await.unwrap();
        go_on.send(()).unwrap();
        first.await.unwrap();
        runtime.shutdown_background();
        drop(queue);
    })
    .await;
}

/// Those who are looked after by a runtime that gets on no more are freed by whoever comes next.
#[tokio::test]
async fn a_runtime_that_stops_holds_up_its_own_callers_no_longer_than_nobody_comes() {
    with_database(async |database| {
        let (store, queue) = busy(&database).await;
        let blocked = Blocked::new(&store).await;
        let begin = || {
            let _inside = blocked.runtime.enter();
            begun(get(&store, UserId::new(1)))
        };
        let moved = tokio::spawn(ends_in_time(begin()));
        until(|| {
            drop(begin());
            moved.is_finished()
        })
        .await;
        moved.await.unwrap();
        blocked.go_on();
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
        let begin = || {
            let _inside = runtime.enter();
            begun(get(&store, UserId::new(1)))
        };
        // The first one sends for somebody who looks after the others, and has begun to when what
        // comes behind is done.
        let first = begin();
        runtime.spawn(async {}).await.unwrap();
        let moved = tokio::spawn(ends_in_time(begin()));
        runtime.shutdown_background();
        moved.await.unwrap();
        // A timer of its own has ended with the runtime.
        drop(first);
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

/// The transaction's own runtime is there and runs nothing; its connection is served by another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_dropped_on_a_runtime_at_rest_is_rolled_back() {
    with_database(async |database| {
        let store = builder(&database.url, 1, 256).max_connections(1);
        let store = store.build().await.unwrap();
        store.users().count().await.unwrap();
        let watch = Watch::new(&database).await;
        let other = store.clone();
        let (rest, at_rest) = tokio::sync::oneshot::channel();
        let (go_on, resting) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let tx = other.begin(TxOptions::new()).await.unwrap();
                let new = NewUser::new("Ada").unwrap();
                tx.users().register(&new).await.unwrap();
            });
            rest.send(()).unwrap();
            resting.recv().unwrap();
            drop(runtime);
        });
        at_rest.await.unwrap();
        watch.settled().await;
        go_on.send(()).unwrap();
        thread.join().unwrap();
        assert_eq!(watch.number("SELECT count(*) FROM users").await, 0);
        // The place in the pool is free, too.
        assert_eq!(store.users().count().await.unwrap(), 0);
    })
    .await;
}
