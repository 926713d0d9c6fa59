//! What stands in the way of a batch: locks of others, deadlocks, a stricter isolation, the
//! server's time limit. Whoever has to wait waits alone.
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

use futures_util::future::{join, join_all};
use motorpool::{Car, Error, NewCar, PgStore, Registration, Result, Store, UserId};
use queue::{Call, Queue, begun, builder, buy, connect, get, golf, good, key, name, register};
use support::{Database, with_database};
use tokio::task::JoinHandle;
use watch::Watch;

const CALLERS: usize = 24;

/// The one who has to wait.
const UNLUCKY: usize = 11;

/// How soon the others are answered.
const SOON: Duration = Duration::from_secs(1);

struct Waiting<T> {
    call: JoinHandle<Result<T>>,
    others: Vec<T>,
}

/// Sends the calls together. All are answered soon, but for one.
async fn all_but_one<T: Send + 'static>(
    store: &PgStore,
    call: impl Fn(usize) -> Call<T>,
) -> Waiting<T> {
    let batched = store.status().batched.calls;
    let queue = Queue::form(store, 1, CALLERS, call).await;
    let started = Instant::now();
    let mut calls = queue.go();
    let waits = tokio::spawn(calls.remove(UNLUCKY));
    let others = good(join_all(calls).await);
    let took = started.elapsed();
    assert!(took < SOON, "{took:?}");
    assert_eq!(store.status().batched.calls, batched + CALLERS as u64);
    assert!(!waits.is_finished());
    Waiting {
        call: waits,
        others,
    }
}

/// How the one ends who has to wait.
async fn ends(database: &Database, lock: &str, check: impl AsyncFn(&PgStore, &Watch, &str)) {
    let limit = Duration::from_secs(2);
    let builder = builder(&database.url, 1, 256).call_timeout(limit);
    let store = builder.build().await.unwrap();
    let holder = Watch::new(database).await;
    for end in ["COMMIT", "ROLLBACK", ""] {
        holder.run("TRUNCATE users, cars RESTART IDENTITY").await;
        holder
            .run("INSERT INTO users (username) VALUES ('a'), ('b')")
            .await;
        holder.run(&format!("BEGIN; {lock}")).await;
        check(&store, &holder, end).await;
        if end.is_empty() {
            holder.run("ROLLBACK").await;
        }
    }
}

fn timed_out<T: std::fmt::Debug>(answer: Result<T>) {
    assert!(matches!(answer, Err(Error::Timeout { .. })), "{answer:?}");
}

