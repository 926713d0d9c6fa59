//! Savepoints, in Postgres and in memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::future_not_send,
    reason = "these are tests"
)]

mod support;
mod watch;

use motorpool::{
    Error, IsolationLevel, MemoryStore, NewUser, PageRequest, PgStore, Result, Store, Tx, TxOptions,
};
use support::with_database;
use tokio::sync::Notify;
use watch::Watch;

fn new_user(name: &str) -> NewUser {
    NewUser::new(name).unwrap()
}

async fn add(tx: &Tx, name: &str) -> Result<()> {
    tx.users().register(&new_user(name)).await.map(drop)
}

async fn begin(store: &dyn Store) -> Tx {
    store.begin(TxOptions::new()).await.unwrap()
}

/// The names of all users, in the order in which they were stored.
async fn names(store: &dyn Store) -> Vec<String> {
    let page = PageRequest::first(100).unwrap();
    let users = store.users().list(page).await.unwrap().items;
    users.into_iter().map(|user| user.username).collect()
}

async fn on_both(test: impl AsyncFn(&dyn Store)) {
    test(&MemoryStore::new()).await;
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        test(&store).await;
        Watch::new(&database).await.settled().await;
        let status = store.status();
        assert_eq!(status.size, status.idle, "{status:?}");
    })
    .await;
}

#[tokio::test]
async fn what_ends_well_is_kept_and_what_does_not_is_undone() {
    on_both(async |store| {
        let tx = begin(store).await;
        add(&tx, "before").await.unwrap();
        let kept = tx.savepoint(|tx| async move {
            add(&tx, "kept").await?;
            Ok::<_, Error>(7)
        });
        assert_eq!(kept.await.unwrap(), 7);
        let undone = tx.savepoint(|tx| async move {
            add(&tx, "undone").await?;
            Err::<(), _>(Error::UsernameTaken)
        });
        assert!(matches!(undone.await, Err(Error::UsernameTaken)));
        add(&tx, "after").await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(names(store).await, ["before", "kept", "after"]);
    })
    .await;
}

#[tokio::test]
async fn savepoints_can_be_nested() {
    on_both(async |store| {
        let tx = begin(store).await;
        let outer = tx.savepoint(|tx| async move {
            add(&tx, "outer").await?;
            let inner = tx.savepoint(|tx| async move {
                add(&tx, "inner").await?;
                Err::<(), _>(Error::UsernameTaken)
            });
            assert!(inner.await.is_err());
            let inner = tx.savepoint(|tx| async move { add(&tx, "second inner").await });
            inner.await
        });
        outer.await.unwrap();
        let undone = tx.savepoint(|tx| async move {
            let inner = tx.savepoint(|tx| async move { add(&tx, "lost with it").await });
            inner.await?;
            Err::<(), _>(Error::UsernameTaken)
        });
        assert!(undone.await.is_err());
        tx.commit().await.unwrap();
        assert_eq!(names(store).await, ["outer", "second inner"]);
    })
    .await;
}

/// A statement that gives way to a transaction that came before it.
async fn fails(tx: &Tx) -> Result<()> {
    let answer = add(tx, "too late").await;
    assert!(matches!(answer, Err(Error::Conflict(_))), "{answer:?}");
    answer
}

async fn begin_and_come_late(store: &dyn Store) -> Tx {
    let options = TxOptions::new().isolation(IsolationLevel::RepeatableRead);
    let tx = store.begin(options).await.unwrap();
    assert_eq!(tx.users().count().await.unwrap(), 0);
    let first = store.users().register(&new_user("too late")).await;
    assert!(first.unwrap().is_created());
    tx
}

#[tokio::test]
async fn a_failed_statement_is_undone_and_the_transaction_goes_on() {
    on_both(async |store| {
        let tx = begin_and_come_late(store).await;
        let failed = tx.savepoint(|tx| async move { fails(&tx).await });
        assert!(matches!(failed.await, Err(Error::Conflict(_))));
        assert_eq!(tx.users().count().await.unwrap(), 0);

        // Swallowed inside: the savepoint says so itself.
        let swallowed = tx.savepoint(|tx| async move {
            let _ = fails(&tx).await;
            Ok::<_, Error>(())
        });
        let swallowed = swallowed.await;
        assert!(
            matches!(&swallowed, Err(Error::RolledBack(first)) if first.is_conflict()),
            "{swallowed:?}"
        );
        assert_eq!(tx.users().count().await.unwrap(), 0);

        // Two levels in, and caught one level in.
        let caught = tx.savepoint(|tx| async move {
            let inner = tx.savepoint(|tx| async move { fails(&tx).await });
            assert!(inner.await.is_err());
            tx.users().count().await
        });
        assert_eq!(caught.await.unwrap(), 0);
        tx.commit().await.unwrap();
        assert_eq!(names(store).await, ["too late"]);
    })
    .await;
}

