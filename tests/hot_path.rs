//! What a call costs, in counts that are the same on every machine: allocations on the way to a
//! warm connection and back, beside those of the bare driver, and round trips.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod calls;
mod polls;
#[path = "support/relay.rs"]
mod relay;
mod support;

use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use calls::{CALLS, Run, Tag};
use chrono::NaiveDate;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use motorpool::{Car, CarId, NewCar, NewUser, PgStore, Store, TxOptions, User, UserId};
use relay::Relay;
use support::inside::Inside;
use support::with_database;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::types::ToSql;
use tokio_postgres::{NoTls, Row};

/// Calls that are counted together.
const ROUNDS: u64 = 500;

/// One operation: the allocations of a call at most, and how many more than with the bare driver,
/// which are the box of async-trait and that of the way to the server. Whoever saves some writes the
/// lower number here.
struct Limit {
    name: &'static str,
    all: u64,
    more: u64,
}

const fn limit(name: &'static str, all: u64, more: u64) -> Limit {
    Limit { name, all, more }
}

const LIMITS: &[Limit] = &[
    limit("get", 13, 2),
    limit("get_by_username", 13, 2),
    limit("owned_by", 19, 2),
    limit("register", 13, 2),
    limit("buy", 13, 2),
];

/// The allocations of one call, to the nearest number, because the driver's buffers grow now and
/// then. The runtime has this thread alone, so those of the connection's task are among them.
fn allocations(runtime: &Runtime, call: impl AsyncFn()) -> u64 {
    let rounds = || async {
        for _ in 0..ROUNDS {
            call().await;
        }
    };
    runtime.block_on(rounds());
    let counted = measure(|| runtime.block_on(rounds()));
    (counted.count_total + ROUNDS / 2) / ROUNDS
}

/// What a program without this crate does for the same answer.
struct Bare {
    pool: Pool,
}

impl Bare {
    fn new(url: &str) -> Bare {
        let config = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_config(url.parse().unwrap(), NoTls, config);
        let pool = Pool::builder(manager).max_size(1).build().unwrap();
        Bare { pool }
    }

    async fn one<T>(&self, sql: &str, params: &[&(dyn ToSql + Sync)], read: fn(&Row) -> T) -> T {
        let client = self.pool.get().await.unwrap();
        let statement = client.prepare_cached(sql).await.unwrap();
        let row = client.query_opt(&statement, params).await.unwrap();
        read(&row.unwrap())
    }

    async fn all<T>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        read: fn(&Row) -> T,
    ) -> Vec<T> {
        let client = self.pool.get().await.unwrap();
        let statement = client.prepare_cached(sql).await.unwrap();
        let rows = client.query(&statement, params).await.unwrap();
        rows.iter().map(read).collect()
    }
}

fn user(row: &Row) -> User {
    let role: &str = row.try_get(3).unwrap();
    User {
        id: UserId::new(row.try_get(0).unwrap()),
        username: row.try_get(1).unwrap(),
        created_at: row.try_get(2).unwrap(),
        role: role.parse().unwrap(),
    }
}

fn registration(row: &Row) -> (User, bool) {
    (user(row), row.try_get(4).unwrap())
}

fn car(row: &Row) -> Car {
    Car {
        id: CarId::new(row.try_get(0).unwrap()),
        model: row.try_get(1).unwrap(),
        owner_id: UserId::new(row.try_get(2).unwrap()),
    }
}

/// The allocations of each operation, of this crate and of the bare driver.
struct Counted<'a> {
    runtime: &'a Runtime,
    store: &'a PgStore,
    seen: Vec<(&'static str, u64, u64)>,
}

impl Counted<'_> {
    /// The same statement by both. The part is one of its text.
    fn compare<F: AsyncFn()>(
        &mut self,
        name: &'static str,
        part: &str,
        ours: impl AsyncFn(),
        theirs: impl FnOnce(&'static str) -> F,
    ) {
        let ours = allocations(self.runtime, ours);
        let sql = self.runtime.block_on(text(self.store, part));
        let theirs = allocations(self.runtime, theirs(sql.leak()));
        println!("{name}: {ours} allocations, {theirs} with the bare driver");
        self.seen.push((name, ours, theirs));
    }
}

/// The statement that was prepared with this part, the shortest one.
async fn text(store: &PgStore, part: &str) -> String {
    let client = store.pool().get().await.unwrap();
    let sql = "SELECT statement FROM pg_prepared_statements WHERE strpos(statement, $1) > 0 \
               ORDER BY length(statement) LIMIT 1";
    let row = client.query_one(sql, &[&part]).await.unwrap();
    row.get(0)
}

