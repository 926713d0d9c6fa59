//! Random histories on the store in memory and on Postgres side by side: every answer is equal,
//! ids and errors included.
#![cfg(feature = "memory")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/busy.rs"]
mod busy;
mod support;

use std::fmt::Debug;

use busy::Busy;
use chrono::NaiveDate;
use futures_util::TryStreamExt;
use motorpool::{
    CarId, CarRepo, MemoryStore, NewCar, NewUser, PageRequest, PgStore, PurchaseKey, Role, Store,
    TxOptions, UserId, UserRepo,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{TestCaseResult, TestRunner};
use support::with_database;
use tokio::runtime::Handle;
use tokio::task::block_in_place;
use tokio_postgres::Client;
use uuid::Uuid;

/// Names that can be stored. Some differ only in case, normal form or inner white space.
const NAMES: [&str; 14] = [
    "Anna",
    "anna",
    "Zoé",
    "Zoe\u{301}",
    "a b",
    "a  b",
    "\u{301}",
    "'; DROP TABLE users;--",
    "$1",
    "NULL",
    "{\"a\",NULL}",
    "\\",
    "%",
    "🚗",
];

/// Names that cannot.
const IMPOSSIBLE: [&str; 5] = ["", "\0", "Anna\n", " Anna", "Anna\u{a0}"];

#[derive(Clone, Debug)]
enum Operation {
    Register(NewUser),
    RegisterMany(Vec<NewUser>),
    GetUser(UserId),
    GetUsers(Vec<UserId>),
    GetByUsername(String),
    ListUsers(PageRequest<UserId>),
    StreamUsers,
    SetRole(UserId, Role),
    Rename(UserId, String),
    DeleteUser(UserId),
    CountUsers,
    Buy(NewCar),
    BuyMany(Vec<NewCar>),
    GetCar(CarId),
    OwnedBy(UserId),
    OwnedByMany(Vec<UserId>),
    ListOwnedBy(UserId, PageRequest<CarId>),
    StreamCars,
    Transfer(CarId, UserId, UserId),
    DeleteCar(CarId),
    CountCars,
}

#[derive(Clone, Debug)]
enum Step {
    Alone(Operation),
    Transaction(Vec<Operation>, End),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Commit,
    RollBack,
    Drop,
}

impl Operation {
    /// Runs it and gives the answer in a form that can be compared.
    async fn run(&self, users: &dyn UserRepo, cars: &dyn CarRepo) -> String {
        match self {
            Operation::Register(new) => text(users.register(new).await),
            Operation::RegisterMany(new) => text(users.register_many(new).await),
            Operation::GetUser(id) => text(users.get(*id).await),
            Operation::GetUsers(ids) => text(users.get_many(ids).await),
            Operation::GetByUsername(name) => text(users.get_by_username(name).await),
            Operation::ListUsers(page) => text(users.list(*page).await),
            Operation::StreamUsers => text(users.stream().try_collect::<Vec<_>>().await),
            Operation::SetRole(id, role) => text(users.set_role(*id, *role).await),
            Operation::Rename(id, name) => text(users.rename(*id, name).await),
            Operation::DeleteUser(id) => text(users.delete(*id).await),
            Operation::CountUsers => text(users.count().await),
            Operation::Buy(new) => text(cars.buy(new).await),
            Operation::BuyMany(new) => text(cars.buy_many(new).await),
            Operation::GetCar(id) => text(cars.get(*id).await),
            Operation::OwnedBy(owner) => text(cars.owned_by(*owner).await),
            Operation::OwnedByMany(owners) => text(cars.owned_by_many(owners).await),
            Operation::ListOwnedBy(owner, page) => text(cars.list_owned_by(*owner, *page).await),
            Operation::StreamCars => text(cars.stream().try_collect::<Vec<_>>().await),
            Operation::Transfer(id, from, to) => text(cars.transfer(*id, *from, *to).await),
            Operation::DeleteCar(id) => text(cars.delete(*id).await),
            Operation::CountCars => text(cars.count().await),
        }
    }
}

/// The `Debug` form shows every field of an answer and of an error.
fn text<T: Debug>(answer: motorpool::Result<T>) -> String {
    format!("{answer:?}")
}

/// Mostly ids that are there in a history of this length.
fn id() -> impl Strategy<Value = i64> {
    prop_oneof![
        20 => 1..=12_i64,
        1 => select(vec![0, -1, i64::MIN, i64::MAX]),
    ]
}

fn user_id() -> impl Strategy<Value = UserId> {
    id().prop_map(UserId::new)
}

fn car_id() -> impl Strategy<Value = CarId> {
    id().prop_map(CarId::new)
}

fn stored_name() -> impl Strategy<Value = &'static str> {
    select(NAMES.to_vec())
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        12 => stored_name().prop_map(str::to_owned),
        2 => select(IMPOSSIBLE.to_vec()).prop_map(str::to_owned),
        1 => select(vec![255, 256]).prop_map(|length| "é".repeat(length)),
    ]
}

