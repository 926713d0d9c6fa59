//! Calls that end before their answer: by a limit of the server or of the store, or because their
//! future is dropped. No statement runs on, no transaction stays open, and the next call works.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod support;
mod watch;

use std::time::{Duration, Instant};

use motorpool::{Error, NewUser, PgStore, Store, TxOptions};
use support::with_database;
use watch::Watch;

const LOCK: &str = "BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE";

fn new_user(name: &str) -> NewUser {
    NewUser::new(name).unwrap()
}

#[tokio::test]
async fn the_limit_of_the_server_is_a_timeout() {
    with_database(async |database| {
        let limit = Duration::from_millis(200);
        let builder = PgStore::builder(&database.url).unwrap();
        let store = builder.statement_timeout(limit).build().await.unwrap();
        let (watch, look) = (Watch::new(&database).await, Watch::new(&database).await);
        watch.run(LOCK).await;
        let error = store.users().register(&new_user("Anna")).await;
        let error = error.expect_err("the table is locked");
        let enough = |after| after >= limit && after < Duration::from_secs(5);
        assert!(
            matches!(error, Error::Timeout { after } if enough(after)),
            "{error:?}"
        );
        assert!(!error.is_retryable());
        look.settled().await;

        let tx = store.begin(TxOptions::new()).await.unwrap();
        let error = tx.users().register(&new_user("Bert")).await;
        assert!(matches!(error, Err(Error::Timeout { .. })), "{error:?}");
        watch.run("COMMIT").await;
        let ended = tx.commit().await;
        assert!(matches!(ended, Err(Error::RolledBack(_))), "{ended:?}");

        assert_eq!(store.users().count().await.unwrap(), 0);
        let anna = store.users().register(&new_user("Anna")).await.unwrap();
        assert!(anna.is_created());
        look.settled().await;
    })
    .await;
}

#[tokio::test]
async fn the_limit_of_a_call_cancels_its_statement() {
    with_database(async |database| {
        let limit = Duration::from_millis(200);
        let builder = PgStore::builder(&database.url).unwrap().max_connections(1);
        // Longer than the call, so that it is not the server that gives up.
        let builder = builder.statement_timeout(Duration::from_secs(30));
        let store = builder.call_timeout(limit).build().await.unwrap();
        let (watch, look) = (Watch::new(&database).await, Watch::new(&database).await);
        watch.run(LOCK).await;
        let started = Instant::now();
        let error = store.users().register(&new_user("Anna")).await;
        let error = error.expect_err("the table is locked");
        assert!(
            matches!(error, Error::Timeout { after } if after == limit),
            "{error:?}"
        );
        let took = started.elapsed();
        assert!(took >= limit && took < Duration::from_secs(5), "{took:?}");
        // While the table is still locked.
        look.settled().await;

        let tx = store.begin(TxOptions::new()).await.unwrap();
        let error = tx.users().register(&new_user("Bert")).await;
        assert!(matches!(error, Err(Error::Timeout { .. })), "{error:?}");
        look.settled().await;
        let ended = tx.commit().await;
        assert!(matches!(ended, Err(Error::RolledBack(_))), "{ended:?}");

        watch.run("COMMIT").await;
        assert_eq!(store.users().count().await.unwrap(), 0);
        let anna = store.users().register(&new_user("Anna")).await.unwrap();
        assert!(anna.is_created());
        look.settled().await;
    })
    .await;
}

#[tokio::test]
async fn a_dropped_call_leaves_nothing_behind() {
    with_database(async |database| {
        let builder = PgStore::builder(&database.url).unwrap();
        let store = builder.max_connections(2).build().await.unwrap();
        let (watch, look) = (Watch::new(&database).await, Watch::new(&database).await);
        watch.run(LOCK).await;
        let alone = tokio::spawn({
            let store = store.clone();
            async move { store.users().register(&new_user("Anna")).await }
        });
        look.waiting(1).await;
        alone.abort();
        assert!(alone.await.unwrap_err().is_cancelled());
        look.settled().await;

        let tx = store.begin(TxOptions::new()).await.unwrap();
        let inside = tokio::spawn({
            let tx = tx.clone();
            async move { tx.users().register(&new_user("Bert")).await }
        });
        look.waiting(1).await;
        inside.abort();
        assert!(inside.await.unwrap_err().is_cancelled());
        look.settled().await;
        let later = tx.users().count().await;
        assert!(matches!(later, Err(Error::RolledBack(_))), "{later:?}");
        let ended = tx.commit().await;
        assert!(matches!(ended, Err(Error::RolledBack(_))), "{ended:?}");

        watch.run("COMMIT").await;
        assert_eq!(store.users().count().await.unwrap(), 0);
        let status = store.pool().status();
        assert_eq!((status.size, status.available), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn a_dropped_transaction_is_rolled_back() {
    with_database(async |database| {
        let builder = PgStore::builder(&database.url).unwrap();
        let store = builder.max_connections(1).build().await.unwrap();
        let look = Watch::new(&database).await;
        let tx = store.begin(TxOptions::new()).await.unwrap();
        let clone = tx.clone();
        tx.users().register(&new_user("Anna")).await.unwrap();
        drop(tx);
        assert_eq!(look.busy().await, 1, "a clone of it is left");
        assert_eq!(clone.users().count().await.unwrap(), 1);
        drop(clone);
        look.settled().await;
        // The same connection, and free.
        assert_eq!(store.users().count().await.unwrap(), 0);
        let status = store.pool().status();
        assert_eq!((status.size, status.available), (1, 1));
        assert_eq!(look.backends().await, 1);
    })
    .await;
}
