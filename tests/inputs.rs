//! Input at the edges, on every method that takes text or ids: the answer or the typed error; the
//! pool is as it was, and the next call works. On the pool and inside one transaction.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::future_not_send,
    reason = "these are tests"
)]

mod support;
mod watch;

use std::fmt::Debug;

use futures_util::future::join_all;
use motorpool::{
    CarId, Error, Field, InvalidInput, NewCar, NewUser, PageRequest, PgStore, PurchaseKey, Result,
    Role, Store, TxOptions, UserId,
};
use support::inside::Inside;
use support::{with_database, with_encoding};
use uuid::Uuid;
use watch::Watch;

const NO_IDS: [i64; 4] = [0, -1, i64::MIN, i64::MAX];

const MANY: usize = 70_000;

/// Where the calls go, and how the pool looked before them.
struct Place<'a> {
    store: &'a dyn Store,
    pg: &'a PgStore,
    watch: &'a Watch,
    pool: String,
    busy: i64,
}

impl<'a> Place<'a> {
    async fn new(store: &'a dyn Store, pg: &'a PgStore, watch: &'a Watch) -> Place<'a> {
        let (pool, busy) = (format!("{:?}", pg.pool().status()), watch.busy().await);
        Place {
            store,
            pg,
            watch,
            pool,
            busy,
        }
    }

    /// The answer is the one expected, in its `Debug` form, and no trace of the call is left.
    async fn is<T: Debug, W: Debug>(&self, answer: Result<T>, wanted: Result<W>) {
        assert_eq!(format!("{answer:?}"), format!("{wanted:?}"));
        self.is_as_before().await;
    }

    async fn is_as_before(&self) {
        assert_eq!(format!("{:?}", self.pg.pool().status()), self.pool);
        assert_eq!(self.watch.busy().await, self.busy);
        assert!(self.store.users().count().await.is_ok());
    }
}

/// On the pool, and inside one transaction, which can be committed afterwards.
async fn on_both(test: impl AsyncFn(Place<'_>)) {
    with_database(async |database| {
        let builder = PgStore::builder(&database.url).unwrap();
        let store = builder.max_connections(2).build().await.unwrap();
        let watch = Watch::new(&database).await;
        test(Place::new(&store, &store, &watch).await).await;
        let rows = "TRUNCATE users, cars RESTART IDENTITY";
        watch.run(rows).await;
        let inside = Inside(store.begin(TxOptions::new()).await.unwrap());
        // The server hears of the transaction with its first statement.
        inside.users().count().await.unwrap();
        test(Place::new(&inside, &store, &watch).await).await;
        inside.0.commit().await.unwrap();
        watch.settled().await;
    })
    .await;
}

fn user(name: &str) -> NewUser {
    NewUser::new(name).unwrap()
}

#[tokio::test]
async fn text_that_cannot_be_stored() {
    on_both(async |place: Place<'_>| {
        let (users, long) = (place.store.users(), "a".repeat(256));
        let anna = users.register(&user("Anna")).await.unwrap().into_user();
        let why = |field, text: &str| match text {
            "" => InvalidInput::Empty { field },
            "\0" | "\n" => InvalidInput::ControlCharacter { field, position: 0 },
            "Anna\0" | "Anna\n" => InvalidInput::ControlCharacter { field, position: 4 },
            " Anna" => InvalidInput::SurroundingWhitespace { field },
            _ => InvalidInput::TooLong { field, length: 256 },
        };
        for text in ["", "\0", "\n", "Anna\0", "Anna\n", " Anna", &long] {
            let (name, model) = (why(Field::Username, text), why(Field::Model, text));
            assert_eq!(NewUser::new(text), Err(name.clone()));
            assert_eq!(NewCar::new(text, anna.id), Err(model));
            place
                .is(users.get_by_username(text).await, Ok(None::<()>))
                .await;
            let refused: Result<()> = Err(Error::Invalid(name));
            place.is(users.rename(anna.id, text).await, refused).await;
        }
        place.is(users.get(anna.id).await, Ok(Some(anna))).await;
    })
    .await;
}

#[tokio::test]
async fn text_that_can_be_stored() {
    on_both(async |place: Place<'_>| {
        let (users, cars) = (place.store.users(), place.store.cars());
        let longest = "é".repeat(255);
        for text in ["\u{301}", "'; DROP TABLE users;--", &longest] {
            let stored = users.register(&user(text)).await.unwrap().into_user();
            assert_eq!(stored.username, text);
            let again = users.register_many(&[user(text)]).await.unwrap();
            assert_eq!(again[0].user(), &stored);
            let found = users.get_by_username(text).await;
            place.is(found, Ok(Some(&stored))).await;
            users.rename(stored.id, "another").await.unwrap();
            place
                .is(users.rename(stored.id, text).await, Ok(&stored))
                .await;
            let new = NewCar::new(text, stored.id).unwrap();
            let car = cars.buy(&new).await.unwrap();
            assert_eq!(car.model, text);
            let bought = cars.buy_many(&[new]).await.unwrap();
            let owned = cars.owned_by(stored.id).await;
            place.is(owned, Ok([&car, &bought[0]])).await;
        }
    })
    .await;
}