fn role() -> impl Strategy<Value = Role> {
    select(Role::ALL.to_vec())
}

fn date() -> impl Strategy<Value = NaiveDate> {
    let day = |y, m, d| NaiveDate::from_ymd_opt(y, m, d).unwrap();
    let storable = vec![
        day(-4713, 11, 24),
        day(0, 1, 1),
        day(2026, 1, 1),
        NaiveDate::MAX,
    ];
    prop_oneof![
        30 => select(storable),
        1 => select(vec![day(-4713, 11, 23), NaiveDate::MIN]),
    ]
}

fn new_user() -> impl Strategy<Value = NewUser> {
    (stored_name(), role(), date())
        .prop_map(|(name, role, date)| NewUser::new(name).unwrap().role(role).created_at(date))
}

/// Few models, owners and keys, so that keys are repeated and reused.
fn new_car(owner: impl Strategy<Value = UserId>) -> impl Strategy<Value = NewCar> {
    let model = select(vec!["Golf", "golf", "'; DROP TABLE cars;--"]);
    let key = proptest::option::of(0..4_u128);
    (model, owner, key).prop_map(|(model, owner, key)| {
        let new = NewCar::new(model, owner).unwrap();
        match key {
            Some(key) => new.key(PurchaseKey::new(Uuid::from_u128(key))),
            None => new,
        }
    })
}

