//! Races, unreadable rows and spawned transactions on Postgres: what the contract cannot express.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod support;
mod watch;

use std::fmt::Debug;
use std::sync::Arc;

use motorpool::{
    Car, Error, NewCar, NewUser, PageRequest, PgStore, PurchaseKey, Registration, Result, Store,
    StoreExt, TxOptions, UserId,
};
use support::with_database;
use tokio::task::JoinSet;
use uuid::Uuid;
use watch::Watch;

const CALLERS: usize = 64;

fn key(number: u128) -> PurchaseKey {
    PurchaseKey::new(Uuid::from_u128(number))
}

fn new_user(name: &str) -> NewUser {
    NewUser::new(name).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_64_tasks_that_register_one_name_one_creates_it() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        store.users().register(&new_user("Bert")).await.unwrap();
        let highest = watch.number("SELECT max(id) FROM users").await;
        let mut tasks = JoinSet::new();
        for _ in 0..CALLERS {
            let store = store.clone();
            tasks.spawn(async move { store.users().register(&new_user("Anna")).await });
        }
        let answers: Result<Vec<Registration>> = tasks.join_all().await.into_iter().collect();
        let answers = answers.unwrap();
        let created = answers.iter().filter(|answer| answer.is_created()).count();
        assert_eq!((created, answers.len()), (1, CALLERS));
        let first = answers[0].user();
        assert!(answers.iter().all(|answer| answer.user() == first));
        assert_eq!(first.id, UserId::new(highest + 1));
        let rows = watch.number("SELECT count(*) FROM users WHERE username = 'Anna'");
        assert_eq!(rows.await, 1);
        assert_eq!(watch.number("SELECT max(id) FROM users").await, highest + 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_64_tasks_that_buy_with_one_key_all_get_one_car() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let owner = store.users().register(&new_user("Anna")).await.unwrap();
        let new = NewCar::new("Golf", owner.user().id).unwrap().key(key(1));
        let mut tasks = JoinSet::new();
        for _ in 0..CALLERS {
            let (store, new) = (store.clone(), new.clone());
            tasks.spawn(async move { store.cars().buy(&new).await });
        }
        let cars: Result<Vec<Car>> = tasks.join_all().await.into_iter().collect();
        let cars = cars.unwrap();
        assert_eq!(cars.len(), CALLERS);
        assert!(cars.iter().all(|car| *car == cars[0]));
        let watch = Watch::new(&database).await;
        assert_eq!(watch.number("SELECT count(*) FROM cars").await, 1);
    })
    .await;
}

/// A name that is taken by a transaction that had not committed when this one looked.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_loses_a_name_goes_on() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        let [first, second] = ["Anna", "Bert"].map(new_user);
        let first = store.users().register(&first).await.unwrap().into_user();
        let second = store.users().register(&second).await.unwrap().into_user();
        let winner = store.begin(TxOptions::new()).await.unwrap();
        winner.users().rename(first.id, "Zoé").await.unwrap();
        let loser = store.begin(TxOptions::new()).await.unwrap();
        let before = NewCar::new("Golf", second.id).unwrap();
        loser.cars().buy(&before).await.unwrap();
        let late = tokio::spawn({
            let loser = loser.clone();
            async move { loser.users().rename(second.id, "Zoé").await }
        });
        watch.waiting(1).await;
        winner.commit().await.unwrap();
        let refused = late.await.unwrap();
        assert!(matches!(refused, Err(Error::UsernameTaken)), "{refused:?}");
        let after = loser.users().register(&new_user("Carl")).await.unwrap();
        assert!(after.is_created());
        loser.commit().await.unwrap();
        let sql = "SELECT username::text FROM users ORDER BY id";
        assert_eq!(watch.texts(sql).await, ["Zoé", "Bert", "Carl"]);
        assert_eq!(store.cars().owned_by(second.id).await.unwrap().len(), 1);
        watch.settled().await;
    })
    .await;
}

/// A car that is bought by a transaction that had not committed when this one looked.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_cannot_delete_a_buyer_goes_on() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        let anna = store.users().register(&new_user("Anna")).await.unwrap();
        let anna = anna.into_user();
        let buyer = store.begin(TxOptions::new()).await.unwrap();
        let golf = NewCar::new("Golf", anna.id).unwrap();
        buyer.cars().buy(&golf).await.unwrap();
        let loser = store.begin(TxOptions::new()).await.unwrap();
        loser.users().register(&new_user("Bert")).await.unwrap();
        let late = tokio::spawn({
            let loser = loser.clone();
            async move { loser.users().delete(anna.id).await }
        });
        watch.waiting(1).await;
        buyer.commit().await.unwrap();
        let refused = late.await.unwrap();
        assert!(
            matches!(refused, Err(Error::UserOwnsCars { id }) if id == anna.id),
            "{refused:?}"
        );
        loser.users().register(&new_user("Carl")).await.unwrap();
        loser.commit().await.unwrap();
        let sql = "SELECT username::text FROM users ORDER BY id";
        assert_eq!(watch.texts(sql).await, ["Anna", "Bert", "Carl"]);
        assert_eq!(store.cars().owned_by(anna.id).await.unwrap().len(), 1);
    })
    .await;
}

