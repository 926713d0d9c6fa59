//! What a transaction does after something in it failed: the commit tells, the closure form tries
//! again, a savepoint contains it. These rules begin transactions of their own.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::given::{car, everything, new_user, unknown_user, user};
use crate::error::{Error, Result};
use crate::model::{Role, User};
use crate::store::{IsolationLevel, Store, StoreExt, Tx, TxOptions};

async fn begin(store: &dyn Store) -> Tx {
    store.begin(TxOptions::new()).await.expect("begins")
}

fn repeatable() -> TxOptions {
    TxOptions::new().isolation(IsolationLevel::RepeatableRead)
}

/// Begins a transaction, and changes outside what it is about to change.
async fn begin_too_late(store: &dyn Store, user: &User) -> Tx {
    let tx = store.begin(repeatable()).await.unwrap();
    tx.users().count().await.unwrap();
    overtake(store, user).await;
    tx
}

/// Changes the user to something new, which each store must call a change.
async fn overtake(store: &dyn Store, user: &User) {
    let now = store.users().get(user.id).await.unwrap().unwrap();
    let name = format!("{}, overtaking", now.username);
    store.users().rename(user.id, &name).await.unwrap();
}

async fn give_way(tx: &Tx, user: &User) {
    let refused = tx.users().set_role(user.id, Role::Student).await;
    assert_refused!(refused, Error::Conflict(_));
}

/// The caller went on as if nothing had happened.
pub async fn commit_after_a_swallowed_failure_is_an_error_and_stores_nothing(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let tx = begin_too_late(store, &anna).await;
    let before = everything(store).await;
    give_way(&tx, &anna).await;
    let refused = tx.users().register(&new_user("Bert")).await;
    assert_refused!(refused, Error::RolledBack(_));
    let refused = tx.users().count().await;
    assert_refused!(refused, Error::RolledBack(_));
    let error = tx.commit().await.expect_err("something failed");
    assert_refused!(Err::<(), _>(&error), Error::RolledBack(_));
    assert_eq!(error.sqlstate(), Some("40001"), "the first failure");
    assert!(error.is_retryable());
    assert_eq!(everything(store).await, before);
}

pub async fn commit_after_a_refused_write_is_an_error(store: &dyn Store) {
    let tx = store.begin(TxOptions::new().read_only(true)).await.unwrap();
    tx.users().register(&new_user("Anna")).await.unwrap_err();
    let refused = tx.commit().await;
    assert_refused!(refused, Error::RolledBack(_));
    assert_eq!(store.users().count().await.unwrap(), 0);
}

pub async fn a_failed_transaction_can_be_rolled_back(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let tx = begin_too_late(store, &anna).await;
    give_way(&tx, &anna).await;
    let clone = tx.clone();
    tx.rollback().await.unwrap();
    assert_refused!(clone.commit().await, Error::TransactionClosed);
}

/// Runs the closure form, overtaken in its first attempts, and counts how often the closure ran.
async fn overtaken(store: &dyn Store, times: u32, attempts: u32) -> (Result<(), Hidden>, u32) {
    let anna = user(store.users(), "Anna").await;
    let runs = AtomicU32::new(0);
    let options = repeatable().attempts(attempts);
    let result = store.transaction_with(options, |tx| {
        let (runs, anna) = (&runs, &anna);
        async move {
            tx.users().count().await?;
            if runs.fetch_add(1, Relaxed) < times {
                overtake(store, anna).await;
            }
            tx.users().set_role(anna.id, Role::Student).await?;
            Ok(())
        }
    });
    let result = result.await;
    (result, runs.load(Relaxed))
}

/// A host's own error, which does not show what it was made of.
#[derive(Debug)]
struct Hidden;

impl From<Error> for Hidden {
    fn from(_: Error) -> Self {
        Hidden
    }
}

pub async fn the_closure_form_runs_again_after_a_conflict(store: &dyn Store) {
    let (result, runs) = overtaken(store, 2, 3).await;
    assert!(result.is_ok());
    assert_eq!(runs, 3);
    let users = everything(store).await.0;
    assert_eq!(users[0].role, Role::Student);
}

pub async fn the_closure_form_ends_after_its_last_attempt(store: &dyn Store) {
    let (result, runs) = overtaken(store, 100, 2).await;
    assert!(result.is_err());
    assert_eq!(runs, 2);
    let users = everything(store).await.0;
    assert_eq!(users[0].role, Role::Employee);
}

pub async fn the_closure_form_runs_once_for_any_other_error(store: &dyn Store) {
    let nobody = unknown_user(store).await;
    let runs = AtomicU32::new(0);
    let refused = store.transaction(|tx| {
        runs.fetch_add(1, Relaxed);
        async move { tx.users().set_role(nobody, Role::Student).await }
    });
    assert_refused!(refused.await, Error::UserNotFound { .. });
    assert_eq!(runs.load(Relaxed), 1);
}

pub async fn a_savepoint_keeps_on_ok_and_undoes_on_err(store: &dyn Store) {
    let tx = begin(store).await;
    let anna = user(tx.users(), "Anna").await;
    let kept = tx.savepoint(|tx| async move { Ok::<_, Error>(user(tx.users(), "Bert").await) });
    let bert = kept.await.unwrap();
    let undone = tx.savepoint(|tx| async move {
        user(tx.users(), "Carl").await;
        tx.users().rename(anna.id, "Bert").await
    });
    assert_refused!(undone.await, Error::UsernameTaken);
    let golf = car(tx.cars(), "Golf", bert.id).await;
    tx.commit().await.unwrap();
    assert_eq!(everything(store).await, (vec![anna, bert], vec![golf]));
}

