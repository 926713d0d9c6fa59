//! The databases that the tests get.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::panic::AssertUnwindSafe;
use std::sync::Mutex;

use futures_util::FutureExt;
use support::{Database, with_database, with_empty_database};

async fn tables(database: &Database) -> i64 {
    let sql = "SELECT count(*) FROM pg_tables WHERE tablename IN ('users', 'cars')";
    let row = database.client().await.query_one(sql, &[]).await;
    row.unwrap().get(0)
}

#[tokio::test]
async fn a_migrated_database_has_the_tables_and_an_empty_one_has_not() {
    with_database(async |database: Database| assert_eq!(tables(&database).await, 2)).await;
    with_empty_database(async |database: Database| assert_eq!(tables(&database).await, 0)).await;
}

#[tokio::test]
async fn databases_are_apart_and_are_dropped_at_the_end_and_after_a_panic() {
    with_database(|first| async move {
        let exists = async |name: &str| {
            let sql = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
            let row = first.client().await.query_one(sql, &[&name]).await;
            row.unwrap().get::<_, bool>(0)
        };
        let name = with_database(|second| async move { second.name }).await;
        assert_ne!(name, first.name);
        assert!(!exists(&name).await);

        let name = Mutex::new(String::new());
        let test = with_database(|third| {
            third.name.clone_into(&mut name.lock().unwrap());
            async move {
                // Still connected when it panics.
                let _client = third.client().await;
                panic!("on purpose");
            }
        });
        let result = AssertUnwindSafe(test).catch_unwind().await;
        assert!(result.is_err());
        let name = name.into_inner().unwrap();
        assert!(!name.is_empty() && !exists(&name).await);
        assert!(exists(&first.name).await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once() {
    let tests = (0..16).map(|_| {
        tokio::spawn(with_database(
            |database| async move { tables(&database).await },
        ))
    });
    for test in tests.collect::<Vec<_>>() {
        assert_eq!(test.await.unwrap(), 2);
    }
}
