//! Pages: in order of id, every row once.

use std::collections::BTreeSet;

use super::given::{car, new_car, new_user, user};
use crate::error::Error;
use crate::model::{CarId, InvalidInput, User, UserId};
use crate::page::PageRequest;
use crate::store::Store;

async fn register_numbered(store: &dyn Store, count: usize) -> Vec<User> {
    let new: Vec<_> = (0..count).map(|n| new_user(format!("u{n}"))).collect();
    let answers = store.users().register_many(&new).await.unwrap();
    let mut users: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.into_user())
        .collect();
    users.sort_by_key(|user| user.id);
    users
}

fn at_most<K>(limit: usize) -> PageRequest<K> {
    PageRequest::first(limit).unwrap()
}

pub async fn page_limits_are_1_to_1000(store: &dyn Store) {
    let users = register_numbered(store, 1001).await;
    for limit in [0, 1001, usize::MAX] {
        let request = PageRequest::<UserId>::first(limit).map_err(Error::from);
        assert_refused!(
            request,
            Error::Invalid(InvalidInput::PageLimit { limit: told }) if told == limit
        );
    }
    for limit in [1, 1000] {
        let page = store.users().list(at_most(limit)).await.unwrap();
        assert_eq!(page.items, users[..limit]);
        assert_eq!(page.next, Some(users[limit - 1].id));
    }
}

pub async fn page_of_an_empty_store_is_empty(store: &dyn Store) {
    let page = store.users().list(at_most(10)).await.unwrap();
    assert_eq!((page.items, page.next), (vec![], None));
    let nobody = UserId::new(7);
    let page = store
        .cars()
        .list_owned_by(nobody, at_most(10))
        .await
        .unwrap();
    assert_eq!((page.items, page.next), (vec![], None));
}

pub async fn pages_of_users_are_in_order_and_end(store: &dyn Store) {
    let users = register_numbered(store, 10).await;
    // So that the rows no longer lie in their order.
    for user in [&users[0], &users[4]] {
        let name = format!("{} renamed", user.username);
        store.users().rename(user.id, &name).await.unwrap();
    }
    for limit in [1, 3, 5, 10, 11] {
        let (mut ids, mut request) = (Vec::new(), at_most(limit));
        for _ in 0..10_usize.div_ceil(limit) {
            let page = store.users().list(request).await.unwrap();
            assert!(page.items.len() <= limit);
            ids.extend(page.items.into_iter().map(|user| user.id));
            assert_eq!(page.next.is_some(), ids.len() < 10, "limit {limit}");
            request = page.next.map_or(request, |last| request.after(last));
        }
        assert!(users.iter().map(|user| user.id).eq(ids), "limit {limit}");
    }
}

pub async fn pages_show_every_row_once_while_others_insert_and_delete(store: &dyn Store) {
    let users = register_numbered(store, 30).await;
    let mut seen = Vec::new();
    let mut request = at_most(4);
    for round in 0.. {
        let page = store.users().list(request).await.unwrap();
        seen.extend(page.items);
        let Some(last) = page.next else { break };
        request = request.after(last);
        if round < 5 {
            user(store.users(), &format!("new {round}")).await;
            // One that was shown already, and the very key that the next page begins after.
            store.users().delete(seen[round].id).await.unwrap();
            store.users().delete(last).await.unwrap();
        }
    }
    let ids: BTreeSet<_> = seen.iter().map(|user| user.id).collect();
    assert_eq!(ids.len(), seen.len(), "a row came twice");
    assert!(users.iter().all(|user| ids.contains(&user.id)));
    assert_eq!(seen.len(), 35, "the rows that came meanwhile lie behind");
}

pub async fn pages_after_keys_that_nothing_has(store: &dyn Store) {
    let users = register_numbered(store, 3).await;
    let owner = users[0].id;
    let golf = car(store.cars(), "Golf", owner).await;
    for (after, shown) in [(i64::MIN, true), (-1, true), (0, true), (i64::MAX, false)] {
        let request = at_most(10).after(UserId::new(after));
        let page = store.users().list(request).await.unwrap();
        let expected = if shown { users.clone() } else { vec![] };
        assert_eq!((page.items, page.next), (expected, None), "after {after}");

        let request = at_most(10).after(CarId::new(after));
        let page = store.cars().list_owned_by(owner, request).await.unwrap();
        let expected = if shown { vec![golf.clone()] } else { vec![] };
        assert_eq!((page.items, page.next), (expected, None), "after {after}");
    }
    assert!(store.users().delete(users[1].id).await.unwrap());
    let request = at_most(10).after(users[1].id);
    let page = store.users().list(request).await.unwrap();
    assert_eq!(page.items, users[2..]);
}

pub async fn pages_of_cars_show_the_owners_cars_in_order(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await.id;
    let bert = user(store.users(), "Bert").await.id;
    let new = (0..20).map(|n| new_car(format!("model {n}"), [anna, bert][n % 2]));
    let new: Vec<_> = new.collect();
    let bought = store.cars().buy_many(&new).await.unwrap();
    store
        .cars()
        .transfer(bought[0].id, anna, bert)
        .await
        .unwrap();
    store
        .cars()
        .transfer(bought[0].id, bert, anna)
        .await
        .unwrap();
    for owner in [anna, bert] {
        let (mut seen, mut request) = (Vec::new(), at_most(3));
        let sizes = [3, 3, 3, 1];
        for size in sizes {
            let page = store.cars().list_owned_by(owner, request).await.unwrap();
            assert_eq!(page.items.len(), size);
            assert_eq!(page.next.is_some(), size == 3);
            request = page.next.map_or(request, |last| request.after(last));
            seen.extend(page.items);
        }
        assert_eq!(store.cars().owned_by(owner).await.unwrap(), seen);
    }
}

/// A key of another owner's car is a place in the order like any other.
pub async fn pages_of_cars_after_the_car_of_another(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await.id;
    let bert = user(store.users(), "Bert").await.id;
    let first = car(store.cars(), "Golf", anna).await;
    let between = car(store.cars(), "Polo", bert).await;
    let second = car(store.cars(), "Audi", anna).await;
    let request = at_most(10).after(between.id);
    let page = store.cars().list_owned_by(anna, request).await.unwrap();
    assert_eq!(page.items, [second]);
    let request = at_most(10).after(first.id);
    let page = store.cars().list_owned_by(bert, request).await.unwrap();
    assert_eq!(page.items, [between]);
}
