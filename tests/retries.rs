//! Which transactions are run again, how often, and which never.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod log;
mod support;
mod watch;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::join;
use log::Log;
use motorpool::{
    CarRepo, CommitToken, Error, IsolationLevel, MemoryStore, NewUser, PgStore, Result, Role,
    Store, StoreExt, Transaction, Tx, TxOptions, User, UserId, UserRepo,
};
use support::{Database, with_database};
use tokio::sync::Barrier;
use watch::Watch;

fn new_user(name: &str) -> NewUser {
    NewUser::new(name).unwrap()
}

async fn user(store: &dyn Store, name: &str) -> UserId {
    let registered = store.users().register(&new_user(name)).await;
    registered.unwrap().into_user().id
}

async fn connect(database: &Database) -> PgStore {
    PgStore::connect(&database.url).await.unwrap()
}

/// A barrier that each of two transactions meets once, in its first run.
struct Once<'a> {
    barrier: &'a Barrier,
    runs: AtomicUsize,
}

impl<'a> Once<'a> {
    fn new(barrier: &'a Barrier) -> Self {
        let runs = AtomicUsize::new(0);
        Once { barrier, runs }
    }

    fn begin(&self) -> usize {
        self.runs.fetch_add(1, Relaxed) + 1
    }

    async fn meet(&self, run: usize) {
        if run == 1 {
            self.barrier.wait().await;
        }
    }

    fn runs(&self) -> usize {
        self.runs.load(Relaxed)
    }
}

fn serializable() -> TxOptions {
    TxOptions::new().isolation(IsolationLevel::Serializable)
}

/// Both read what the other one writes.
async fn read_and_write(store: &PgStore, once: &Once<'_>, read: UserId, write: UserId) {
    let options = serializable().attempts(10);
    let done = store.transaction_with(options, |tx| {
        let run = once.begin();
        async move {
            let found = tx.users().get(read).await?;
            once.meet(run).await;
            assert!(found.is_some());
            tx.users().set_role(write, Role::Student).await
        }
    });
    done.await.unwrap();
}

/// Both write both, in opposite order.
async fn write_both(store: &PgStore, once: &Once<'_>, first: UserId, second: UserId) {
    let options = TxOptions::new().attempts(10);
    let done = store.transaction_with(options, |tx| {
        let run = once.begin();
        async move {
            tx.users().set_role(first, Role::Student).await?;
            once.meet(run).await;
            tx.users().set_role(second, Role::Student).await
        }
    });
    done.await.unwrap();
}

