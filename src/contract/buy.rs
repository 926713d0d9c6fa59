//! Buying cars, with and without a key.

use futures_util::future::join_all;

use super::given::{
    CALLERS, ROUNDS, car, everything, key, new_car, ready_for_a_race, unknown_user, user,
};
use crate::error::Error;
use crate::store::Store;

pub async fn buy_returns_the_stored_car(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    assert_eq!((golf.model.as_str(), golf.owner_id), ("Golf", anna.id));
    assert_eq!(store.cars().get(golf.id).await.unwrap(), Some(golf));
    assert_eq!(store.cars().count().await.unwrap(), 1);
}

pub async fn buy_again_without_a_key_is_another_car(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let mut last = 0;
    for _ in 0..10 {
        let id = car(store.cars(), "Golf", anna.id).await.id.get();
        assert!(id > last, "{id} after {last}");
        last = id;
    }
    assert_eq!(store.cars().count().await.unwrap(), 10);
}

pub async fn buy_unknown_owner_stores_nothing(store: &dyn Store) {
    let nobody = unknown_user(store).await;
    let refused = store.cars().buy(&new_car("Golf", nobody)).await;
    assert_refused!(refused, Error::UnknownOwner { owner, index: None } if owner == nobody);
    assert_eq!(store.cars().count().await.unwrap(), 0);
    assert_eq!(store.cars().owned_by(nobody).await.unwrap(), []);
}

pub async fn buy_unknown_owner_burns_no_id(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let nobody = unknown_user(store).await;
    let before = car(store.cars(), "Golf", anna.id).await;
    for number in 0..5 {
        let new = new_car("Golf", nobody);
        let refused = store.cars().buy(&new).await;
        assert_refused!(refused, Error::UnknownOwner { .. });
        let refused = store.cars().buy(&new.key(key(number))).await;
        assert_refused!(refused, Error::UnknownOwner { .. });
    }
    let after = car(store.cars(), "Golf", anna.id).await;
    assert_eq!(after.id.get(), before.id.get() + 1);
}

pub async fn buy_for_a_deleted_owner_is_refused(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    assert!(store.users().delete(anna.id).await.unwrap());
    let refused = store.cars().buy(&new_car("Golf", anna.id)).await;
    assert_refused!(refused, Error::UnknownOwner { owner, index: None } if owner == anna.id);
    assert_eq!(store.cars().count().await.unwrap(), 0);
}

pub async fn buy_with_key_again_returns_the_same_car(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let new = new_car("Golf", anna.id).key(key(1));
    let golf = store.cars().buy(&new).await.unwrap();
    for _ in 0..10 {
        assert_eq!(store.cars().buy(&new).await.unwrap(), golf);
    }
    assert_eq!(store.cars().owned_by(anna.id).await.unwrap(), [golf]);
}

pub async fn buy_with_key_again_burns_no_id(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let new = new_car("Golf", anna.id).key(key(1));
    let golf = store.cars().buy(&new).await.unwrap();
    for _ in 0..10 {
        store.cars().buy(&new).await.unwrap();
    }
    let next = car(store.cars(), "Polo", anna.id).await;
    assert_eq!(next.id.get(), golf.id.get() + 1);
}

pub async fn buy_with_another_key_is_another_car(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    for number in [0, 1, u128::MAX] {
        let new = new_car("Golf", anna.id).key(key(number));
        store.cars().buy(&new).await.unwrap();
    }
    assert_eq!(store.cars().owned_by(anna.id).await.unwrap().len(), 3);
}

pub async fn buy_key_race_has_one_car(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    ready_for_a_race(store).await;
    for round in 1..=ROUNDS {
        let new = new_car("Golf", anna.id).key(key(round as u128));
        let calls = (0..CALLERS).map(|_| store.cars().buy(&new));
        let answers: Result<Vec<_>, _> = join_all(calls).await.into_iter().collect();
        let answers = answers.unwrap();
        let stored = store.cars().owned_by(anna.id).await.unwrap();
        assert_eq!(stored.len(), round);
        assert_eq!(answers, vec![stored[round - 1].clone(); CALLERS]);
    }
}