#[tokio::test]
async fn ids_that_nobody_has() {
    on_both(async |place: Place<'_>| {
        let (users, cars) = (place.store.users(), place.store.cars());
        let anna = users.register(&user("Anna")).await.unwrap().into_user();
        let golf = NewCar::new("Golf", anna.id).unwrap();
        let golf = cars.buy(&golf).await.unwrap();
        for number in NO_IDS {
            let (id, car) = (UserId::new(number), CarId::new(number));
            let no_user = || Err::<(), _>(Error::UserNotFound { id });
            let no_car = || Err::<(), _>(Error::CarNotFound { id: car });
            let no_owner = |index| Err::<(), _>(Error::UnknownOwner { owner: id, index });
            place.is(users.get(id).await, Ok(None::<()>)).await;
            let found = users.get_many(&[id, anna.id, id]).await;
            place.is(found, Ok([&anna])).await;
            place
                .is(users.set_role(id, Role::Student).await, no_user())
                .await;
            place.is(users.rename(id, "Bert").await, no_user()).await;
            place.is(users.rename(id, "Anna").await, no_user()).await;
            place.is(users.delete(id).await, Ok(false)).await;
            let page = users.list(PageRequest::first(9).unwrap().after(id)).await;
            let rest = if number == i64::MAX {
                vec![]
            } else {
                vec![anna.clone()]
            };
            assert_eq!(page.unwrap().items, rest);

            let new = NewCar::new("Golf", id).unwrap();
            let with_key = new.clone().key(PurchaseKey::new(Uuid::from_u128(1)));
            place.is(cars.buy(&new).await, no_owner(None)).await;
            place.is(cars.buy(&with_key).await, no_owner(None)).await;
            let many = [NewCar::new("Polo", anna.id).unwrap(), new];
            place
                .is(cars.buy_many(&many).await, no_owner(Some(1)))
                .await;
            place.is(cars.get(car).await, Ok(None::<()>)).await;
            place.is(cars.owned_by(id).await, Ok([(); 0])).await;
            let owned = cars.owned_by_many(&[id, id]).await.unwrap();
            assert_eq!(owned.into_iter().collect::<Vec<_>>(), [(id, vec![])]);
            let page = cars.list_owned_by(id, PageRequest::first(9).unwrap()).await;
            assert_eq!(page.unwrap().items, []);
            let page = PageRequest::first(9).unwrap().after(car);
            let page = cars.list_owned_by(anna.id, page).await.unwrap().items;
            let rest = if number == i64::MAX {
                vec![]
            } else {
                vec![golf.clone()]
            };
            assert_eq!(page, rest);
            place
                .is(cars.transfer(car, anna.id, anna.id).await, no_car())
                .await;
            let not_his: Result<()> = Err(Error::NotOwner {
                car: golf.id,
                from: id,
            });
            place
                .is(cars.transfer(golf.id, id, anna.id).await, not_his)
                .await;
            let to_nobody = cars.transfer(golf.id, anna.id, id).await;
            place.is(to_nobody, no_owner(None)).await;
            place.is(cars.delete(car).await, Ok(false)).await;
        }
        place.is(cars.owned_by(anna.id).await, Ok([golf])).await;
        place.is(users.count().await, Ok(1)).await;
    })
    .await;
}

