//! Many mixed calls: neither the server nor the process keeps anything of them.
//!
//! The full number of calls: `cargo test --all-features --test soak -- --ignored --nocapture`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]
#![cfg(target_os = "linux")] // Where the memory of a process is read from.

#[path = "support/busy.rs"]
mod busy;
mod support;

use std::collections::BTreeSet;
use std::time::Instant;

use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use motorpool::{
    Batching, CommitOutcome, CommitToken, Error, NewCar, NewUser, PageRequest, PgStore,
    PurchaseKey, Result, Role, Store, StoreExt, Tx, TxOptions, UserId,
};
use support::with_database;
use tokio_postgres::SimpleQueryMessage;
use uuid::Uuid;

const TASKS: usize = 64;
const CONNECTIONS: usize = 16;

/// How much the process may grow between a tenth of the calls and all of them.
const GROWTH: usize = 5 * 1024 * 1024;

/// How many statements the crate has, but for the one that asks a connection under suspicion.
const TEXTS: usize = 32;

/// The calls of one round.
const ROUND: usize = 52;

/// Every method once at least, and everything that it stores is gone at its end.
async fn round(store: &PgStore, number: usize) -> Result<()> {
    let name = |part: &str| format!("{part} {number}");
    let new = |part: &str| NewUser::new(name(part));
    let (users, cars) = (store.users(), store.cars());
    let anna = users.register(&new("Anna")?).await?;
    assert!(anna.is_created());
    let anna = anna.into_user();
    let many = [new("Bert")?, new("Cora")?, new("Dora")?];
    let many = users.register_many(&many).await?;
    let ids: Vec<UserId> = many.iter().map(|new| new.user().id).collect();
    let [bert, cora, _] = ids[..] else {
        panic!("{ids:?}");
    };
    assert!(!users.register(&new("Anna")?).await?.is_created());
    assert_eq!(users.get(anna.id).await?, Some(anna.clone()));
    assert_eq!(users.get_many(&ids).await?.len(), 3);
    assert_eq!(
        users.get_by_username(&name("Anna")).await?,
        Some(anna.clone())
    );
    assert_eq!(users.get_by_username(&name("Zoe")).await?, None);
    let page = users.list(PageRequest::first(10)?).await?;
    users
        .list(PageRequest::first(10)?.after(page.items[0].id))
        .await?;
    users.set_role(anna.id, Role::Teacher).await?;
    users.rename(bert, &name("Bernd")).await?;
    let taken = users.rename(bert, &name("Anna")).await;
    assert!(matches!(taken, Err(Error::UsernameTaken)), "{taken:?}");
    let streamed = users.stream().take(2).try_collect::<Vec<_>>();
    assert_eq!(streamed.await?.len(), 2);
    users.count().await?;

    let car = |owner| NewCar::new("Golf", owner);
    let key = PurchaseKey::new(Uuid::from_u64_pair(1, number as u64));
    let golf = cars.buy(&car(anna.id)?).await?;
    let keyed = cars.buy(&car(bert)?.key(key)).await?;
    assert_eq!(cars.buy(&car(bert)?.key(key)).await?, keyed);
    let bought = cars.buy_many(&[car(cora)?, car(cora)?, car(bert)?]).await?;
    let again = [car(cora)?, car(bert)?.key(key)];
    let again = cars.buy_many(&again).await?;
    assert_eq!(again[1], keyed);
    assert!(cars.delete(again[0].id).await?);
    let unknown = cars.buy(&car(UserId::new(-1))?).await;
    assert!(
        matches!(unknown, Err(Error::UnknownOwner { .. })),
        "{unknown:?}"
    );
    assert_eq!(cars.get(golf.id).await?, Some(golf.clone()));
    assert_eq!(cars.owned_by(cora).await?.len(), 2);
    assert_eq!(cars.owned_by_many(&ids).await?.len(), 3);
    assert_eq!(
        cars.list_owned_by(cora, PageRequest::first(1)?)
            .await?
            .items
            .len(),
        1
    );
    cars.transfer(golf.id, anna.id, cora).await?;
    assert!(cars.stream().try_next().await?.is_some());
    cars.count().await?;
    let owner = users.delete(cora).await;
    assert!(
        matches!(owner, Err(Error::UserOwnsCars { .. })),
        "{owner:?}"
    );

    transactions(store, &name).await?;
    store.ping().await?;
    let outcome = store.commit_outcome(&CommitToken::new(u64::MAX, 0)).await?;
    assert_eq!(outcome, CommitOutcome::Unknown);

    assert!(cars.delete(golf.id).await?);
    assert!(cars.delete(keyed.id).await?);
    for car in bought {
        assert!(cars.delete(car.id).await?);
    }
    assert!(users.delete(anna.id).await?);
    for id in ids {
        assert!(users.delete(id).await?);
    }
    Ok(())
}

