//! Many tasks make the same random calls on a store that batches and on one that does not: every
//! answer is equal, but for the ids.
//!
//! The full number of calls:
//! `cargo test --all-features --test batch_differential -- --ignored --nocapture`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/busy.rs"]
mod busy;
mod support;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::join_all;
use motorpool::{
    Batching, CarId, NewCar, NewUser, PgStore, PurchaseKey, Role, Store, StoreExt, UserId,
};
use support::with_database;
use uuid::Uuid;

const TASKS: u64 = 64;

/// Users and cars that are there from the start and that nobody changes.
const SHARED: usize = 20;

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % bound as u64) as usize
    }
}

/// What one task knows of its own rows, and the names of all ids that it has met.
struct Task {
    store: PgStore,
    number: u64,
    random: Random,
    users: Vec<UserId>,
    cars: Vec<(CarId, UserId)>,
    answers: Vec<String>,
    named: HashMap<String, String>,
}

impl Task {
    /// Writes an answer down, with each id by the order in which it was met.
    fn note<T: Debug>(&mut self, call: &str, answer: &motorpool::Result<T>) {
        let mut text = format!("{call}: {answer:?}");
        for kind in ["UserId(", "CarId("] {
            let mut parts = text.split(kind);
            let mut plain = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let (id, rest) = part.split_once(')').unwrap();
                let next = format!("#{}", self.named.len());
                let name = match id.parse::<i64>().unwrap() {
                    // Of nobody.
                    0.. => self
                        .named
                        .entry(format!("{kind}{id}"))
                        .or_insert(next)
                        .clone(),
                    negative => negative.to_string(),
                };
                plain = format!("{plain}{kind}{name}){rest}");
            }
            text = plain;
        }
        self.answers.push(text);
    }

    fn user(&mut self) -> UserId {
        match self.random.below(12) {
            0 => UserId::new(-1),
            _ => self.users[self.random.below(self.users.len())],
        }
    }

    /// One of its own, or nobody.
    fn own_user(&mut self) -> UserId {
        let own = self.users.len() - SHARED;
        match self.random.below(12) {
            1.. if own > 0 => self.users[SHARED + self.random.below(own)],
            _ => UserId::new(-1),
        }
    }

    fn name(&mut self) -> String {
        format!("task {} user {}", self.number, self.random.below(40))
    }

    async fn call(&mut self) {
        let store = self.store.clone();
        let (users, cars) = (store.users(), store.cars());
        match self.random.below(16) {
            0..3 => {
                let role = Role::ALL[self.random.below(3)];
                let new = NewUser::new(self.name()).unwrap().role(role);
                let answer = users.register(&new).await;
                self.users.extend(answer.iter().map(|made| made.user().id));
                self.note("register", &answer);
            }
            3..6 => {
                let owner = self.own_user();
                let model = ["Golf", "Polo"][self.random.below(2)];
                let mut new = NewCar::new(model, owner).unwrap();
                if self.random.below(2) == 0 {
                    let key = Uuid::from_u64_pair(self.number, self.random.below(30) as u64);
                    new = new.key(PurchaseKey::new(key));
                }
                let answer = cars.buy(&new).await;
                self.cars
                    .extend(answer.iter().map(|car| (car.id, car.owner_id)));
                self.note("buy", &answer);
            }
            6..8 => {
                let id = self.user();
                self.note("get", &users.get(id).await);
            }
            8 => {
                let name = match self.random.below(3) {
                    0 => format!("shared {}", self.random.below(SHARED + 2)),
                    _ => self.name(),
                };
                self.note("by name", &users.get_by_username(&name).await);
            }
            9 => {
                let name = ["shared 0", " impossible", ""][self.random.below(3)];
                self.note("by name", &users.get_by_username(name).await);
            }
            10..12 => {
                let owner = self.user();
                self.note("owned by", &cars.owned_by(owner).await);
            }
            12 => {
                let id = match self.cars.len() {
                    0 => CarId::new(-1),
                    all => self.cars[self.random.below(all)].0,
                };
                self.note("car", &cars.get(id).await);
            }
            13 => {
                let (id, name) = (self.own_user(), self.name());
                match self.random.below(3) {
                    0 => self.note("rename", &users.rename(id, &name).await),
                    _ => {
                        let role = Role::ALL[self.random.below(3)];
                        self.note("role", &users.set_role(id, role).await);
                    }
                }
            }
            14 => {
                let Some(last) = self.cars.len().checked_sub(1) else {
                    return;
                };
                let (id, owner) = self.cars[self.random.below(last + 1)];
                let to = self.own_user();
                match self.random.below(2) {
                    0 => self.note("delete", &cars.delete(id).await),
                    _ => self.note("transfer", &cars.transfer(id, owner, to).await),
                }
            }
            _ => {
                let new = NewUser::new(self.name()).unwrap();
                let answer = store.transaction(|tx| {
                    let new = &new;
                    async move {
                        let made = tx.users().register(new).await?.into_user();
                        let owned = tx.cars().owned_by(made.id).await?;
                        motorpool::Result::Ok((made, owned))
                    }
                });
                let answer = answer.await;
                self.users.extend(answer.iter().map(|(made, _)| made.id));
                self.note("transaction", &answer);
            }
        }
    }
}

/// All answers of all tasks, and how many calls went out together.
async fn history(url: &str, batching: Batching, calls: usize) -> (Vec<Vec<String>>, u64) {
    let builder = PgStore::builder(url).unwrap().batching(batching);
    let store = builder.build().await.unwrap();
    let mut shared = Vec::new();
    for number in 0..SHARED {
        let new = NewUser::new(format!("shared {number}")).unwrap();
        let owner = store.users().register(&new).await.unwrap().user().id;
        for _ in 0..number % 4 {
            let new = NewCar::new("Golf", owner).unwrap();
            store.cars().buy(&new).await.unwrap();
        }
        shared.push(owner);
    }
    let shared = Arc::new(shared);
    let tasks = (0..TASKS).map(|number| {
        let (store, shared) = (store.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let mut task = Task {
                store,
                number,
                random: Random(number),
                users: shared.to_vec(),
                cars: Vec::new(),
                answers: Vec::new(),
                named: HashMap::new(),
            };
            for _ in 0..calls / TASKS as usize {
                task.call().await;
            }
            task.answers
        })
    });
    let answers = join_all(tasks).await.into_iter().map(Result::unwrap);
    let answers = answers.collect();
    (answers, store.status().batched.calls)
}

async fn compare(calls: usize) {
    let (alone, none) =
        with_database(async |database| history(&database.url, Batching::Off, calls).await).await;
    assert_eq!(none, 0);
    for batching in [Batching::default(), busy::tiny()] {
        let (together, batched) =
            with_database(async |database| history(&database.url, batching, calls).await).await;
        println!("{calls} calls, {batched} of them in batches");
        assert!(batched > calls as u64 / 2, "{batched}");
        for (number, (expected, found)) in alone.iter().zip(&together).enumerate() {
            for (call, (expected, found)) in expected.iter().zip(found).enumerate() {
                assert_eq!(
                    expected, found,
                    "task {number}, call {call}: alone, together"
                );
            }
            assert_eq!(expected.len(), found.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_go_together_are_answered_as_those_that_go_alone() {
    compare(10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long"]
async fn a_hundred_thousand_calls_are_answered_as_if_each_went_alone() {
    compare(100_000).await;
}
