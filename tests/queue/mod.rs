//! Calls that are made to wait for a lane, so that it is certain which of them go out together.
//!
//! While every connection of the pool is taken, whoever has a lane waits for a connection and
//! sends nothing, and nobody else can open a lane. Nothing here depends on time.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::pin::Pin;
use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use futures_util::FutureExt;
use futures_util::future::join_all;
use motorpool::{
    Batching, Car, CarId, NewCar, NewUser, PgStore, PgStoreBuilder, PurchaseKey, Registration,
    Result, Store, User, UserId,
};
use uuid::Uuid;

pub type Call<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// How long a condition may take to come true.
const BOUND: Duration = Duration::from_secs(20);

pub const CONNECTIONS: usize = 8;

pub const CALLS: usize = 64;

pub fn batching(lanes: usize, max_batch: usize) -> Batching {
    let mut batching = Batching::default();
    if let Batching::On {
        lanes: all,
        max_batch: most,
    } = &mut batching
    {
        (*all, *most) = (lanes, max_batch);
    }
    batching
}

/// A store with these lanes, to be set up further.
pub fn builder(url: &str, lanes: usize, max_batch: usize) -> PgStoreBuilder {
    let builder = PgStore::builder(url).unwrap().max_connections(CONNECTIONS);
    builder.batching(batching(lanes, max_batch))
}

pub async fn connect(url: &str, lanes: usize, max_batch: usize) -> PgStore {
    builder(url, lanes, max_batch).build().await.unwrap()
}

/// Every connection that the store can have.
pub async fn all_connections(store: &PgStore) -> Vec<Object> {
    let all = join_all((0..store.status().max).map(|_| store.pool().get())).await;
    all.into_iter().map(Result::unwrap).collect()
}

/// Polls it once; it is not ready.
pub fn begun<T>(mut call: Call<T>) -> Call<T> {
    assert!((&mut call).now_or_never().is_none(), "it waits");
    call
}

/// Calls of one kind that wait for a lane.
pub struct Queue<T> {
    /// They have the lanes and wait for a connection.
    pub leaders: Vec<Call<T>>,
    pub calls: Vec<Call<T>>,
    pub held: Vec<Object>,
}

impl<T> Queue<T> {
    /// `lanes`: as many as the store has. `call`: makes the one of this number.
    pub async fn form(
        store: &PgStore,
        lanes: usize,
        number: usize,
        call: impl Fn(usize) -> Call<T>,
    ) -> Queue<T> {
        let held = all_connections(store).await;
        let waiting = store.pool().status().waiting;
        let leaders: Vec<_> = (0..lanes).map(|number| begun(call(number))).collect();
        // Where the last batch is just ending its lane is not free yet; then it is the lane that
        // waits for a connection.
        let began = Instant::now();
        while store.pool().status().waiting < waiting + lanes {
            assert!(began.elapsed() < BOUND, "{:?}", store.status());
            tokio::task::yield_now().await;
        }
        // The first one sends for somebody who looks after the others, and who has to begin.
        let mut calls: Vec<_> = (0..number.min(1))
            .map(|number| begun(call(number)))
            .collect();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        calls.extend((1..number).map(|number| begun(call(number))));
        // They are not waiting for a connection themselves.
        assert_eq!(store.pool().status().waiting, waiting + lanes);
        Queue {
            leaders,
            calls,
            held,
        }
    }

    /// Lets those who wait go; those before them have never sent anything.
    pub fn go(self) -> Vec<Call<T>> {
        drop(self.leaders);
        drop(self.held);
        self.calls
    }

    /// The same, and gives their answers.
    pub async fn answers(self) -> Vec<Result<T>> {
        join_all(self.go()).await
    }
}

pub fn name(number: usize) -> String {
    format!("user {number}")
}

pub fn register(store: &PgStore, name: String) -> Call<Registration> {
    let store = store.clone();
    Box::pin(async move { store.users().register(&NewUser::new(name)?).await })
}

pub fn buy(store: &PgStore, car: NewCar) -> Call<Car> {
    let store = store.clone();
    Box::pin(async move { store.cars().buy(&car).await })
}

pub fn get(store: &PgStore, id: UserId) -> Call<Option<User>> {
    let store = store.clone();
    Box::pin(async move { store.users().get(id).await })
}

pub fn by_name(store: &PgStore, name: String) -> Call<Option<User>> {
    let store = store.clone();
    Box::pin(async move { store.users().get_by_username(&name).await })
}

pub fn car(store: &PgStore, id: CarId) -> Call<Option<Car>> {
    let store = store.clone();
    Box::pin(async move { store.cars().get(id).await })
}

pub fn owned_by(store: &PgStore, id: UserId) -> Call<Vec<Car>> {
    let store = store.clone();
    Box::pin(async move { store.cars().owned_by(id).await })
}

pub fn golf(owner: UserId) -> NewCar {
    NewCar::new("Golf", owner).unwrap()
}

pub fn key(number: u128) -> PurchaseKey {
    PurchaseKey::new(Uuid::from_u128(number))
}

pub fn good<T>(answers: Vec<Result<T>>) -> Vec<T> {
    answers.into_iter().map(Result::unwrap).collect()
}

pub async fn until(what: impl Fn() -> bool) {
    let started = Instant::now();
    while !what() {
        assert!(started.elapsed() < BOUND, "it does not come true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A call of each kind that can wait for others, by turns.
pub fn mixed(store: &PgStore, number: usize) -> Call<()> {
    fn done<T: 'static>(call: Call<T>) -> Call<()> {
        Box::pin(async move { call.await.map(drop) })
    }
    let id = number as i64;
    match number % 6 {
        0 => done(register(store, name(number))),
        1 => done(buy(store, golf(UserId::new(1)))),
        2 => done(get(store, UserId::new(id))),
        3 => done(by_name(store, name(number))),
        4 => done(owned_by(store, UserId::new(id))),
        _ => done(car(store, CarId::new(id))),
    }
}
