//! How a transaction begins: together with its first statement, which for that must not be stored
//! where the beginning fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod calls;
#[path = "support/misspelt.rs"]
mod misspelt;
mod polls;
#[path = "support/relay.rs"]
mod relay;
mod support;

use std::sync::Arc;
use std::time::Duration;

use calls::{CALLS, Call, Effect, Rows, Run, Tag};
use misspelt::Misspelt;
use motorpool::{
    CommitOutcome, Error, IsolationLevel, NewCar, NewUser, PgStore, Result, StatementMode, Store,
    Tx, TxOptions, UserId,
};
use polls::Work;
use relay::{Cut, Point, Relay};
use support::inside::Inside;
use support::{until_idle, with_database};
use tokio_postgres::Client;

/// The writes that need not wait for the answer to BEGIN.
const TOGETHER: [&str; 3] = ["register", "buy", "buy with a key"];

type Method = fn(Arc<dyn Store>, Tag) -> Work;

/// The methods of the repositories.
fn methods() -> impl Iterator<Item = (&'static Call, Method)> {
    CALLS.iter().filter_map(|call| match call.run {
        Run::Method(run) => Some((call, run)),
        _ => None,
    })
}

async fn owners(store: &PgStore) -> [UserId; 2] {
    let owners = ["Anna", "Bert"].map(|name| NewUser::new(name).unwrap());
    let owners = store.users().register_many(&owners).await.unwrap();
    [owners[0].user().id, owners[1].user().id]
}

async fn with_one_connection(url: &str, mode: StatementMode) -> PgStore {
    let builder = PgStore::builder(url).unwrap().max_connections(1);
    builder.statement_mode(mode).build().await.unwrap()
}

#[tokio::test]
async fn nothing_is_stored_whose_transaction_did_not_begin() {
    with_database(async |database| {
        for mode in [StatementMode::Prepared, StatementMode::Unnamed] {
            let relay = Relay::start(&database.url).await;
            let misspelt = Misspelt::start(&relay, "BEGIN ISOLATION").await;
            let direct = PgStore::connect(&database.url).await.unwrap();
            let store = with_one_connection(&misspelt.url, mode).await;
            let client = database.client().await;
            let owners = owners(&direct).await;
            for (number, (call, run)) in methods().enumerate() {
                let name = format!("{} {mode:?}", call.name);
                let tag = Tag::new(&client, name, owners, &database.url).await;
                let tx = store.begin(TxOptions::new()).await.unwrap();
                let result = run(Arc::new(Inside(tx.clone())), tag.clone()).await;
                assert_eq!(misspelt.count(), number + 1, "{tag:?}");
                let failed = |result: &Result<()>| match result {
                    Err(Error::Database(failure)) => failure.sqlstate() == Some("42601"),
                    Err(Error::RolledBack(failure)) => failure.sqlstate() == Some("42601"),
                    _ => false,
                };
                assert!(failed(&result), "{tag:?}: {result:?}");
                let again = tx.users().count().await.map(drop);
                assert!(failed(&again), "{tag:?}: {again:?}");
                let commit = tx.commit().await;
                assert!(failed(&commit), "{tag:?}: {commit:?}");
                if call.effect != Effect::Nothing {
                    let mut rows = Rows::read(&client).await;
                    assert!(!rows.take(&tag, call.effect), "{tag:?}: stored");
                }
                // The connection is as good as before.
                store.ping().await.unwrap();
            }
            assert_eq!(relay.accepted(), 1);
        }
    })
    .await;
}

/// A transaction that holds this call alone, and what was sent for it.
async fn alone(
    (store, relay, client): (&PgStore, &Relay, &Client),
    run: Method,
    tag: &Tag,
) -> Vec<String> {
    relay.flights();
    let tx = store.begin(TxOptions::new()).await.unwrap();
    run(Arc::new(Inside(tx.clone())), tag.clone())
        .await
        .unwrap();
    let flights = relay.flights();
    tx.rollback().await.unwrap();
    until_idle(client).await;
    flights
}

