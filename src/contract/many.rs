//! Calls with many items: in the order given, all or nothing.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use super::given::{MANY, car, everything, key, new_car, new_user, unknown_user, user};
use crate::error::Error;
use crate::model::{NewCar, Registration, Role, UserId};
use crate::store::Store;

pub async fn many_of_none_is_empty(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let before = everything(store).await;
    assert_eq!(store.users().register_many(&[]).await.unwrap(), []);
    assert_eq!(store.cars().buy_many(&[]).await.unwrap(), []);
    assert_eq!(store.users().get_many(&[]).await.unwrap(), []);
    let owned = store.cars().owned_by_many(&[]).await.unwrap();
    assert_eq!(owned, BTreeMap::new());
    assert_eq!(before, (vec![anna], vec![golf]));
    assert_eq!(everything(store).await, before);
}

pub async fn many_of_one_is_as_one(store: &dyn Store) {
    let registered = store.users().register_many(&[new_user("Anna")]).await;
    let Ok([Registration::Created(anna)]) = registered.as_deref() else {
        panic!("{registered:?} is not one Created");
    };
    let found = store.users().get_many(&[anna.id]).await.unwrap();
    assert_eq!(found, std::slice::from_ref(anna));
    let bought = store.cars().buy_many(&[new_car("Golf", anna.id)]).await;
    let bought = bought.unwrap();
    assert_eq!(bought.len(), 1);
    assert_eq!(store.cars().owned_by(anna.id).await.unwrap(), bought);
}

pub async fn many_70_000_users_are_registered_in_the_order_given(store: &dyn Store) {
    // Falling names, so that order of name and order given are opposites.
    let names = (0..MANY).map(|n| format!("user {:05}", MANY - n));
    let names: Vec<_> = names.collect();
    let new: Vec<_> = names.iter().map(new_user).collect();
    let registered = store.users().register_many(&new).await.unwrap();
    assert_eq!(registered.len(), MANY);
    for (answer, name) in registered.iter().zip(&names) {
        assert!(answer.is_created());
        assert_eq!(&answer.user().username, name);
    }
    assert_eq!(store.users().count().await.unwrap(), MANY as u64);

    let ids: Vec<_> = registered.iter().map(|answer| answer.user().id).collect();
    let mut users: Vec<_> = registered.into_iter().map(|r| r.into_user()).collect();
    users.sort_by_key(|user| user.id);
    assert_eq!(store.users().get_many(&ids).await.unwrap(), users);
}

pub async fn many_70_000_cars_are_bought_in_the_order_given(store: &dyn Store) {
    let new: Vec<_> = (0..10).map(|n| new_user(format!("u{n}"))).collect();
    let owners = store.users().register_many(&new).await.unwrap();
    let owners: Vec<_> = owners.iter().map(|answer| answer.user().id).collect();
    let new = (0..MANY).map(|n| new_car(format!("model {}", MANY - n), owners[n % 10]));
    let new: Vec<_> = new.collect();
    let bought = store.cars().buy_many(&new).await.unwrap();
    assert_eq!(bought.len(), MANY);
    assert!(bought.is_sorted_by(|a, b| a.id < b.id));
    assert!(new.iter().zip(&bought).all(|(new, car)| new.describes(car)));

    let owned = store.cars().owned_by_many(&owners).await.unwrap();
    let mut expected = BTreeMap::new();
    for car in bought {
        let cars: &mut Vec<_> = expected.entry(car.owner_id).or_default();
        cars.push(car);
    }
    assert_eq!(owned, expected);
}

pub async fn many_70_000_owners_each_have_an_entry(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let ids = (0..MANY as i64).map(|n| UserId::new(anna.id.get() + n));
    let ids: Vec<_> = ids.collect();
    let owned = store.cars().owned_by_many(&ids).await.unwrap();
    assert!(owned.keys().eq(&ids));
    assert_eq!(owned[&anna.id], [golf]);
    assert_eq!(owned.values().map(Vec::len).sum::<usize>(), 1);
    let users = store.users().get_many(&ids).await.unwrap();
    assert_eq!(users, [anna]);
}

