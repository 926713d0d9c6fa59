//! The contract on Postgres: on the pool, inside one transaction, and with every call in a batch.
#![cfg(feature = "contract")]
#![allow(clippy::expect_used, clippy::panic, reason = "these are tests")]

#[path = "support/busy.rs"]
mod busy;
mod support;

use std::time::Duration;

use busy::Busy;
use motorpool::contract::Rule;
use motorpool::{PgStore, Store, TxOptions};
use support::inside::Inside;
use support::{until_idle, with_emptied_database};

/// For calls that meet in one deadlock after the other, each found by the server after a second: on
/// a busy machine eight of them take most of the time that a call has by default.
const CALL: Duration = Duration::from_secs(60);

async fn run_on_pool(rule: Rule) {
    with_emptied_database(async |database| {
        let builder = PgStore::builder(&database.url).expect("a URL");
        let store = builder.call_timeout(CALL).build().await.expect("connects");
        rule.run(&store).await;
        // The rule leaves nothing behind on the pool's connections.
        until_idle(&database.client().await).await;
    })
    .await;
}

motorpool::contract_tests!(postgres, run_on_pool);

async fn run_in_transaction(rule: Rule) {
    with_emptied_database(async |database| {
        let store = PgStore::connect(&database.url).await.expect("connects");
        let inside = Inside(store.begin(TxOptions::new()).await.expect("begins"));
        rule.run(&inside).await;
        let outside = store.users().count().await.expect("counts");
        assert_eq!(outside, 0, "a call left the transaction");
        inside.0.commit().await.expect("the transaction is usable");
    })
    .await;
}

motorpool::contract_tests!(postgres_transaction, run_in_transaction, without transactions);

/// With calls that wait for each other: those that come alone are made to.
async fn run_in_batches(rule: Rule) {
    with_emptied_database(async |database| {
        let builder = PgStore::builder(&database.url).expect("a URL");
        let builder = builder.batching(busy::tiny()).max_connections(4);
        let store = builder.call_timeout(CALL).build().await.expect("connects");
        let busy = Busy::new(store.clone());
        rule.run(&busy).await;
        let batched = store.status().batched;
        // A call that is made alone may find its lane free all the same.
        assert!(batched.calls >= busy.forced(), "{batched:?}");
        assert!(batched.calls * 2 + 2 >= busy.lone(), "{batched:?}");
        assert_eq!(store.close().await, 0);
    })
    .await;
}

motorpool::contract_tests!(postgres_batching, run_in_batches);
