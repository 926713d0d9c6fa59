//! Faults on demand: without one the contract holds, and with one a host meets what it would meet
//! over a bad line.
#![cfg(feature = "contract")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "these are tests"
)]

#[path = "faulty/calls.rs"]
mod calls;
#[path = "faulty/contract.rs"]
mod contract;
#[path = "faulty/host.rs"]
mod host;
#[path = "support/inside.rs"]
mod inside;
#[path = "faulty/operations.rs"]
mod operations;
#[path = "faulty/transactions.rs"]
mod transactions;

use std::time::Duration;

use motorpool::testing::Faulty;
use motorpool::{Error, MemoryStore, NewUser, Result, Store, User};

type Memory = Faulty<MemoryStore>;

fn store() -> Memory {
    Faulty::new(MemoryStore::new())
}

fn named(name: &str) -> NewUser {
    NewUser::new(name).unwrap()
}

/// A user of whose registration the faults and the counts know nothing.
async fn ada(store: &Memory) -> User {
    let users = store.store().users();
    users.register(&named("Ada")).await.unwrap().into_user()
}

async fn stored(store: &Memory) -> u64 {
    store.store().users().count().await.unwrap()
}

/// What has to happen at once.
async fn soon<F: Future>(what: F) -> F::Output {
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, what).await.expect("it hangs")
}

fn is_timeout<T>(answer: Result<T>) -> bool {
    matches!(answer, Err(Error::Timeout { .. }))
}
