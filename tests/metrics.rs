//! The figures that a host collects: their names, their labels, and that they are right.
#![cfg(feature = "metrics")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod meter;
mod queue;
mod support;

use std::time::Duration;

use futures_util::FutureExt;
use meter::Meter;
use metrics::{Unit, set_default_local_recorder};
use motorpool::{Error, IsolationLevel, NewCar, NewUser, PgStore, Store, StoreExt, TxOptions};
use support::{Database, with_database};

/// What may turn up nowhere.
const CANARY: &str = "zanzibar";

/// The labels that every call of this database has, but for the operation and the error.
fn labels(database: &Database, collection: &str, more: &str, operation: &str) -> String {
    let (address, port) = place(&database.url);
    let mut labels = vec![
        "db.system.name=postgresql".to_owned(),
        format!("db.namespace={}", database.name),
        format!("db.collection.name={collection}"),
        format!("db.operation.name={operation}"),
        format!("server.address={address}"),
    ];
    labels.extend(port.map(|port| format!("server.port={port}")));
    labels.extend(more.split_terminator(',').map(str::to_owned));
    labels.sort();
    format!("db.client.operation.duration{{{}}}", labels.join(","))
}

/// Where a URL leads.
fn place(url: &str) -> (String, Option<u16>) {
    let config: tokio_postgres::Config = url.parse().unwrap();
    match &config.get_hosts()[0] {
        tokio_postgres::config::Host::Tcp(host) => {
            let port = config.get_ports().first().copied().unwrap_or(5432);
            (host.clone(), Some(port))
        }
        tokio_postgres::config::Host::Unix(path) => (path.display().to_string(), None),
    }
}

fn pool(database: &Database) -> String {
    let (address, port) = place(&database.url);
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    format!(
        "db.client.connection.pool.name={address}{port}/{}",
        database.name
    )
}

#[tokio::test]
async fn calls_are_counted_by_operation_and_error() {
    with_database(async |database| {
        let meter = Meter::default();
        let _guard = set_default_local_recorder(&meter);
        let store = PgStore::connect(&database.url).await.unwrap();
        let users = store.users();
        let new = NewUser::new(CANARY).unwrap();
        let id = users.register(&new).await.unwrap().user().id;
        users
            .register(&NewUser::new("another").unwrap())
            .await
            .unwrap();
        users.rename(id, "another").await.unwrap_err();
        for _ in 0..3 {
            users.get_by_username(CANARY).await.unwrap();
        }
        store
            .cars()
            .buy(&NewCar::new(CANARY, id).unwrap())
            .await
            .unwrap();
        let count = |collection, more, operation| {
            let told = meter.told(&labels(&database, collection, more, operation));
            assert!(told.iter().all(|seconds| (0.0..60.0).contains(seconds)));
            told.len()
        };
        assert_eq!(count("users", "", "register"), 2);
        assert_eq!(count("users", "", "get_by_username"), 3);
        assert_eq!(count("users", "", "rename"), 0);
        assert_eq!(count("users", "error.type=username_taken", "rename"), 1);
        assert_eq!(count("cars", "", "buy"), 1);
        let client = database.client().await;
        client
            .batch_execute("ALTER TABLE cars RENAME TO gone")
            .await
            .unwrap();
        store.cars().count().await.unwrap_err();
        let error = "error.type=42P01,db.response.status_code=42P01";
        assert_eq!(count("cars", error, "count"), 1);
        // All of them took a connection.
        let wait = format!("db.client.connection.wait_time{{{}}}", pool(&database));
        assert_eq!(meter.told(&wait).len(), 8);
        assert_eq!(meter.text().matches(CANARY).count(), 0);
        assert_eq!(meter.text().matches(&database.password()).count(), 0);
        assert_eq!(
            meter.described()["db.client.operation.duration"],
            Some(Unit::Seconds)
        );
    })
    .await;
}

