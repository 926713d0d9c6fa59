//! One turn of one competitor: so many tasks call the same operation for so long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::check::purchases;
use crate::op::Op;
use crate::peer::Peer;
use crate::{seed, usage};

pub const MODELS: [&str; 3] = ["Golf", "Polo", "Passat"];

/// Not measured: it fills the pool and the statement caches.
const WARM_UP: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Turn {
    pub op: Op,
    pub tasks: usize,
    pub seconds: f64,
    /// Differs from every other turn of the run.
    pub number: usize,
}

/// What a turn gave.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    pub calls: u64,
    pub seconds: f64,
    /// Of the process that made the calls, where the system tells it.
    pub cpu_seconds: Option<f64>,
    /// The most memory that the process has had since its start.
    pub peak_kib: Option<u64>,
    /// Microseconds, and how many calls took them.
    pub latencies: Vec<(u64, u64)>,
}

pub async fn turn<P: Peer>(peer: &Arc<P>, turn: &Turn) -> Result<Sample> {
    match turn.op.many() {
        Some(number) => many(&**peer, number, turn).await,
        None => single(peer, turn).await,
    }
}

async fn single<P: Peer>(peer: &Arc<P>, turn: &Turn) -> Result<Sample> {
    let begin = Instant::now() + WARM_UP;
    let end = begin + Duration::from_secs_f64(turn.seconds);
    let mut tasks = JoinSet::new();
    for task in 0..turn.tasks {
        let (peer, op) = (Arc::clone(peer), turn.op);
        let mut keys = Keys::new(turn.number, task);
        tasks.spawn(async move {
            let mut latencies = histogram()?;
            loop {
                let start = Instant::now();
                if start >= end {
                    return Ok::<_, anyhow::Error>(latencies);
                }
                call(&*peer, op, &mut keys).await?;
                let now = Instant::now();
                // What ends in the time counts, whenever it began.
                if now >= begin && now < end {
                    latencies.record(micros(now - start))?;
                }
            }
        });
    }
    tokio::time::sleep_until(begin.into()).await;
    let before = usage::cpu_seconds();
    tokio::time::sleep_until(end.into()).await;
    let after = usage::cpu_seconds();
    let mut latencies = histogram()?;
    while let Some(done) = tasks.join_next().await {
        latencies.add(done??)?;
    }
    Ok(sample(&latencies, turn.seconds, before, after))
}

/// Calls until the time is over, at least one.
async fn many<P: Peer>(peer: &P, number: usize, turn: &Turn) -> Result<Sample> {
    let mut random = seed_of(turn.number, 0);
    let wanted = purchases(number, &mut random);
    peer.buy_many(&wanted[..wanted.len().min(100)]).await?;
    let mut latencies = histogram()?;
    let (begin, before) = (Instant::now(), usage::cpu_seconds());
    let mut now = begin;
    while now == begin || (now - begin).as_secs_f64() < turn.seconds {
        let start = now;
        let cars = peer.buy_many(&wanted).await?;
        now = Instant::now();
        latencies.record(micros(now - start))?;
        ensure!(cars.len() == number, "{} cars", cars.len());
    }
    let seconds = (now - begin).as_secs_f64();
    Ok(sample(&latencies, seconds, before, usage::cpu_seconds()))
}

/// One call, whose answer is looked at.
async fn call(peer: &impl Peer, op: Op, keys: &mut Keys) -> Result<()> {
    match op {
        Op::Hit => {
            let id = any_user(&mut keys.random);
            let user = peer.get_by_username(&seed::username(id)).await?;
            ensure!(user.is_some_and(|user| user.id.get() == id), "a hit");
        }
        Op::Miss => {
            let name = format!("nobody-{}", any_user(&mut keys.random));
            ensure!(peer.get_by_username(&name).await?.is_none(), "a miss");
        }
        Op::Hot => {
            let user = peer.get_by_username("user-500").await?;
            ensure!(user.is_some_and(|user| user.id.get() == 500), "the hot one");
        }
        Op::OwnedBy => {
            let cars = peer.owned_by(any_user(&mut keys.random)).await?;
            ensure!(cars.len() == 3, "{} cars", cars.len());
        }
        Op::RegisterNew => {
            let answer = peer.register(&keys.fresh()).await?;
            ensure!(answer.is_created(), "a new name");
        }
        Op::RegisterExisting => {
            let name = seed::username(any_user(&mut keys.random));
            ensure!(!peer.register(&name).await?.is_created(), "a taken name");
        }
        Op::Buy => {
            let owner = any_user(&mut keys.random);
            let car = peer.buy("Golf", owner).await?;
            ensure!(car.is_some_and(|car| car.owner_id.get() == owner), "a car");
        }
        Op::Transaction => {
            let name = keys.fresh();
            let user = peer.register_and_buy(&name, MODELS).await?;
            ensure!(user.username == name, "a buyer");
        }
        Op::BuyMany10k | Op::BuyMany100k => anyhow::bail!("not a single call"),
    }
    Ok(())
}

/// What a task asks for.
struct Keys {
    random: u64,
    prefix: String,
    count: u64,
}

impl Keys {
    fn new(turn: usize, task: usize) -> Keys {
        Keys {
            random: seed_of(turn, task),
            prefix: format!("new-{turn}-{task}-"),
            count: 0,
        }
    }

    fn fresh(&mut self) -> String {
        self.count += 1;
        format!("{}{}", self.prefix, self.count)
    }
}

fn seed_of(turn: usize, task: usize) -> u64 {
    let mixed = (turn as u64) << 20 | task as u64;
    (mixed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1
}

/// A seeded user by chance (xorshift).
pub fn any_user(random: &mut u64) -> i64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    1 + (*random >> 20).cast_signed() % seed::USERS
}

/// Two digits from a microsecond to ten minutes: small enough for one in each task.
pub fn histogram() -> Result<Histogram<u32>> {
    Ok(Histogram::new_with_bounds(1, 600_000_000, 2)?)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros())
        .unwrap_or(u64::MAX)
        .max(1)
}

fn sample(
    latencies: &Histogram<u32>,
    seconds: f64,
    before: Option<f64>,
    after: Option<f64>,
) -> Sample {
    Sample {
        calls: latencies.len(),
        seconds,
        cpu_seconds: before.zip(after).map(|(before, after)| after - before),
        peak_kib: usage::peak_kib(),
        latencies: latencies
            .iter_recorded()
            .map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value().into()))
            .collect(),
    }
}
