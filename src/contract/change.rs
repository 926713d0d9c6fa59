//! Changing and deleting what is stored.

use futures_util::future::{join_all, join3};

use super::given::{
    CALLERS, ROUNDS, car, everything, new_car, ready_for_a_race, unknown_car, unknown_user, user,
};
use crate::error::Error;
use crate::model::{Car, Role, User};
use crate::store::Store;

pub async fn rename_changes_the_name_alone(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let renamed = store.users().rename(anna.id, "Anne").await.unwrap();
    let username = "Anne".to_owned();
    assert_eq!(renamed, User { username, ..anna });
    assert_eq!(everything(store).await, (vec![renamed, bert], vec![golf]));
}

pub async fn rename_moves_the_name(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let renamed = store.users().rename(anna.id, "Anne").await.unwrap();
    let old = store.users().get_by_username("Anna").await.unwrap();
    assert_eq!(old, None);
    let new = store.users().get_by_username("Anne").await.unwrap();
    assert_eq!(new, Some(renamed));
    assert_ne!(user(store.users(), "Anna").await.id, anna.id);
}

pub async fn rename_to_its_own_name_changes_nothing(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let renamed = store.users().rename(anna.id, "Anna").await.unwrap();
    assert_eq!(renamed, anna);
    assert_eq!(everything(store).await.0, [anna]);
}

pub async fn rename_to_a_taken_name_is_refused(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    user(store.users(), "Bert").await;
    let before = everything(store).await;
    let refused = store.users().rename(anna.id, "Bert").await;
    assert_refused!(refused, Error::UsernameTaken);
    assert_eq!(everything(store).await, before);
}

pub async fn rename_an_unknown_user_is_not_found_even_to_a_taken_name(store: &dyn Store) {
    user(store.users(), "Anna").await;
    let nobody = unknown_user(store).await;
    let before = everything(store).await;
    for name in ["Bert", "Anna"] {
        let refused = store.users().rename(nobody, name).await;
        assert_refused!(refused, Error::UserNotFound { id } if id == nobody);
    }
    assert_eq!(everything(store).await, before);
}

pub async fn rename_race_for_one_name_has_one_winner(store: &dyn Store) {
    ready_for_a_race(store).await;
    let mut ids = Vec::new();
    for number in 0..8 {
        ids.push(user(store.users(), &format!("u{number}")).await.id);
    }
    for round in 0..ROUNDS {
        let name = format!("Anna {round}");
        let calls = ids.iter().map(|id| store.users().rename(*id, &name));
        let mut winners = Vec::new();
        for answer in join_all(calls).await {
            match answer {
                Ok(user) => winners.push(user),
                refused => assert_refused!(refused, Error::UsernameTaken),
            }
        }
        assert_eq!(winners.len(), 1);
        let found = store.users().get_by_username(&name).await.unwrap();
        assert_eq!(found.as_ref(), winners.first());
    }
    assert_eq!(store.users().count().await.unwrap(), 8);
}

pub async fn set_role_changes_the_role_alone(store: &dyn Store) {
    let mut anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    for role in Role::ALL {
        anna.role = role;
        let changed = store.users().set_role(anna.id, role).await.unwrap();
        assert_eq!(changed, anna);
        let users = everything(store).await.0;
        assert_eq!(users, [anna.clone(), bert.clone()]);
    }
}

pub async fn set_role_of_an_unknown_user_is_not_found(store: &dyn Store) {
    user(store.users(), "Anna").await;
    let nobody = unknown_user(store).await;
    let before = everything(store).await;
    let refused = store.users().set_role(nobody, Role::Student).await;
    assert_refused!(refused, Error::UserNotFound { id } if id == nobody);
    assert_eq!(everything(store).await, before);
}

pub async fn transfer_changes_the_owner_alone(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let polo = car(store.cars(), "Polo", anna.id).await;
    let moved = store.cars().transfer(golf.id, anna.id, bert.id).await;
    let moved = moved.unwrap();
    let owner_id = bert.id;
    assert_eq!(moved, Car { owner_id, ..golf });
    let stored = store.cars().get(moved.id).await.unwrap();
    assert_eq!(stored.as_ref(), Some(&moved));
    let after = everything(store).await;
    assert_eq!(after, (vec![anna, bert], vec![polo, moved]));
}

pub async fn transfer_to_its_owner_changes_nothing(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let moved = store.cars().transfer(golf.id, anna.id, anna.id).await;
    assert_eq!(moved.unwrap(), golf);
    assert_eq!(everything(store).await.1, [golf]);
}

pub async fn transfer_of_an_unknown_car_is_not_found(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    car(store.cars(), "Golf", anna.id).await;
    let nothing = unknown_car(store).await;
    let before = everything(store).await;
    let refused = store.cars().transfer(nothing, anna.id, bert.id).await;
    assert_refused!(refused, Error::CarNotFound { id } if id == nothing);
    assert_eq!(everything(store).await, before);
}

pub async fn transfer_from_another_than_the_owner_is_refused(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let nobody = unknown_user(store).await;
    let before = everything(store).await;
    for wrong in [bert.id, nobody] {
        for to in [anna.id, bert.id] {
            let refused = store.cars().transfer(golf.id, wrong, to).await;
            assert_refused!(
                refused,
                Error::NotOwner { car, from } if (car, from) == (golf.id, wrong)
            );
        }
    }
    assert_eq!(everything(store).await, before);
}

