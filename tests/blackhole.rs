//! The network or the server falls silent without closing anything: every call ends in its time,
//! and service is back as soon as the path is.
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
#[path = "support/relay.rs"]
mod relay;
mod support;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use motorpool::{
    Batching, CommitToken, Error, NewCar, NewUser, PgStore, Result, Store, StoreExt, Tx, TxOptions,
    UnavailableReason, UserId, schema_status,
};
use relay::{Mode, Relay};
use support::server::{Options, Server};
use tokio::sync::Mutex;
use tokio::task::block_in_place;

const IDLE: usize = 16;
const CALLERS: usize = 64;

/// How much longer than its time a call may take.
const LATE: Duration = Duration::from_millis(250);

/// A call that has not ended by then never would.
const NEVER: Duration = Duration::from_secs(20);

/// How long the store may take to be back once the path is.
const BACK: Duration = Duration::from_secs(2);

/// One after the other: they measure time.
static ALONE: Mutex<()> = Mutex::const_new(());

fn new_user(name: &str) -> NewUser {
    NewUser::new(name).unwrap()
}

/// A server with a migrated database, and the URL of that.
async fn server() -> (Server, String) {
    let options = Options {
        tcp: true,
        ..Options::default()
    };
    let server = block_in_place(|| Server::start(options)).unwrap();
    let url = quick::user(&server.tcp_url("postgres")).await;
    let store = PgStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    store.close().await;
    (server, url)
}

/// A store whose calls have this limit, and the same one with more time.
async fn connect(
    url: &str,
    connections: usize,
    limit: Duration,
    batching: Batching,
) -> (PgStore, PgStore) {
    let builder = PgStore::builder(url).unwrap().max_connections(connections);
    let builder = builder.batching(batching);
    let builder = builder.statement_timeout(limit / 20 * 19);
    let patient = builder.build().await.unwrap();
    (patient.with_call_timeout(limit), patient)
}

/// Transactions, one on each connection.
async fn open(store: &PgStore, number: usize) -> Result<Vec<Tx>> {
    let begin = || async {
        let tx = store.begin(TxOptions::new()).await?;
        tx.users().count().await?;
        Ok(tx)
    };
    join_all((0..number).map(|_| begin()))
        .await
        .into_iter()
        .collect()
}

async fn close(open: Vec<Tx>) {
    for tx in open {
        tx.rollback().await.unwrap();
    }
}

/// A call of some kind.
async fn call(store: &PgStore, kind: usize) -> Result<()> {
    let name = format!("user {kind}");
    match kind % 8 {
        0 => store.users().register(&new_user(&name)).await.map(drop),
        1 => store.users().count().await.map(drop),
        2 => store.users().get_by_username(&name).await.map(drop),
        3 => store.ping().await,
        4 => {
            let tx = store.begin(TxOptions::new()).await?;
            tx.users().count().await.map(drop)
        }
        5 => {
            let car = NewCar::new("Golf", UserId::new(1))?;
            store.cars().buy(&car).await.map(drop)
        }
        6 => {
            let user = &new_user(&name);
            let run = store.transaction(|tx| async move { tx.users().register(user).await });
            run.await.map(drop)
        }
        _ => store
            .commit_outcome(&CommitToken::new(3, 0))
            .await
            .map(drop),
    }
}

/// Its result and how long it took.
async fn timed<T>(call: impl Future<Output = T>) -> (T, Duration) {
    let started = Instant::now();
    let ended = tokio::time::timeout(NEVER, call).await;
    (ended.expect("the call ends"), started.elapsed())
}

/// The kinds of error that silence is told by.
#[derive(Debug, Default)]
struct Kinds {
    timeout: u32,
    unavailable: u32,
    exhausted: u32,
    unknown: u32,
    longest: Duration,
}

impl Kinds {
    fn add(&mut self, (error, took): (Error, Duration), limit: Duration) {
        *match &error {
            Error::Timeout { .. } => &mut self.timeout,
            Error::Unavailable { .. } => &mut self.unavailable,
            Error::PoolExhausted { .. } => &mut self.exhausted,
            Error::CommitUnknown { .. } => &mut self.unknown,
            other => panic!("{other:?}"),
        } += 1;
        assert!(took < limit + LATE, "{error:?} after {took:?}");
        self.longest = self.longest.max(took);
    }
}

/// Many calls at once, all of which fail in their time.
async fn all_fail(store: &PgStore, limit: Duration) -> Kinds {
    let calls = (0..CALLERS).map(|kind| {
        let store = store.clone();
        tokio::spawn(async move { timed(call(&store, kind)).await })
    });
    let mut kinds = Kinds::default();
    for ended in join_all(calls).await {
        let (result, took) = ended.unwrap();
        let error = result.expect_err("nothing answers");
        kinds.add((error, took), limit);
    }
    assert_eq!(kinds.unknown, 0, "none of them got as far as its commit");
    kinds
}