#[tokio::test]
async fn a_name_that_somebody_is_storing_is_waited_for_alone() {
    with_database(async |database| {
        let lock = "INSERT INTO users (username) VALUES ('user 11')";
        ends(&database, lock, async |store, holder, end| {
            let waiting = all_but_one(store, |number| register(store, name(number))).await;
            assert!(waiting.others.iter().all(Registration::is_created));
            if end.is_empty() {
                return timed_out(waiting.call.await.unwrap());
            }
            holder.run(end).await;
            let answer = waiting.call.await.unwrap().unwrap();
            assert_eq!(answer.is_created(), end == "ROLLBACK");
            assert_eq!(answer.user().username, name(UNLUCKY));
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_key_that_somebody_is_using_is_waited_for_alone() {
    with_database(async |database| {
        let lock = "INSERT INTO cars (model, owner_id, purchase_key) \
            VALUES ('Golf', 2, '00000000-0000-0000-0000-00000000000b')";
        ends(&database, lock, async |store, holder, end| {
            let call = |number: usize| buy(store, golf(UserId::new(1)).key(key(number as u128)));
            let waiting = all_but_one(store, call).await;
            if end.is_empty() {
                return timed_out(waiting.call.await.unwrap());
            }
            holder.run(end).await;
            match (end, waiting.call.await.unwrap()) {
                ("COMMIT", Err(Error::PurchaseKeyReused { index: None })) => {}
                ("ROLLBACK", Ok(car)) => assert_eq!(car.owner_id, UserId::new(1)),
                other => panic!("{other:?}"),
            }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn an_owner_whom_somebody_holds_is_waited_for_alone() {
    an_owner_is_waited_for_alone(|new, _| new).await;
}

#[tokio::test]
async fn an_owner_whom_somebody_holds_is_waited_for_alone_with_a_key() {
    an_owner_is_waited_for_alone(|new, number| new.key(key(number as u128))).await;
}

async fn an_owner_is_waited_for_alone(with: fn(NewCar, usize) -> NewCar) {
    with_database(async |database| {
        let lock = "SELECT FROM users WHERE id = 2 FOR UPDATE; DELETE FROM users WHERE id = 2";
        let look = &Watch::new(&database).await;
        ends(&database, lock, async |store, holder, end| {
            let owner = |number| UserId::new(if number == UNLUCKY { 2 } else { 1 });
            let call = |number: usize| buy(store, with(golf(owner(number)), number));
            let waiting = all_but_one(store, call).await;
            assert!(waiting.others.iter().all(|car| car.owner_id == owner(0)));
            // It is left out, so the others are stored by the one statement all the same.
            let statements = "SELECT count(DISTINCT xmin::text) FROM cars";
            assert_eq!(look.number(statements).await, 1);
            if end.is_empty() {
                return timed_out(waiting.call.await.unwrap());
            }
            holder.run(end).await;
            match (end, waiting.call.await.unwrap()) {
                ("COMMIT", Err(Error::UnknownOwner { owner, .. })) => {
                    assert_eq!(owner, UserId::new(2));
                }
                ("ROLLBACK", Ok(car)) => assert_eq!(car.owner_id, UserId::new(2)),
                other => panic!("{other:?}"),
            }
        })
        .await;
    })
    .await;
}

/// The batch has the first of two names and waits for the second; the transaction has the second
/// and comes to wait for the first.
#[tokio::test]
async fn a_deadlock_with_a_transaction_ends_well() {
    with_database(async |database| {
        let store = connect(&database.url, 1, 256).await;
        let (other, look) = (Watch::new(&database).await, Watch::new(&database).await);
        for round in 0..5 {
            let (first, second) = (format!("a {round}"), format!("b {round}"));
            let insert = |name: &str| format!("INSERT INTO users (username) VALUES ('{name}')");
            other.run(&format!("BEGIN; {}", insert(&second))).await;
            let names = [first.clone(), second.clone()];
            let call = |number: usize| register(&store, names[number % 2].clone());
            let queue = Queue::form(&store, 1, 16, call).await;
            let calls = tokio::spawn(join_all(queue.go()));
            look.waiting(1).await;
            // It has to wait for those who are ahead of it, and finds the name taken then.
            let insert = format!("{} ON CONFLICT DO NOTHING", insert(&first));
            other.run(&format!("{insert}; COMMIT")).await;
            let answers = good(calls.await.unwrap());
            let created = answers.iter().filter(|answer| answer.is_created()).count();
            assert!(created <= 1, "{answers:?}");
            for (number, answer) in answers.iter().enumerate() {
                assert_eq!(answer.user().username, names[number % 2]);
            }
            let stored = format!("SELECT count(*) FROM users WHERE username LIKE '% {round}'");
            assert_eq!(look.number(&stored).await, 2);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_stricter_isolation_every_answer_is_right() {
    with_database(async |database| {
        let look = Watch::new(&database).await;
        let strict = format!(
            "ALTER DATABASE {} SET default_transaction_isolation = 'serializable'",
            database.name
        );
        look.run(&strict).await;
        let store = connect(&database.url, 2, 16).await;
        let owner = register(&store, "owner".into()).await.unwrap().user().id;
        let tasks = (0..32).map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut gave_way = 0;
                for round in 0..20 {
                    let own = name(task * 100 + round);
                    let made = loop {
                        match register(&store, own.clone()).await {
                            Ok(made) => break made,
                            Err(error) => assert!(error.is_retryable(), "{error:?}"),
                        }
                        gave_way += 1;
                    };
                    assert!(made.is_created());
                    assert_eq!(made.user().username, own);
                    let id = made.user().id;
                    let key = key((task * 100 + round) as u128);
                    let bought: Car = loop {
                        let new = golf(if round % 2 == 0 { id } else { owner });
                        match buy(&store, new.key(key)).await {
                            Ok(car) => break car,
                            Err(error) => assert!(error.is_retryable(), "{error:?}"),
                        }
                        gave_way += 1;
                    };
                    let found = get(&store, id).await.unwrap();
                    assert_eq!(found.as_ref(), Some(made.user()));
                    let found = store.cars().get(bought.id).await.unwrap();
                    assert_eq!(found, Some(bought));
                }
                gave_way
            })
        });
        let gave_way: usize = join_all(tasks).await.into_iter().map(Result::unwrap).sum();
        println!("gave way {gave_way} times, {:?}", store.status().batched);
        assert!(store.status().batched.calls > 100);
        assert_eq!(look.number("SELECT count(*) FROM users").await, 641);
        assert_eq!(look.number("SELECT count(*) FROM cars").await, 640);
    })
    .await;
}

#[tokio::test]
async fn the_server_s_time_limit_ends_every_call_of_a_batch() {
    with_database(async |database| {
        let limit = Duration::from_millis(300);
        let builder = builder(&database.url, 1, 256).statement_timeout(limit);
        let store = builder.build().await.unwrap();
        let (holder, look) = (Watch::new(&database).await, Watch::new(&database).await);
        let writes = Queue::form(&store, 1, 20, |number| register(&store, name(number))).await;
        let reads = |number: usize| begun(get(&store, UserId::new(number as i64)));
        // The first one of these has a lane.
        let reads: Vec<_> = (0..21).map(reads).collect();
        holder
            .run("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            .await;
        let (writes, reads) = join(writes.answers(), join_all(reads)).await;
        for answer in writes {
            timed_out(answer);
        }
        for answer in reads {
            timed_out(answer);
        }
        holder.run("COMMIT").await;
        look.settled().await;
        assert_eq!(look.number("SELECT count(*) FROM users").await, 0);
        // The server was not silent, so every connection is still good.
        assert_eq!(store.status().discarded, motorpool::Discarded::default());
        let again = Queue::form(&store, 1, 20, |number| register(&store, name(number))).await;
        good(again.answers().await);
    })
    .await;
}

/// While one lane is stuck, whoever has waited for a while opens another.
#[tokio::test]
async fn a_lane_that_is_stuck_holds_nobody_up_for_long() {
    with_database(async |database| {
        let store = connect(&database.url, 1, 256).await;
        let (holder, look) = (Watch::new(&database).await, Watch::new(&database).await);
        holder
            .run("BEGIN; INSERT INTO users (username) VALUES ('user 0')")
            .await;
        let stuck = tokio::spawn(register(&store, name(0)));
        look.waiting(1).await;
        let started = Instant::now();
        let others = (1..CALLERS).map(|number| register(&store, name(number)));
        assert_eq!(good(join_all(others).await).len(), CALLERS - 1);
        let took = started.elapsed();
        assert!(took < SOON, "{took:?}");
        assert!(!stuck.is_finished());
        holder.run("COMMIT").await;
        assert!(!stuck.await.unwrap().unwrap().is_created());
        // One went alone to open a lane for the others.
        let batched = store.status().batched.calls;
        assert!(batched >= CALLERS as u64 / 2, "{batched}");
    })
    .await;
}