fn counted(url: &str) -> Vec<(&'static str, u64, u64)> {
    let runtime = &Builder::new_current_thread().enable_all().build().unwrap();
    let (bare, anna) = (&Bare::new(url), NewUser::new("Anna").unwrap());
    let (store, id) = runtime.block_on(async {
        let builder = PgStore::builder(url).unwrap().max_connections(1);
        let store = builder.build().await.unwrap();
        let id = store.users().register(&anna).await.unwrap().user().id;
        let golf = NewCar::new("Golf", id).unwrap();
        store.cars().buy_many(&vec![golf; 3]).await.unwrap();
        (store, id)
    });
    let date = NaiveDate::from_ymd_opt(2026, 1, 1).unwrap();
    let (users, cars) = (store.users(), store.cars());
    let (number, golf) = (id.get(), NewCar::new("Golf", id).unwrap());
    let mut counted = Counted {
        runtime,
        store: &store,
        seen: Vec::new(),
    };
    counted.compare(
        "get",
        "role FROM users WHERE id = $1",
        async || drop(black_box(users.get(id).await.unwrap().unwrap())),
        |sql| async || drop(black_box(bare.one(sql, &[&number], user).await)),
    );
    counted.compare(
        "get_by_username",
        "role FROM users WHERE username = $1",
        async || {
            let found = users.get_by_username("Anna").await.unwrap();
            drop(black_box(found.unwrap()));
        },
        |sql| async || drop(black_box(bare.one(sql, &[&"Anna"], user).await)),
    );
    counted.compare(
        "owned_by",
        "FROM cars WHERE owner_id = $1 ORDER BY id",
        async || assert_eq!(black_box(cars.owned_by(id).await.unwrap()).len(), 3),
        |sql| async || assert_eq!(black_box(bare.all(sql, &[&number], car).await).len(), 3),
    );
    counted.compare(
        "register",
        "SELECT $1, $2, $3 WHERE NOT EXISTS",
        async || assert!(!black_box(users.register(&anna).await.unwrap()).is_created()),
        |sql| {
            async || {
                let params: [&(dyn ToSql + Sync); 3] = [&"Anna", &date, &"employee"];
                assert!(!black_box(bare.one(sql, &params, registration).await).1);
            }
        },
    );
    counted.compare(
        "buy",
        "SELECT $1, id FROM users WHERE id = $2",
        async || drop(black_box(cars.buy(&golf).await.unwrap())),
        |sql| {
            async || {
                let params: [&(dyn ToSql + Sync); 2] = [&"Golf", &number];
                drop(black_box(bare.one(sql, &params, car).await));
            }
        },
    );
    counted.seen
}

#[tokio::test]
async fn a_call_allocates_hardly_more_than_with_the_bare_driver() {
    with_database(async |database| {
        // On a thread of its own, with a runtime of its own.
        let counted = tokio::task::spawn_blocking(move || counted(&database.url));
        let counted = counted.await.unwrap();
        assert_eq!(counted.len(), LIMITS.len());
        for ((name, ours, theirs), limit) in counted.into_iter().zip(LIMITS) {
            assert_eq!(name, limit.name);
            assert!(ours <= limit.all, "{name}: {ours}");
            assert!(ours <= theirs + limit.more, "{name}: {ours}, bare {theirs}");
        }
    })
    .await;
}

/// How often it is counted, until one count says that nobody is woken.
const TRIES: usize = 20;

/// How often a runtime with one thread goes to sleep during so many calls, each of which comes when
/// nothing else is going on.
fn sleeps(runtime: &Runtime, call: &impl AsyncFn()) -> u64 {
    let rounds = || async {
        let (here, mut there) = UnixStream::pair().unwrap();
        // On another thread, so that this one falls asleep meanwhile.
        let echo = std::thread::spawn(move || {
            let mut byte = [0];
            while there.read(&mut byte).unwrap() == 1 {
                there.write_all(&byte).unwrap();
            }
        });
        here.set_nonblocking(true).unwrap();
        let mut requests = tokio::net::UnixStream::from_std(here).unwrap();
        for _ in 0..ROUNDS {
            requests.write_u8(1).await.unwrap();
            requests.read_u8().await.unwrap();
            call().await;
        }
        drop(requests);
        echo.join().unwrap();
    };
    let before = runtime.metrics().worker_park_count(0);
    runtime.block_on(rounds());
    runtime.metrics().worker_park_count(0) - before
}