/// Drops a savepoint when it has stored a user.
async fn drop_one(tx: &Tx) {
    let stored = Notify::new();
    let unfinished = tx.savepoint(|tx| {
        let stored = &stored;
        async move {
            add(&tx, "lost").await?;
            stored.notify_one();
            std::future::pending::<Result<()>>().await
        }
    });
    tokio::select! {
        ended = unfinished => panic!("{ended:?}"),
        () = stored.notified() => {}
    }
}

#[tokio::test]
async fn a_savepoint_dropped_unfinished_fails_what_is_around_it() {
    on_both(async |store| {
        let tx = begin(store).await;
        drop_one(&tx).await;
        let ended = tx.commit().await;
        assert!(matches!(ended, Err(Error::RolledBack(_))), "{ended:?}");
        assert_eq!(names(store).await, [""; 0]);

        // Inside another one, which is undone; the transaction goes on.
        let tx = begin(store).await;
        add(&tx, "kept").await.unwrap();
        let outer = tx.savepoint(|tx| async move {
            add(&tx, "outer").await?;
            drop_one(&tx).await;
            Ok::<_, Error>(())
        });
        let outer = outer.await;
        assert!(matches!(outer, Err(Error::RolledBack(_))), "{outer:?}");
        add(&tx, "after").await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(names(store).await, ["kept", "after"]);
    })
    .await;
}

#[tokio::test]
async fn after_the_end_there_is_none() {
    on_both(async |store| {
        for commit in [true, false] {
            let tx = begin(store).await;
            let clone = tx.clone();
            match commit {
                true => tx.commit().await.unwrap(),
                false => tx.rollback().await.unwrap(),
            }
            let answer = clone.savepoint(|tx| async move { add(&tx, "late").await });
            let answer = answer.await;
            assert!(
                matches!(answer, Err(Error::TransactionClosed)),
                "{answer:?}"
            );
        }
        // Ended inside of it.
        let tx = begin(store).await;
        let answer = tx.savepoint(|tx| async move {
            add(&tx, "committed").await?;
            tx.rollback().await
        });
        let answer = answer.await;
        assert!(
            matches!(answer, Err(Error::TransactionClosed)),
            "{answer:?}"
        );
        assert_eq!(names(store).await, [""; 0]);
    })
    .await;
}

/// Of statements that the server refuses, and one that it gives up.
#[tokio::test]
async fn whatever_the_server_refuses_inside_is_undone() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let (watch, look) = (Watch::new(&database).await, Watch::new(&database).await);
        watch.run("DROP TABLE cars").await;
        let tx = begin(&store).await;
        add(&tx, "before").await.unwrap();
        let refused = tx.savepoint(|tx| async move {
            add(&tx, "undone").await?;
            tx.cars().count().await
        });
        assert_eq!(refused.await.unwrap_err().sqlstate(), Some("42P01"));
        let swallowed = tx.savepoint(|tx| async move {
            add(&tx, "undone").await?;
            let _ = tx.cars().count().await;
            Ok::<_, Error>(())
        });
        let swallowed = swallowed.await;
        assert!(
            matches!(&swallowed, Err(Error::RolledBack(first)) if first.sqlstate() == Some("42P01")),
            "{swallowed:?}"
        );

        let row = "SELECT count(*) FROM (SELECT FROM users WHERE username = 'held' FOR UPDATE) one";
        let held = store.users().register(&new_user("held")).await.unwrap();
        let held = held.into_user();
        watch.run("BEGIN").await;
        assert_eq!(watch.number(row).await, 1);
        let cancel = async {
            look.waiting(1).await;
            let sql = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity \
                WHERE datname = current_database() AND wait_event_type = 'Lock'";
            assert_eq!(look.number(sql).await, 1);
        };
        let given_up = tx.savepoint(|tx| async move { tx.users().rename(held.id, "mine").await });
        let (given_up, ()) = futures_util::join!(given_up, cancel);
        assert_eq!(given_up.unwrap_err().sqlstate(), Some("57014"));
        watch.run("COMMIT").await;
        add(&tx, "after").await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(names(&store).await, ["before", "held", "after"]);
    })
    .await;
}