/// Two purchases fight for one key: one is stored, and each call of the other is told.
pub async fn buy_key_race_of_two_models_has_one_model(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    ready_for_a_race(store).await;
    for round in 1..=ROUNDS {
        let golf = new_car("Golf", anna.id).key(key(round as u128));
        let polo = new_car("Polo", anna.id).key(key(round as u128));
        let calls = (0..CALLERS).map(|n| store.cars().buy([&golf, &polo][n % 2]));
        let answers = join_all(calls).await;
        let stored = store.cars().owned_by(anna.id).await.unwrap();
        assert_eq!(stored.len(), round);
        let mut bought = 0;
        for answer in answers {
            match answer {
                Ok(car) => {
                    assert_eq!(car, stored[round - 1]);
                    bought += 1;
                }
                refused => assert_refused!(refused, Error::PurchaseKeyReused { index: None }),
            }
        }
        assert_eq!(bought, CALLERS / 2);
    }
}

pub async fn buy_race_without_keys_stores_every_car(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let new = new_car("Golf", anna.id);
    let calls = (0..CALLERS).map(|_| store.cars().buy(&new));
    let answers: Result<Vec<_>, _> = join_all(calls).await.into_iter().collect();
    let mut answers = answers.unwrap();
    answers.sort_by_key(|car| car.id);
    assert_eq!(answers.len(), CALLERS);
    assert_eq!(store.cars().owned_by(anna.id).await.unwrap(), answers);
}

pub async fn buy_key_reused_for_another_model_is_refused(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let new = new_car("Golf", anna.id).key(key(1));
    store.cars().buy(&new).await.unwrap();
    let before = everything(store).await;
    for model in ["Polo", "golf", "Golf GTI"] {
        let other = new_car(model, anna.id).key(key(1));
        let refused = store.cars().buy(&other).await;
        assert_refused!(refused, Error::PurchaseKeyReused { index: None });
    }
    assert_eq!(everything(store).await, before);
}

pub async fn buy_key_reused_for_another_owner_is_refused(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    let new = new_car("Golf", anna.id).key(key(1));
    store.cars().buy(&new).await.unwrap();
    let before = everything(store).await;
    let other = new_car("Golf", bert.id).key(key(1));
    let refused = store.cars().buy(&other).await;
    assert_refused!(refused, Error::PurchaseKeyReused { index: None });
    assert_eq!(everything(store).await, before);
}

/// The key is looked at before the owner.
pub async fn buy_key_reused_for_an_unknown_owner_is_a_reused_key(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let nobody = unknown_user(store).await;
    let new = new_car("Golf", anna.id).key(key(1));
    store.cars().buy(&new).await.unwrap();
    let other = new_car("Golf", nobody).key(key(1));
    let refused = store.cars().buy(&other).await;
    assert_refused!(refused, Error::PurchaseKeyReused { index: None });
}

pub async fn buy_key_reused_burns_no_id(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let new = new_car("Golf", anna.id).key(key(1));
    let golf = store.cars().buy(&new).await.unwrap();
    for _ in 0..10 {
        let other = new_car("Polo", anna.id).key(key(1));
        let refused = store.cars().buy(&other).await;
        assert_refused!(refused, Error::PurchaseKeyReused { .. });
    }
    let next = car(store.cars(), "Polo", anna.id).await;
    assert_eq!(next.id.get(), golf.id.get() + 1);
}

pub async fn buy_key_of_a_refused_purchase_stays_free(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let nobody = unknown_user(store).await;
    let refused = store.cars().buy(&new_car("Golf", nobody).key(key(1))).await;
    assert_refused!(refused, Error::UnknownOwner { owner, .. } if owner == nobody);
    let new = new_car("Polo", anna.id).key(key(1));
    let polo = store.cars().buy(&new).await.unwrap();
    assert_eq!(store.cars().owned_by(anna.id).await.unwrap(), [polo]);
}

pub async fn buy_key_goes_with_the_car_to_its_new_owner(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    let new = new_car("Golf", anna.id).key(key(1));
    let golf = store.cars().buy(&new).await.unwrap();
    let moved = store.cars().transfer(golf.id, anna.id, bert.id).await;
    let moved = moved.unwrap();

    let refused = store.cars().buy(&new).await;
    assert_refused!(refused, Error::PurchaseKeyReused { index: None });
    let by_bert = new_car("Golf", bert.id).key(key(1));
    assert_eq!(store.cars().buy(&by_bert).await.unwrap(), moved);
    assert_eq!(store.cars().count().await.unwrap(), 1);
}

pub async fn buy_key_of_a_deleted_car_buys_again(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let new = new_car("Golf", anna.id).key(key(1));
    let first = store.cars().buy(&new).await.unwrap();
    assert!(store.cars().delete(first.id).await.unwrap());
    let second = store.cars().buy(&new).await.unwrap();
    assert!(second.id > first.id);
    assert_eq!(store.cars().owned_by(anna.id).await.unwrap(), [second]);
}