fn page<K: Clone + Debug>(key: fn(i64) -> K) -> impl Strategy<Value = PageRequest<K>> {
    let limit = select(vec![1, 2, 3, 1000]);
    (limit, proptest::option::of(id())).prop_map(move |(limit, after)| {
        let page = PageRequest::first(limit).unwrap();
        match after {
            Some(after) => page.after(key(after)),
            None => page,
        }
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let early_id = || (1..=4_i64).prop_map(UserId::new);
    let writes = prop_oneof![
        4 => new_user().prop_map(Register),
        2 => vec(new_user(), 0..6).prop_map(RegisterMany),
        1 => (user_id(), role()).prop_map(|(id, role)| SetRole(id, role)),
        2 => (user_id(), any_name()).prop_map(|(id, name)| Rename(id, name)),
        2 => user_id().prop_map(DeleteUser),
        3 => new_car(user_id()).prop_map(Buy),
        2 => new_car(early_id()).prop_map(Buy),
        // An unknown owner refuses the whole call, so there must not be one in each.
        2 => vec(new_car(early_id()), 0..5).prop_map(BuyMany),
        1 => vec(new_car(user_id()), 0..5).prop_map(BuyMany),
        2 => (car_id(), early_id(), early_id()).prop_map(|(id, from, to)| Transfer(id, from, to)),
        1 => (car_id(), user_id(), user_id()).prop_map(|(id, from, to)| Transfer(id, from, to)),
        2 => car_id().prop_map(DeleteCar),
    ];
    let reads = prop_oneof![
        user_id().prop_map(GetUser),
        vec(user_id(), 0..8).prop_map(GetUsers),
        any_name().prop_map(GetByUsername),
        page(UserId::new).prop_map(ListUsers),
        Just(StreamUsers),
        Just(CountUsers),
        car_id().prop_map(GetCar),
        user_id().prop_map(OwnedBy),
        vec(user_id(), 0..8).prop_map(OwnedByMany),
        (user_id(), page(CarId::new)).prop_map(|(owner, page)| ListOwnedBy(owner, page)),
        Just(StreamCars),
        Just(CountCars),
    ];
    prop_oneof![2 => writes, 1 => reads]
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    let end = select(vec![End::Commit, End::Commit, End::RollBack, End::Drop]);
    let step = prop_oneof![
        6 => operation().prop_map(Step::Alone),
        1 => (vec(operation(), 0..8), end).prop_map(|(all, end)| Step::Transaction(all, end)),
    ];
    vec(step, 1..=50)
}

/// One operation on both.
async fn compare(
    operation: &Operation,
    memory: (&dyn UserRepo, &dyn CarRepo),
    postgres: (&dyn UserRepo, &dyn CarRepo),
) -> TestCaseResult {
    let expected = operation.run(memory.0, memory.1).await;
    let found = operation.run(postgres.0, postgres.1).await;
    prop_assert_eq!(expected, found, "memory, Postgres: {:?}", operation);
    Ok(())
}

async fn compare_step(step: &Step, memory: &dyn Store, postgres: &dyn Store) -> TestCaseResult {
    let (operations, end) = match step {
        Step::Alone(operation) => {
            let memory = (memory.users(), memory.cars());
            return compare(operation, memory, (postgres.users(), postgres.cars())).await;
        }
        Step::Transaction(operations, end) => (operations, end),
    };
    let memory = memory.begin(TxOptions::new()).await.unwrap();
    let postgres = postgres.begin(TxOptions::new()).await.unwrap();
    for operation in operations {
        let memory = (memory.users(), memory.cars());
        compare(operation, memory, (postgres.users(), postgres.cars())).await?;
    }
    let ends = match end {
        End::Commit => [text(memory.commit().await), text(postgres.commit().await)],
        End::RollBack => [
            text(memory.rollback().await),
            text(postgres.rollback().await),
        ],
        End::Drop => return Ok(()),
    };
    prop_assert_eq!(&ends[0], &ends[1], "memory, Postgres: {:?}", end);
    Ok(())
}

/// All that a store holds, read by pages.
async fn everything(store: &dyn Store) -> motorpool::Result<String> {
    let mut all = String::new();
    let mut users = PageRequest::first(3)?;
    loop {
        let page = store.users().list(users).await?;
        for user in &page.items {
            all += &format!("{user:?}\n");
            let mut cars = PageRequest::first(2)?;
            while let page = store.cars().list_owned_by(user.id, cars).await?
                && !page.items.is_empty()
            {
                all += &format!("  {:?}\n", page.items);
                let Some(next) = page.next else { break };
                cars = cars.after(next);
            }
        }
        let Some(next) = page.next else { break };
        users = users.after(next);
    }
    let counts = (store.users().count().await?, store.cars().count().await?);
    Ok(format!("{all}{counts:?}"))
}

async fn compare_history(history: &[Step], postgres: &dyn Store) -> TestCaseResult {
    let memory = MemoryStore::new();
    for step in history {
        compare_step(step, &memory, postgres).await?;
    }
    let (expected, found) = (everything(&memory).await, everything(postgres).await);
    prop_assert_eq!(expected.unwrap(), found.unwrap(), "memory, Postgres");
    Ok(())
}

/// As many histories as proptest makes by default, or as PROPTEST_CASES says, divided by `part`.
fn compare_histories(client: &Client, postgres: &dyn Store, part: u32) {
    let case = async |history: &[Step]| {
        let empty = "TRUNCATE users, cars RESTART IDENTITY";
        client.batch_execute(empty).await.unwrap();
        compare_history(history, postgres).await
    };
    let config = ProptestConfig::default();
    let mut runner = TestRunner::new(ProptestConfig {
        failure_persistence: None,
        cases: config.cases.div_ceil(part),
        ..config
    });
    let run = || {
        runner.run(&history(), |history| {
            Handle::current().block_on(case(&history))
        })
    };
    if let Err(failure) = block_in_place(run) {
        panic!("{failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_postgres_give_the_same_answers() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        compare_histories(&database.client().await, &store, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_batches_give_the_same_answers() {
    with_database(async |database| {
        let builder = PgStore::builder(&database.url).unwrap();
        let builder = builder.max_connections(4).batching(busy::tiny());
        let store = builder.build().await.unwrap();
        let busy = Busy::new(store.clone());
        compare_histories(&database.client().await, &busy, 4);
        let (batched, lone) = (store.status().batched, busy.lone());
        println!("{batched:?} of {lone} calls");
        assert!(batched.calls * 2 > lone);
    })
    .await;
}
