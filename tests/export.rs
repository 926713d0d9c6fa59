//! Exports: all rows of a table through a stream, in constant memory.
//!
//! The full number of rows:
//! `cargo test --release --all-features --test export -- --ignored --nocapture`.
#![cfg(target_os = "linux")] // Where the memory of a process is read from.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/relay.rs"]
mod relay;
mod support;

use std::time::Instant;

use futures_util::TryStreamExt;
use motorpool::{CarId, Error, PgStore, Store, UserId};
use relay::Relay;
use support::{Database, with_database};

/// Fills the tables in the server, without asking for each car whether its owner is there.
async fn fill(database: &Database, cars: i64) {
    let client = database.client().await;
    let sql = "SET session_replication_role = replica;
        INSERT INTO users (username) SELECT 'user ' || g FROM generate_series(1, 1000) g";
    client.batch_execute(sql).await.unwrap();
    let sql = "INSERT INTO cars (model, owner_id)
        SELECT repeat('long model ', 10) || g, g % 1000 + 1 FROM generate_series(1, $1::bigint) g";
    client.execute(sql, &[&cars]).await.unwrap();
    client
        .batch_execute("VACUUM ANALYZE users, cars")
        .await
        .unwrap();
}

/// The most memory that this process ever had, in KiB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse().unwrap()
}

async fn export(rows: i64, most_kib: usize) {
    with_database(async |database| {
        fill(&database, rows).await;
        let store = PgStore::connect(&database.url).await.unwrap();
        let before = peak();
        let started = Instant::now();
        let (mut count, mut bytes, mut last) = (0_i64, 0, CarId::new(0));
        let mut cars = store.cars().stream();
        while let Some(car) = cars.try_next().await.unwrap() {
            assert!(car.id > last);
            last = car.id;
            bytes += car.model.len();
            count += 1;
        }
        let took = started.elapsed();
        let grown = peak() - before;
        println!(
            "{rows} rows, {bytes} bytes of text in {took:?}: {:.0} rows a second, \
             peak memory {before} KiB and {grown} KiB more",
            rows as f64 / took.as_secs_f64()
        );
        assert_eq!(count, rows);
        // All of them at once would be more than this.
        assert!(bytes / 1024 > most_kib, "{bytes} bytes");
        assert!(grown < most_kib, "{grown} KiB more");
    })
    .await;
}

#[tokio::test]
async fn an_export_takes_constant_memory() {
    export(100_000, 6 * 1024).await;
}

#[tokio::test]
#[ignore = "takes long"]
async fn an_export_of_three_million_rows_takes_constant_memory() {
    export(3_000_000, 20 * 1024).await;
}

/// The only connection is free while the caller is busy with a row, and the round trips are few.
#[tokio::test]
async fn a_stream_holds_no_connection_between_chunks() {
    with_database(async |database| {
        fill(&database, 10_000).await;
        let relay = Relay::start(&database.url).await;
        let builder = PgStore::builder(&relay.url()).unwrap();
        let store = builder.max_connections(1).build().await.unwrap();
        relay.flights();
        let mut cars = store.cars().stream();
        let mut users = store.users().stream();
        let first = cars.try_next().await.unwrap().unwrap();
        assert_eq!(store.status().idle, 1);
        assert_eq!(users.try_next().await.unwrap().unwrap().id, UserId::new(1));
        assert_eq!(store.cars().get(first.id).await.unwrap(), Some(first));
        let rest: Vec<_> = cars.try_collect().await.unwrap();
        assert_eq!(rest.len(), 9_999);
        // Three of them prepare a statement.
        let flights = relay.flights();
        assert!((5..=16).contains(&flights.len()), "{flights:?}");
    })
    .await;
}

/// What can be read comes before the error, and after it nothing is sent.
#[tokio::test]
async fn a_stream_ends_with_its_first_error() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let client = database.client().await;
        let sql = "ALTER TABLE users DROP CONSTRAINT role_types;
            INSERT INTO users (username, role)
            SELECT 'user ' || g, CASE g WHEN 5000 THEN 'canary' ELSE 'student' END
            FROM generate_series(1, 9000) g";
        client.batch_execute(sql).await.unwrap();
        let mut users = store.users().stream();
        let mut count = 0;
        let error = loop {
            match users.try_next().await {
                Ok(Some(_)) => count += 1,
                Ok(None) => panic!("no error"),
                Err(error) => break error,
            }
        };
        assert_eq!(count, 4999);
        let expected = matches!(
            error,
            Error::Decode {
                column: "role",
                key: Some(5000),
                ..
            }
        );
        assert!(expected, "{error:?}");
        assert!(users.try_next().await.unwrap().is_none());

        let mut users = store.users().stream();
        users.try_next().await.unwrap();
        let _ = store.close().await;
        let closed = loop {
            match users.try_next().await {
                Ok(next) => assert!(next.is_some(), "no error"),
                Err(error) => break error,
            }
        };
        assert!(matches!(closed, Error::Unavailable { .. }), "{closed:?}");
        assert!(users.try_next().await.unwrap().is_none());
    })
    .await;
}
