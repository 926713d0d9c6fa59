//! A store of somebody else's, held to the contract: `tests/third` is written against the public
//! interface alone.
#![cfg(all(feature = "contract", feature = "serde"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "these are tests"
)]

mod third;

use std::path::PathBuf;

use motorpool::contract::Rule;
use motorpool::{Error, NewCar, NewUser, PurchaseKey, Result, Store, StoreExt};
use tempfile::TempDir;
use third::FileStore;
use uuid::Uuid;

fn garage() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("garage.json");
    (dir, path)
}

async fn run_on_file(rule: Rule) {
    let (_dir, path) = garage();
    rule.run(&FileStore::open(&path).unwrap()).await;
}

motorpool::contract_tests!(file, run_on_file);

/// Registers a user who buys a car, which can be repeated.
async fn fill(store: &dyn Store, name: &str, number: u128) -> Result<()> {
    let key = PurchaseKey::new(Uuid::from_u128(number));
    let filled = store.transaction(|tx| async move {
        let user = tx.users().register(&NewUser::new(name)?).await?.into_user();
        tx.cars().buy(&NewCar::new("Golf", user.id)?.key(key)).await
    });
    filled.await.map(drop)
}

#[tokio::test]
async fn what_was_committed_is_in_the_file() {
    let (_dir, path) = garage();
    for count in 1..4_u64 {
        let store = FileStore::open(&path).unwrap();
        fill(&store, "Ada", 0).await.unwrap();
        fill(&store, &format!("u{count}"), count.into())
            .await
            .unwrap();
        let tx = store.begin(Default::default()).await.unwrap();
        tx.users()
            .register(&NewUser::new("lost").unwrap())
            .await
            .unwrap();
        drop((tx, store));

        let store = FileStore::open(&path).unwrap();
        assert_eq!(store.users().count().await.unwrap(), count + 1);
        assert_eq!(store.cars().count().await.unwrap(), count + 1);
    }
}

#[tokio::test]
async fn a_commit_that_cannot_be_written_has_not_happened() {
    let (_dir, path) = garage();
    let store = FileStore::open(&path).unwrap();
    fill(&store, "Ada", 0).await.unwrap();
    // Nothing can be written in its place.
    let obstacle = path.with_extension("json.new");
    std::fs::create_dir(&obstacle).unwrap();
    let failed = fill(&store, "Bob", 1).await;
    assert!(
        matches!(failed, Err(Error::Unavailable { .. })),
        "{failed:?}"
    );
    assert_eq!(store.users().count().await.unwrap(), 1);
    std::fs::remove_dir(&obstacle).unwrap();
    fill(&store, "Bob", 1).await.unwrap();
    drop(store);
    let store = FileStore::open(&path).unwrap();
    assert_eq!(store.users().count().await.unwrap(), 2);
}

#[test]
fn a_file_that_holds_something_else_is_refused() {
    let (_dir, path) = garage();
    std::fs::write(&path, "{}").unwrap();
    let refused = FileStore::open(&path).map(drop);
    assert!(matches!(refused, Err(Error::Unavailable { .. })));
}