/// The outer one undoes what the inner one has kept, and the inner one nothing of the outer.
pub async fn savepoints_nest(store: &dyn Store) {
    let tx = begin(store).await;
    let kept = tx.savepoint(|tx| async move {
        let anna = user(tx.users(), "Anna").await;
        let undone = tx.savepoint(|tx| async move {
            user(tx.users(), "Bert").await;
            Err::<(), _>(Error::UsernameTaken)
        });
        undone.await.unwrap_err();
        Ok::<_, Error>(anna)
    });
    let anna = kept.await.unwrap();
    let undone = tx.savepoint(|tx| async move {
        let kept = tx.savepoint(|tx| async move { Ok::<_, Error>(user(tx.users(), "Carl").await) });
        kept.await?;
        Err::<(), _>(Error::UsernameTaken)
    });
    undone.await.unwrap_err();
    tx.commit().await.unwrap();
    assert_eq!(everything(store).await.0, [anna]);
}

pub async fn a_failure_in_a_savepoint_leaves_the_transaction_usable(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let tx = begin_too_late(store, &anna).await;
    let id = anna.id;
    let undone = tx.savepoint(|tx| async move { tx.users().set_role(id, Role::Student).await });
    assert_refused!(undone.await, Error::Conflict(_));
    assert_eq!(tx.users().count().await.unwrap(), 1);
    tx.commit().await.unwrap();
}

/// The closure went on as if nothing had happened and returned `Ok`.
pub async fn a_swallowed_failure_in_a_savepoint_undoes_it(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let tx = begin_too_late(store, &anna).await;
    let undone: Result<()> = tx
        .savepoint(|tx| async move {
            give_way(&tx, &anna).await;
            Ok(())
        })
        .await;
    assert_refused!(undone, Error::RolledBack(_));
    assert_eq!(tx.users().count().await.unwrap(), 1);
    tx.commit().await.unwrap();
}

pub async fn a_savepoint_dropped_unfinished_fails_what_is_around_it(store: &dyn Store) {
    let tx = begin(store).await;
    let anna = user(tx.users(), "Anna").await;
    let around = tx.savepoint(|tx| async move {
        drop_unfinished(&tx).await;
        Ok::<_, Error>(())
    });
    assert_refused!(around.await, Error::RolledBack(_));
    assert_eq!(tx.users().count().await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(everything(store).await.0, [anna]);

    let tx = begin(store).await;
    drop_unfinished(&tx).await;
    assert_refused!(tx.commit().await, Error::RolledBack(_));
    assert_eq!(store.users().count().await.unwrap(), 1);
}

pub async fn savepoints_that_cross_are_undone(store: &dyn Store) {
    let tx = begin(store).await;
    let anna = user(tx.users(), "Anna").await;
    let [outer_open, inner_open, outer_ended] = [(); 3].map(|()| tokio::sync::oneshot::channel());
    let outer = async {
        let outer = tx.savepoint(|tx| async move {
            user(tx.users(), "Bert").await;
            let _ = outer_open.0.send(());
            inner_open.1.await.unwrap();
            Ok::<_, Error>(())
        });
        let ended = outer.await;
        let _ = outer_ended.0.send(());
        ended
    };
    let inner = async {
        outer_open.1.await.unwrap();
        let inner = tx.savepoint(|tx| async move {
            user(tx.users(), "Carl").await;
            let _ = inner_open.0.send(());
            outer_ended.1.await.unwrap();
            Ok::<_, Error>(())
        });
        inner.await
    };
    let (outer, inner) = futures_util::join!(outer, inner);
    assert_refused!(outer, Error::RolledBack(_));
    assert_refused!(inner, Error::TransactionClosed);
    assert_eq!(tx.users().count().await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(everything(store).await.0, [anna]);
}

/// Whoever ends a savepoint that has ended with the one around it ends no other one that has been opened
/// since.
pub async fn a_savepoint_that_has_ended_ends_no_other(store: &dyn Store) {
    let tx = begin(store).await;
    let savepoints = tx.as_transaction();
    let anna = user(tx.users(), "Anna").await;
    let outer = savepoints.savepoint().await.unwrap();
    let inner = savepoints.savepoint().await.unwrap();
    user(tx.users(), "Bert").await;
    let outer_first = savepoints.release(outer).await;
    assert_refused!(outer_first, Error::RolledBack(_));
    savepoints.rollback_to(outer).await.unwrap();

    let outer = savepoints.savepoint().await.unwrap();
    let other = savepoints.savepoint().await.unwrap();
    let carl = user(tx.users(), "Carl").await;
    let late = savepoints.release(inner).await;
    assert_refused!(late, Error::TransactionClosed);
    let late = savepoints.rollback_to(inner).await;
    assert_refused!(late, Error::TransactionClosed);
    savepoints.release(other).await.unwrap();
    savepoints.release(outer).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(everything(store).await.0, [anna, carl]);
}

/// Registers a user in a savepoint that never ends.
async fn drop_unfinished(tx: &Tx) {
    use futures_util::future::{Either, pending, select};
    let (written, mut was_written) = tokio::sync::oneshot::channel();
    let unfinished = tx.savepoint(|tx| async move {
        user(tx.users(), "Bert").await;
        let _ = written.send(());
        pending::<Result<()>>().await
    });
    match select(Box::pin(unfinished), &mut was_written).await {
        Either::Left(_) => panic!("the savepoint has ended"),
        Either::Right((written, _)) => written.unwrap(),
    }
}

pub async fn a_savepoint_of_an_ended_transaction_is_closed(store: &dyn Store) {
    let tx = begin(store).await;
    tx.clone().commit().await.unwrap();
    let refused = tx.savepoint(|_| async { Ok::<_, Error>(()) }).await;
    assert_refused!(refused, Error::TransactionClosed);
}