#[tokio::test]
async fn the_first_statement_takes_begin_along() {
    // Long enough that what is sent together arrives before an answer does.
    const TRIP: Duration = Duration::from_millis(20);
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let store = with_one_connection(&relay.url(), StatementMode::Prepared).await;
        let client = database.client().await;
        let owners = owners(&store).await;
        relay.delay(TRIP);
        let mut together = Vec::new();
        for (call, run) in methods() {
            let tag = Tag::new(&client, call.name.into(), owners, &database.url).await;
            let on = (&store, &relay, &client);
            // Prepares the statements.
            alone(on, run, &tag).await;
            let flights = alone(on, run, &tag).await;
            let reads = call.effect == Effect::Nothing;
            match flights.len() {
                1 if reads => assert_eq!(flights, ["QBES"], "{tag:?}"),
                1 => {
                    assert_eq!(flights, ["QBES"], "{tag:?}");
                    together.push(call.name);
                }
                2 => assert!(!reads && flights[0] == "Q", "{tag:?}: {flights:?}"),
                _ => panic!("{tag:?}: {flights:?}"),
            }
        }
        assert_eq!(together, TOGETHER);

        // Nothing at all where nothing is done.
        relay.flights();
        let begin = async || store.begin(TxOptions::new()).await.unwrap();
        begin().await.commit().await.unwrap();
        begin().await.rollback().await.unwrap();
        drop(begin().await);
        assert_eq!(relay.flights(), [""; 0]);
        assert_eq!(relay.accepted(), 1);

        begin().await.savepoint(count).await.unwrap();
        assert_eq!(relay.flights()[..4], ["Q", "Q", "BES", "Q"]);
    })
    .await;
}

async fn count(tx: Tx) -> Result<u64> {
    tx.users().count().await
}

#[tokio::test]
async fn every_first_write_tells_which_transaction_it_is() {
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let store = with_one_connection(&relay.url(), StatementMode::Prepared).await;
        let direct = PgStore::connect(&database.url).await.unwrap();
        let client = database.client().await;
        let owners = owners(&direct).await;
        // The server commits, and nobody hears of it.
        let lost = Cut {
            at: Point::Answer(0),
            abrupt: false,
        };
        let committed = async |tx: Tx, what: &str| {
            relay.cut_next(lost);
            let token = match tx.commit().await {
                Err(Error::CommitUnknown { token }) => token,
                other => panic!("{what}: {other:?}"),
            };
            let outcome = direct.commit_outcome(&token).await.unwrap();
            assert_eq!(outcome, CommitOutcome::Committed, "{what}");
            until_idle(&client).await;
        };
        for options in [
            TxOptions::new(),
            TxOptions::new().isolation(IsolationLevel::RepeatableRead),
            TxOptions::new().isolation(IsolationLevel::Serializable),
        ] {
            for (call, run) in methods().filter(|(call, _)| call.effect != Effect::Nothing) {
                for read_first in [false, true] {
                    let name = format!("{} {options:?} {read_first}", call.name);
                    let tag = Tag::new(&client, name, owners, &database.url).await;
                    let tx = store.begin(options.clone()).await.unwrap();
                    if read_first {
                        tx.users().count().await.unwrap();
                    }
                    let inside = Arc::new(Inside(tx.clone()));
                    run(inside, tag.clone()).await.unwrap();
                    committed(tx, &tag.name).await;
                    let mut rows = Rows::read(&client).await;
                    assert!(rows.take(&tag, call.effect), "{tag:?}: not stored");
                }
            }
        }

        // What stores nothing does not say it, and the next one does.
        let tx = store.begin(TxOptions::new()).await.unwrap();
        let anna = NewUser::new("Anna").unwrap();
        assert!(!tx.users().register(&anna).await.unwrap().is_created());
        let nobody = NewCar::new("Golf", UserId::new(i64::MAX)).unwrap();
        let unknown = tx.cars().buy(&nobody).await;
        assert!(matches!(unknown, Err(Error::UnknownOwner { .. })));
        let golf = NewCar::new("Golf", owners[0]).unwrap();
        let car = tx.cars().buy(&golf).await.unwrap();
        committed(tx, "after nothing").await;
        assert_eq!(direct.cars().get(car.id).await.unwrap(), Some(car));
    })
    .await;
}
