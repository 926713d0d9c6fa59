//! Transactions over both repositories. These rules begin transactions of their own.

use futures_util::future::join;

use super::given::{car, everything, key, new_car, new_user, unknown_car, unknown_user, user};
use crate::error::Error;
use crate::model::{Car, InvalidInput, Role, UserId};
use crate::page::PageRequest;
use crate::store::{IsolationLevel, Store, StoreExt, Tx, TxOptions};

async fn begin(store: &dyn Store) -> Tx {
    store.begin(TxOptions::new()).await.expect("begins")
}

pub async fn commit_shows_the_changes(store: &dyn Store) {
    let tx = begin(store).await;
    let anna = user(tx.users(), "Anna").await;
    let golf = car(tx.cars(), "Golf", anna.id).await;
    tx.commit().await.unwrap();
    assert_eq!(everything(store).await, (vec![anna], vec![golf]));
}

pub async fn commit_of_nothing_is_fine(store: &dyn Store) {
    begin(store).await.commit().await.unwrap();
    let tx = begin(store).await;
    assert_eq!(tx.users().count().await.unwrap(), 0);
    tx.commit().await.unwrap();
    assert_eq!(store.users().count().await.unwrap(), 0);
}

/// Every kind of change, undone at once.
pub async fn rollback_hides_every_change(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let polo = car(store.cars(), "Polo", anna.id).await;
    let before = everything(store).await;

    let tx = begin(store).await;
    let carl = user(tx.users(), "Carl").await;
    car(tx.cars(), "Audi", carl.id).await;
    tx.users().rename(anna.id, "Anne").await.unwrap();
    tx.users().set_role(bert.id, Role::Student).await.unwrap();
    let transfer = tx.cars().transfer(golf.id, anna.id, carl.id).await;
    transfer.unwrap();
    assert!(tx.cars().delete(polo.id).await.unwrap());
    assert!(tx.users().delete(bert.id).await.unwrap());
    tx.rollback().await.unwrap();
    assert_eq!(everything(store).await, before);
}

pub async fn rollback_frees_names_and_keys(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let tx = begin(store).await;
    let golf = new_car("Golf", anna.id).key(key(1));
    tx.cars().buy(&golf).await.unwrap();
    user(tx.users(), "Bert").await;
    tx.rollback().await.unwrap();

    let polo = new_car("Polo", anna.id).key(key(1));
    let polo = store.cars().buy(&polo).await.unwrap();
    let bert = user(store.users(), "Bert").await;
    assert_eq!(everything(store).await, (vec![anna, bert], vec![polo]));
}

pub async fn dropping_the_handle_hides_the_changes(store: &dyn Store) {
    let tx = begin(store).await;
    let clone = tx.clone();
    let anna = user(tx.users(), "Anna").await;
    drop(tx);
    // One clone is enough to keep the transaction.
    car(clone.cars(), "Golf", anna.id).await;
    drop(clone);
    assert_eq!(everything(store).await, (vec![], vec![]));
    // What the dropped transaction held is free again.
    user(store.users(), "Anna").await;
}

pub async fn changes_are_seen_inside_and_not_outside_until_commit(store: &dyn Store) {
    let bert = user(store.users(), "Bert").await;
    let tx = begin(store).await;
    let anna = user(tx.users(), "Anna").await;
    let golf = car(tx.cars(), "Golf", anna.id).await;
    tx.users().rename(bert.id, "Carl").await.unwrap();

    let inside = tx.users().get_by_username("Anna").await.unwrap();
    assert_eq!(inside.as_ref(), Some(&anna));
    let inside = tx.cars().owned_by(anna.id).await.unwrap();
    assert_eq!(inside, [golf]);
    assert_eq!(tx.users().count().await.unwrap(), 2);

    let outside = store.users().get_by_username("Anna").await.unwrap();
    assert_eq!(outside, None);
    assert_eq!(everything(store).await, (vec![bert], vec![]));
    tx.commit().await.unwrap();
    let outside = store.users().get_by_username("Anna").await.unwrap();
    assert_eq!(outside, Some(anna));
    assert_eq!(store.cars().count().await.unwrap(), 1);
}

