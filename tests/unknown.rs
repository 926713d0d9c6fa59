//! A server that says it does not know whether it has completed a statement (40003). Postgres never
//! does; engines that speak its protocol do, so triggers say it here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod support;
mod watch;

use motorpool::{
    Car, Error, NewCar, NewUser, PgStore, Result, Store, TxOptions, UnavailableReason, UserId,
};
use support::{Database, with_database};
use tokio::task::JoinSet;
use watch::Watch;

/// The trigger fires in the statement, or (`deferred`) in its commit.
async fn forgetful(database: &Database, deferred: bool) -> (PgStore, UserId) {
    let when = match deferred {
        true => "DEFERRABLE INITIALLY DEFERRED",
        false => "",
    };
    let watch = Watch::new(database).await;
    let sql = format!(
        "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE SQLSTATE '40003' USING MESSAGE = 'it may have happened';
        END $$;
        CREATE CONSTRAINT TRIGGER forget AFTER INSERT ON cars {when}
        FOR EACH ROW WHEN (NEW.model = 'Edsel') EXECUTE FUNCTION forget()"
    );
    watch.run(&sql).await;
    let store = PgStore::connect(&database.url).await.unwrap();
    let owner = store.users().register(&NewUser::new("Ada").unwrap()).await;
    (store, owner.unwrap().user().id)
}

fn is_unknown(answer: &Result<Car>) -> bool {
    matches!(
        answer,
        Err(Error::Unavailable {
            reason: UnavailableReason::ConnectionLost,
            ..
        })
    )
}

#[tokio::test]
async fn a_purchase_that_may_have_happened_is_not_called_refused() {
    with_database(async |database| {
        let (store, owner) = forgetful(&database, false).await;
        let edsel = NewCar::new("Edsel", owner).unwrap();
        let answer = store.cars().buy(&edsel).await;
        assert!(is_unknown(&answer), "{answer:?}");
        let error = answer.unwrap_err();
        assert!(!error.is_retryable());
        assert_eq!(error.sqlstate(), Some("40003"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_may_have_happened_is_not_sent_again() {
    with_database(async |database| {
        let (store, owner) = forgetful(&database, false).await;
        let mut tasks = JoinSet::new();
        for _ in 0..64 {
            let store = store.clone();
            tasks.spawn(async move {
                let edsel = NewCar::new("Edsel", owner).unwrap();
                store.cars().buy(&edsel).await
            });
        }
        let answers = tasks.join_all().await;
        let unknown = answers.iter().filter(|answer| is_unknown(answer)).count();
        assert_eq!(unknown, answers.len());
        let watch = Watch::new(&database).await;
        // Each purchase that was sent has used a number up, and none of them two.
        let numbers = watch.number("SELECT last_value FROM cars_id_seq").await;
        assert_eq!(numbers, 64);
    })
    .await;
}

#[tokio::test]
async fn a_commit_that_may_have_happened_is_unknown() {
    with_database(async |database| {
        let (store, owner) = forgetful(&database, true).await;
        let tx = store.begin(TxOptions::default()).await.unwrap();
        let edsel = NewCar::new("Edsel", owner).unwrap();
        tx.cars().buy(&edsel).await.unwrap();
        let ended = tx.commit().await;
        assert!(
            matches!(ended, Err(Error::CommitUnknown { .. })),
            "{ended:?}"
        );
    })
    .await;
}
