//! The contract through PgBouncer in transaction mode, with one connection to the server that two
//! processes share. No statement has a name on the way.
#![cfg(feature = "contract")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/busy.rs"]
mod busy;
mod pooler;
#[path = "support/relay.rs"]
mod relay;
mod support;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use busy::Busy;
use futures_util::FutureExt;
use futures_util::future::join_all;
use motorpool::contract::{RULES, Rule};
use motorpool::{StatementMode, Store, TxOptions};
use pooler::neighbour::{self, Neighbour};
use pooler::{Database, Pooler, builder, with_database, with_emptied_database};
use relay::Relay;
use support::inside::Inside;

/// These have a transaction open while they do something outside it or in a second one, which waits
/// for the connection that the first one has. They get four.
const TWO_AT_ONCE: &[&str] = &[
    "changes_are_seen_inside_and_not_outside_until_commit",
    "read_committed_sees_what_others_commit",
    "repeatable_read_sees_what_its_first_statement_saw",
    "repeatable_read_gives_way_to_a_concurrent_change",
    "clones_of_a_handle_share_one_transaction",
    "stream_in_repeatable_read_is_one_snapshot",
    "commit_after_a_swallowed_failure_is_an_error_and_stores_nothing",
    "a_failed_transaction_can_be_rolled_back",
    "the_closure_form_runs_again_after_a_conflict",
    "the_closure_form_ends_after_its_last_attempt",
    "a_failure_in_a_savepoint_leaves_the_transaction_usable",
    "a_swallowed_failure_in_a_savepoint_undoes_it",
];

fn pooler(rule: Rule) -> Pooler {
    match TWO_AT_ONCE.contains(&rule.name) {
        true => Pooler::Wide,
        false => Pooler::Narrow,
    }
}

/// How many connections to the database PgBouncer has.
async fn connections(database: &Database) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND application_name = 'motorpool'";
    let row = database.client().await.query_one(sql, &[]).await;
    row.expect("counts").get(0)
}

async fn check(database: &Database, pooler: Pooler, relay: &Relay) {
    let (named, unnamed) = relay.parsed();
    assert_eq!(named, 0, "statements with a name, and {unnamed} without");
    if pooler == Pooler::Narrow {
        assert!(connections(database).await <= 1);
    }
}

async fn run_on_pool(rule: Rule) {
    let pooler = pooler(rule);
    with_emptied_database(pooler, async |database| {
        let other = Neighbour::start(&database.url, StatementMode::Unnamed);
        let other = other.expect("the other process makes its calls");
        let relay = Relay::start(&database.url).await;
        let store = builder(&relay.url()).build().await.expect("connects");
        rule.run(&store).await;
        check(&database, pooler, &relay).await;
        assert!(other.end() >= 1);
        assert_eq!(store.close().await, 0);
    })
    .await;
}

motorpool::contract_tests!(pooler_beside_another_process, run_on_pool);

async fn run_in_transaction(rule: Rule) {
    with_emptied_database(Pooler::Narrow, async |database| {
        let relay = Relay::start(&database.url).await;
        let store = builder(&relay.url()).build().await.expect("connects");
        let inside = Inside(store.begin(TxOptions::new()).await.expect("begins"));
        rule.run(&inside).await;
        inside.0.commit().await.expect("the transaction is usable");
        check(&database, Pooler::Narrow, &relay).await;
    })
    .await;
}

motorpool::contract_tests!(pooler_transaction, run_in_transaction, without transactions);

/// With calls that wait for each other.
async fn run_in_batches(rule: Rule) {
    let pooler = pooler(rule);
    with_emptied_database(pooler, async |database| {
        let relay = Relay::start(&database.url).await;
        let builder = builder(&relay.url()).batching(busy::tiny());
        let store = builder.max_connections(4).build().await.expect("connects");
        let busy = Busy::new(store.clone());
        rule.run(&busy).await;
        let batched = store.status().batched;
        assert!(batched.calls >= busy.forced(), "{batched:?}");
        check(&database, pooler, &relay).await;
    })
    .await;
}

motorpool::contract_tests!(pooler_batching, run_in_batches);

/// Not a test: the other process.
#[tokio::test]
async fn neighbour() {
    neighbour::be_one().await;
}

// Otherwise they would be run as all the others are.
#[tokio::test]
async fn the_rules_with_two_transactions_at_once_cannot_do_with_one_connection() {
    let two: Vec<_> = RULES
        .iter()
        .filter(|r| TWO_AT_ONCE.contains(&r.name))
        .collect();
    assert_eq!(two.len(), TWO_AT_ONCE.len());
    let waits = async |rule: &Rule| {
        with_database(Pooler::Narrow, async |database| {
            let builder = builder(&database.url).call_timeout(Duration::from_secs(1));
            let store = builder.build().await.expect("connects");
            let ended = AssertUnwindSafe(rule.run(&store)).catch_unwind().await;
            assert!(ended.is_err(), "{} can", rule.name);
        })
        .await;
    };
    join_all(two.into_iter().map(waits)).await;
}

// What all this is for: with names the second process meets those of the first.
#[tokio::test]
async fn with_names_two_processes_get_in_each_others_way() {
    with_database(Pooler::Lenient, async |database| {
        let first = Neighbour::start(&database.url, StatementMode::Prepared);
        let first = first.expect("nobody else is there yet");
        let second = Neighbour::start(&database.url, StatementMode::Prepared);
        let error = second.err().expect("it does not get through");
        assert!(["26000", "42P05"].contains(&error.as_str()), "{error}");
        drop(first);
    })
    .await;
    // The same without names.
    with_database(Pooler::Lenient, async |database| {
        let first = Neighbour::start(&database.url, StatementMode::Unnamed).unwrap();
        let second = Neighbour::start(&database.url, StatementMode::Unnamed).unwrap();
        assert!(first.end() + second.end() >= 2);
    })
    .await;
}
