//! The pool: who waits for it and how long, what leaves it, what it says about itself, and its end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/busy.rs"]
mod busy;
mod support;
mod watch;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Timeouts};
use futures_util::FutureExt;
use futures_util::future::join_all;
use motorpool::{
    Error, NewUser, PgStore, PgStoreBuilder, PoolStatus, Role, Store, StoreExt, TxOptions,
    UnavailableReason, UserId,
};
use support::{Database, with_database};
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;
use tokio_postgres::config::Config;
use watch::Watch;

const LOCK: &str = "BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE";

/// How long a condition may take to come true.
const BOUND: Duration = Duration::from_secs(20);

fn new_user(name: &str) -> NewUser {
    NewUser::new(name).unwrap()
}

fn builder(database: &Database, connections: usize) -> PgStoreBuilder {
    let builder = PgStore::builder(&database.url).unwrap();
    builder.max_connections(connections)
}

/// A connection, if one can be had without waiting.
async fn at_once(store: &PgStore) -> Option<Object> {
    let limits = Timeouts {
        wait: Some(Duration::ZERO),
        create: None,
        recycle: None,
    };
    store.pool().timeout_get(&limits).await.ok()
}

/// As many connections as can be had without waiting.
async fn all(store: &PgStore) -> Vec<Object> {
    let mut objects = Vec::new();
    while let Some(object) = at_once(store).await {
        objects.push(object);
    }
    objects
}

