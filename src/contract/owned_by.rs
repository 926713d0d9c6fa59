//! The cars of one user, and of many.

use std::collections::BTreeMap;

use super::given::{car, unknown_user, user};
use crate::store::Store;

pub async fn owned_by_is_in_order_of_purchase(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    let mut bought = Vec::new();
    for model in ["Polo", "Golf", "Audi", "Golf"] {
        bought.push(car(store.cars(), model, anna.id).await);
        car(store.cars(), model, bert.id).await;
    }
    assert_eq!(store.cars().owned_by(anna.id).await.unwrap(), bought);
}

/// Updates and deletes move rows about in a table; the order of the answer must not follow.
pub async fn owned_by_keeps_its_order_through_updates_and_deletes(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    let mut bought = Vec::new();
    for number in 0..20 {
        let model = format!("model {number}");
        bought.push(car(store.cars(), &model, anna.id).await);
    }
    for index in [0, 13, 7] {
        let id = bought[index].id;
        store.cars().transfer(id, anna.id, bert.id).await.unwrap();
        store.cars().transfer(id, bert.id, anna.id).await.unwrap();
    }
    for index in [16, 5, 1] {
        let gone = bought.remove(index);
        assert!(store.cars().delete(gone.id).await.unwrap());
    }
    bought.push(car(store.cars(), "the last", anna.id).await);
    assert_eq!(store.cars().owned_by(anna.id).await.unwrap(), bought);
    let many = store.cars().owned_by_many(&[anna.id]).await.unwrap();
    assert_eq!(many, BTreeMap::from([(anna.id, bought)]));
}

pub async fn owned_by_an_unknown_user_is_empty(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    car(store.cars(), "Golf", anna.id).await;
    let nobody = unknown_user(store).await;
    assert_eq!(store.cars().owned_by(nobody).await.unwrap(), []);
}

pub async fn owned_by_follows_a_transfer(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let polo = car(store.cars(), "Polo", bert.id).await;
    let moved = store.cars().transfer(golf.id, anna.id, bert.id).await;
    assert_eq!(store.cars().owned_by(anna.id).await.unwrap(), []);
    let owned = store.cars().owned_by(bert.id).await.unwrap();
    assert_eq!(owned, [moved.unwrap(), polo]);
}

pub async fn owned_by_many_has_an_entry_for_every_owner(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    let carl = user(store.users(), "Carl").await;
    let nobody = unknown_user(store).await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    car(store.cars(), "Polo", carl.id).await;
    let owners = [nobody, bert.id, anna.id];
    let many = store.cars().owned_by_many(&owners).await.unwrap();
    let expected = [(anna.id, vec![golf]), (bert.id, vec![]), (nobody, vec![])];
    assert_eq!(many, BTreeMap::from(expected));
}

pub async fn owned_by_many_asked_twice_for_an_owner_answers_once(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let polo = car(store.cars(), "Polo", anna.id).await;
    let owners = [anna.id; 3];
    let many = store.cars().owned_by_many(&owners).await.unwrap();
    assert_eq!(many, BTreeMap::from([(anna.id, vec![golf, polo])]));
}

pub async fn owned_by_many_answers_as_owned_by_does(store: &dyn Store) {
    let mut owners = Vec::new();
    for number in 0..10 {
        owners.push(user(store.users(), &format!("u{number}")).await.id);
    }
    for number in 0..50 {
        let owner = owners[number * number % owners.len()];
        car(store.cars(), &format!("model {number}"), owner).await;
    }
    let many = store.cars().owned_by_many(&owners).await.unwrap();
    assert_eq!(many.len(), owners.len());
    for (owner, cars) in many {
        assert_eq!(store.cars().owned_by(owner).await.unwrap(), cars);
    }
}
