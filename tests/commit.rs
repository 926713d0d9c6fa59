//! A commit tells the truth, wherever the connection is cut around it; and what it costs.
//!
//! The full number of cuts: `cargo test --all-features --test commit -- --ignored --nocapture`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/misspelt.rs"]
mod misspelt;
#[path = "support/relay.rs"]
mod relay;
mod support;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use misspelt::Misspelt;
use motorpool::{
    CommitOutcome, CommitToken, Error, IsolationLevel, NewCar, NewUser, PgStore, Result, Store,
    StoreExt, Tx, TxOptions,
};
use relay::{ANSWER, Cut, Point, Relay};
use support::server::{Options, Server};
use support::{Database, until_idle, with_database};
use tokio_postgres::Client;

/// How long the server may take to end a transaction whose client is gone, or the store to see
/// that a connection is.
const TO_RESOLVE: Duration = Duration::from_secs(20);

/// The work of a transaction.
async fn work(tx: &Tx, name: &str) -> Result<()> {
    let user = tx.users().register(&NewUser::new(name)?).await?;
    let car = NewCar::new("Golf", user.user().id)?;
    tx.cars().buy(&car).await.map(drop)
}

/// Whether it is stored; if so, all of it.
async fn is_stored(client: &Client, name: &str) -> bool {
    let sql = "SELECT count(u.id), count(c.id) FROM users u LEFT JOIN cars c ON c.owner_id = u.id \
               WHERE username = $1";
    let row = client.query_one(sql, &[&name]).await.unwrap();
    match (row.get::<_, i64>(0), row.get::<_, i64>(1)) {
        (0, 0) => false,
        (1, 1) => true,
        found => panic!("{name}: {found:?} users and cars"),
    }
}