/// Twelve calls: one transaction is committed, one rolled back, one dropped.
async fn transactions(store: &PgStore, name: &(impl Fn(&str) -> String + Sync)) -> Result<()> {
    let new = &NewUser::new(name("Emil"))?;
    let run = store.transaction(|tx| async move {
        let emil = tx.users().register(new).await?.into_user();
        let renamed: Result<_> = tx
            .savepoint(|tx| async move { tx.users().set_role(emil.id, Role::Student).await })
            .await;
        tx.users().delete(renamed?.id).await
    });
    assert!(run.await?);
    for drops in [true, false] {
        let tx: Tx = store.begin(TxOptions::new()).await?;
        tx.users().register(new).await?;
        match drops {
            true => drop(tx),
            false => tx.rollback().await?,
        }
    }
    Ok(())
}

async fn rounds(store: &PgStore, numbers: std::ops::Range<usize>) {
    let tasks = (0..TASKS).map(|task| {
        let (store, numbers) = (store.clone(), numbers.clone());
        tokio::spawn(async move {
            for number in numbers.skip(task).step_by(TASKS) {
                round(&store, number).await.unwrap();
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
}

/// How many statements the connections have prepared, and how many different ones that are.
async fn prepared(store: &PgStore) -> (Vec<usize>, usize) {
    let connections = join_all((0..CONNECTIONS).map(|_| store.pool().get())).await;
    let (mut counts, mut texts) = (Vec::new(), BTreeSet::new());
    for connection in connections {
        let connection = connection.unwrap();
        let sql = "SELECT statement FROM pg_prepared_statements";
        let rows = connection.simple_query(sql).await.unwrap();
        let found = rows.iter().filter_map(|row| match row {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        let found: Vec<String> = found.collect();
        counts.push(found.len());
        texts.extend(found);
    }
    counts.sort_unstable();
    (counts, texts.len())
}

/// The memory of this process that is in use, in bytes.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

async fn soak(calls: usize, batching: Batching) {
    with_database(async |database| {
        let builder = PgStore::builder(&database.url).unwrap();
        let builder = builder.max_connections(CONNECTIONS).batching(batching);
        let store = builder.build().await.unwrap();
        let (all, started) = (calls.div_ceil(ROUND), Instant::now());
        rounds(&store, 0..all / 10).await;
        let (_, early_texts) = prepared(&store).await;
        let before = memory();
        rounds(&store, all / 10..all).await;
        let grown = memory().saturating_sub(before);
        let (late, late_texts) = prepared(&store).await;
        let took = started.elapsed();
        println!(
            "{calls} calls in {took:?}: grown by {} KiB from {} KiB, prepared {late:?}",
            grown / 1024,
            before / 1024
        );
        assert!(grown < GROWTH, "grown by {grown} bytes");
        // Each text once, and after all of the calls no other than after a tenth of them.
        assert_eq!(early_texts, late_texts);
        assert_eq!(late.len(), CONNECTIONS);
        assert!(late[CONNECTIONS - 1] <= late_texts, "{late:?}");
        assert_eq!(late_texts, TEXTS);
        let status = store.status();
        println!("{:?}", status.batched);
        assert!(status.batched.calls > calls as u64 / 10, "{status:?}");
        assert_eq!(status.size, CONNECTIONS);
        assert_eq!(status.discarded, Default::default());
        let counted = (store.users().count().await, store.cars().count().await);
        assert!(matches!(counted, (Ok(0), Ok(0))), "{counted:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_leave_nothing_behind() {
    soak(20_000, busy::tiny()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long"]
async fn a_hundred_thousand_calls_leave_nothing_behind() {
    soak(100_000, Batching::default()).await;
}
