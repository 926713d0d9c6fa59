//! What a store does about connections that went bad: ended by the server, read only, or with
//! prepared statements that the server no longer takes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/busy.rs"]
mod busy;
#[path = "support/relay.rs"]
mod relay;
mod support;
mod watch;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use motorpool::{
    CarId, Error, NewCar, NewUser, PageRequest, PgStore, Result, Store, Tx, TxOptions,
    UnavailableReason, User, UserId,
};
use relay::Relay;
use support::{Database, with_database};
use watch::Watch;

const CONNECTIONS: usize = 3;

/// How long a condition may take to come true.
const BOUND: Duration = Duration::from_secs(20);

fn new_user(name: &str) -> NewUser {
    NewUser::new(name).unwrap()
}

async fn connect(database: &Database) -> PgStore {
    let builder = PgStore::builder(&database.url).unwrap();
    let builder = builder.max_connections(CONNECTIONS).batching(busy::tiny());
    builder.build().await.unwrap()
}

/// All connections that the store can have, at once.
async fn begin_all(store: &PgStore) -> Vec<Tx> {
    let all = (0..CONNECTIONS).map(|_| store.begin(TxOptions::new()));
    join_all(all)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

async fn roll_back_all(all: Vec<Tx>) {
    for tx in all {
        tx.rollback().await.unwrap();
    }
}

/// Has every read on every connection prepared, on new connections.
async fn read_everything(store: &PgStore, user: UserId) {
    drop(store.pool().retain(|_, _| false));
    let all = begin_all(store).await;
    for tx in &all {
        let (users, cars) = (tx.users(), tx.cars());
        users.get(user).await.unwrap();
        users.get_many(&[user]).await.unwrap();
        users.get_by_username("Anna").await.unwrap();
        let page = PageRequest::first(10).unwrap();
        users.list(page).await.unwrap();
        users.count().await.unwrap();
        cars.get(CarId::new(1)).await.unwrap();
        cars.owned_by(user).await.unwrap();
        cars.owned_by_many(&[user]).await.unwrap();
        let page = PageRequest::first(10).unwrap();
        cars.list_owned_by(user, page).await.unwrap();
        cars.count().await.unwrap();
    }
    for tx in all {
        tx.commit().await.unwrap();
    }
}

/// Asks on all connections at once: each call holds one while the table is locked.
async fn get_on_all(store: &PgStore, watch: &Watch, look: &Watch, user: &User) {
    watch
        .run("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        .await;
    let gets = join_all((0..CONNECTIONS).map(|_| store.users().get(user.id)));
    let release = async {
        look.waiting(CONNECTIONS as i64).await;
        watch.run("COMMIT").await;
    };
    let (answers, ()) = futures_util::join!(gets, release);
    for answer in answers {
        assert_eq!(answer.unwrap().as_ref(), Some(user));
    }
}

async fn anna(store: &PgStore) -> User {
    let registered = store.users().register(&new_user("Anna")).await.unwrap();
    registered.into_user()
}

const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity \
    WHERE datname = current_database() AND application_name = 'motorpool'";

#[tokio::test]
async fn idle_connections_that_the_server_ended_are_not_used() {
    with_database(async |database| {
        let (store, look) = (connect(&database).await, Watch::new(&database).await);
        roll_back_all(begin_all(&store).await).await;
        let one = format!(
            "{TERMINATE} AND pid = (SELECT min(pid) FROM pg_stat_activity \
            WHERE datname = current_database() AND application_name = 'motorpool')"
        );
        assert_eq!(look.number(&one).await, 1);
        look.until_backends(CONNECTIONS as i64 - 1).await;
        for _ in 0..10 {
            store.ping().await.unwrap();
        }
        assert_eq!(look.number(TERMINATE).await, CONNECTIONS as i64 - 1);
        look.ended().await;
        for _ in 0..10 {
            store.ping().await.unwrap();
        }
        roll_back_all(begin_all(&store).await).await;
        assert_eq!(store.status().size, CONNECTIONS);
    })
    .await;
}

#[tokio::test]
async fn a_call_whose_connection_the_server_ends_says_so() {
    with_database(async |database| {
        let (store, look) = (connect(&database).await, Watch::new(&database).await);
        let watch = Watch::new(&database).await;
        roll_back_all(begin_all(&store).await).await;
        watch
            .run("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            .await;
        let call = tokio::spawn({
            let store = store.clone();
            async move { store.users().count().await }
        });
        look.waiting(1).await;
        let waiting = format!("{TERMINATE} AND wait_event_type = 'Lock'");
        assert_eq!(look.number(&waiting).await, 1);
        let answer = call.await.unwrap();
        assert!(
            matches!(
                &answer,
                Err(Error::Unavailable {
                    reason: UnavailableReason::NotAccepting | UnavailableReason::ConnectionLost,
                    ..
                })
            ),
            "{answer:?}"
        );
        watch.run("COMMIT").await;
        assert_eq!(store.status().discarded.lost, 1);
        // The idle ones are asked first, and they answer.
        roll_back_all(begin_all(&store).await).await;
        assert_eq!(store.users().count().await.unwrap(), 0);
        let discarded = store.status().discarded;
        assert_eq!((discarded.lost, discarded.unanswered), (1, 0));

        // In a transaction, which then cannot commit.
        let tx = store.begin(TxOptions::new()).await.unwrap();
        tx.users().register(&new_user("Anna")).await.unwrap();
        let open = format!("{TERMINATE} AND state = 'idle in transaction'");
        assert_eq!(look.number(&open).await, 1);
        let answer = tx.users().count().await;
        assert!(
            matches!(answer, Err(Error::Unavailable { .. })),
            "{answer:?}"
        );
        let ended = tx.commit().await;
        assert!(matches!(ended, Err(Error::RolledBack(_))), "{ended:?}");
        assert_eq!(store.users().count().await.unwrap(), 0);
        assert_eq!(store.status().discarded.lost, 2);
    })
    .await;
}

/// Of a server that was demoted, whose idle connections are all of one kind.
#[tokio::test]
async fn idle_connections_are_asked_after_one_was_refused() {
    with_database(async |database| {
        let (store, look) = (connect(&database).await, Watch::new(&database).await);
        let name = &database.name;
        let on = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
        look.run(&on).await;
        store.pool().retain(|_, _| false);
        roll_back_all(begin_all(&store).await).await;
        assert_eq!(store.users().count().await.unwrap(), 0);

        let answer = store.users().register(&new_user("Anna")).await;
        let reason = UnavailableReason::ReadOnly;
        assert!(
            matches!(&answer, Err(Error::Unavailable { reason: found, .. }) if *found == reason),
            "{answer:?}"
        );
        let status = store.status();
        assert_eq!(status.discarded.read_only, 1, "{status:?}");
        assert_eq!(status.size, CONNECTIONS - 1, "{status:?}");

        let off = format!("ALTER DATABASE {name} RESET default_transaction_read_only");
        // The session may have begun when the database was read only.
        look.run(&format!("SET default_transaction_read_only = off; {off}"))
            .await;
        assert!(
            store
                .users()
                .register(&new_user("Anna"))
                .await
                .unwrap()
                .is_created()
        );
        let discarded = store.status().discarded;
        assert_eq!(discarded.read_only, 1);
        assert_eq!(discarded.unanswered, CONNECTIONS as u64 - 1);
    })
    .await;
}

#[tokio::test]
async fn a_read_only_transaction_keeps_its_connection() {
    with_database(async |database| {
        let store = connect(&database).await;
        let tx = store.begin(TxOptions::new().read_only(true)).await.unwrap();
        let answer = tx.users().register(&new_user("Anna")).await;
        assert!(
            matches!(&answer, Err(Error::Database(failure)) if failure.sqlstate() == Some("25006")),
            "{answer:?}"
        );
        tx.rollback().await.unwrap();
        assert!(
            store
                .users()
                .register(&new_user("Anna"))
                .await
                .unwrap()
                .is_created()
        );
        let status = store.status();
        assert_eq!((status.size, status.idle), (1, 1), "{status:?}");
        assert_eq!(status.discarded, motorpool::Discarded::default());
    })
    .await;
}

#[tokio::test]
async fn a_changed_column_type_is_met_by_a_fresh_statement() {
    with_database(async |database| {
        let (store, look) = (connect(&database).await, Watch::new(&database).await);
        let watch = Watch::new(&database).await;
        let anna = anna(&store).await;
        let golf = store
            .cars()
            .buy(&NewCar::new("Golf", anna.id).unwrap())
            .await
            .unwrap();
        let change = |to: &str| {
            format!(
                "ALTER TABLE users ALTER COLUMN username TYPE {to}; \
                 ALTER TABLE cars ALTER COLUMN model TYPE {to}"
            )
        };
        read_everything(&store, anna.id).await;
        look.run(&change("text")).await;
        get_on_all(&store, &watch, &look, &anna).await;
        let by_name = store.users().get_by_username("Anna").await.unwrap();
        assert_eq!(by_name.as_ref(), Some(&anna));
        assert_eq!(store.cars().owned_by(anna.id).await.unwrap(), [golf]);

        // In a transaction it is an error, for once.
        read_everything(&store, anna.id).await;
        look.run(&change("varchar")).await;
        let all = begin_all(&store).await;
        for tx in all {
            let answer = tx.users().get(anna.id).await;
            assert_eq!(answer.unwrap_err().sqlstate(), Some("0A000"));
            assert!(matches!(tx.commit().await, Err(Error::RolledBack(_))));
        }
        for tx in begin_all(&store).await {
            assert_eq!(tx.users().get(anna.id).await.unwrap().as_ref(), Some(&anna));
            tx.commit().await.unwrap();
        }
        let status = store.status();
        assert_eq!(status.size, CONNECTIONS, "{status:?}");
        assert_eq!(status.discarded, motorpool::Discarded::default());
    })
    .await;
}

/// A pooler that prepares statements itself gives a text that is prepared anew the old one.
#[tokio::test]
async fn a_stale_statement_is_sent_again_without_a_name() {
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let store = PgStore::builder(&relay.url()).unwrap().max_connections(1);
        let store = store.build().await.unwrap();
        let look = Watch::new(&database).await;
        let anna = anna(&store).await;
        let found = async || store.users().get(anna.id).await.unwrap().unwrap();
        assert_eq!(found().await, anna);
        let (named, unnamed) = relay.parsed();
        look.run("ALTER TABLE users ALTER COLUMN username TYPE text")
            .await;
        assert_eq!(found().await, anna);
        assert_eq!(relay.parsed(), (named, unnamed + 1));
        // From now on by a name again.
        for _ in 0..2 {
            assert_eq!(found().await, anna);
            assert_eq!(relay.parsed(), (named + 1, unnamed + 1));
        }
    })
    .await;
}

#[tokio::test]
async fn forgotten_statements_are_prepared_again() {
    with_database(async |database| {
        let (store, look) = (connect(&database).await, Watch::new(&database).await);
        let watch = Watch::new(&database).await;
        let anna = anna(&store).await;
        read_everything(&store, anna.id).await;
        forget(&store).await;
        get_on_all(&store, &watch, &look, &anna).await;

        read_everything(&store, anna.id).await;
        forget(&store).await;
        for tx in begin_all(&store).await {
            let answer = tx.users().get(anna.id).await;
            assert_eq!(answer.unwrap_err().sqlstate(), Some("26000"));
        }
        let started = Instant::now();
        // Their rollback goes on behind their drop.
        while store.status().idle < CONNECTIONS {
            assert!(started.elapsed() < BOUND, "{:?}", store.status());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for tx in begin_all(&store).await {
            assert_eq!(tx.users().get(anna.id).await.unwrap().as_ref(), Some(&anna));
        }
        assert_eq!(store.status().discarded, motorpool::Discarded::default());
    })
    .await;
}

/// What a pooler between store and server may do.
async fn forget(store: &PgStore) {
    let objects = join_all((0..CONNECTIONS).map(|_| store.pool().get())).await;
    for object in objects {
        object
            .unwrap()
            .batch_execute("DEALLOCATE ALL")
            .await
            .unwrap();
    }
}
