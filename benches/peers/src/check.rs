//! Whether a competitor does the work at all, before it is measured.

use anyhow::{Context, Result, ensure};
use motorpool::{Registration, Role};

use crate::peer::{Peer, Purchase};
use crate::seed;

/// Asks for each operation once and compares the answers.
pub async fn check(peer: &impl Peer, prefix: &str) -> Result<()> {
    reads(peer).await.context("reads")?;
    register(peer, prefix).await.context("register")?;
    buy(peer).await.context("buy")?;
    buy_many(peer).await.context("buy_many")?;
    transaction(peer, prefix).await.context("transaction")
}

async fn reads(peer: &impl Peer) -> Result<()> {
    for id in [1, 4711, seed::USERS] {
        let found = peer.get_by_username(&seed::username(id)).await?;
        ensure!(found == Some(seed::user(id)), "user {id}: {found:?}");
        let cars = peer.owned_by(id).await?;
        ensure!(cars == seed::cars(id), "the cars of {id}: {cars:?}");
    }
    let found = peer.get_by_username("nobody").await?;
    ensure!(found.is_none(), "a user that is not there: {found:?}");
    let cars = peer.owned_by(i64::MAX).await?;
    ensure!(cars.is_empty(), "cars of nobody: {cars:?}");
    Ok(())
}

async fn register(peer: &impl Peer, prefix: &str) -> Result<()> {
    let (one, other) = (format!("{prefix}-one"), format!("{prefix}-other"));
    let answer = peer.register(&one).await?;
    let Registration::Created(first) = answer else {
        anyhow::bail!("a new name: {answer:?}");
    };
    ensure!(
        first.username == one && first.role == Role::Employee,
        "{first:?}"
    );
    let again = peer.register(&one).await?;
    ensure!(again == Registration::Existing(first.clone()), "{again:?}");
    let seeded = peer.register(&seed::username(7)).await?;
    ensure!(
        seeded == Registration::Existing(seed::user(7)),
        "{seeded:?}"
    );
    let next = peer.register(&other).await?;
    ensure!(
        next.is_created() && next.user().id.get() == first.id.get() + 1,
        "names that were taken used ids up: {next:?} after {first:?}"
    );
    Ok(())
}

async fn buy(peer: &impl Peer) -> Result<()> {
    let answer = peer.buy("Golf", 5).await?;
    let first = answer.context("the owner is there")?;
    ensure!(
        first.model == "Golf" && first.owner_id.get() == 5,
        "{first:?}"
    );
    let refused = peer.buy("Golf", i64::MAX).await?;
    ensure!(refused.is_none(), "an owner that is not there: {refused:?}");
    let next = peer.buy("Polo", 5).await?.context("the owner is there")?;
    ensure!(
        next.id.get() == first.id.get() + 1,
        "a refused purchase used an id up: {next:?} after {first:?}"
    );
    let cars = peer.owned_by(5).await?;
    ensure!(cars.ends_with(&[first, next]), "{cars:?}");
    Ok(())
}

async fn buy_many(peer: &impl Peer) -> Result<()> {
    // More than one statement of bound rows can carry.
    let wanted = purchases(40_000, &mut 1);
    let cars = peer.buy_many(&wanted).await?;
    ensure!(cars.len() == wanted.len(), "{} cars", cars.len());
    for (car, wanted) in cars.iter().zip(&wanted) {
        let same = car.model == wanted.model && car.owner_id.get() == wanted.owner;
        ensure!(same, "out of order: {car:?}");
    }
    ensure!(cars.is_sorted_by_key(|car| car.id), "ids do not rise");
    let last = cars.last().context("cars")?;
    let stored = peer.owned_by(last.owner_id.get()).await?;
    ensure!(stored.last() == Some(last), "not stored: {last:?}");
    Ok(())
}

async fn transaction(peer: &impl Peer, prefix: &str) -> Result<()> {
    let name = format!("{prefix}-buyer");
    let user = peer.register_and_buy(&name, crate::work::MODELS).await?;
    let found = peer.get_by_username(&name).await?;
    ensure!(found.as_ref() == Some(&user), "{found:?}, not {user:?}");
    let cars = peer.owned_by(user.id.get()).await?;
    let models = cars.iter().map(|car| car.model.as_str());
    ensure!(models.eq(crate::work::MODELS), "{cars:?}");
    Ok(())
}

/// Cars for seeded users.
pub fn purchases(number: usize, random: &mut u64) -> Vec<Purchase> {
    (0..number)
        .map(|n| Purchase {
            model: format!("model-{}", n % 100),
            owner: crate::work::any_user(random),
        })
        .collect()
}