/// Waits until the pool looks like this.
async fn until(store: &PgStore, wanted: impl Fn(&PoolStatus) -> bool) {
    let started = Instant::now();
    while !wanted(&store.status()) {
        let status = store.status();
        assert!(started.elapsed() < BOUND, "{status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A call that waits behind a locked table.
async fn slow(store: &PgStore, look: &Watch) -> JoinHandle<motorpool::Result<bool>> {
    let store = store.clone();
    let call = tokio::spawn(async move {
        let registered = store.users().register(&new_user("Anna")).await?;
        Ok(registered.is_created())
    });
    look.waiting(1).await;
    call
}

#[tokio::test]
async fn a_hundred_callers_of_a_pool_in_use_are_refused_in_time() {
    with_database(async |database| {
        let limit = Duration::from_millis(500);
        let builder = builder(&database, 4).acquire_timeout(limit);
        let store = builder.batching(busy::tiny()).build().await.unwrap();
        let held = (0..4).map(|_| store.begin(TxOptions::new()));
        let held = join_all(held).await;
        // Some wait for a connection each, and some for each other.
        let calls = (0..100).map(|number| {
            let store = &store;
            async move {
                let started = Instant::now();
                let answer = match number % 2 {
                    0 => store.users().count().await.map(drop),
                    _ => store.users().get(UserId::new(number)).await.map(drop),
                };
                (answer, started.elapsed())
            }
        });
        let mut slowest = Duration::ZERO;
        for (answer, took) in join_all(calls).await {
            assert!(
                matches!(answer, Err(Error::PoolExhausted { .. })),
                "{answer:?}"
            );
            assert!(
                took >= limit && took <= Duration::from_millis(750),
                "{took:?}"
            );
            slowest = slowest.max(took);
        }
        eprintln!("refused within {slowest:?}");
        // A lane may still be waiting on behalf of those who have gone.
        until(&store, |status| status.waiting == 0).await;
        for tx in held {
            tx.unwrap().rollback().await.unwrap();
        }
        assert_eq!(store.users().count().await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_cancelled_acquisitions_lose_no_place() {
    with_database(async |database| {
        let store = builder(&database, 4).build().await.unwrap();
        let mut cancelled = 0;
        for round in 0..200 {
            let mut held = all(&store).await;
            assert_eq!(held.len(), 4, "round {round}");
            let mut waiting: Vec<_> = (0..50).map(|_| Box::pin(store.ping())).collect();
            // Some have not begun to wait, the others do.
            for call in waiting.iter_mut().skip(round % 8) {
                assert!(call.now_or_never().is_none());
            }
            assert_eq!(store.status().waiting, 50 - round % 8);
            // Some are dropped while all are in use, some when one is theirs and they do not know
            // it yet, and some when they have begun to use it.
            held.truncate(round % 5);
            if round % 16 == 3 {
                tokio::task::yield_now().await;
                for call in waiting.iter_mut().take(20) {
                    let _ = call.now_or_never();
                }
            }
            cancelled += waiting.len();
            match round % 2 {
                0 => drop(waiting),
                _ => waiting.into_iter().rev().for_each(drop),
            }
            drop(held);
            assert_eq!(store.status().waiting, 0, "round {round}");
            assert!(store.status().size <= 4);
        }
        assert_eq!(cancelled, 10_000);
        let held = all(&store).await;
        assert_eq!((held.len(), store.status().size), (4, 4));
        drop(held);
        store.ping().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn in_a_pool_of_one_a_closure_works_through_its_transaction() {
    with_database(async |database| {
        let limit = Duration::from_millis(300);
        let builder = builder(&database, 1).acquire_timeout(limit);
        let store = builder.build().await.unwrap();
        let count = store.transaction(|tx| async move {
            tx.users().register(&new_user("Anna")).await?;
            tx.users().count().await
        });
        assert_eq!(count.await.unwrap(), 1);

        let started = Instant::now();
        let second = store.transaction(|tx| {
            let store = &store;
            async move {
                tx.users().register(&new_user("Bert")).await?;
                store.users().count().await
            }
        });
        let answer = second.await;
        let took = started.elapsed();
        assert!(
            matches!(answer, Err(Error::PoolExhausted { .. })),
            "{answer:?}"
        );
        assert!(took >= limit && took < Duration::from_secs(5), "{took:?}");
        assert_eq!(store.users().count().await.unwrap(), 1);
    })
    .await;
}

const PIDS: &str = "SELECT pid::text FROM pg_stat_activity \
    WHERE datname = current_database() AND application_name = 'motorpool'";

#[tokio::test]
async fn a_connection_is_made_anew_after_its_life() {
    with_database(async |database| {
        let builder = builder(&database, 1).max_lifetime(Duration::from_millis(200));
        let store = builder.build().await.unwrap();
        let look = Watch::new(&database).await;
        let mut pids = BTreeSet::new();
        let started = Instant::now();
        while pids.len() < 4 {
            store.ping().await.unwrap();
            pids.extend(look.texts(PIDS).await);
            assert!(started.elapsed() < BOUND, "{pids:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Each of them lived for most of its time.
        assert!(started.elapsed() >= Duration::from_millis(3 * 180));
        let status = store.status();
        assert!(status.discarded.expired >= 3, "{status:?}");
        assert_eq!(status.discarded.lost, 0, "{status:?}");
    })
    .await;
}

#[tokio::test]
async fn idle_connections_are_closed_down_to_the_fewest() {
    with_database(async |database| {
        let builder = builder(&database, 5).min_idle(2);
        let builder = builder.idle_timeout(Duration::from_millis(200));
        let store = builder.build().await.unwrap();
        let look = Watch::new(&database).await;
        drop(all(&store).await);
        assert_eq!(store.status().size, 5);
        until(&store, |status| status.discarded.idle == 3).await;
        let status = store.status();
        assert_eq!((status.size, status.idle), (2, 2), "{status:?}");
        let backends = format!("SELECT count(*) FROM ({PIDS}) one");
        look.until(&backends, 2).await;
        // Several looks of the reaper later.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(store.status(), status);
        assert_eq!(all(&store).await.len(), 5);
    })
    .await;
}

#[tokio::test]
async fn the_status_counts_what_is_there() {
    with_database(async |database| {
        let store = builder(&database, 3).build().await.unwrap();
        let look = |store: &PgStore| {
            let status = store.status();
            (status.max, status.size, status.idle, status.waiting)
        };
        assert_eq!(look(&store), (3, 1, 1, 0));
        let one = store.begin(TxOptions::new()).await.unwrap();
        assert_eq!(look(&store), (3, 1, 0, 0));
        let two = store.begin(TxOptions::new()).await.unwrap();
        let three = store.begin(TxOptions::new()).await.unwrap();
        assert_eq!(look(&store), (3, 3, 0, 0));
        let mut waiting: Vec<_> = (0..7).map(|_| Box::pin(store.ping())).collect();
        for call in &mut waiting {
            assert!(call.now_or_never().is_none());
        }
        assert_eq!(look(&store), (3, 3, 0, 7));
        one.rollback().await.unwrap();
        for answer in join_all(waiting).await {
            answer.unwrap();
        }
        assert_eq!(look(&store), (3, 3, 1, 0));
        two.commit().await.unwrap();
        drop(three);
        until(&store, |status| status.idle == 3).await;
        assert_eq!(look(&store.clone()), (3, 3, 3, 0));
        assert_eq!(store.status().discarded, motorpool::Discarded::default());
    })
    .await;
}

#[tokio::test]
async fn a_clone_can_have_another_limit_for_its_calls() {
    with_database(async |database| {
        let store = builder(&database, 2).build().await.unwrap();
        let limit = Duration::from_millis(200);
        let hasty = store.with_call_timeout(limit);
        let (holder, look) = (Watch::new(&database).await, Watch::new(&database).await);
        holder.run(LOCK).await;
        let patient = slow(&store, &look).await;
        let answer = hasty.users().count().await;
        assert!(
            matches!(answer, Err(Error::Timeout { after }) if after == limit),
            "{answer:?}"
        );
        assert!(!patient.is_finished());
        holder.run("COMMIT").await;
        assert!(patient.await.unwrap().unwrap());
        assert_eq!(hasty.users().count().await.unwrap(), 1);
        assert_eq!(store.status().discarded.cancelled, 1);
    })
    .await;
}

fn assert_closed<T: std::fmt::Debug>(answer: motorpool::Result<T>) {
    let reason = UnavailableReason::Closed;
    assert!(
        matches!(&answer, Err(Error::Unavailable { reason: found, .. }) if *found == reason),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_close_lets_the_running_calls_finish() {
    with_database(async |database| {
        let store = builder(&database, 1).build().await.unwrap();
        let (holder, look) = (Watch::new(&database).await, Watch::new(&database).await);
        holder.run(LOCK).await;
        let running = slow(&store, &look).await;
        let mut queued = Box::pin(store.ping());
        assert!((&mut queued).now_or_never().is_none());
        let mut closing = Box::pin(store.close().within(Duration::from_secs(60)));
        assert_closed(store.ping().await);
        assert_closed(queued.await);
        assert!(
            (&mut closing).now_or_never().is_none(),
            "one call still runs"
        );
        holder.run("COMMIT").await;
        assert_eq!(closing.await, 0);
        assert!(running.await.unwrap().unwrap());
        look.ended().await;
        assert_eq!(look.number("SELECT count(*) FROM users").await, 1);
        assert_closed(store.ping().await);
    })
    .await;
}

#[tokio::test]
async fn a_close_cuts_what_takes_too_long() {
    with_database(async |database| {
        let builder = builder(&database, 2).call_timeout(Duration::from_secs(60));
        let store = builder.build().await.unwrap();
        let (holder, look) = (Watch::new(&database).await, Watch::new(&database).await);
        holder.run(LOCK).await;
        let running = slow(&store, &look).await;
        let started = Instant::now();
        assert_eq!(store.close().within(Duration::from_millis(200)).await, 1);
        let answer = running.await.unwrap();
        assert!(
            matches!(answer, Err(Error::Unavailable { .. })),
            "{answer:?}"
        );
        let took = started.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        // While the table is still locked.
        look.ended().await;
        holder.run("COMMIT").await;
        assert_eq!(look.number("SELECT count(*) FROM users").await, 0);
    })
    .await;
}

/// A statement that its caller gave up is in use until it has ended: it could be stored later.
#[tokio::test]
async fn a_close_waits_for_what_was_given_up() {
    with_database(async |database| {
        let store = builder(&database, 2).build().await.unwrap();
        let ada = store.users().register(&new_user("Ada")).await.unwrap();
        let ada = ada.into_user();
        let holder = Watch::new(&database).await;
        holder
            .run("BEGIN; UPDATE users SET role = 'teacher' WHERE username = 'Ada'")
            .await;
        let look = Watch::new(&database).await;
        let users = store.users();
        let mut change = Box::pin(users.set_role(ada.id, Role::Student));
        tokio::select! {
            answer = &mut change => panic!("{answer:?}"),
            () = look.waiting(1) => {}
        }
        drop(change);
        assert_eq!(store.close().within(Duration::from_secs(60)).await, 0);
        assert_eq!(look.busy().await, 0);
        holder.run("ROLLBACK").await;
        let role = "SELECT role::text FROM users WHERE username = 'Ada'";
        assert_eq!(look.texts(role).await, ["employee"]);
    })
    .await;
}

#[tokio::test]
async fn a_close_that_nobody_waits_for_closes_all_the_same() {
    with_database(async |database| {
        let store = builder(&database, 3).build().await.unwrap();
        let look = Watch::new(&database).await;
        let tx = store.begin(TxOptions::new()).await.unwrap();
        drop(all(&store).await);
        assert_eq!(look.backends().await, 3);
        drop(store.close());
        assert_closed(store.ping().await);
        tx.users().register(&new_user("Anna")).await.unwrap();
        tx.commit().await.unwrap();
        look.ended().await;
        assert_eq!(look.number("SELECT count(*) FROM users").await, 1);
    })
    .await;
}

#[tokio::test]
async fn a_close_leaves_the_pool_of_the_host_open() {
    with_database(async |database| {
        let config: Config = database.url.parse().unwrap();
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method });
        let pool = Pool::builder(manager).max_size(2).build().unwrap();
        let store = PgStore::from_pool(pool.clone());
        let tx = store.begin(TxOptions::new()).await.unwrap();
        assert_eq!(store.close().within(Duration::from_millis(50)).await, 1);
        tx.users().register(&new_user("Anna")).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(store.close().await, 0);
        assert_closed(store.ping().await);
        let client = pool.get().await.unwrap();
        let count = client.query_one("SELECT count(*) FROM users", &[]).await;
        assert_eq!(count.unwrap().get::<_, i64>(0), 1);
        assert!(!pool.is_closed());
    })
    .await;
}
