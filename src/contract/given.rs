//! What the rules start from, and how they look at a whole store.

use uuid::Uuid;

use crate::model::{Car, CarId, NewCar, NewUser, PurchaseKey, User, UserId};
use crate::page::PageRequest;
use crate::repo::{CarRepo, UserRepo};
use crate::store::Store;

/// How many callers are let loose at once.
pub(super) const CALLERS: usize = 64;

/// How often a race is run: in any one of them the first caller may be done before the others are
/// looked at.
pub(super) const ROUNDS: usize = 10;

/// More than a 16-bit count of parameters can say.
pub(super) const MANY: usize = 70_000;

/// Ids that no row ever has.
pub(super) const NO_IDS: [i64; 4] = [0, -1, i64::MIN, i64::MAX];

pub(super) fn new_user(name: impl Into<String>) -> NewUser {
    NewUser::new(name).expect("a valid username")
}

pub(super) fn new_car(model: impl Into<String>, owner: UserId) -> NewCar {
    NewCar::new(model, owner).expect("a valid model")
}

pub(super) fn key(number: u128) -> PurchaseKey {
    PurchaseKey::new(Uuid::from_u128(number))
}

/// Has the store open its connections, so that the callers of a race do not arrive one by one.
pub(super) async fn ready_for_a_race(store: &dyn Store) {
    let calls = (0..CALLERS).map(|_| store.users().count());
    for count in futures_util::future::join_all(calls).await {
        count.expect("counts");
    }
}

/// A user registered for the purpose.
pub(super) async fn user(users: &dyn UserRepo, name: &str) -> User {
    let registration = users.register(&new_user(name)).await.expect("registers");
    assert!(registration.is_created(), "{name:?} was not free");
    registration.into_user()
}

/// A car bought for the purpose, without a key.
pub(super) async fn car(cars: &dyn CarRepo, model: &str, owner: UserId) -> Car {
    cars.buy(&new_car(model, owner)).await.expect("buys")
}

/// An id above that of every user there is.
pub(super) async fn unknown_user(store: &dyn Store) -> UserId {
    let (users, _) = everything(store).await;
    UserId::new(users.last().map_or(0, |user| user.id.get()) + 1_000_000)
}

/// An id above that of every car there is.
pub(super) async fn unknown_car(store: &dyn Store) -> CarId {
    let (_, cars) = everything(store).await;
    let last = cars.iter().map(|car| car.id.get()).max();
    CarId::new(last.unwrap_or(0) + 1_000_000)
}

/// Every user, and every car in order of owner and id: to compare before and after.
pub(super) async fn everything(store: &dyn Store) -> (Vec<User>, Vec<Car>) {
    let mut users = Vec::new();
    let mut request = PageRequest::first(1000).expect("a valid limit");
    loop {
        let page = store.users().list(request).await.expect("lists");
        users.extend(page.items);
        match page.next {
            Some(last) => request = request.after(last),
            None => break,
        }
    }
    let owners: Vec<_> = users.iter().map(|user| user.id).collect();
    let owned = store.cars().owned_by_many(&owners).await.expect("reads");
    let cars: Vec<_> = owned.into_values().flatten().collect();
    let count = store.cars().count().await.expect("counts");
    assert_eq!(count, cars.len() as u64, "a car whose owner is not listed");
    (users, cars)
}
