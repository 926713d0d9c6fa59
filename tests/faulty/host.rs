//! Hosts that have to live with faults.

use motorpool::testing::{self, Operation};
use motorpool::{Car, Error, NewCar, PurchaseKey, Result, Store, StoreExt};
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