async fn until_known(store: &PgStore, token: &CommitToken, waits: &mut u32) -> CommitOutcome {
    let started = Instant::now();
    loop {
        match store.commit_outcome(token).await.unwrap() {
            CommitOutcome::InProgress => *waits += 1,
            outcome => return outcome,
        }
        assert!(started.elapsed() < TO_RESOLVE, "{token} is in progress");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A connection that was cut behind a whole answer has gone back to the pool, and nobody may have
/// seen yet that it is closed.
async fn until_it_answers(store: &PgStore) {
    let started = Instant::now();
    while let Err(error) = store.ping().await {
        assert!(started.elapsed() < TO_RESOLVE, "{error}");
    }
}

fn points() -> Vec<Point> {
    let mut points = vec![Point::Before, Point::After, Point::Late];
    points.extend([1, 5, 11].map(Point::Inside));
    points.extend((0..=ANSWER).map(Point::Answer));
    points
}

#[derive(Debug, Default)]
struct Counts {
    ok: u32,
    committed: u32,
    rolled_back: u32,
    other: u32,
    /// How often an outcome was in progress when it was asked for.
    waits: u32,
}

/// One transaction whose commit is cut, and what the table has to hold then.
async fn cut_once(number: usize, relay: &Relay, store: &PgStore, direct: &PgStore) -> Seen {
    let points = points();
    let at = points[number % points.len()];
    let abrupt = (number / points.len()).is_multiple_of(2);
    let name = format!("user {number}");
    let cut = Cut { at, abrupt };
    until_it_answers(store).await;
    relay.cut_next(cut);
    let runs = AtomicU32::new(0);
    let result = if number.is_multiple_of(2) {
        let tx = store.begin(TxOptions::new()).await.unwrap();
        work(&tx, &name).await.unwrap();
        runs.fetch_add(1, Relaxed);
        tx.commit().await
    } else {
        let run = store.transaction(|tx| {
            runs.fetch_add(1, Relaxed);
            let name = &name;
            async move { work(&tx, name).await }
        });
        run.await
    };
    assert!(!relay.is_armed(), "{at:?} was not reached");
    assert_eq!(runs.into_inner(), 1, "{at:?}: run again after {result:?}");
    let mut waits = 0;
    let outcome = match &result {
        Err(Error::CommitUnknown { token }) => Some(until_known(direct, token, &mut waits).await),
        _ => None,
    };
    Seen {
        name,
        cut,
        result,
        outcome,
        waits,
    }
}

#[derive(Debug)]
struct Seen {
    name: String,
    cut: Cut,
    result: Result<()>,
    outcome: Option<CommitOutcome>,
    waits: u32,
}

impl Seen {
    fn count(&self, counts: &mut Counts) -> bool {
        counts.waits += self.waits;
        let (count, stored) = match (&self.result, self.outcome) {
            (Ok(()), _) => (&mut counts.ok, true),
            (_, Some(CommitOutcome::Committed)) => (&mut counts.committed, true),
            (_, Some(CommitOutcome::RolledBack)) => (&mut counts.rolled_back, false),
            (_, Some(outcome)) => panic!("{self:?}: {outcome:?}"),
            (Err(_), None) => (&mut counts.other, false),
        };
        *count += 1;
        stored
    }
}

async fn cut(database: &Database, number: usize) {
    let relay = Relay::start(&database.url).await;
    // One, so that a ping asks the one that the next transaction gets.
    let builder = PgStore::builder(&relay.url()).unwrap().max_connections(1);
    let store = builder.build().await.unwrap();
    let direct = PgStore::connect(&database.url).await.unwrap();
    let client = database.client().await;
    let (mut counts, mut lies, mut all) = (Counts::default(), 0, Vec::new());
    for number in 0..number {
        let seen = cut_once(number, &relay, &store, &direct).await;
        let told = seen.count(&mut counts);
        let stored = is_stored(&client, &seen.name).await;
        if told != stored {
            println!("{:?}: a lie, stored is {stored}: {seen:?}", seen.cut);
            lies += 1;
        }
        all.push((seen, told));
    }
    println!("{number} cuts, {lies} lies: {counts:?}");
    // What was told must not change later either.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (seen, told) in &all {
        let stored = is_stored(&client, &seen.name).await;
        assert_eq!(*told, stored, "later: {seen:?}");
    }
    assert_eq!(lies, 0);
    assert!(counts.committed > 0 && counts.rolled_back > 0 && counts.ok > 0);
    // Nothing was refused before the commit, so nothing else is an answer.
    assert_eq!(counts.other, 0, "{counts:?}");
    assert!(counts.waits > 0, "no commit came late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_commit_tells_the_truth() {
    with_database(async |database| cut(&database, 60).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long"]
async fn a_cut_commit_tells_the_truth_500_times() {
    with_database(async |database| cut(&database, 500).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_after_a_restart() {
    let mut server = Server::start(Options::default()).unwrap();
    let url = server.url("postgres");
    let store = PgStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    let relay = Relay::start(&url).await;
    let cut_store = PgStore::connect(&relay.url()).await.unwrap();
    let abrupt = false;
    let mut tokens = Vec::new();
    for (at, expected) in [
        (Point::Before, CommitOutcome::RolledBack),
        (Point::Answer(0), CommitOutcome::Committed),
    ] {
        relay.cut_next(Cut { at, abrupt });
        let tx = cut_store.begin(TxOptions::new()).await.unwrap();
        work(&tx, &format!("{at:?}")).await.unwrap();
        match tx.commit().await {
            Err(Error::CommitUnknown { token }) => tokens.push((token, expected)),
            other => panic!("{at:?}: {other:?}"),
        }
    }
    for (token, expected) in &tokens {
        // As a program does that keeps it in a file.
        let token: CommitToken = token.to_string().parse().unwrap();
        let outcome = until_known(&store, &token, &mut 0).await;
        assert_eq!(outcome, *expected);
    }

    // One that is open when the server crashes.
    let client = connect(&url).await;
    client.batch_execute("BEGIN").await.unwrap();
    let sql = "INSERT INTO users (username) VALUES ('open') \
               RETURNING pg_current_xact_id()::text::bigint";
    let id: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
    let open = CommitToken::new(id.cast_unsigned(), tokens[0].0.era());
    let outcome = store.commit_outcome(&open).await.unwrap();
    assert_eq!(outcome, CommitOutcome::InProgress);
    for id in [u64::MAX, id.cast_unsigned() + 1_000_000, 0] {
        let token = CommitToken::new(id, open.era());
        let outcome = store.commit_outcome(&token).await.unwrap();
        assert_eq!(outcome, CommitOutcome::Unknown, "{id}");
    }
    // It writes the log up to here, as any later commit does.
    let anna = NewUser::new("Anna").unwrap();
    store.users().register(&anna).await.unwrap();
    tokens.push((open.clone(), CommitOutcome::RolledBack));

    // In this order: after a crash the server cannot tell for ever.
    for crash in [false, true] {
        tokio::task::block_in_place(|| {
            match crash {
                true => server.kill().unwrap(),
                false => server.shut_down().unwrap(),
            }
            server.start_again().unwrap();
        });
        for (token, expected) in &tokens {
            let outcome = first_outcome(&store, token).await;
            assert_eq!(outcome, *expected, "crash: {crash}");
        }
    }
}

/// The first calls after a restart may find out that their connection is gone.
async fn first_outcome(store: &PgStore, token: &CommitToken) -> CommitOutcome {
    let started = Instant::now();
    loop {
        match store.commit_outcome(token).await {
            Ok(outcome) => return outcome,
            Err(error) => assert!(started.elapsed() < TO_RESOLVE, "{error}"),
        }
    }
}

async fn connect(url: &str) -> Client {
    let connected = tokio_postgres::connect(url, tokio_postgres::NoTls).await;
    let (client, connection) = connected.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_costs_one_round_trip_for_each_statement() {
    // Long enough that what is sent together arrives before an answer does.
    const TRIP: Duration = Duration::from_millis(50);
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let builder = PgStore::builder(&relay.url()).unwrap().max_connections(1);
        let store = builder.build().await.unwrap();
        let run = async |name: &str| {
            let tx = store.begin(TxOptions::new()).await.unwrap();
            work(&tx, name).await.unwrap();
            tx.commit().await.unwrap();
        };
        // Prepares the statements.
        run("Anna").await;
        let bert = NewUser::new("Bert").unwrap();
        store.users().register(&bert).await.unwrap();
        relay.flights();
        relay.delay(TRIP);
        let started = Instant::now();
        run("Carl").await;
        let took = started.elapsed();
        // Begin and register; buy; commit.
        assert_eq!(relay.flights(), ["QBES", "BES", "Q"]);
        assert!(took >= TRIP * 3, "{took:?}");

        // Bound, executed and answered, and nothing else, outside a transaction.
        store.users().register(&bert).await.unwrap();
        assert_eq!(relay.flights(), ["BES"]);
    })
    .await;
}

/// A server can refuse what ends a transaction before it ends anything.
#[tokio::test]
async fn a_transaction_that_the_server_does_not_end_stays_out_of_the_pool() {
    with_database(async |database| {
        for (word, fails, kept) in [
            ("COMMIT\0", false, true),
            ("ROLLBACK\0", false, false),
            ("ROLLBACK\0", true, false),
        ] {
            let relay = Relay::start(&database.url).await;
            let misspelt = Misspelt::start(&relay, word).await;
            let builder = PgStore::builder(&misspelt.url).unwrap().max_connections(1);
            let store = builder.build().await.unwrap();
            let tx = store.begin(TxOptions::new()).await.unwrap();
            work(&tx, "Anna").await.unwrap();
            if fails {
                // A savepoint that is dropped unfinished.
                let opened = tokio::sync::Notify::new();
                let save = tx.savepoint(async |_| -> Result<()> {
                    opened.notify_one();
                    std::future::pending().await
                });
                tokio::select! {
                    _ = save => panic!("it ended"),
                    () = opened.notified() => {}
                }
            }
            let end = match kept || fails {
                true => tx.commit().await.unwrap_err().sqlstate().map(str::to_owned),
                false => tx.rollback().await.map(|()| None).unwrap(),
            };
            assert_eq!(end.as_deref(), kept.then_some("42601"), "{word}");
            assert_eq!(misspelt.count(), 1, "{word}");
            // The only connection, or another one in its place.
            let again = NewUser::new("Bert").unwrap();
            store.users().register(&again).await.unwrap();
            assert_eq!(relay.accepted(), if kept { 1 } else { 2 }, "{word}");
            let client = database.client().await;
            assert!(!is_stored(&client, "Anna").await);
            until_idle(&client).await;
        }
    })
    .await;
}

/// Nor is it rolled back a second time, which the server would warn of.
#[tokio::test]
async fn a_refused_commit_has_ended_its_transaction() {
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let store = PgStore::connect(&relay.url()).await.unwrap();
        let options = TxOptions::new().isolation(IsolationLevel::Serializable);
        let begin = async |name: &str| {
            let tx = store.begin(options.clone()).await.unwrap();
            tx.users().count().await.unwrap();
            work(&tx, name).await.unwrap();
            tx
        };
        let (first, second) = (begin("Anna").await, begin("Bert").await);
        first.commit().await.unwrap();
        relay.flights();
        let error = second.commit().await.unwrap_err();
        assert!(matches!(error, Error::Conflict(_)), "{error:?}");
        let client = database.client().await;
        until_idle(&client).await;
        store.ping().await.unwrap();
        let sent = relay.flights();
        assert_eq!(sent.first().map(String::as_str), Some("Q"), "{sent:?}");
        assert_eq!(sent.concat().matches('Q').count(), 1, "{sent:?}");
        assert_eq!(relay.accepted(), 2);
    })
    .await;
}

/// What a transaction is told of the server before it begins, once for each connection.
#[tokio::test]
async fn a_transaction_does_not_begin_on_a_connection_that_was_lost_when_it_asked() {
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let builder = PgStore::builder(&relay.url()).unwrap().max_connections(1);
        let store = builder.build().await.unwrap();
        store.ping().await.unwrap();
        let mut client = database.client().await;
        for (what, begins) in [("pg_terminate_backend", false), ("pg_cancel_backend", true)] {
            let lock = client.transaction().await.unwrap();
            lock.batch_execute("LOCK pg_stat_archiver").await.unwrap();
            let end = async {
                let sql = format!(
                    "SELECT {what}(pid) FROM pg_stat_activity
                    WHERE wait_event_type = 'Lock' AND datname = current_database()"
                );
                while lock.query(&sql, &[]).await.unwrap().is_empty() {
                    lock.batch_execute("SELECT pg_stat_clear_snapshot()")
                        .await
                        .unwrap();
                }
            };
            let (tx, ()) = tokio::join!(store.begin(TxOptions::new()), end);
            match tx {
                Ok(tx) if begins => tx.rollback().await.unwrap(),
                Err(Error::Unavailable { .. }) if !begins => {}
                other => panic!("{what}: {:?}", other.map(drop)),
            }
            lock.rollback().await.unwrap();
        }
        // It could not answer then, so it is asked once more, and then no more.
        for asks in [true, false] {
            relay.flights();
            let tx = store.begin(TxOptions::new()).await.unwrap();
            tx.rollback().await.unwrap();
            assert_eq!(!relay.flights().is_empty(), asks);
        }
    })
    .await;
}
