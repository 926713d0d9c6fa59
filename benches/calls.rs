//! The crate's calls beside the bare driver under a plain pool, on one server with the same rows
//! and statements: what the crate costs, or gains. `cargo bench`. Other libraries are measured by
//! `benches/peers/`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use chrono::Utc;
use criterion::{BenchmarkId, Criterion};
use deadpool_postgres::{Manager, ManagerConfig, Pool, QueueMode, RecyclingMethod};
use motorpool::{Car, CarId, NewCar, NewUser, PgStore, Role, Store, User, UserId};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_postgres::{NoTls, Row};

use server::{Options, Server};

#[path = "../tests/support/server/mod.rs"]
mod server;
#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared with `benches/peers/`, which uses more of it"
)]
#[path = "peers/src/sql.rs"]
mod sql;

/// How many tasks call at once.
const TASKS: [u64; 2] = [1, 64];

const USERS: u64 = 10_000;

const SEED: &str = "INSERT INTO users (id, username, created_at)
    SELECT n, 'user-' || n, '2024-01-01' FROM generate_series(1, 10000) n;
    SELECT setval('users_id_seq', 10000);
    INSERT INTO cars (model, owner_id)
    SELECT 'model-' || k, n FROM generate_series(1, 10000) n, generate_series(1, 3) k;";

#[derive(Clone, Copy)]
enum Call {
    GetByUsername,
    OwnedBy,
    Register,
    Buy,
}

// The order matters: a purchase gives a seeded user more than three cars.
const CALLS: [(Call, &str); 4] = [
    (Call::GetByUsername, "get_by_username"),
    (Call::OwnedBy, "owned_by"),
    (Call::Register, "register"),
    (Call::Buy, "buy"),
];

/// Who makes the calls.
#[derive(Clone)]
enum By {
    Crate(PgStore),
    Hand(Pool),
}

fn main() -> Result<()> {
    let server = Server::start(Options::default()).map_err(|error| anyhow!(error))?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let both = runtime.block_on(connect(&server.url("postgres")))?;
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20)
        .configure_from_args();
    for (call, name) in CALLS {
        let mut group = criterion.benchmark_group(name);
        for tasks in TASKS {
            for by in &both {
                let who = match by {
                    By::Crate(_) => "motorpool",
                    By::Hand(_) => "bare",
                };
                group.bench_function(BenchmarkId::new(who, tasks), |bencher| {
                    let bencher = &mut bencher.to_async(&runtime);
                    bencher.iter_custom(|calls| measure(by.clone(), call, calls, tasks));
                });
            }
        }
        group.finish();
    }
    criterion.final_summary();
    close(&runtime, &both);
    Ok(())
}

async fn connect(url: &str) -> Result<[By; 2]> {
    let store = PgStore::connect(url).await?;
    store.migrate().await?;
    let client = store.pool().get().await?;
    client.batch_execute(SEED).await?;
    client.batch_execute("VACUUM ANALYZE users, cars").await?;
    drop(client);
    let config = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = Manager::from_config(url.parse()?, NoTls, config);
    // As many connections as the store has, handed out in the same order.
    let pool = Pool::builder(manager)
        .max_size(16)
        .queue_mode(QueueMode::Lifo)
        .build()?;
    Ok([By::Crate(store), By::Hand(pool)])
}

fn close(runtime: &Runtime, both: &[By]) {
    for by in both {
        match by {
            By::Crate(store) => drop(runtime.block_on(store.close().into_future())),
            By::Hand(pool) => pool.close(),
        }
    }
}

/// The time that so many calls take, shared out among the tasks.
async fn measure(by: By, call: Call, calls: u64, tasks: u64) -> Duration {
    let mut set = JoinSet::new();
    let start = Instant::now();
    for task in 0..tasks.min(calls) {
        let by = by.clone();
        let share = calls / tasks + u64::from(task < calls % tasks);
        set.spawn(async move {
            for _ in 0..share {
                by.make(call).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = set.join_next().await {
        // There is no other way out of here.
        #[expect(
            clippy::expect_used,
            reason = "a benchmark that fails shall say so and end"
        )]
        done.map_err(anyhow::Error::from)
            .flatten()
            .expect("a call failed");
    }
    start.elapsed()
}

impl By {
    /// One call, whose answer is looked at.
    async fn make(&self, call: Call) -> Result<()> {
        let number = next();
        // Neighbours in time are no neighbours in the table.
        let id = (number * 7919 % USERS + 1).cast_signed();
        match call {
            Call::GetByUsername => {
                let user = self.get_by_username(&format!("user-{id}")).await?;
                ensure!(user.is_some_and(|user| user.id.get() == id));
            }
            Call::OwnedBy => ensure!(self.owned_by(id).await?.len() == 3),
            Call::Register => ensure!(self.register(&format!("new-{number}")).await?),
            Call::Buy => ensure!(self.buy("Golf", id).await?.owner_id.get() == id),
        }
        Ok(())
    }

    async fn get_by_username(&self, name: &str) -> Result<Option<User>> {
        match self {
            By::Crate(store) => Ok(store.users().get_by_username(name).await?),
            By::Hand(pool) => {
                let client = pool.get().await?;
                let statement = client.prepare_cached(sql::GET_BY_USERNAME).await?;
                let row = client.query_opt(&statement, &[&name]).await?;
                row.as_ref().map(user).transpose()
            }
        }
    }

    async fn owned_by(&self, owner: i64) -> Result<Vec<Car>> {
        match self {
            By::Crate(store) => Ok(store.cars().owned_by(UserId::new(owner)).await?),
            By::Hand(pool) => {
                let client = pool.get().await?;
                let statement = client.prepare_cached(sql::OWNED_BY).await?;
                let rows = client.query(&statement, &[&owner]).await?;
                rows.iter().map(car).collect()
            }
        }
    }

    /// Whether the name was new.
    async fn register(&self, name: &str) -> Result<bool> {
        match self {
            By::Crate(store) => {
                let new = NewUser::new(name)?;
                Ok(store.users().register(&new).await?.is_created())
            }
            By::Hand(pool) => {
                let client = pool.get().await?;
                let statement = client.prepare_cached(sql::REGISTER).await?;
                let (today, role) = (Utc::now().date_naive(), Role::Employee.as_str());
                let row = client
                    .query_one(&statement, &[&name, &today, &role])
                    .await?;
                ensure!(user(&row)?.username == name);
                Ok(row.try_get(4)?)
            }
        }
    }

    async fn buy(&self, model: &str, owner: i64) -> Result<Car> {
        match self {
            By::Crate(store) => {
                let new = NewCar::new(model, UserId::new(owner))?;
                Ok(store.cars().buy(&new).await?)
            }
            By::Hand(pool) => {
                let client = pool.get().await?;
                let statement = client.prepare_cached(sql::BUY).await?;
                car(&client.query_one(&statement, &[&model, &owner]).await?)
            }
        }
    }
}

/// A number that no other call of the program has.
fn next() -> u64 {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    NUMBERS.fetch_add(1, Relaxed)
}

fn user(row: &Row) -> Result<User> {
    let role: &str = row.try_get(3)?;
    Ok(User {
        id: UserId::new(row.try_get(0)?),
        username: row.try_get(1)?,
        created_at: row.try_get(2)?,
        role: role.parse()?,
    })
}

fn car(row: &Row) -> Result<Car> {
    Ok(Car {
        id: CarId::new(row.try_get(0)?),
        model: row.try_get(1)?,
        owner_id: UserId::new(row.try_get(2)?),
    })
}
