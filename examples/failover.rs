//! What a service does when the primary of its cluster goes away: it repeats what is safe to repeat,
//! with the same store, until the new primary answers.
//!
//! ```sh
//! cargo run --example failover -- --url \
//!     'postgresql://app:secret@host1,host2,host3/garage?target_session_attrs=read-write'
//! ```
//!
//! Then stop the primary and promote a standby, and see what it prints. Nothing is bought twice.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use clap::Parser;
use motorpool::{Car, Error, NewCar, NewUser, PgStore, PurchaseKey, Store, UnavailableReason};
use uuid::Uuid;

/// Buys cars, one after the other, whatever happens to the primary.
#[derive(Parser)]
struct Arguments {
    /// All hosts of the cluster, with target_session_attrs=read-write.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    url: String,
    /// How many cars to buy.
    #[arg(long, default_value_t = 1000)]
    purchases: u32,
    /// Milliseconds between two purchases.
    #[arg(long, default_value_t = 50)]
    pause: u64,
    /// Seconds after which a purchase is given up.
    #[arg(long, default_value_t = 60)]
    patience: u64,
}

/// The pause before the second try, which doubles up to the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // A call that is under way when a server falls silent takes all of its time, so it is short
    // here. Each host that says nothing costs a new connection a third of it, once.
    let builder = PgStore::builder(&arguments.url)?.call_timeout(Duration::from_secs(2));
    let store = builder.build().await.context("no primary was found")?;
    store.migrate().await.context("the schema is not current")?;
    let bought = buy_all(&store, &arguments).await;
    store.close().within(Duration::from_secs(2)).await;
    bought
}

async fn buy_all(store: &PgStore, arguments: &Arguments) -> anyhow::Result<()> {
    let patience = Duration::from_secs(arguments.patience);
    // Of this run alone, so that its cars can be counted.
    let run = SystemTime::UNIX_EPOCH.elapsed()?.as_nanos();
    let buyer = NewUser::new(format!("buyer {run}"))?;
    let register = async || store.users().register(&buyer).await;
    let buyer = repeat(register, patience).await?.into_user();
    println!("{buyer} buys {} cars.", arguments.purchases);

    for number in 0..arguments.purchases {
        let car = NewCar::new(format!("car {number}"), buyer.id)?.key(key(run, number));
        let buy = async || -> Result<Car, Error> { store.cars().buy(&car).await };
        repeat(buy, patience).await?;
        tokio::time::sleep(Duration::from_millis(arguments.pause)).await;
    }

    let owned = async || store.cars().owned_by(buyer.id).await;
    let owned = repeat(owned, patience).await?;
    ensure!(
        (0..arguments.purchases).eq(owned.iter().map(number)),
        "what was bought is not what is there"
    );
    println!("All {} are there, each once.", owned.len());
    Ok(())
}

/// The key of a purchase is made before its first try, and every other try has the same one.
fn key(run: u128, number: u32) -> PurchaseKey {
    let name = format!("motorpool failover {run} {number}");
    PurchaseKey::new(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()))
}

/// Which of the purchases a car is.
fn number(car: &Car) -> u32 {
    let number = car.model.strip_prefix("car ");
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or(u32::MAX)
}

/// Makes a call until it succeeds, and says so if it took more than one try.
async fn repeat<T>(
    call: impl AsyncFn() -> Result<T, Error>,
    patience: Duration,
) -> Result<T, Error> {
    let started = Instant::now();
    let (mut tries, mut pause) = (1, FIRST_PAUSE);
    loop {
        match call().await {
            Ok(value) => {
                if tries > 1 {
                    let took = started.elapsed().as_secs_f64();
                    println!("back after {took:.3} s, at try {tries}");
                }
                return Ok(value);
            }
            Err(error) if may_pass(&error) && started.elapsed() < patience => {
                if tries == 1 {
                    println!("interrupted: {error}");
                }
                tokio::time::sleep(pause).await;
                tries += 1;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether another try may succeed and can do no harm.
fn may_pass(error: &Error) -> bool {
    match error {
        // Nothing of the call was stored.
        _ if error.is_retryable() => true,
        // Perhaps it was. A user is registered once all the same, and a purchase has its key; a
        // call without such a thing would have to look first.
        Error::Timeout { .. } => true,
        Error::Unavailable { reason, .. } => *reason == UnavailableReason::ConnectionLost,
        _ => false,
    }
}
