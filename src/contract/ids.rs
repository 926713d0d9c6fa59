//! Ids that nothing has, both ends of `i64` among them: an ordinary answer or a typed error.

use std::collections::BTreeMap;

use super::given::{NO_IDS, car, everything, key, new_car, user};
use crate::error::Error;
use crate::model::{CarId, Role, UserId};
use crate::page::PageRequest;
use crate::store::Store;

fn users() -> [UserId; 4] {
    NO_IDS.map(UserId::new)
}

fn cars() -> [CarId; 4] {
    NO_IDS.map(CarId::new)
}

pub async fn ids_that_no_user_has_find_no_user(store: &dyn Store) {
    user(store.users(), "Anna").await;
    for id in users() {
        assert_eq!(store.users().get(id).await.unwrap(), None);
    }
    let found = store.users().get_many(&users()).await.unwrap();
    assert_eq!(found, []);
}

pub async fn ids_that_no_user_has_change_no_user(store: &dyn Store) {
    user(store.users(), "Anna").await;
    let before = everything(store).await;
    for user in users() {
        let refused = store.users().set_role(user, Role::Student).await;
        assert_refused!(refused, Error::UserNotFound { id } if id == user);
        let refused = store.users().rename(user, "Bert").await;
        assert_refused!(refused, Error::UserNotFound { id } if id == user);
        assert!(!store.users().delete(user).await.unwrap());
    }
    assert_eq!(everything(store).await, before);
}

pub async fn ids_that_no_user_has_own_no_car(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    car(store.cars(), "Golf", anna.id).await;
    for owner in users() {
        assert_eq!(store.cars().owned_by(owner).await.unwrap(), []);
        let request = PageRequest::first(10).unwrap();
        let page = store.cars().list_owned_by(owner, request).await.unwrap();
        assert_eq!((page.items, page.next), (vec![], None));
    }
    let owned = store.cars().owned_by_many(&users()).await.unwrap();
    let expected: BTreeMap<_, _> = users().map(|owner| (owner, vec![])).into();
    assert_eq!(owned, expected);
}

pub async fn ids_that_no_user_has_buy_no_car(store: &dyn Store) {
    for (nobody, number) in users().into_iter().zip(0..) {
        let new = new_car("Golf", nobody);
        let refused = store.cars().buy(&new).await;
        assert_refused!(refused, Error::UnknownOwner { owner, index: None } if owner == nobody);
        let refused = store.cars().buy(&new.clone().key(key(number))).await;
        assert_refused!(refused, Error::UnknownOwner { owner, index: None } if owner == nobody);
        let refused = store.cars().buy_many(&[new]).await;
        assert_refused!(
            refused,
            Error::UnknownOwner { owner, index: Some(0) } if owner == nobody
        );
    }
    assert_eq!(store.cars().count().await.unwrap(), 0);
}

pub async fn ids_that_no_car_has_find_and_change_no_car(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    car(store.cars(), "Golf", anna.id).await;
    let before = everything(store).await;
    for car in cars() {
        assert_eq!(store.cars().get(car).await.unwrap(), None);
        let refused = store.cars().transfer(car, anna.id, bert.id).await;
        assert_refused!(refused, Error::CarNotFound { id } if id == car);
        assert!(!store.cars().delete(car).await.unwrap());
    }
    assert_eq!(everything(store).await, before);
}

pub async fn ids_that_no_user_has_transfer_no_car(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    for nobody in users() {
        let refused = store.cars().transfer(golf.id, nobody, anna.id).await;
        assert_refused!(refused, Error::NotOwner { from, .. } if from == nobody);
        let refused = store.cars().transfer(golf.id, anna.id, nobody).await;
        assert_refused!(refused, Error::UnknownOwner { owner, .. } if owner == nobody);
    }
    assert_eq!(everything(store).await.1, [golf]);
}