#[tokio::test]
async fn the_pool_is_seen() {
    with_database(async |database| {
        let meter = Meter::default();
        let _guard = set_default_local_recorder(&meter);
        let builder = PgStore::builder(&database.url).unwrap().max_connections(2);
        let limit = Duration::from_millis(20);
        let store = builder.acquire_timeout(limit).build().await.unwrap();
        let pool = pool(&database);
        let last = |name: &str, more: &str| meter.told(&format!("{name}{{{pool}{more}}}")).pop();
        let count = "db.client.connection.count";
        let state = || {
            let [idle, used] = ["idle", "used"]
                .map(|state| last(count, &format!(",db.client.connection.state={state}")));
            (idle, used, last("db.client.connection.max", ""))
        };
        let becomes = async |wanted| {
            let began = std::time::Instant::now();
            while state() != wanted {
                assert!(began.elapsed().as_secs() < 20, "{:?}", state());
                tokio::time::sleep(limit).await;
            }
        };
        becomes((Some(1.0), Some(0.0), Some(2.0))).await;
        let held = [
            store.pool().get().await.unwrap(),
            store.pool().get().await.unwrap(),
        ];
        becomes((Some(0.0), Some(2.0), Some(2.0))).await;
        let error = store.users().count().await.unwrap_err();
        assert!(matches!(error, Error::PoolExhausted { .. }));
        assert_eq!(last("db.client.connection.timeouts", ""), Some(1.0));
        assert_eq!(last("db.client.connection.pending_requests", ""), Some(0.0));
        drop(held);
        // One leaves the pool with the call that was dropped on it.
        assert!(store.users().count().now_or_never().is_none());
        let cancelled = format!("motorpool.connection.discards{{{pool},reason=cancelled}}");
        assert_eq!(meter.told(&cancelled), [1.0]);
        assert_eq!(store.status().discarded.cancelled, 1);
        drop(store);
        // Whoever looks at a graph sees that it is gone.
        becomes((Some(0.0), Some(0.0), Some(0.0))).await;
    })
    .await;
}

#[tokio::test]
async fn batches_are_counted_by_size() {
    with_database(async |database| {
        let meter = Meter::default();
        let _guard = set_default_local_recorder(&meter);
        let store = queue::connect(&database.url, 1, 100).await;
        let new = NewUser::new("Ada").unwrap();
        let id = store.users().register(&new).await.unwrap().user().id;
        let queue = queue::Queue::form(&store, 1, 9, |_| queue::get(&store, id)).await;
        assert!(queue.answers().await.iter().all(Result::is_ok));
        let size = format!("motorpool.batch.size{{{}}}", pool(&database));
        assert_eq!(meter.told(&size), [9.0]);
        let told = meter.told(&labels(&database, "users", "", "get"));
        assert_eq!(told.len(), 9);
    })
    .await;
}

#[tokio::test]
async fn what_is_run_again_is_counted() {
    with_database(async |database| {
        let meter = Meter::default();
        let _guard = set_default_local_recorder(&meter);
        let store = PgStore::connect(&database.url).await.unwrap();
        let new = NewUser::new("Ada").unwrap();
        let id = store.users().register(&new).await.unwrap().user().id;
        let client = database.client().await;
        let options = TxOptions::new().isolation(IsolationLevel::RepeatableRead);
        let mut attempts = 0;
        let changed = store.transaction_with(options, |tx| {
            attempts += 1;
            let (first, client) = (attempts == 1, &client);
            async move {
                tx.users().get(id).await?;
                if first {
                    let sql = "UPDATE users SET role = 'student'";
                    client.execute(sql, &[]).await.unwrap();
                }
                tx.users().set_role(id, motorpool::Role::Teacher).await
            }
        });
        changed.await.unwrap();
        let told = meter.told("motorpool.retries{db.operation.name=transaction}");
        assert_eq!(told, [1.0]);
    })
    .await;
}