/// It can fail without the feature `metrics` alone, whose own timer comes every second.
#[tokio::test]
async fn a_lone_call_wakes_nobody_up_to_hear_of_its_timer() {
    with_database(async |database| {
        let sleeps = move || {
            let runtime = &Builder::new_current_thread().enable_all().build().unwrap();
            let bare = &Bare::new(&database.url);
            let sql = "SELECT id, username, created_at, role FROM users WHERE username = $1";
            let theirs = async || {
                let client = bare.pool.get().await.unwrap();
                let statement = client.prepare_cached(sql).await.unwrap();
                let row = client.query_opt(&statement, &[&"Anna"]).await.unwrap();
                assert!(row.is_none());
            };
            let store = runtime.block_on(PgStore::connect(&database.url)).unwrap();
            let users = store.users();
            let ours = async || {
                assert!(users.get_by_username("Anna").await.unwrap().is_none());
            };
            runtime.block_on(ours());
            runtime.block_on(theirs());
            // Now and then an answer comes in two parts, or before anybody has fallen asleep, and
            // on a busy machine often. One that wakes for its timer does so in all of them.
            let all = (0..TRIES).map(|_| (sleeps(runtime, &ours), sleeps(runtime, &theirs)));
            let mut seen = Vec::new();
            for (ours, theirs) in all {
                seen.push((ours, theirs));
                if theirs > ROUNDS && ours < theirs + ROUNDS / 2 {
                    return Ok(seen);
                }
            }
            Err(seen)
        };
        // On a thread of its own, with a runtime of its own.
        let seen = tokio::task::spawn_blocking(sleeps).await.unwrap();
        println!("how often, and with the bare driver, in {ROUNDS} calls: {seen:?}");
        assert!(seen.is_ok(), "{seen:?}");
    })
    .await;
}

/// How long an answer takes here: what is sent together has arrived before one comes.
const TRIP: Duration = Duration::from_millis(20);

#[tokio::test]
async fn a_method_of_a_repository_costs_one_round_trip() {
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let builder = PgStore::builder(&relay.url()).unwrap().max_connections(1);
        let store = builder.build().await.unwrap();
        let client = database.client().await;
        let owners = ["Anna", "Bert"].map(|name| NewUser::new(name).unwrap());
        let owners = store.users().register_many(&owners).await.unwrap();
        let owners = [owners[0].user().id, owners[1].user().id];
        let tag = async |name: String| Tag::new(&client, name, owners, &database.url).await;
        let mut methods = 0;
        for call in CALLS {
            let Run::Method(run) = call.run else {
                continue;
            };
            // One of them is called in two ways.
            methods += usize::from(
                !call.name.ends_with("with keys") && !call.name.ends_with("with a key"),
            );
            let run = async |place: &str| {
                let tag = tag(format!("{} {place}", call.name)).await;
                relay.flights();
                run(Arc::new(store.clone()), tag).await.unwrap();
                relay.flights()
            };
            // Prepares the statement.
            run("first").await;
            // Bound, executed and answered.
            assert_eq!(run("warm").await, ["BES"], "{}", call.name);
        }
        let repo = include_str!("../src/repo.rs");
        assert_eq!(
            methods,
            ["\n    async fn ", "\n    fn stream("]
                .map(|method| repo.matches(method).count())
                .iter()
                .sum()
        );
    })
    .await;
}

#[tokio::test]
async fn a_method_of_a_repository_costs_one_round_trip_in_a_transaction() {
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let builder = PgStore::builder(&relay.url()).unwrap().max_connections(1);
        let store = builder.build().await.unwrap();
        let client = database.client().await;
        let owners = ["Anna", "Bert"].map(|name| NewUser::new(name).unwrap());
        let owners = store.users().register_many(&owners).await.unwrap();
        let owners = [owners[0].user().id, owners[1].user().id];
        relay.delay(TRIP);
        for call in CALLS {
            let Run::Method(run) = call.run else {
                continue;
            };
            let run = async |place: &str| {
                let name = format!("{} {place}", call.name);
                let tag = Tag::new(&client, name, owners, &database.url).await;
                let tx = store.begin(TxOptions::new()).await.unwrap();
                // What goes with the first statement of all: `--test begin`.
                tx.users().count().await.unwrap();
                relay.flights();
                run(Arc::new(Inside(tx.clone())), tag).await.unwrap();
                let flights = relay.flights();
                tx.rollback().await.unwrap();
                flights
            };
            run("first").await;
            let flights = run("warm").await;
            assert_eq!(flights.len(), 1, "{}: {flights:?}", call.name);
        }
    })
    .await;
}
