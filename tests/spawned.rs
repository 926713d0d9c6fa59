//! A transaction in a spawned task, with a closure whose future borrows what surrounds it: the
//! form that an `async fn` over generic futures cannot be proved `Send` for. That it compiles is
//! most of the test.
#![cfg(feature = "memory")]
#![allow(clippy::expect_used, clippy::panic, reason = "these are tests")]

mod support;

use std::rc::Rc;
use std::sync::Arc;

use motorpool::{Error, MemoryStore, NewUser, PgStore, Store, StoreExt, TxOptions, User};
use support::with_database;

#[tokio::test]
async fn over_postgres() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.expect("connects");
        let task = tokio::spawn(async move {
            let new = NewUser::new("Ada")?;
            store
                .transaction(|tx| {
                    let new = &new;
                    async move {
                        let user = tx.users().register(new).await?.into_user();
                        tx.savepoint(|tx| async move {
                            tx.users().rename(user.id, "Grace").await?;
                            tx.users().register(new).await
                        })
                        .await
                    }
                })
                .await?;
            store.users().count().await
        });
        assert_eq!(task.await.expect("joins").expect("commits"), 2);
    })
    .await;
}

#[tokio::test]
async fn over_any_store() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let task = tokio::spawn(async move {
        let new = NewUser::new("Ada")?;
        let read_only = TxOptions::new().read_only(true);
        let found = store
            .transaction_with(read_only, |tx| {
                let name = new.username();
                async move { tx.users().get_by_username(name).await }
            })
            .await?;
        Ok::<Option<User>, Error>(found)
    });
    assert_eq!(task.await.expect("joins").expect("commits"), None);
}

/// Outside a task that can move between threads, nothing has to be `Send`.
#[tokio::test]
async fn with_what_is_not_send() {
    let store = MemoryStore::new();
    let name = Rc::new(String::from("Ada"));
    let new = store
        .transaction(|tx| {
            let name = Rc::clone(&name);
            async move {
                let new = NewUser::new(name.as_str())?;
                let user = tx.users().register(&new).await?.into_user();
                Ok::<_, Box<dyn std::error::Error>>(user)
            }
        })
        .await;
    assert_eq!(new.expect("commits").username, *name);
}