pub async fn register_many_answers_created_and_existing_in_place(store: &dyn Store) {
    let bert = user(store.users(), "Bert").await;
    let new = ["Carl", "Bert", "Anna"].map(|name| new_user(name).role(Role::Student));
    let answers = store.users().register_many(&new).await.unwrap();
    let created: Vec<_> = answers.iter().map(Registration::is_created).collect();
    assert_eq!(created, [true, false, true]);
    let names = answers.iter().map(|answer| answer.user().username.as_str());
    assert!(names.eq(["Carl", "Bert", "Anna"]));
    assert_eq!(answers[1].user(), &bert);
    assert_eq!(store.users().count().await.unwrap(), 3);
}

pub async fn register_many_creates_a_repeated_name_at_its_first_place(store: &dyn Store) {
    let first = new_user("Anna").role(Role::Teacher);
    let again = new_user("Anna").role(Role::Student);
    let new = [new_user("Bert"), first, again.clone(), again];
    let answers = store.users().register_many(&new).await.unwrap();
    let created: Vec<_> = answers.iter().map(Registration::is_created).collect();
    assert_eq!(created, [true, true, false, false]);
    let anna = answers[1].user();
    assert_eq!(anna.role, Role::Teacher);
    assert!(answers[2..].iter().all(|answer| answer.user() == anna));
    assert_eq!(store.users().count().await.unwrap(), 2);
}

pub async fn register_many_burns_no_id_for_names_it_finds(store: &dyn Store) {
    let new: Vec<_> = (0..10).map(|n| new_user(format!("u{n}"))).collect();
    let first = store.users().register_many(&new).await.unwrap();
    for _ in 0..3 {
        let again = store.users().register_many(&new).await.unwrap();
        assert!(again.iter().zip(&first).all(|(a, b)| a.user() == b.user()));
        assert!(!again.iter().any(Registration::is_created));
    }
    let last = first.iter().map(|answer| answer.user().id.get()).max();
    let next = user(store.users(), "Anna").await;
    assert_eq!(Some(next.id.get() - 1), last);
}

/// Calls that hold the same names in different orders neither fail nor wait for each other for
/// ever.
pub async fn register_many_race_gives_each_name_one_winner(store: &dyn Store) {
    let mut orders = vec![Vec::new(); 8];
    for (shift, new) in orders.iter_mut().enumerate() {
        new.extend((0..32).map(|n| new_user(format!("u{}", (n + 4 * shift) % 32))));
        if shift % 2 == 1 {
            new.reverse();
        }
    }
    let calls = orders.iter().map(|new| store.users().register_many(new));
    let answers: Result<Vec<_>, _> = join_all(calls).await.into_iter().collect();
    let answers = answers.unwrap().concat();
    let winners = answers.iter().filter(|answer| answer.is_created()).count();
    assert_eq!(winners, 32);
    let ids: BTreeSet<_> = answers.iter().map(|answer| answer.user().id).collect();
    assert_eq!(ids.len(), 32);
}

pub async fn get_many_answers_each_known_id_once_in_order(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    let carl = user(store.users(), "Carl").await;
    let nobody = unknown_user(store).await;
    let ids = [carl.id, nobody, anna.id, carl.id, UserId::new(0), anna.id];
    let found = store.users().get_many(&ids).await.unwrap();
    assert_eq!(found, [anna, carl]);
    let found = store.users().get_many(&[bert.id; 3]).await.unwrap();
    assert_eq!(found, [bert]);
}

pub async fn buy_many_without_keys_buys_every_duplicate(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let new = vec![new_car("Golf", anna.id); 5];
    let bought = store.cars().buy_many(&new).await.unwrap();
    assert_eq!(bought.len(), 5);
    assert_eq!(store.cars().owned_by(anna.id).await.unwrap(), bought);
}

pub async fn buy_many_with_a_repeated_key_buys_one_car(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let (golf, polo) = (new_car("Golf", anna.id), new_car("Polo", anna.id));
    let golf = golf.key(key(1));
    let new = [golf.clone(), polo, golf];
    let bought = store.cars().buy_many(&new).await.unwrap();
    assert_eq!(bought.len(), 3);
    assert_eq!(bought[0], bought[2]);
    assert_eq!(store.cars().owned_by(anna.id).await.unwrap(), bought[..2]);
}

pub async fn buy_many_again_returns_the_same_cars(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let new = (0..10).map(|n| new_car(format!("model {n}"), anna.id).key(key(n)));
    let new: Vec<_> = new.collect();
    let first = store.cars().buy_many(&new[..5]).await.unwrap();
    let all = store.cars().buy_many(&new).await.unwrap();
    assert_eq!(all[..5], first);
    assert_eq!(store.cars().buy_many(&new).await.unwrap(), all);
    assert_eq!(store.cars().owned_by(anna.id).await.unwrap(), all);
    let next = car(store.cars(), "Golf", anna.id).await;
    assert_eq!(next.id.get(), all[9].id.get() + 1, "an id was burnt");
}