/// Whoever comes second may wait or have to give way, but nothing of the other is lost.
pub async fn a_commit_loses_nothing_that_others_store_meanwhile(store: &dyn Store) {
    let mut all = Vec::new();
    for round in 0..8 {
        let tx = begin(store).await;
        let inside = user(tx.users(), &format!("inside {round}")).await;
        let outside = new_user(format!("outside {round}"));
        let outside = store.users().register(&outside);
        let (outside, committed) = join(outside, tx.commit()).await;
        let outside = outside.unwrap().into_user();
        if committed.is_ok() {
            all.push(inside);
        }
        all.push(outside);
        all.sort_by_key(|user| user.id);
        assert_eq!(everything(store).await.0, all);
    }
}

pub async fn read_committed_sees_what_others_commit(store: &dyn Store) {
    let tx = begin(store).await;
    assert_eq!(tx.users().count().await.unwrap(), 0);
    user(store.users(), "Anna").await;
    assert_eq!(tx.users().count().await.unwrap(), 1);
    tx.rollback().await.unwrap();
}

pub async fn repeatable_read_sees_what_its_first_statement_saw(store: &dyn Store) {
    for level in [IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        let options = TxOptions::new().isolation(level);
        let before = store.users().count().await.unwrap();
        let tx = store.begin(options).await.unwrap();
        assert_eq!(tx.users().count().await.unwrap(), before);
        user(store.users(), &format!("{level:?}")).await;
        assert_eq!(tx.users().count().await.unwrap(), before);
        tx.commit().await.unwrap();
        assert_eq!(store.users().count().await.unwrap(), before + 1);
    }
}

/// The user that both transactions change is the same row, so one has to give way.
pub async fn repeatable_read_gives_way_to_a_concurrent_change(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    for level in [IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        let options = TxOptions::new().isolation(level);
        let tx = store.begin(options).await.unwrap();
        assert_eq!(tx.users().count().await.unwrap(), 1);
        // Something new each time: no store has to call anything else a change.
        let changed = store.users().rename(anna.id, &format!("{level:?}")).await;
        let changed = changed.unwrap();
        let refused = tx.users().set_role(anna.id, Role::Student).await;
        assert_refused!(refused, Error::Conflict(_));
        tx.rollback().await.unwrap();
        assert_eq!(everything(store).await.0, [changed]);
    }
}

/// Each error of the domain that a call on users can give, and after it the work goes on.
pub async fn domain_error_of_users_leaves_the_transaction_usable(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let nobody = unknown_user(store).await;

    let tx = begin(store).await;
    let carl = user(tx.users(), "Carl").await;
    let refused = tx.users().rename(nobody, "Dora").await;
    assert_refused!(refused, Error::UserNotFound { .. });
    let refused = tx.users().set_role(nobody, Role::Student).await;
    assert_refused!(refused, Error::UserNotFound { .. });
    let refused = tx.users().rename(bert.id, "Anna").await;
    assert_refused!(refused, Error::UsernameTaken);
    let refused = tx.users().rename(bert.id, "Carl").await;
    assert_refused!(refused, Error::UsernameTaken);
    let refused = tx.users().rename(bert.id, "Bert\0").await;
    assert_refused!(
        refused,
        Error::Invalid(InvalidInput::ControlCharacter { .. })
    );
    let refused = tx.users().delete(anna.id).await;
    assert_refused!(refused, Error::UserOwnsCars { .. });
    assert!(!tx.users().delete(nobody).await.unwrap());
    let again = tx.users().register(&new_user("Anna")).await.unwrap();
    assert!(!again.is_created());
    let found = tx.users().get_by_username("\0").await.unwrap();
    assert_eq!(found, None);
    assert_eq!(tx.users().count().await.unwrap(), 3);
    tx.commit().await.unwrap();
    let after = everything(store).await;
    assert_eq!(after, (vec![anna, bert, carl], vec![golf]));
}