/// Keys that are used by a transaction that had not committed when this one looked: alone and in
/// a transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_loses_a_key_names_it_and_stores_nothing() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        let anna = store.users().register(&new_user("Anna")).await.unwrap();
        let anna = anna.into_user().id;
        let cars = |model: &str, keys: [u128; 3]| {
            keys.map(|number| NewCar::new(model, anna).unwrap().key(key(number)))
        };
        for (round, inside) in [(0, false), (10, true)] {
            let winner = store.begin(TxOptions::new()).await.unwrap();
            let won = cars("Golf", [round + 1, round + 2, round + 3]);
            winner.cars().buy_many(&won).await.unwrap();
            let loser = store.begin(TxOptions::new()).await.unwrap();
            // The key of the first item is free.
            let lost = cars("Polo", [round, round + 2, round + 1]);
            let late = tokio::spawn({
                let (store, loser) = (store.clone(), loser.clone());
                async move {
                    match inside {
                        true => loser.cars().buy_many(&lost).await,
                        false => store.cars().buy_many(&lost).await,
                    }
                }
            });
            watch.waiting(1).await;
            winner.commit().await.unwrap();
            let refused = late.await.unwrap();
            assert!(
                matches!(refused, Err(Error::PurchaseKeyReused { index: Some(1) })),
                "{refused:?}"
            );
            loser
                .cars()
                .buy(&cars("Lupo", [round; 3])[0])
                .await
                .unwrap();
            loser.commit().await.unwrap();
        }
        let sql = "SELECT model::text FROM cars ORDER BY id";
        let models = watch.texts(sql).await;
        assert_eq!(models, ["Golf", "Golf", "Golf", "Lupo"].repeat(2));
    })
    .await;
}

/// The error names the place and no value.
fn assert_unreadable<T: Debug>(answer: Result<T>, wrong: &'static str, id: i64) {
    let error = answer.expect_err("the row cannot be read");
    let Error::Decode {
        table, column, key, ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!((*table, *column, *key), ("users", wrong, Some(id)));
    let source = std::error::Error::source(&error);
    let texts = format!("{error} {error:?} {source:?}");
    for value in ["canary", "Anna", "infinity"] {
        assert!(!texts.contains(value), "{texts}");
    }
    assert!(!error.to_string().contains('\n'));
}

#[tokio::test]
async fn a_value_that_cannot_be_read_is_named_by_its_place() {
    for (column, sql) in [
        (
            "role",
            "ALTER TABLE users DROP CONSTRAINT role_types;
             INSERT INTO users (username, created_at, role) VALUES ('Anna', '2026-01-01', 'canary')",
        ),
        (
            "created_at",
            "ALTER TABLE users DROP CONSTRAINT users_created_at_finite;
             INSERT INTO users (username, created_at) VALUES ('Anna', 'infinity')",
        ),
        // Finite, and later than the last date of this program.
        (
            "created_at",
            "INSERT INTO users (username, created_at) VALUES ('Anna', '5874897-12-31')",
        ),
    ] {
        with_database(async |database| {
            let store = PgStore::connect(&database.url).await.unwrap();
            let watch = Watch::new(&database).await;
            watch.run(sql).await;
            let number = watch.number("SELECT id FROM users").await;
            let (id, anna) = (UserId::new(number), new_user("Anna"));
            let users = store.users();
            assert_unreadable(users.get(id).await, column, number);
            assert_unreadable(users.get_many(&[id]).await, column, number);
            assert_unreadable(users.get_by_username("Anna").await, column, number);
            let page = PageRequest::first(10).unwrap();
            assert_unreadable(users.list(page).await, column, number);
            assert_unreadable(users.register(&anna).await, column, number);
            let many = [new_user("Bert"), anna];
            assert_unreadable(users.register_many(&many).await, column, number);
            // Reading leaves a transaction usable.
            let tx = store.begin(TxOptions::new()).await.unwrap();
            assert_unreadable(tx.users().get(id).await, column, number);
            tx.users().register(&new_user("Carl")).await.unwrap();
            tx.commit().await.unwrap();
            assert!(users.get_by_username("Carl").await.unwrap().is_some());
            watch.settled().await;
        })
        .await;
    }
}

/// The closure borrows owned values of its surroundings, and the whole is spawned.
async fn spawned<S: Store + ?Sized + 'static>(store: Arc<S>) -> Result<Car> {
    let (name, model) = (String::from("Anna"), String::from("Golf"));
    let task = tokio::spawn(async move {
        let store: &S = &store;
        store
            .transaction(|tx| {
                let (name, model) = (name.clone(), model.clone());
                async move {
                    let user = tx.users().register(&NewUser::new(name)?).await?;
                    let new = NewCar::new(model, user.user().id)?;
                    tx.cars().buy(&new).await
                }
            })
            .await
    });
    task.await.expect("the task ends")
}

#[tokio::test]
async fn a_transaction_that_borrows_can_be_spawned() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let on_store = spawned::<PgStore>(Arc::new(store.clone())).await.unwrap();
        let any: Arc<dyn Store> = Arc::new(store.clone());
        let on_any = spawned::<dyn Store>(any).await.unwrap();
        let owner = on_store.owner_id;
        let owned = store.cars().owned_by(owner).await.unwrap();
        assert_eq!(owned, [on_store, on_any]);
        assert_eq!(store.users().count().await.unwrap(), 1);
    })
    .await;
}