pub async fn buy_many_names_the_first_unknown_owner_and_stores_nothing(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let nobody = unknown_user(store).await;
    let noone = UserId::new(nobody.get() + 1);
    let owners = [anna.id, anna.id, noone, anna.id, nobody];
    let new = owners.map(|owner| new_car("Golf", owner));
    let refused = store.cars().buy_many(&new).await;
    assert_refused!(
        refused,
        Error::UnknownOwner { owner, index: Some(2) } if owner == noone
    );
    assert_eq!(store.cars().count().await.unwrap(), 0);
}

pub async fn buy_many_refused_burns_no_id(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let nobody = unknown_user(store).await;
    let before = car(store.cars(), "Golf", anna.id).await;
    let new = [new_car("Golf", anna.id), new_car("Golf", nobody)];
    for _ in 0..3 {
        let refused = store.cars().buy_many(&new).await;
        assert_refused!(refused, Error::UnknownOwner { index: Some(1), .. });
    }
    let after = car(store.cars(), "Golf", anna.id).await;
    assert_eq!(after.id.get(), before.id.get() + 1);
}

pub async fn buy_many_names_the_first_reused_key_and_stores_nothing(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let golf = new_car("Golf", anna.id).key(key(1));
    store.cars().buy(&golf).await.unwrap();
    let before = everything(store).await;
    let polo = |number| new_car("Polo", anna.id).key(key(number));
    let new = [polo(2), golf, polo(1), polo(1)];
    let refused = store.cars().buy_many(&new).await;
    assert_refused!(refused, Error::PurchaseKeyReused { index: Some(2) });
    assert_eq!(everything(store).await, before);
}

pub async fn buy_many_refuses_a_key_used_by_an_earlier_item(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    let golf = |owner| new_car("Golf", owner).key(key(1));
    for other in [golf(bert.id), new_car("Polo", anna.id).key(key(1))] {
        let new = [new_car("Audi", anna.id), golf(anna.id), other];
        let refused = store.cars().buy_many(&new).await;
        assert_refused!(refused, Error::PurchaseKeyReused { index: Some(2) });
        assert_eq!(store.cars().count().await.unwrap(), 0);
    }
}

/// Items are looked at in their order, and of each item the key before the owner.
pub async fn buy_many_reports_the_first_bad_item_and_its_key_first(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let nobody = unknown_user(store).await;
    let stored = new_car("Golf", anna.id).key(key(1));
    store.cars().buy(&stored).await.unwrap();
    let orphan = new_car("Golf", nobody);
    let reused = orphan.clone().key(key(1));
    let (fresh, clash) = (
        orphan.clone().key(key(2)),
        new_car("Polo", anna.id).key(key(2)),
    );

    let refuse = async |new: &[NewCar]| store.cars().buy_many(new).await;
    let answer = refuse(&[orphan.clone(), reused.clone()]).await;
    assert_refused!(answer, Error::UnknownOwner { index: Some(0), .. });
    let answer = refuse(&[reused, orphan]).await;
    assert_refused!(answer, Error::PurchaseKeyReused { index: Some(0) });
    let answer = refuse(&[clash.clone(), fresh.clone()]).await;
    assert_refused!(answer, Error::PurchaseKeyReused { index: Some(1) });
    let answer = refuse(&[fresh, clash]).await;
    assert_refused!(answer, Error::UnknownOwner { index: Some(0), .. });
    assert_eq!(store.cars().count().await.unwrap(), 1);
}

pub async fn buy_many_race_with_the_same_keys_buys_each_once(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let new = (0..32).map(|n| new_car(format!("model {n}"), anna.id).key(key(n)));
    let forwards: Vec<_> = new.collect();
    let backwards: Vec<_> = forwards.iter().rev().cloned().collect();
    let calls = (0..8).map(|n| store.cars().buy_many([&forwards, &backwards][n % 2]));
    let answers: Result<Vec<_>, _> = join_all(calls).await.into_iter().collect();
    let stored = store.cars().owned_by(anna.id).await.unwrap();
    assert_eq!(stored.len(), 32);
    for mut cars in answers.unwrap() {
        cars.sort_by_key(|car| car.id);
        assert_eq!(cars, stored);
    }
}