pub async fn transfer_to_an_unknown_user_is_refused(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let nobody = unknown_user(store).await;
    let before = everything(store).await;
    let refused = store.cars().transfer(golf.id, anna.id, nobody).await;
    assert_refused!(refused, Error::UnknownOwner { owner, index: None } if owner == nobody);
    assert_eq!(everything(store).await, before);
}

/// The car is looked at first, then its owner, then the user it should go to.
pub async fn transfer_reports_car_then_owner_then_recipient(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let nobody = unknown_user(store).await;
    let nothing = unknown_car(store).await;
    let refused = store.cars().transfer(nothing, nobody, nobody).await;
    assert_refused!(refused, Error::CarNotFound { .. });
    let refused = store.cars().transfer(golf.id, nobody, nobody).await;
    assert_refused!(refused, Error::NotOwner { .. });
    let refused = store.cars().transfer(golf.id, anna.id, nobody).await;
    assert_refused!(refused, Error::UnknownOwner { .. });
}

pub async fn transfer_race_has_one_winner(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let mut others = Vec::new();
    for number in 0..8 {
        others.push(user(store.users(), &format!("u{number}")).await.id);
    }
    let calls = (0..CALLERS).map(|n| store.cars().transfer(golf.id, anna.id, others[n % 8]));
    let mut winners = Vec::new();
    for answer in join_all(calls).await {
        match answer {
            Ok(car) => winners.push(car),
            refused => assert_refused!(refused, Error::NotOwner { .. }),
        }
    }
    assert_eq!(winners.len(), 1);
    let stored = store.cars().get(golf.id).await.unwrap();
    assert_eq!(stored.as_ref(), winners.first());
}

pub async fn delete_user_removes_that_user_alone(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    assert!(store.users().delete(anna.id).await.unwrap());
    assert_eq!(store.users().get(anna.id).await.unwrap(), None);
    let by_name = store.users().get_by_username("Anna").await.unwrap();
    assert_eq!(by_name, None);
    assert_eq!(everything(store).await.0, [bert]);
}

pub async fn delete_user_that_is_not_there_is_false(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    let nobody = unknown_user(store).await;
    assert!(!store.users().delete(nobody).await.unwrap());
    assert!(store.users().delete(anna.id).await.unwrap());
    assert!(!store.users().delete(anna.id).await.unwrap());
    assert_eq!(everything(store).await.0, [bert]);
}

pub async fn delete_user_with_cars_is_refused(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    car(store.cars(), "Golf", anna.id).await;
    let before = everything(store).await;
    let refused = store.users().delete(anna.id).await;
    assert_refused!(refused, Error::UserOwnsCars { id } if id == anna.id);
    assert_eq!(everything(store).await, before);
}

pub async fn delete_user_whose_cars_are_gone_is_true(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let polo = car(store.cars(), "Polo", anna.id).await;
    assert!(store.cars().delete(golf.id).await.unwrap());
    let moved = store.cars().transfer(polo.id, anna.id, bert.id).await;
    let moved = moved.unwrap();
    assert!(store.users().delete(anna.id).await.unwrap());
    assert_eq!(everything(store).await, (vec![bert], vec![moved]));
}

/// Whichever comes first, no car is left without its owner.
pub async fn delete_user_race_with_buy_leaves_no_orphan(store: &dyn Store) {
    ready_for_a_race(store).await;
    let mut cars_before = 0;
    for round in 0..4 * ROUNDS {
        let anna = user(store.users(), &format!("Anna {round}")).await;
        let new = new_car("Golf", anna.id);
        // The deletion starts among the purchases, at another place in each round.
        let early = join_all((0..round % 8).map(|_| store.cars().buy(&new)));
        let late = join_all((round % 8..8).map(|_| store.cars().buy(&new)));
        let (early, deleted, late) = join3(early, store.users().delete(anna.id), late).await;
        let mut cars = 0;
        for answer in early.into_iter().chain(late) {
            match answer {
                Ok(_) => cars += 1,
                refused => assert_refused!(refused, Error::UnknownOwner { .. }),
            }
        }
        let left = store.users().get(anna.id).await.unwrap();
        match deleted {
            Ok(true) => assert_eq!((left, cars), (None, 0)),
            refused => {
                assert_refused!(refused, Error::UserOwnsCars { .. });
                assert_eq!((left, cars), (Some(anna), 8));
            }
        }
        cars_before += cars;
        assert_eq!(store.cars().count().await.unwrap(), cars_before);
    }
}

pub async fn delete_car_removes_that_car_alone(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let polo = car(store.cars(), "Polo", anna.id).await;
    assert!(store.cars().delete(golf.id).await.unwrap());
    assert_eq!(store.cars().get(golf.id).await.unwrap(), None);
    assert_eq!(everything(store).await, (vec![anna], vec![polo]));
}

pub async fn delete_car_that_is_not_there_is_false(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let nothing = unknown_car(store).await;
    assert!(!store.cars().delete(nothing).await.unwrap());
    assert_eq!(store.cars().count().await.unwrap(), 1);
    assert!(store.cars().delete(golf.id).await.unwrap());
    assert!(!store.cars().delete(golf.id).await.unwrap());
}

pub async fn delete_race_has_one_winner(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let calls = join_all((0..CALLERS).map(|_| store.cars().delete(golf.id))).await;
    let winners = calls
        .into_iter()
        .filter(|deleted| *deleted.as_ref().unwrap());
    assert_eq!(winners.count(), 1);
    let calls = join_all((0..CALLERS).map(|_| store.users().delete(anna.id))).await;
    let winners = calls
        .into_iter()
        .filter(|deleted| *deleted.as_ref().unwrap());
    assert_eq!(winners.count(), 1);
}
