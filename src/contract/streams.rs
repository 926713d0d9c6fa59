//! Streams: everything in order of id, every row once.

use std::collections::BTreeSet;

use futures_util::stream::{StreamExt, TryStreamExt};

use super::given::{car, everything, new_car, new_user, user};
use crate::model::{Car, CarId, User, UserId};
use crate::store::{IsolationLevel, Store, TxOptions};

/// More than goes into a chunk of any size that makes sense.
const SEVERAL_CHUNKS: usize = 12_000;

async fn users(store: &dyn Store) -> Vec<User> {
    store.users().stream().try_collect().await.unwrap()
}

async fn cars(store: &dyn Store) -> Vec<Car> {
    store.cars().stream().try_collect().await.unwrap()
}

/// Registers this many users, each of whom buys a car, and gives both in order of id.
async fn fill(store: &dyn Store, count: usize) -> (Vec<User>, Vec<Car>) {
    let new: Vec<_> = (0..count).map(|n| new_user(format!("u{n}"))).collect();
    let registered = store.users().register_many(&new).await.unwrap();
    let users: Vec<_> = registered.into_iter().map(|r| r.into_user()).collect();
    // The last user has the first car.
    let new = users.iter().rev().map(|user| new_car("Golf", user.id));
    let cars = store.cars().buy_many(&new.collect::<Vec<_>>()).await;
    (users, cars.unwrap())
}

pub async fn stream_of_an_empty_store_is_empty(store: &dyn Store) {
    assert_eq!((users(store).await, cars(store).await), (vec![], vec![]));
}

pub async fn stream_gives_everything_in_order_of_id(store: &dyn Store) {
    let (stored, bought) = fill(store, 10).await;
    // So that the rows no longer lie in their order.
    store.users().rename(stored[3].id, "renamed").await.unwrap();
    let [from, to] = [bought[4].owner_id, stored[0].id];
    store.cars().transfer(bought[4].id, from, to).await.unwrap();
    store.cars().delete(bought[6].id).await.unwrap();
    let (all_users, mut all_cars) = everything(store).await;
    all_cars.sort_by_key(|car| car.id);
    assert_eq!((all_users.len(), all_cars.len()), (10, 9));
    assert_eq!(users(store).await, all_users);
    assert_eq!(cars(store).await, all_cars);
}

pub async fn stream_gives_12_000_rows_in_order_of_id(store: &dyn Store) {
    let (stored, bought) = fill(store, SEVERAL_CHUNKS).await;
    assert_eq!(users(store).await, stored);
    assert_eq!(cars(store).await, bought);
}

pub async fn stream_gives_every_row_once_while_others_insert_and_delete(store: &dyn Store) {
    let (stored, bought) = fill(store, SEVERAL_CHUNKS).await;
    let (mut gone, mut seen, mut seen_users) = (BTreeSet::new(), Vec::new(), Vec::new());
    let mut stream = store.cars().stream();
    let mut stream_of_users = store.users().stream();
    for round in 0_usize.. {
        let Some(next) = stream.next().await else {
            break;
        };
        seen.push(next.unwrap().id);
        if let Some(next) = stream_of_users.next().await {
            seen_users.push(next.unwrap().id);
        }
        if round % 1000 == 500 && round < SEVERAL_CHUNKS {
            // Something new, the car just seen, one far behind it and one just ahead.
            let new = user(store.users(), &format!("new {round}")).await;
            car(store.cars(), "Polo", new.id).await;
            for place in [round, round / 2, round + 1] {
                if store.cars().delete(bought[place].id).await.unwrap() {
                    gone.insert(bought[place].id);
                }
            }
        }
    }
    drop((stream, stream_of_users));
    assert!(gone.len() > 20);
    assert!(seen.is_sorted_by(|a, b| a < b), "a car out of order");
    assert!(seen_users.is_sorted_by(|a, b| a < b), "a user out of order");
    let seen: BTreeSet<CarId> = seen.into_iter().collect();
    let stayed = bought.iter().filter(|car| !gone.contains(&car.id));
    let missed = stayed.filter(|car| !seen.contains(&car.id)).count();
    assert_eq!(missed, 0);
    let seen_users: BTreeSet<UserId> = seen_users.into_iter().collect();
    let missed = stored.iter().filter(|user| !seen_users.contains(&user.id));
    assert_eq!(missed.count(), 0);
}

pub async fn stream_dropped_halfway_leaves_the_store_usable(store: &dyn Store) {
    let (stored, bought) = fill(store, SEVERAL_CHUNKS).await;
    for taken in [0, 1, SEVERAL_CHUNKS / 2] {
        let some: Vec<_> = store
            .cars()
            .stream()
            .take(taken)
            .try_collect()
            .await
            .unwrap();
        assert_eq!(some, bought[..taken]);
        let some: Vec<_> = store
            .users()
            .stream()
            .take(taken)
            .try_collect()
            .await
            .unwrap();
        assert_eq!(some, stored[..taken]);
    }
    let golf = car(store.cars(), "Golf", stored[0].id).await;
    assert_eq!(cars(store).await.last(), Some(&golf));
}

pub async fn stream_that_has_ended_stays_ended(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let mut stream = store.users().stream();
    assert_eq!(stream.next().await.unwrap().unwrap(), anna);
    assert!(stream.next().await.is_none());
    user(store.users(), "Bert").await;
    assert!(stream.next().await.is_none());
}

pub async fn stream_in_repeatable_read_is_one_snapshot(store: &dyn Store) {
    let (stored, bought) = fill(store, SEVERAL_CHUNKS).await;
    let options = TxOptions::new().isolation(IsolationLevel::RepeatableRead);
    let tx = store.begin(options).await.unwrap();
    let mut stream = tx.cars().stream();
    let mut seen = vec![stream.next().await.unwrap().unwrap()];
    let last = bought.last().unwrap().id;
    assert!(store.cars().delete(last).await.unwrap());
    car(store.cars(), "Polo", stored[0].id).await;
    seen.extend(stream.try_collect::<Vec<_>>().await.unwrap());
    assert_eq!(seen, bought);
    tx.commit().await.unwrap();
}