#[tokio::test]
async fn lists_without_items() {
    on_both(async |place: Place<'_>| {
        let (users, cars) = (place.store.users(), place.store.cars());
        place.is(users.register_many(&[]).await, Ok([(); 0])).await;
        place.is(users.get_many(&[]).await, Ok([(); 0])).await;
        place.is(cars.buy_many(&[]).await, Ok([(); 0])).await;
        let owned = cars.owned_by_many(&[]).await;
        assert!(owned.unwrap().is_empty());
        place.is_as_before().await;
    })
    .await;
}

#[tokio::test]
async fn lists_of_70_000_items() {
    on_both(async |place: Place<'_>| {
        let (users, cars) = (place.store.users(), place.store.cars());
        let new: Vec<_> = (0..MANY)
            .map(|number| user(&format!("user {number}")))
            .collect();
        let stored = users.register_many(&new).await.unwrap();
        place.is_as_before().await;
        assert!(stored.iter().all(|answer| answer.is_created()));
        let ids: Vec<_> = stored.iter().map(|answer| answer.user().id).collect();
        let found = users.get_many(&ids).await.unwrap();
        place.is_as_before().await;
        assert!(found.iter().eq(stored.iter().map(|answer| answer.user())));
        let purchase = |owner: &UserId| NewCar::new("Golf", *owner).unwrap();
        let mut new: Vec<_> = ids.iter().map(purchase).collect();
        let bought = cars.buy_many(&new).await.unwrap();
        place.is_as_before().await;
        let owned = cars.owned_by_many(&ids).await.unwrap();
        place.is_as_before().await;
        assert_eq!(owned.len(), MANY);
        assert!(owned.into_values().flatten().eq(bought));
        // The last of them is refused, and with it all.
        let owner = UserId::new(0);
        new.push(purchase(&owner));
        let refused: Result<()> = Err(Error::UnknownOwner {
            owner,
            index: Some(MANY),
        });
        place.is(cars.buy_many(&new).await, refused).await;
        place.is(cars.count().await, Ok(MANY)).await;
    })
    .await;
}

/// The server could not say more than that the name is none of its own.
#[tokio::test]
async fn names_that_the_encoding_of_the_database_does_not_have() {
    with_encoding("LATIN1", async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        store.migrate().await.unwrap();
        let (users, cars) = (store.users(), store.cars());
        let jose = users.register(&user("José")).await.unwrap().into_user();

        // Alone, and together with those that it does have.
        let names = ["José", "Ада", "José ☃", "Jose"].repeat(16);
        let found = join_all(names.iter().map(|name| users.get_by_username(name))).await;
        for (name, found) in names.iter().zip(found) {
            let wanted = (*name == "José").then(|| jose.clone());
            assert_eq!(found.unwrap(), wanted, "{name}");
            assert_eq!(users.get_by_username(name).await.unwrap(), wanted, "{name}");
        }
        assert!(store.status().batched.calls > 0);

        // What cannot be stored is refused, without a word of it.
        let ada = users.register(&user("Ада")).await.unwrap_err();
        let car = NewCar::new("Лада", jose.id).unwrap();
        let lada = cars.buy(&car).await.unwrap_err();
        let renamed = users.rename(jose.id, "Ада").await.unwrap_err();
        for refused in [ada, lada, renamed] {
            assert_eq!(refused.sqlstate(), Some("22P05"));
            let text = format!("{refused} {refused:?}");
            assert!(text.contains("encoding") && !text.contains("0x"), "{text}");
        }

        // The refusal has ended the transaction, so there is no answer in it.
        let tx = store.begin(TxOptions::new()).await.unwrap();
        let refused = tx.users().get_by_username("Ада").await.unwrap_err();
        assert_eq!(refused.sqlstate(), Some("22P05"));
        assert!(matches!(tx.commit().await, Err(Error::RolledBack(_))));
        assert_eq!(users.count().await.unwrap(), 1);
        assert_eq!(cars.count().await.unwrap(), 0);
        store.close().await;
    })
    .await;
}
