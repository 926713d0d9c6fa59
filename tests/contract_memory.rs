//! The contract on the store in memory, and inside one transaction of it.
#![cfg(feature = "contract")]
#![allow(clippy::expect_used, unreachable_pub, reason = "these are tests")]

#[path = "support/inside.rs"]
mod inside;

use inside::Inside;
use motorpool::contract::Rule;
use motorpool::{MemoryStore, Store, TxOptions};

async fn run_on_memory(rule: Rule) {
    rule.run(&MemoryStore::new()).await;
}

motorpool::contract_tests!(memory, run_on_memory);

async fn run_in_transaction(rule: Rule) {
    let store = MemoryStore::new();
    let inside = Inside(store.begin(TxOptions::new()).await.expect("begins"));
    rule.run(&inside).await;
    let outside = store.users().count().await.expect("counts");
    assert_eq!(outside, 0, "a call left the transaction");
    inside.0.commit().await.expect("the transaction is usable");
}

motorpool::contract_tests!(memory_transaction, run_in_transaction, without transactions);