/// Each error of the domain that a call on cars can give, and after it the work goes on.
pub async fn domain_error_of_cars_leaves_the_transaction_usable(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let bert = user(store.users(), "Bert").await;
    let (nobody, nothing) = (unknown_user(store).await, unknown_car(store).await);

    let tx = begin(store).await;
    let golf = new_car("Golf", anna.id).key(key(1));
    let golf = tx.cars().buy(&golf).await.unwrap();
    let orphan = new_car("Golf", nobody);
    let refused = tx.cars().buy(&orphan).await;
    assert_refused!(refused, Error::UnknownOwner { .. });
    let refused = tx
        .cars()
        .buy_many(&[new_car("Golf", anna.id), orphan])
        .await;
    assert_refused!(refused, Error::UnknownOwner { .. });
    let reused = new_car("Polo", anna.id).key(key(1));
    let refused = tx.cars().buy(&reused).await;
    assert_refused!(refused, Error::PurchaseKeyReused { .. });
    let refused = tx
        .cars()
        .buy_many(&[new_car("Golf", anna.id), reused])
        .await;
    assert_refused!(refused, Error::PurchaseKeyReused { .. });
    let refused = tx.cars().transfer(nothing, anna.id, bert.id).await;
    assert_refused!(refused, Error::CarNotFound { .. });
    let refused = tx.cars().transfer(golf.id, bert.id, anna.id).await;
    assert_refused!(refused, Error::NotOwner { .. });
    let refused = tx.cars().transfer(golf.id, anna.id, nobody).await;
    assert_refused!(refused, Error::UnknownOwner { .. });
    assert!(!tx.cars().delete(nothing).await.unwrap());
    assert_eq!(tx.cars().count().await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(everything(store).await, (vec![anna, bert], vec![golf]));
}

pub async fn a_user_and_its_car_are_registered_together_or_not_at_all(store: &dyn Store) {
    let work = async |tx: &Tx, name: &str| -> Car {
        let owner = user(tx.users(), name).await;
        car(tx.cars(), "Golf", owner.id).await
    };
    let tx = begin(store).await;
    work(&tx, "Anna").await;
    tx.rollback().await.unwrap();
    assert_eq!(everything(store).await, (vec![], vec![]));

    let tx = begin(store).await;
    let golf = work(&tx, "Anna").await;
    tx.commit().await.unwrap();
    let anna = store.users().get_by_username("Anna").await.unwrap();
    assert_eq!(anna.map(|anna| anna.id), Some(golf.owner_id));
    assert_eq!(store.cars().count().await.unwrap(), 1);
}

/// What is expected of every call through a handle whose transaction has ended.
async fn assert_closed(tx: Tx) {
    assert_refused!(tx.users().count().await, Error::TransactionClosed);
    assert_refused!(tx.cars().count().await, Error::TransactionClosed);
    let register = tx.users().register(&new_user("Carl")).await;
    assert_refused!(register, Error::TransactionClosed);
    let lookup = tx.users().get_by_username("Anna").await;
    assert_refused!(lookup, Error::TransactionClosed);
    // Also where the answer is known beforehand.
    assert_refused!(tx.users().get_many(&[]).await, Error::TransactionClosed);
    let none = tx.users().get_by_username("\0").await;
    assert_refused!(none, Error::TransactionClosed);
    let none = tx.cars().owned_by_many(&[]).await;
    assert_refused!(none, Error::TransactionClosed);
    let none = tx.users().register_many(&[]).await;
    assert_refused!(none, Error::TransactionClosed);
    assert_refused!(tx.cars().buy_many(&[]).await, Error::TransactionClosed);
    let last = PageRequest::first(1).unwrap().after(UserId::new(i64::MAX));
    assert_refused!(tx.users().list(last).await, Error::TransactionClosed);
    assert_refused!(tx.clone().commit().await, Error::TransactionClosed);
    assert_refused!(tx.clone().rollback().await, Error::TransactionClosed);
    assert_refused!(tx.users().count().await, Error::TransactionClosed);
}

pub async fn a_handle_is_closed_after_commit(store: &dyn Store) {
    let tx = begin(store).await;
    let clone = tx.clone();
    let anna = user(tx.users(), "Anna").await;
    tx.commit().await.unwrap();
    assert_closed(clone).await;
    assert_eq!(everything(store).await.0, [anna]);
}

pub async fn a_handle_is_closed_after_rollback(store: &dyn Store) {
    let tx = begin(store).await;
    let clone = tx.clone();
    user(tx.users(), "Anna").await;
    tx.rollback().await.unwrap();
    assert_closed(clone).await;
    assert_eq!(store.users().count().await.unwrap(), 0);
}

pub async fn clones_of_a_handle_share_one_transaction(store: &dyn Store) {
    let tx = begin(store).await;
    let (one, two) = (tx.clone(), tx.clone());
    let new = ["Anna", "Bert"].map(new_user);
    let first = one.users().register(&new[0]);
    let answers = join(first, two.users().register(&new[1])).await;
    assert!(answers.0.unwrap().is_created() && answers.1.unwrap().is_created());
    assert_eq!(tx.users().count().await.unwrap(), 2);
    assert_eq!(store.users().count().await.unwrap(), 0);
    one.commit().await.unwrap();
    assert_eq!(store.users().count().await.unwrap(), 2);
}

pub async fn the_closure_form_commits_on_ok(store: &dyn Store) {
    let golf = store
        .transaction(|tx| async move {
            let anna = tx.users().register(&new_user("Anna")).await?.into_user();
            tx.cars().buy(&new_car("Golf", anna.id)).await
        })
        .await;
    let golf = golf.unwrap();
    assert_eq!(store.cars().owned_by(golf.owner_id).await.unwrap(), [golf]);
    assert_eq!(store.users().count().await.unwrap(), 1);
}

pub async fn the_closure_form_rolls_back_on_err(store: &dyn Store) {
    let nobody = unknown_user(store).await;
    let answer = store
        .transaction(|tx| async move {
            tx.users().register(&new_user("Anna")).await?;
            tx.cars().buy(&new_car("Golf", nobody)).await
        })
        .await;
    assert_refused!(answer, Error::UnknownOwner { owner, .. } if owner == nobody);
    assert_eq!(store.users().count().await.unwrap(), 0);
    // Nothing of it is left to wait for.
    user(store.users(), "Anna").await;
}

pub async fn a_read_only_transaction_refuses_writes(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let options = TxOptions::new().read_only(true);
    let tx = store.begin(options.clone()).await.unwrap();
    assert_eq!(tx.users().get(anna.id).await.unwrap(), Some(anna.clone()));
    let refused = tx.users().register(&new_user("Bert")).await;
    assert_refused!(refused, _);
    drop(tx);

    let tx = store.begin(options).await.unwrap();
    let refused = tx.cars().buy(&new_car("Golf", anna.id)).await;
    assert_refused!(refused, _);
    drop(tx);
    assert_eq!(everything(store).await, (vec![anna], vec![]));
}

pub async fn a_read_only_transaction_can_read_and_commit(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let golf = car(store.cars(), "Golf", anna.id).await;
    let options = TxOptions::new().read_only(true);
    let tx = store.begin(options).await.unwrap();
    assert_eq!(tx.users().get(anna.id).await.unwrap(), Some(anna));
    assert_eq!(tx.cars().get(golf.id).await.unwrap(), Some(golf));
    tx.commit().await.unwrap();
}
