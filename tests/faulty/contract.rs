//! The contract on a store without a fault, and inside one transaction of it.

use motorpool::contract::Rule;
use motorpool::testing::Operation;
use motorpool::{Store, TxOptions};

use crate::inside::Inside;
use crate::store;

async fn run_on_faulty(rule: Rule) {
    let store = store();
    rule.run(&store).await;
    assert!(store.calls(Operation::Any) > 0, "nothing went through it");
}

motorpool::contract_tests!(faulty, run_on_faulty);

async fn run_in_transaction(rule: Rule) {
    let store = store();
    let inside = Inside(store.begin(TxOptions::new()).await.expect("begins"));
    rule.run(&inside).await;
    assert!(store.calls(Operation::Any) > 1, "nothing went through it");
    let outside = store.users().count().await.expect("counts");
    assert_eq!(outside, 0, "a call left the transaction");
    inside.0.commit().await.expect("the transaction is usable");
}

motorpool::contract_tests!(faulty_transaction, run_in_transaction, without transactions);