/// Falls silent with idle connections and open transactions, and comes back.
async fn silence(
    url: &str,
    limit: Duration,
    batching: Batching,
    mut fall_silent: impl FnMut(),
    mut come_back: impl FnMut(),
) {
    let (store, patient) = connect(url, IDLE + 4, limit, batching).await;
    close(open(&patient, IDLE + 4).await.unwrap()).await;
    let [commits, works, saves, gives_up]: [Tx; 4] =
        open(&store, 4).await.unwrap().try_into().unwrap();
    let anna = new_user(&format!("Anna {limit:?}"));
    commits.users().register(&anna).await.unwrap();
    assert_eq!(store.status().idle, IDLE);

    fall_silent();
    let savepoint = saves.savepoint(|tx| async move { tx.users().count().await });
    let (ended, worked, saved, gave_up, kinds) = tokio::join!(
        timed(commits.commit()),
        timed(works.users().count()),
        timed(savepoint),
        timed(gives_up.rollback()),
        all_fail(&store, limit),
    );
    println!("at once: {kinds:?}");
    let mut kinds = Kinds::default();
    kinds.add((ended.0.expect_err("no answer"), ended.1), limit);
    assert_eq!(kinds.unknown, 1, "a commit that wrote something");
    kinds.add((worked.0.expect_err("no answer"), worked.1), limit);
    // It is undone after its failure, on a connection that is given up already.
    kinds.add((saved.0.expect_err("no answer"), saved.1), limit);
    gave_up.0.expect("the server rolls back by itself");
    assert!(gave_up.1 < limit + LATE, "{:?}", gave_up.1);
    let (after, took) = timed(works.commit()).await;
    assert!(matches!(after, Err(Error::RolledBack(_))), "{after:?}");
    assert!(took < LATE, "{took:?}");
    // Later calls find no idle connection, and none can be made.
    println!("later: {:?}", all_fail(&store, limit).await);
    println!("one more: {:?}", all_fail(&store, limit).await);

    // With callers that wait all the while.
    let calls = (0..CALLERS).map(|kind| {
        let store = store.clone();
        tokio::spawn(async move { timed(call(&store, kind)).await })
    });
    let calls: Vec<_> = calls.collect();
    tokio::time::sleep(limit / 10).await;
    let back = Instant::now();
    come_back();
    let mut failed = 0;
    while let Err(error) = call(&store, failed * 2 + 1).await {
        failed += 1;
        println!("  {:?} after the return: {error}", back.elapsed());
        assert!(back.elapsed() < BACK * 5, "the store is not back");
    }
    let first = back.elapsed();
    let mut waited = [0, 0];
    for ended in join_all(calls).await {
        let (result, took) = ended.unwrap();
        // Of user 1, which there may not be.
        let result = result.or_else(|error| match error {
            Error::UnknownOwner { .. } => Ok(()),
            error => Err(error),
        });
        waited[usize::from(result.is_ok())] += 1;
        assert!(took < limit + LATE, "{result:?} after {took:?}");
    }
    println!("{waited:?} of those that waited failed and did not");
    let all = loop {
        match open(&patient, IDLE + 4).await {
            Ok(open) => break open,
            Err(error) => assert!(back.elapsed() < BACK * 5, "{error}"),
        }
    };
    println!("back after {first:?}, in full after {:?}", back.elapsed());
    assert!(first < BACK, "back after {first:?}, {failed} calls failed");
    close(all).await;
    assert_eq!(store.status().size, IDLE + 4);
    // From here on nothing fails any more.
    let calls = (0..CALLERS).map(|number| call(&store, number * 8 + 1));
    let good: Result<Vec<()>> = join_all(calls).await.into_iter().collect();
    good.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_ends_every_call_in_time() {
    let _alone = ALONE.lock().await;
    let (_server, url) = server().await;
    for (limit, batching) in [
        (Duration::from_secs(1), busy::tiny()),
        (Duration::from_secs(2), Batching::default()),
    ] {
        let relay = Relay::start(&url).await;
        let (hole, pass) = (|| relay.set(Mode::Hole), || relay.set(Mode::Pass));
        silence(&relay.url(), limit, batching, hole, pass).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_ends_every_call_in_time() {
    let _alone = ALONE.lock().await;
    let (server, url) = server().await;
    let server = std::sync::Mutex::new(server);
    let stop = || block_in_place(|| server.lock().unwrap().pause().unwrap());
    let go_on = || server.lock().unwrap().resume().unwrap();
    silence(
        &url,
        Duration::from_secs(1),
        Batching::default(),
        stop,
        go_on,
    )
    .await;
}

/// The connections are dead, and new ones can be made: a firewall has forgotten them, or the
/// server has moved.
async fn forgotten(limit: Duration) {
    let _alone = ALONE.lock().await;
    let (_server, url) = server().await;
    let relay = Relay::start(&url).await;
    let (store, patient) = connect(&relay.url(), IDLE, limit, busy::tiny()).await;
    close(open(&patient, IDLE).await.unwrap()).await;
    assert_eq!(store.status().idle, IDLE);

    // One caller: its first call pays for all of them.
    relay.lose_connections();
    let (mut failed, lost) = (0, Instant::now());
    for _ in 0..50 {
        let (result, took) = timed(store.users().count()).await;
        assert!(took < limit + LATE, "{result:?} after {took:?}");
        failed += u32::from(result.is_err());
    }
    println!("{failed} of 50 failed, {:?}", lost.elapsed());
    assert_eq!(failed, 1, "after the first one the others are checked");

    // Many at once.
    close(open(&patient, IDLE).await.unwrap()).await;
    relay.lose_connections();
    let mut failures = Vec::new();
    for _ in 0..3 {
        let calls = (0..CALLERS).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { timed(store.users().count()).await })
        });
        let mut failed = 0;
        for ended in join_all(calls).await {
            let (result, took) = ended.unwrap();
            assert!(took < limit + LATE, "{result:?} after {took:?}");
            failed += usize::from(result.is_err());
        }
        failures.push(failed);
    }
    println!("{failures:?} of {CALLERS} failed");
    assert!(failures[0] >= IDLE, "{failures:?}");
    assert_eq!(failures[1..], [0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_connections_cost_one_call() {
    forgotten(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_connections_cost_one_short_call() {
    forgotten(Duration::from_millis(800)).await;
}

/// Callers with hardly any time say nothing about connections that they give none to answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hasty_callers_leave_the_idle_connections_alone() {
    let _alone = ALONE.lock().await;
    let (_server, url) = server().await;
    let relay = Relay::start(&url).await;
    let builder = PgStore::builder(&relay.url()).unwrap();
    let patient = builder.max_connections(IDLE).build().await.unwrap();
    let hasty = patient.with_call_timeout(Duration::from_millis(30));
    close(open(&patient, IDLE).await.unwrap()).await;
    relay.delay(Duration::from_millis(200));
    // The first has its statement cancelled, and whoever comes next is to check.
    for _ in 0..2 {
        hasty.ping().await.unwrap_err();
    }
    let discarded = patient.status().discarded;
    assert_eq!((discarded.cancelled, discarded.unanswered), (1, 1));
    relay.delay(Duration::ZERO);
    close(open(&patient, IDLE).await.unwrap()).await;
    assert_eq!(patient.status().discarded.unanswered, 1);
}

/// It reads with the host's pool, which knows no limits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schema_is_not_waited_for_without_end() {
    let (server, url) = server().await;
    let store = PgStore::connect(&url).await.unwrap();
    assert!(schema_status(store.pool()).await.unwrap().is_current());
    let server = std::sync::Mutex::new(server);
    block_in_place(|| server.lock().unwrap().pause().unwrap());
    let (status, _) = timed(schema_status(store.pool())).await;
    assert!(matches!(status, Err(Error::Timeout { .. })), "{status:?}");
    block_in_place(|| server.lock().unwrap().resume().unwrap());
    assert!(schema_status(store.pool()).await.unwrap().is_current());
}

/// Whoever waits for those who wait for the server is not told that connections are in use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_no_connection_is_not_a_pool_in_use() {
    let _alone = ALONE.lock().await;
    let (_server, url) = server().await;
    for batching in [Batching::Off, Batching::default()] {
        let relay = Relay::start(&url).await;
        let builder = PgStore::builder(&relay.url()).unwrap().max_connections(4);
        let builder = builder.connect_timeout(Duration::from_secs(2)).min_idle(0);
        let builder = builder.acquire_timeout(Duration::from_millis(300));
        let store = builder.batching(batching).build().await.unwrap();
        relay.set(Mode::Hole);
        drop(store.pool().retain(|_, _| false));
        let calls = (0..CALLERS).map(|_| store.users().get(UserId::new(1)));
        for answer in join_all(calls).await {
            let Err(Error::Unavailable { reason, .. }) = answer else {
                panic!("{batching:?}: {answer:?}");
            };
            assert_eq!(reason, UnavailableReason::ConnectTimeout);
        }
        store.close().within(Duration::ZERO).await;
    }
}
