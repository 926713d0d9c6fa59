//! Hosts that have to live with faults.

use std::sync::Arc;

use motorpool::testing::{self, Operation};
use motorpool::{
    Car, CommitOutcome, CommitToken, Error, NewCar, NewUser, PurchaseKey, Result, Store, StoreExt,
};
use uuid::Uuid;

use crate::{ada, named, store, stored};

/// A host that sells cars over a bad line: it asks again as long as it does not know.
async fn sell(store: &dyn Store, new: &NewCar) -> Result<Car> {
    for _ in 0..10 {
        match store.cars().buy(new).await {
            Err(error) if error.is_retryable() => {}
            Err(Error::Timeout { .. }) => {}
            answer => return answer,
        }
    }
    Err(testing::timeout())
}

#[tokio::test]
async fn a_purchase_over_a_bad_line_is_made_once() {
    let store = store();
    let owner = ada(&store).await.id;
    let key = PurchaseKey::new(Uuid::from_u128(1));
    let golf = NewCar::new("Golf", owner).unwrap().key(key);
    store.fail(Operation::Buy, 1, testing::refused);
    store.lose_answer(Operation::Buy, 2, testing::timeout);
    store.fail(Operation::Buy, 3, testing::pool_exhausted);
    store.lose_answer(Operation::Buy, 4, testing::timeout);
    let sold = sell(&store, &golf).await.unwrap();
    assert_eq!(store.calls(Operation::Buy), 5);
    let cars = store.store().cars();
    assert_eq!(cars.owned_by(owner).await.unwrap(), [sold]);
    // The same host without a key: what the test is there to find.
    store.lose_answer(Operation::Buy, 1, testing::timeout);
    let polo = NewCar::new("Polo", owner).unwrap();
    sell(&store, &polo).await.unwrap();
    assert_eq!(cars.count().await.unwrap(), 3);
}

/// A host that runs a whole transaction again, which is right because each of its calls may be
/// repeated.
async fn welcome(store: &dyn Store, key: PurchaseKey) -> Result<Car> {
    loop {
        let done = store.transaction(|tx| async move {
            let user = tx.users().register(&named("Ada")).await?.into_user();
            tx.cars().buy(&NewCar::new("Golf", user.id)?.key(key)).await
        });
        match done.await {
            Err(Error::CommitUnknown { .. }) => {}
            answer => return answer,
        }
    }
}

#[tokio::test]
async fn a_transaction_whose_commit_is_in_doubt_is_run_again() {
    let key = PurchaseKey::new(Uuid::from_u128(1));
    for made in [false, true] {
        let store = store();
        match made {
            false => store.fail(Operation::Commit, 1, testing::commit_unknown),
            true => store.lose_answer(Operation::Commit, 1, testing::commit_unknown),
        };
        let golf = welcome(&store, key).await.unwrap();
        assert_eq!(store.calls(Operation::Commit), 2);
        let owned = store.store().cars().owned_by(golf.owner_id).await;
        assert_eq!(owned.unwrap(), [golf]);
        assert_eq!(stored(&store).await, 1);
    }
}

/// A host that asks how a commit ended, because what is in it must not be done twice.
async fn sign_up(store: &dyn Store, name: &str) -> Result<bool> {
    let new = NewUser::new(name)?;
    loop {
        let done = store.transaction(|tx| {
            let new = &new;
            async move { tx.users().register(new).await }
        });
        match done.await {
            Ok(registration) => return Ok(registration.is_created()),
            Err(Error::CommitUnknown { token }) => match store.commit_outcome(&token).await? {
                CommitOutcome::Committed => return Ok(true),
                CommitOutcome::RolledBack => {}
                _ => return Ok(false),
            },
            Err(error) => return Err(error),
        }
    }
}

#[tokio::test]
async fn a_host_hears_how_a_commit_in_doubt_ended() {
    for (made, commits) in [(false, 2), (true, 1)] {
        let faulty = Arc::new(store());
        match made {
            false => faulty.fail(Operation::Commit, 1, testing::commit_unknown),
            true => faulty.lose_answer(Operation::Commit, 1, testing::commit_unknown),
        };
        // Behind every kind of pointer.
        let store: Arc<dyn Store> = faulty.clone();
        let store: Box<dyn Store> = Box::new(store);
        assert!(sign_up(&&*store, "Ada").await.unwrap());
        assert_eq!(faulty.calls(Operation::Commit), commits);
        assert_eq!(faulty.calls(Operation::CommitOutcome), 1);
        assert_eq!(faulty.store().users().count().await.unwrap(), 1);
    }
    // Nobody has heard of another one; and the question fails like any other.
    let store = store();
    let other = CommitToken::new(7, 7);
    let outcome = store.commit_outcome(&other).await.unwrap();
    assert_eq!(outcome, CommitOutcome::Unknown);
    store.fail(Operation::CommitOutcome, 1, testing::refused);
    assert!(store.commit_outcome(&other).await.is_err());
}
