//! Faults in transactions: they do there what the same error of a server would do.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use futures_util::future::join;
use futures_util::{FutureExt, StreamExt};
use motorpool::testing::{self, Operation};
use motorpool::{Error, Result, Store, StoreExt, Tx, TxOptions};

use crate::{Memory, named, soon, store};

async fn begin(store: &Memory) -> Tx {
    store.begin(TxOptions::new()).await.unwrap()
}

async fn add(tx: &Tx, name: &str) -> Result<()> {
    tx.users().register(&named(name)).await.map(drop)
}

async fn names(store: &Memory) -> Vec<String> {
    let users = store.store().users().stream();
    users.map(|user| user.unwrap().username).collect().await
}

/// Nobody holds up the next writer.
async fn assert_free(store: &Memory) {
    let write = store
        .store()
        .users()
        .register(&named("next"))
        .now_or_never();
    assert!(write.expect("nothing to wait for").unwrap().is_created());
}

fn is_rolled_back<T>(answer: Result<T>) -> bool {
    matches!(answer, Err(Error::RolledBack(_)))
}

fn is_closed<T>(answer: Result<T>) -> bool {
    matches!(answer, Err(Error::TransactionClosed))
}

#[tokio::test]
async fn a_commit_that_is_not_made_rolls_back() {
    let store = store();
    store.fail(Operation::Commit, 1, testing::commit_unknown);
    let tx = begin(&store).await;
    let clone = tx.clone();
    add(&tx, "Ada").await.unwrap();
    let answer = tx.commit().await;
    assert!(matches!(answer, Err(Error::CommitUnknown { .. })));
    assert_free(&store).await;
    assert!(is_closed(add(&clone, "Bob").await));
    assert!(is_closed(clone.commit().await));
    assert_eq!(names(&store).await, ["next"]);
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_has_committed() {
    let store = store();
    store.lose_answer(Operation::Commit, 1, testing::commit_unknown);
    let tx = begin(&store).await;
    let clone = tx.clone();
    add(&tx, "Ada").await.unwrap();
    let answer = tx.commit().await;
    assert!(matches!(answer, Err(Error::CommitUnknown { .. })));
    assert_free(&store).await;
    assert!(is_closed(add(&clone, "Bob").await));
    assert!(is_closed(clone.rollback().await));
    assert_eq!(names(&store).await, ["Ada", "next"]);
}

#[tokio::test]
async fn a_commit_that_hangs_and_is_dropped_has_happened_wholly_or_not_at_all() {
    for made in [false, true] {
        let store = store();
        match made {
            false => store.hang(Operation::Commit, 1),
            true => store.hang_answer(Operation::Commit, 1),
        };
        let tx = begin(&store).await;
        add(&tx, "Ada").await.unwrap();
        let clone = tx.clone();
        assert!(tx.commit().now_or_never().is_none());
        match made {
            false => assert!(is_rolled_back(clone.commit().await)),
            true => assert!(is_closed(clone.commit().await)),
        }
        assert_free(&store).await;
        let stored: &[_] = if made { &["Ada", "next"] } else { &["next"] };
        assert_eq!(names(&store).await, stored);
    }
}

#[tokio::test]
async fn a_rollback_that_fails_has_rolled_back() {
    for lost in [false, true] {
        let store = store();
        match lost {
            false => store.fail(Operation::Rollback, 1, testing::connection_lost),
            true => store.lose_answer(Operation::Rollback, 1, testing::connection_lost),
        };
        let tx = begin(&store).await;
        let clone = tx.clone();
        add(&tx, "Ada").await.unwrap();
        let answer = tx.rollback().await;
        assert!(matches!(answer, Err(Error::Unavailable { .. })));
        assert!(is_closed(clone.commit().await));
        assert_free(&store).await;
        assert_eq!(names(&store).await, ["next"]);
    }
}

#[tokio::test]
async fn a_transaction_does_not_survive_an_error_of_the_server_though_it_is_swallowed() {
    for lost in [false, true] {
        let store = store();
        match lost {
            false => store.fail(Operation::Register, 2, testing::timeout),
            true => store.lose_answer(Operation::Register, 2, testing::timeout),
        };
        let tx = begin(&store).await;
        add(&tx, "Ada").await.unwrap();
        let mut stream = tx.users().stream();
        assert!(stream.next().await.unwrap().is_ok());
        let swallowed = add(&tx, "Bob").await;
        assert!(matches!(swallowed, Err(Error::Timeout { .. })));
        assert!(is_rolled_back(add(&tx, "Cy").await));
        assert!(is_rolled_back(stream.next().await.unwrap()));
        let opened = tx.savepoint(async |_| Ok::<_, Error>(()));
        assert!(is_rolled_back(opened.await));
        drop(stream);
        let refused = tx.commit().await.unwrap_err();
        assert!(
            refused.to_string().contains("no answer within"),
            "{refused}"
        );
        assert_free(&store).await;
        assert_eq!(names(&store).await, ["next"]);
    }
}

#[tokio::test]
async fn a_transaction_survives_an_error_of_the_domain() {
    let store = store();
    store.fail(Operation::Register, 1, || Error::UsernameTaken);
    let tx = begin(&store).await;
    assert!(add(&tx, "Ada").await.is_err());
    add(&tx, "Bob").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(names(&store).await, ["Bob"]);
}

#[tokio::test]
async fn a_call_that_hangs_and_is_dropped_fails_its_transaction() {
    for made in [false, true] {
        let store = store();
        match made {
            false => store.hang(Operation::Register, 1),
            true => store.hang_answer(Operation::Register, 1),
        };
        let tx = begin(&store).await;
        assert!(add(&tx, "Ada").now_or_never().is_none());
        assert!(is_rolled_back(tx.users().count().await));
        assert!(is_rolled_back(tx.commit().await));
        assert_free(&store).await;
        assert_eq!(names(&store).await, ["next"]);
    }
    // One that goes on does not.
    let store = store();
    let fault = store.hang(Operation::Register, 1);
    let tx = begin(&store).await;
    let release = async {
        fault.reached().await;
        fault.release();
    };
    let (added, ()) = soon(join(add(&tx, "Ada"), release)).await;
    added.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(names(&store).await, ["Ada"]);
}

#[tokio::test]
async fn a_savepoint_contains_a_fault() {
    for operation in [Operation::Register, Operation::ReleaseSavepoint] {
        for lost in [false, true] {
            let store = store();
            let tx = begin(&store).await;
            add(&tx, "Ada").await.unwrap();
            match lost {
                false => store.fail(operation, 1, testing::timeout),
                true => store.lose_answer(operation, 1, testing::timeout),
            };
            let undone = tx.savepoint(|tx| async move { add(&tx, "Bob").await });
            let undone = undone.await;
            assert!(matches!(undone, Err(Error::Timeout { .. })), "{undone:?}");
            // A server that has released a savepoint knows it no more.
            let released = lost && operation == Operation::ReleaseSavepoint;
            let later = add(&tx, "Cy").await;
            assert_eq!(is_rolled_back(later), released);
            assert_eq!(tx.commit().await.is_err(), released);
            let stored: &[_] = if released { &[] } else { &["Ada", "Cy"] };
            assert_eq!(names(&store).await, stored);
        }
    }
}

#[tokio::test]
async fn a_savepoint_does_not_contain_the_loss_of_the_connection() {
    for dropped in [false, true] {
        for lost in [false, true] {
            let store = store();
            let tx = begin(&store).await;
            add(&tx, "Ada").await.unwrap();
            match (dropped, lost) {
                (false, false) => {
                    drop(store.fail(Operation::Register, 1, testing::connection_lost))
                }
                (false, true) => {
                    drop(store.lose_answer(Operation::Register, 1, testing::connection_lost));
                }
                (true, false) => drop(store.hang(Operation::Register, 1)),
                (true, true) => drop(store.hang_answer(Operation::Register, 1)),
            }
            let undone = tx.savepoint(|tx| async move {
                match dropped {
                    false => add(&tx, "Bob").await,
                    true => {
                        assert!(add(&tx, "Bob").now_or_never().is_none());
                        Err(Error::UsernameTaken)
                    }
                }
            });
            assert!(undone.await.is_err());
            assert!(is_rolled_back(add(&tx, "Cy").await));
            assert!(is_rolled_back(tx.commit().await));
            assert_eq!(names(&store).await, [""; 0]);
        }
    }
}

#[tokio::test]
async fn a_savepoint_that_cannot_be_opened_or_undone_fails_its_transaction() {
    for operation in [Operation::Savepoint, Operation::UndoSavepoint] {
        for lost in [false, true] {
            let store = store();
            match lost {
                false => store.fail(operation, 1, testing::timeout),
                true => store.lose_answer(operation, 1, testing::timeout),
            };
            let tx = begin(&store).await;
            let undone = tx.savepoint(|tx| async move {
                add(&tx, "Ada").await?;
                Err::<(), _>(Error::UsernameTaken)
            });
            assert!(undone.await.is_err());
            assert!(is_rolled_back(tx.users().count().await));
            assert!(is_rolled_back(tx.commit().await));
            assert_eq!(store.calls(operation), 1);
            assert_eq!(names(&store).await, [""; 0]);
        }
    }
}

/// Runs the closure form and counts how often the closure ran.
async fn runs(store: &Memory) -> (Result<()>, u32) {
    let runs = AtomicU32::new(0);
    let result = store.transaction(|tx| {
        runs.fetch_add(1, Relaxed);
        async move {
            let in_savepoint = tx.savepoint(|tx| async move { add(&tx, "Ada").await });
            in_savepoint.await?;
            tx.users().count().await.map(drop)
        }
    });
    let result = result.await;
    (result, runs.load(Relaxed))
}

#[tokio::test]
async fn the_closure_form_runs_again_after_a_conflict_and_nothing_else() {
    use Operation::{Commit, CountUsers, Register};
    for operation in [Register, CountUsers, Commit] {
        let store = store();
        store.fail(operation, 1, testing::conflict);
        let (result, runs) = runs(&store).await;
        assert!(result.is_ok(), "{operation:?}: {result:?}");
        assert_eq!(runs, 2, "{operation:?}");
        assert_eq!(names(&store).await, ["Ada"]);

        store.fail(operation, 1, testing::timeout);
        let (result, runs) = self::runs(&store).await;
        assert!(matches!(result, Err(Error::Timeout { .. })));
        assert_eq!(runs, 1, "{operation:?}");
    }
    let store = store();
    store.fail_all(Commit, testing::conflict);
    let (result, runs) = runs(&store).await;
    assert!(matches!(result, Err(Error::Conflict(_))));
    assert_eq!(runs, 3);
    assert_free(&store).await;
}

#[tokio::test]
async fn a_conflict_that_the_closure_got_over_does_not_make_it_run_again() {
    let store = store();
    store.fail(Operation::Register, 1, testing::conflict);
    let runs = AtomicU32::new(0);
    let result = store.transaction(|tx| {
        runs.fetch_add(1, Relaxed);
        async move {
            let undone = tx.savepoint(|tx| async move { add(&tx, "Ada").await });
            assert!(undone.await.is_err());
            tx.users().count().await?;
            Err::<(), _>(Error::UsernameTaken)
        }
    });
    assert!(matches!(result.await, Err(Error::UsernameTaken)));
    assert_eq!(runs.load(Relaxed), 1);
}