/// Both completed, and ran as often as the log says.
async fn check(store: &PgStore, log: &Log, once: [&Once<'_>; 2], written: &[UserId]) {
    let runs = once[0].runs() + once[1].runs();
    let repeats = log.repeats();
    eprintln!("2 transactions, {runs} runs, {repeats} repeats in the log");
    assert!(repeats >= 1);
    assert_eq!(runs, 2 + repeats);
    for id in written {
        let user = store.users().get(*id).await.unwrap().unwrap();
        assert_eq!(user.role, Role::Student);
    }
}

#[tokio::test]
async fn a_serialization_failure_is_run_again() {
    with_database(async |database| {
        let store = connect(&database).await;
        let (anna, bert) = (user(&store, "Anna").await, user(&store, "Bert").await);
        // One time over two rows, one time over the same row.
        for (read, write) in [(anna, bert), (anna, anna)] {
            let (log, barrier) = (Log::new(), Barrier::new(2));
            let (one, two) = (Once::new(&barrier), Once::new(&barrier));
            join!(
                read_and_write(&store, &one, read, write),
                read_and_write(&store, &two, write, read)
            );
            check(&store, &log, [&one, &two], &[read, write]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_deadlock_is_run_again() {
    with_database(async |database| {
        let store = connect(&database).await;
        let (anna, bert) = (user(&store, "Anna").await, user(&store, "Bert").await);
        let (log, barrier) = (Log::new(), Barrier::new(2));
        let (one, two) = (Once::new(&barrier), Once::new(&barrier));
        join!(
            write_both(&store, &one, anna, bert),
            write_both(&store, &two, bert, anna)
        );
        check(&store, &log, [&one, &two], &[anna, bert]).await;
    })
    .await;
}

/// A transaction that another one gets in the way of, without waiting for each other.
async fn collide(store: &PgStore, tx: &Tx, id: UserId) -> Result<User> {
    tx.users().get(id).await?;
    store.users().set_role(id, Role::Teacher).await?;
    tx.users().set_role(id, Role::Student).await
}

#[tokio::test]
async fn it_is_run_as_often_as_allowed_and_not_more_often() {
    with_database(async |database| {
        let store = connect(&database).await;
        let anna = user(&store, "Anna").await;
        for (given, wanted) in [(0, 1), (1, 1), (2, 2), (5, 5)] {
            let (log, mut runs) = (Log::new(), 0);
            let options = serializable().attempts(given);
            let options = options.backoff(Duration::from_millis(1));
            let answer = store.transaction_with(options, |tx| {
                runs += 1;
                let store = &store;
                async move { collide(store, &tx, anna).await }
            });
            let answer = answer.await;
            assert!(matches!(answer, Err(Error::Conflict(_))), "{answer:?}");
            assert_eq!((runs, log.repeats()), (wanted, wanted - 1));
        }
        // Three times where nothing is said.
        let mut runs = 0;
        let answer = store.transaction_with(serializable(), |tx| {
            runs += 1;
            let store = &store;
            async move { collide(store, &tx, anna).await }
        });
        assert!(answer.await.is_err());
        assert_eq!(runs, 3);
    })
    .await;
}

/// An error of the host's, which does not say what it came from.
#[derive(Debug, PartialEq)]
enum Own {
    Store,
    Refused,
}

impl From<Error> for Own {
    fn from(_: Error) -> Own {
        Own::Store
    }
}

#[tokio::test]
async fn a_conflict_is_run_again_whatever_the_closure_makes_of_it() {
    with_database(async |database| {
        let store = connect(&database).await;
        let anna = user(&store, "Anna").await;
        let mut runs = 0;
        let hidden = store.transaction_with(serializable(), |tx| {
            runs += 1;
            let (store, run) = (&store, runs);
            async move {
                match run {
                    1 => collide(store, &tx, anna).await.map_err(|_| Own::Refused),
                    _ => Ok(tx.users().set_role(anna, Role::Student).await?),
                }
            }
        });
        assert_eq!(hidden.await.unwrap().role, Role::Student);
        assert_eq!(runs, 2);

        let mut runs = 0;
        let swallowed = store.transaction_with(serializable(), |tx| {
            runs += 1;
            let (store, run) = (&store, runs);
            async move {
                if run == 1 {
                    assert!(collide(store, &tx, anna).await.is_err());
                    return Ok::<_, Error>(());
                }
                tx.users().register(&new_user("Bert")).await.map(drop)
            }
        });
        swallowed.await.unwrap();
        assert_eq!(runs, 2);
        assert_eq!(store.users().count().await.unwrap(), 2);
    })
    .await;
}

#[tokio::test]
async fn nothing_else_is_run_again() {
    with_database(async |database| {
        let (store, log) = (connect(&database).await, Log::new());
        let anna = user(&store, "Anna").await;
        let mut runs = 0;
        let domain = store.transaction(|tx| {
            runs += 1;
            async move { tx.users().set_role(UserId::new(-1), Role::Student).await }
        });
        assert!(matches!(domain.await, Err(Error::UserNotFound { .. })));
        let own = store.transaction(|tx| {
            runs += 1;
            async move {
                tx.users().set_role(anna, Role::Teacher).await?;
                Err::<(), _>(Own::Refused)
            }
        });
        assert_eq!(own.await, Err(Own::Refused));

        let watch = Watch::new(&database).await;
        watch.run("DROP TABLE cars").await;
        let database_error = store.transaction(|tx| {
            runs += 1;
            async move { tx.cars().count().await }
        });
        let answer = database_error.await;
        assert!(
            matches!(&answer, Err(Error::Database(failure)) if failure.sqlstate() == Some("42P01")),
            "{answer:?}"
        );
        // Swallowed: the commit says what it was.
        let swallowed = store.transaction(|tx| {
            runs += 1;
            async move {
                tx.users().set_role(anna, Role::Teacher).await?;
                let _ = tx.cars().count().await;
                let _ = tx.users().count().await;
                Ok::<_, Error>(())
            }
        });
        let answer = swallowed.await;
        assert!(
            matches!(&answer, Err(Error::RolledBack(first)) if first.sqlstate() == Some("42P01")),
            "{answer:?}"
        );
        assert_eq!((runs, log.repeats()), (4, 0));

        let tx = store.begin(TxOptions::new()).await.unwrap();
        tx.users().set_role(anna, Role::Teacher).await.unwrap();
        assert!(tx.cars().count().await.is_err());
        let later = tx.users().count().await;
        assert_eq!(later.unwrap_err().sqlstate(), Some("42P01"));
        let ended = tx.commit().await;
        assert!(
            matches!(&ended, Err(Error::RolledBack(first)) if first.sqlstate() == Some("42P01")),
            "{ended:?}"
        );
        let anna = store.users().get(anna).await.unwrap().unwrap();
        assert_eq!(anna.role, Role::Employee);
    })
    .await;
}

/// A store that loses its connection at every commit.
struct Losing(MemoryStore);

#[async_trait]
impl Store for Losing {
    fn users(&self) -> &dyn UserRepo {
        self.0.users()
    }

    fn cars(&self) -> &dyn CarRepo {
        self.0.cars()
    }

    async fn begin(&self, options: TxOptions) -> Result<Tx> {
        Ok(Tx::new(Lost(self.0.begin(options).await?)))
    }
}

struct Lost(Tx);

#[async_trait]
impl Transaction for Lost {
    fn users(&self) -> &dyn UserRepo {
        self.0.users()
    }

    fn cars(&self) -> &dyn CarRepo {
        self.0.cars()
    }

    async fn commit(&self) -> Result<()> {
        Err(Error::CommitUnknown {
            token: CommitToken::new(7, 0),
        })
    }

    async fn rollback(&self) -> Result<()> {
        Ok(())
    }

    async fn savepoint(&self) -> Result<u32> {
        Err(Error::TransactionClosed)
    }

    async fn release(&self, _: u32) -> Result<()> {
        Err(Error::TransactionClosed)
    }

    async fn rollback_to(&self, _: u32) -> Result<()> {
        Err(Error::TransactionClosed)
    }

    fn gave_way(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_commit_whose_outcome_is_unknown_is_not_run_again() {
    let store = Losing(MemoryStore::new());
    let mut runs = 0;
    let answer = store.transaction(|tx| {
        runs += 1;
        async move { tx.users().register(&new_user("Anna")).await }
    });
    let answer = answer.await;
    let token = CommitToken::new(7, 0);
    assert!(
        matches!(&answer, Err(Error::CommitUnknown { token: found }) if *found == token),
        "{answer:?}"
    );
    assert_eq!(runs, 1);
}
