//! A store behind PgBouncer in transaction mode: what it leaves on a shared connection, its limits,
//! and how its calls end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod calls;
mod polls;
mod pooler;
#[path = "support/relay.rs"]
mod relay;
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use calls::{CALLS, Run, Tag};
use deadpool_postgres::{Manager, Pool};
use futures_util::future::join_all;
use motorpool::{
    CommitOutcome, Error, NewUser, PgStore, StatementMode, Store, TxOptions, UnavailableReason,
    UserId,
};
use pooler::neighbour::{self, Neighbour};
use pooler::pgbouncer::{Options, PgBouncer};
use pooler::{Pooler, builder, connect, with_database};
use relay::{Cut, Point, Relay};
use support::inside::Inside;
use support::server::{self, Server};
use support::until_idle;
use tokio_postgres::{Client, NoTls};

/// Not a test: the other process.
#[tokio::test]
async fn neighbour() {
    neighbour::be_one().await;
}

fn new_user(name: &str) -> NewUser {
    NewUser::new(name).unwrap()
}

async fn register(store: &PgStore, name: &str) -> UserId {
    let registered = store.users().register(&new_user(name)).await;
    registered.unwrap().user().id
}

/// The session that answers: its number, what is set in it, and what was prepared or locked there.
/// Two settings are PgBouncer's own business.
async fn session(client: &Client) -> Vec<String> {
    let sql = "SELECT 'backend ' || pg_backend_pid()
        UNION ALL SELECT name || ' = ' || setting FROM pg_settings WHERE source = 'session'
            AND name NOT IN ('application_name', 'client_encoding')
        UNION ALL SELECT 'prepared ' || name FROM pg_prepared_statements WHERE name <> ''
        UNION ALL SELECT 'lock' FROM pg_locks WHERE locktype = 'advisory'";
    let rows = client.query_typed(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn nothing_that_is_set_outlives_its_transaction() {
    with_database(Pooler::Narrow, async |database| {
        let client = database.pooled().await;
        let before = session(&client).await;
        // Every kind of call, transactions of every level and batches.
        let other = Neighbour::start(&database.url, StatementMode::Unnamed).unwrap();
        assert!(other.end() >= 1);
        let store = builder(&database.url).build().await.unwrap();
        let names = (0..60).map(|n| new_user(&format!("user {}", n % 20)));
        let names: Vec<_> = names.collect();
        let users = join_all(names.iter().map(|new| store.users().register(new))).await;
        assert!(users.into_iter().all(|user| user.is_ok()));
        assert!(store.status().batched.calls > 0);
        let tx = store.begin(TxOptions::new()).await.unwrap();
        tx.users().register(&new_user("Anna")).await.unwrap();
        let savepoint = tx.savepoint(|tx| async move {
            tx.users().register(&new_user("Bert")).await?;
            Err::<(), _>(Error::UsernameTaken)
        });
        savepoint.await.unwrap_err();
        tx.commit().await.unwrap();
        until_idle(&database.client().await).await;
        assert_eq!(session(&client).await, before);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_brings_its_own_statement_timeout() {
    with_database(Pooler::Wide, async |database| {
        let builder = builder(&database.url).statement_timeout(Duration::from_millis(200));
        let store = builder.build().await.unwrap();
        let anna = register(&store, "Anna").await;
        let locker = database.client().await;
        locker
            .batch_execute("BEGIN; LOCK TABLE users")
            .await
            .unwrap();

        let tx = store.begin(TxOptions::new()).await.unwrap();
        let answer = tx.users().rename(anna, "Anne").await;
        assert!(matches!(answer, Err(Error::Timeout { after }) if after < Duration::from_secs(20)));
        assert!(matches!(tx.commit().await, Err(Error::RolledBack(_))));
        // What is sent alone has the client's limit and no other.
        let patient = store.with_call_timeout(Duration::from_secs(1));
        let answer = patient.users().rename(anna, "Anne").await;
        let second = Duration::from_secs(1);
        assert!(
            matches!(answer, Err(Error::Timeout { after }) if after == second),
            "{answer:?}"
        );
        // The server was told to stop.
        until_idle(&database.client().await).await;
        locker.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(
            store.users().get(anna).await.unwrap().unwrap().username,
            "Anna"
        );
    })
    .await;
}

#[tokio::test]
async fn options_of_the_url_are_the_hosts_affair() {
    with_database(Pooler::Narrow, async |database| {
        let refused = |result| match result {
            Err(Error::Unavailable { reason, source }) => {
                assert_eq!(reason, UnavailableReason::Other);
                let words = source.unwrap().to_string();
                assert!(words.contains("startup parameter"), "{words}");
            }
            other => panic!("not refused: {other:?}"),
        };
        // The old way sends a startup parameter that this PgBouncer does not know.
        refused(PgStore::connect(&database.url).await);
        let url = format!("{}?options=-c%20statement_timeout%3D1000", database.url);
        refused(builder(&url).build().await);
        builder(&database.url).build().await.unwrap();
        // Where they arrive they hold, inside transactions too.
        let url = format!("{}?options=-c%20statement_timeout%3D150", database.direct);
        let store = builder(&url).build().await.unwrap();
        let locker = database.client().await;
        locker
            .batch_execute("BEGIN; LOCK TABLE users")
            .await
            .unwrap();
        let tx = store.begin(TxOptions::new()).await.unwrap();
        let answer = tx.users().count().await;
        assert!(matches!(answer, Err(Error::Timeout { after }) if after < Duration::from_secs(20)));
    })
    .await;
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_and_a_dropped_transaction_rolled_back() {
    with_database(Pooler::Narrow, async |database| {
        let store = builder(&database.url).build().await.unwrap();
        let anna = register(&store, "Anna").await;
        let tx = store.begin(TxOptions::new()).await.unwrap();
        tx.users().register(&new_user("Bert")).await.unwrap();
        drop(tx);
        // It has the only connection until it has ended.
        assert_eq!(store.users().count().await.unwrap(), 1);

        let [locker, look] = [database.client().await, database.client().await];
        locker
            .batch_execute("BEGIN; LOCK TABLE users")
            .await
            .unwrap();
        let dropped = store.clone();
        let task = tokio::spawn(async move { dropped.users().rename(anna, "Anne").await });
        until_locked_out(&look).await;
        task.abort();
        // The lock is still there, so nothing but the cancel request ends it.
        until_idle(&database.client().await).await;
        locker.batch_execute("ROLLBACK").await.unwrap();
        let found = store.users().get(anna).await.unwrap();
        assert_eq!(found.unwrap().username, "Anna");
    })
    .await;
}

/// Waits until somebody waits for a lock.
async fn until_locked_out(look: &Client) {
    let waits = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let started = Instant::now();
    while look.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A pooler passes no request on for a connection that is closed already.
#[tokio::test]
async fn what_a_close_cuts_off_is_cancelled_through_the_pooler() {
    with_database(Pooler::Narrow, async |database| {
        let store = builder(&database.url).build().await.unwrap();
        let anna = register(&store, "Anna").await;
        let [locker, look] = [database.client().await, database.client().await];
        let lock = "BEGIN; LOCK TABLE users";
        locker.batch_execute(lock).await.unwrap();
        let cut = store.clone();
        let renamed = tokio::spawn(async move { cut.users().rename(anna, "Anne").await });
        until_locked_out(&look).await;
        assert_eq!(store.close().within(Duration::ZERO).await, 1);
        let answer = renamed.await.unwrap();
        assert!(
            matches!(answer, Err(Error::Unavailable { .. })),
            "{answer:?}"
        );
        // The lock is still there, so nothing but the cancel request ends it.
        until_idle(&look).await;
        locker.batch_execute("ROLLBACK").await.unwrap();
    })
    .await;
}

/// Some versions end with all their connections when whoever asks them to cancel is gone too soon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_calls_do_no_harm_to_a_pooler_in_session_mode() {
    let server = Server::start(server::Options::default()).unwrap();
    let options = Options {
        ignored: "options",
        ..Options::sessions(20)
    };
    let pooler = PgBouncer::start(&server, &options);
    let direct = server.url("postgres");
    PgStore::connect(&direct)
        .await
        .unwrap()
        .migrate()
        .await
        .unwrap();
    // Inside a transaction one sees what was under way when one first looked.
    let [locker, look] = [connect(&direct).await, connect(&direct).await];
    let bystander = connect(&pooler.url("postgres")).await;
    let url = pooler.url("postgres");
    let store = PgStore::builder(&url).unwrap();
    let store = store.call_timeout(Duration::from_secs(60));
    let store = store.max_connections(8).build().await.unwrap();
    let anna = register(&store, "Anna").await;
    let lock = "BEGIN; LOCK TABLE users";
    for _ in 0..5 {
        locker.batch_execute(lock).await.unwrap();
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { store.users().rename(anna, "Anne").await })
            })
            .collect();
        until_locked_out(&look).await;
        calls.iter().for_each(|call| call.abort());
        until_idle(&look).await;
        locker.batch_execute("ROLLBACK").await.unwrap();
    }
    bystander.simple_query("SELECT 1").await.unwrap();
    let found = store.users().get(anna).await.unwrap();
    assert_eq!(found.unwrap().username, "Anna");
    store.close().await;
}

#[tokio::test]
async fn a_hosts_own_pool_without_names() {
    with_database(Pooler::Narrow, async |database| {
        let relay = Relay::start(&database.url).await;
        let manager = Manager::new(relay.url().parse().unwrap(), NoTls);
        let pool = Pool::builder(manager).max_size(3).build().unwrap();
        let store = PgStore::from_pool(pool).with_statement_mode(StatementMode::Unnamed);
        neighbour::calls(&store).await.unwrap();
        let tx = store.begin(TxOptions::new()).await.unwrap();
        neighbour::calls(&Inside(tx.clone())).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(relay.parsed().0, 0);
        // The same store with names again, and one of its own pool with batches.
        let named = store.with_statement_mode(StatementMode::Prepared);
        named.ping().await.unwrap();
        assert_eq!(relay.parsed().0, 1);
    })
    .await;
}

// Clones with another mode have lanes of their own.
#[tokio::test]
async fn batches_are_sent_in_the_mode_of_their_store() {
    with_database(Pooler::Wide, async |database| {
        let relay = Relay::start(&database.direct).await;
        let store = PgStore::connect(&relay.url()).await.unwrap();
        let store = store.with_statement_mode(StatementMode::Unnamed);
        let gets = (0..200).map(|_| store.users().get_by_username("nobody"));
        assert!(
            join_all(gets)
                .await
                .iter()
                .all(|found| matches!(found, Ok(None)))
        );
        assert!(store.status().batched.calls > 0);
        let (named, unnamed) = relay.parsed();
        assert!(named == 0 && unnamed > 0, "{named} and {unnamed}");
    })
    .await;
}

#[tokio::test]
async fn a_pooler_that_asks_for_a_password() {
    let server = Server::start(server::Options::default()).unwrap();
    let options = Options {
        users: &[("service", "open sesame")],
        ..Options::transactions(1)
    };
    let bouncer = PgBouncer::start(&server, &options);
    let direct = PgStore::connect(&server.url("postgres")).await.unwrap();
    direct.migrate().await.unwrap();
    let url = bouncer.url_as("service:open%20sesame", "postgres");
    let store = builder(&url).build().await.unwrap();
    neighbour::calls(&store).await.unwrap();
    let wrong = builder(&bouncer.url_as("service:canary", "postgres")).build();
    match wrong.await {
        Err(error @ Error::Unavailable { .. }) => {
            assert!(!format!("{error:?}").contains("canary"));
        }
        other => panic!("it was let in: {other:?}"),
    }
}

/// A connection to the pooler lives through a crash of the server, so what was noted about it
/// before says nothing of the transactions after it.
#[tokio::test]
async fn a_commit_after_a_crash_behind_the_pooler_is_found() {
    let fsync = server::Options {
        fsync: true,
        ..server::Options::default()
    };
    for mode in [StatementMode::Unnamed, StatementMode::Prepared] {
        let mut server = Server::start(fsync.clone()).unwrap();
        let options = Options {
            ignored: "options",
            ..Options::transactions(1)
        };
        let bouncer = PgBouncer::start(&server, &options);
        let direct = PgStore::connect(&server.url("postgres")).await.unwrap();
        direct.migrate().await.unwrap();
        let relay = Relay::start(&bouncer.url("postgres")).await;
        let store = builder(&relay.url())
            .max_connections(1)
            .statement_mode(mode)
            .build()
            .await
            .unwrap();
        let commit = async |name: &str| {
            let tx = store.begin(TxOptions::new()).await.unwrap();
            tx.users().register(&new_user(name)).await?;
            tx.commit().await
        };
        commit("Anna").await.unwrap();
        server.kill().unwrap();
        server.start_again().unwrap();
        if mode == StatementMode::Prepared {
            // This pooler does not know what was prepared, so that has gone with the server.
            let mut lost = 0;
            while let Err(error) = commit("Carla").await {
                assert_eq!(error.sqlstate(), Some("26000"), "{error:?}");
                lost += 1;
                assert!(lost < 5, "{error:?}");
            }
        }
        relay.cut_next(Cut {
            at: Point::Answer(0),
            abrupt: false,
        });
        let token = match commit("Bert").await {
            Err(Error::CommitUnknown { token }) => token,
            other => panic!("the answer was not lost: {other:?}"),
        };
        assert_eq!(
            store.status().discarded.unanswered,
            0,
            "it was another connection"
        );
        let outcome = store.commit_outcome(&token).await.unwrap();
        assert_eq!(outcome, CommitOutcome::Committed);
        let client = connect(&server.url("postgres")).await;
        let sql =
            "SELECT (extract(epoch FROM stats_reset) * 1000000)::bigint FROM pg_stat_archiver";
        let era: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(token.era(), era);
        let names = ["Anna", "Bert"].map(|name| direct.users().get_by_username(name));
        assert!(
            join_all(names)
                .await
                .iter()
                .all(|user| matches!(user, Ok(Some(_))))
        );
    }
}

/// How long an answer takes here: what is sent together has arrived before one comes.
const TRIP: Duration = Duration::from_millis(20);

#[tokio::test]
async fn a_call_without_names_is_one_round_trip() {
    with_database(Pooler::Narrow, async |database| {
        let relay = Relay::start(&database.direct).await;
        let store = builder(&relay.url())
            .max_connections(1)
            .build()
            .await
            .unwrap();
        let client = database.client().await;
        let owners = ["Anna", "Bert"].map(new_user);
        let owners = store.users().register_many(&owners).await.unwrap();
        let owners = [owners[0].user().id, owners[1].user().id];
        let tag = async |name: String| Tag::new(&client, name, owners, &database.direct).await;
        for call in CALLS {
            let Run::Method(run) = call.run else {
                continue;
            };
            let own = tag(call.name.into()).await;
            relay.flights();
            run(Arc::new(store.clone()), own).await.unwrap();
            assert_eq!(relay.flights(), ["PBDES"], "{}", call.name);
        }
        relay.delay(TRIP);
        for call in CALLS {
            let Run::Method(run) = call.run else {
                continue;
            };
            let own = tag(format!("{} inside", call.name)).await;
            relay.flights();
            let tx = store.begin(TxOptions::new()).await.unwrap();
            assert_eq!(relay.flights(), [""; 0]);
            // A read takes BEGIN along.
            tx.users().count().await.unwrap();
            assert_eq!(relay.flights(), ["QPBDES"]);
            run(Arc::new(Inside(tx.clone())), own).await.unwrap();
            let flights = relay.flights();
            assert_eq!(flights.len(), 1, "{}: {flights:?}", call.name);
            tx.rollback().await.unwrap();
        }
        assert_eq!(relay.parsed().0, 0);
    })
    .await;
}
