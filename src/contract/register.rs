//! Registering users and finding them.

use std::collections::BTreeSet;

use chrono::NaiveDate;
use futures_util::future::join_all;

use super::given::{CALLERS, ROUNDS, everything, new_user, ready_for_a_race, user};
use crate::model::{Registration, Role};
use crate::store::Store;

pub async fn register_new_is_created(store: &dyn Store) {
    let registration = store.users().register(&new_user("Anna")).await.unwrap();
    let Registration::Created(anna) = registration else {
        panic!("{registration:?} is not Created");
    };
    assert_eq!(
        (anna.username.as_str(), anna.role),
        ("Anna", Role::Employee)
    );
    assert_eq!(store.users().count().await.unwrap(), 1);
    assert_eq!(store.users().get(anna.id).await.unwrap(), Some(anna));
}

pub async fn register_keeps_role_and_date(store: &dyn Store) {
    let date = NaiveDate::from_ymd_opt(2020, 2, 29).unwrap();
    for role in Role::ALL {
        let new = new_user(role.as_str()).role(role).created_at(date);
        let created = store.users().register(&new).await.unwrap().into_user();
        assert_eq!((created.role, created.created_at), (role, date));
        assert_eq!(store.users().get(created.id).await.unwrap(), Some(created));
    }
}

pub async fn register_ids_rise(store: &dyn Store) {
    let mut last = 0;
    for number in 0..10 {
        let id = user(store.users(), &format!("u{number}")).await.id.get();
        assert!(id > last, "{id} after {last}");
        last = id;
    }
}

pub async fn register_again_returns_the_stored_user_unchanged(store: &dyn Store) {
    let date = NaiveDate::from_ymd_opt(2020, 2, 29).unwrap();
    let new = new_user("Anna").role(Role::Teacher).created_at(date);
    let anna = store.users().register(&new).await.unwrap().into_user();

    let other = new_user("Anna").role(Role::Student);
    let again = store.users().register(&other).await.unwrap();
    assert_eq!(again, Registration::Existing(anna.clone()));
    assert_eq!(everything(store).await.0, [anna]);
}

pub async fn register_again_shows_the_user_as_it_is_now(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let promoted = store
        .users()
        .set_role(anna.id, Role::Teacher)
        .await
        .unwrap();
    let again = store.users().register(&new_user("Anna")).await.unwrap();
    assert_eq!(again, Registration::Existing(promoted));
}

pub async fn register_again_burns_no_id(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    for _ in 0..10 {
        let again = store.users().register(&new_user("Anna")).await.unwrap();
        assert!(!again.is_created());
    }
    let bert = user(store.users(), "Bert").await;
    assert_eq!(bert.id.get(), anna.id.get() + 1);
}

pub async fn register_race_has_one_winner(store: &dyn Store) {
    ready_for_a_race(store).await;
    for round in 1..=ROUNDS {
        let new = new_user(format!("Anna {round}"));
        let calls = (0..CALLERS).map(|_| store.users().register(&new));
        let answers: Result<Vec<_>, _> = join_all(calls).await.into_iter().collect();
        let answers = answers.unwrap();
        let winners = answers.iter().filter(|answer| answer.is_created()).count();
        assert_eq!((winners, answers.len()), (1, CALLERS));
        let ids: BTreeSet<_> = answers.iter().map(|answer| answer.user().id).collect();
        assert_eq!(ids.len(), 1);
        assert_eq!(store.users().count().await.unwrap(), round as u64);
    }
}

/// Many races at once, as on a busy store.
pub async fn register_race_of_eight_names_has_eight_winners(store: &dyn Store) {
    let names: Vec<_> = (0..8).map(|n| new_user(format!("u{n}"))).collect();
    let calls = (0..CALLERS).map(|n| store.users().register(&names[n % 8]));
    let answers: Result<Vec<_>, _> = join_all(calls).await.into_iter().collect();
    let answers = answers.unwrap();
    let winners = answers.iter().filter(|answer| answer.is_created()).count();
    assert_eq!(winners, 8);
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer.user().username, names[n % 8].username());
    }
    assert_eq!(store.users().count().await.unwrap(), 8);
}

pub async fn register_after_delete_is_created_with_a_new_id(store: &dyn Store) {
    let first = user(store.users(), "Anna").await;
    assert!(store.users().delete(first.id).await.unwrap());
    let second = user(store.users(), "Anna").await;
    assert!(second.id > first.id);
    assert_eq!(store.users().get(first.id).await.unwrap(), None);
}

pub async fn get_by_username_finds_the_user_of_that_name(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    for stored in [anna, bert] {
        let found = store.users().get_by_username(&stored.username).await;
        assert_eq!(found.unwrap(), Some(stored));
    }
    let found = store.users().get_by_username("Carl").await;
    assert_eq!(found.unwrap(), None);
}
