//! What a host sees of each call in its traces and logs: the names, and that no value is among them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod calls;
mod polls;
mod queue;
mod spans;
mod support;

use std::sync::Arc;
use std::time::Duration;

use calls::{CALLS, Run, Tag};
use futures_util::FutureExt;
use futures_util::future::join_all;
use motorpool::{Error, NewCar, NewUser, PgStore, Store, StoreExt, TxOptions, UserId};
use spans::{Span, Spans};
use support::with_database;
use tracing::Level;

/// What may turn up nowhere.
const CANARY: &str = "zanzibar";

/// The fields of a call that was answered at once, without those of the server.
const ANSWERED: [&str; 9] = [
    "db.namespace",
    "db.operation.name",
    "db.query.summary",
    "db.system.name",
    "motorpool.execution_seconds",
    "motorpool.wait_seconds",
    "otel.kind",
    "otel.name",
    "server.address",
];

/// Each call: its operation, its table and its summary.
const NAMES: &[(&str, &str, &str, &str)] = &[
    ("get", "get", "users", "SELECT users"),
    ("get_many", "get_many", "users", "SELECT users"),
    (
        "get_by_username",
        "get_by_username",
        "users",
        "SELECT users",
    ),
    ("list", "list", "users", "SELECT users"),
    ("stream", "stream", "users", "SELECT users"),
    ("count", "count", "users", "SELECT users"),
    ("register", "register", "users", "INSERT users"),
    ("register_many", "register_many", "users", "INSERT users"),
    ("set_role", "set_role", "users", "UPDATE users"),
    ("rename", "rename", "users", "UPDATE users"),
    ("delete", "delete", "users", "DELETE users"),
    ("car get", "get", "cars", "SELECT cars"),
    ("owned_by", "owned_by", "cars", "SELECT cars"),
    ("owned_by_many", "owned_by_many", "cars", "SELECT cars"),
    ("list_owned_by", "list_owned_by", "cars", "SELECT cars"),
    ("car stream", "stream", "cars", "SELECT cars"),
    ("buy_many with keys", "buy_many", "cars", "INSERT cars"),
    ("car count", "count", "cars", "SELECT cars"),
    ("buy", "buy", "cars", "INSERT cars"),
    ("buy with a key", "buy", "cars", "INSERT cars"),
    ("buy_many", "buy_many", "cars", "INSERT cars"),
    ("transfer", "transfer", "cars", "UPDATE cars"),
    ("car delete", "delete", "cars", "DELETE cars"),
];

async fn owners(store: &PgStore) -> [UserId; 2] {
    let owners = ["Anna", "Bert"].map(|name| NewUser::new(name).unwrap());
    let owners = store.users().register_many(&owners).await.unwrap();
    [owners[0].user().id, owners[1].user().id]
}

fn check(span: &Span, operation: &str, collection: Option<&str>, summary: &str) {
    assert_eq!(span.name, "motorpool.call");
    assert_eq!(span.level, Level::INFO);
    assert!(span.closed, "{span:?}");
    let mut expected: Vec<_> = ANSWERED.into();
    expected.extend(collection.map(|_| "db.collection.name"));
    // A Unix socket has no port.
    if !span.field("server.address").unwrap().starts_with('/') {
        expected.push("server.port");
    }
    expected.sort_unstable();
    let fields: Vec<_> = span.fields.keys().copied().collect();
    assert_eq!(fields, expected, "{operation}");
    assert_eq!(span.field("db.system.name"), Some("postgresql"));
    assert_eq!(span.field("otel.kind"), Some("client"));
    assert_eq!(span.field("db.operation.name"), Some(operation));
    assert_eq!(span.field("db.collection.name"), collection);
    assert_eq!(span.field("db.query.summary"), Some(summary));
    assert_eq!(span.field("otel.name"), Some(summary));
    let (wait, execution) = (
        span.seconds("motorpool.wait_seconds"),
        span.seconds("motorpool.execution_seconds"),
    );
    assert!(wait >= 0.0 && execution > 0.0, "{wait} {execution}");
}

#[tokio::test]
async fn every_method_of_a_repository_is_one_span() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let owners = owners(&store).await;
        let client = database.client().await;
        let mut names = NAMES.iter();
        for call in CALLS {
            let Run::Method(run) = call.run else {
                continue;
            };
            let (name, operation, collection, summary) = names.next().unwrap();
            assert_eq!(*name, call.name);
            let tag = Tag::new(&client, call.name.into(), owners, &database.url).await;
            let spans = Spans::listen();
            run(Arc::new(store.clone()), tag).await.unwrap();
            let span = spans.take_one();
            check(&span, operation, Some(collection), summary);
            assert_eq!(span.field("db.namespace"), Some(&*database.name));
        }
        assert!(names.next().is_none());
    })
    .await;
}

#[tokio::test]
async fn every_step_of_a_transaction_is_a_span() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let spans = Spans::listen();
        store
            .transaction(|tx| async move {
                let undone = tx.savepoint(|tx| async move {
                    tx.users().count().await?;
                    Err::<(), _>(Error::UsernameTaken)
                });
                undone.await.unwrap_err();
                let kept = tx.savepoint(|tx| async move { tx.cars().count().await });
                kept.await
            })
            .await
            .unwrap();
        store
            .begin(TxOptions::new())
            .await
            .unwrap()
            .rollback()
            .await
            .unwrap();
        store.ping().await.unwrap();
        let expected = [
            ("begin", None, "BEGIN"),
            ("savepoint", None, "SAVEPOINT"),
            ("count", Some("users"), "SELECT users"),
            ("rollback_to", None, "ROLLBACK TO SAVEPOINT"),
            ("savepoint", None, "SAVEPOINT"),
            ("count", Some("cars"), "SELECT cars"),
            ("release", None, "RELEASE SAVEPOINT"),
            ("commit", None, "COMMIT"),
            ("begin", None, "BEGIN"),
            ("rollback", None, "ROLLBACK"),
            ("ping", None, "SELECT"),
        ];
        let seen = spans.take();
        assert_eq!(seen.len(), expected.len(), "{seen:#?}");
        for (span, (operation, collection, summary)) in seen.iter().zip(expected) {
            check(span, operation, collection, summary);
        }
    })
    .await;
}

#[tokio::test]
async fn calls_that_went_together_say_how_many() {
    with_database(async |database| {
        let store = queue::connect(&database.url, 1, 100).await;
        let id = owners(&store).await[0];
        let queue = queue::Queue::form(&store, 1, 7, |_| queue::get(&store, id)).await;
        let spans = Spans::listen();
        // They began before anybody listened.
        assert!(queue.answers().await.iter().all(Result::is_ok));
        assert!(spans.take().is_empty());
        let queue = queue::Queue::form(&store, 1, 7, |_| queue::get(&store, id)).await;
        assert!(queue.answers().await.iter().all(Result::is_ok));
        let spans = spans.take();
        let sizes = |size: Option<&str>| {
            let these = spans
                .iter()
                .filter(|span| span.field("db.operation.batch.size") == size);
            these
                .map(|span| span.field("error.type"))
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(Some("7")), [None; 7]);
        // Who had the lane was dropped.
        assert_eq!(sizes(None), [Some("dropped")]);
        for span in &spans {
            assert!(span.seconds("motorpool.wait_seconds") > 0.0, "{span:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_failure_says_of_which_kind_it_is() {
    with_database(async |database| {
        let builder = PgStore::builder(&database.url).unwrap().max_connections(1);
        let limit = Duration::from_millis(50);
        let store = builder.acquire_timeout(limit).build().await.unwrap();
        let [anna, bert] = owners(&store).await;
        store
            .cars()
            .buy(&NewCar::new("Golf", anna).unwrap())
            .await
            .unwrap();
        let client = database.client().await;
        let spans = Spans::listen();
        let kind = || {
            let span = spans.take_one();
            let fields = ["error.type", "db.response.status_code", "otel.status_code"];
            fields.map(|name| span.field(name).map(str::to_owned))
        };
        // The domain's answers are no faults.
        store.users().rename(bert, "Anna").await.unwrap_err();
        assert_eq!(kind(), [Some("username_taken".into()), None, None]);
        store.users().delete(anna).await.unwrap_err();
        assert_eq!(kind(), [Some("user_owns_cars".into()), None, None]);
        let lost = NewCar::new("Golf", UserId::new(-1)).unwrap();
        store.cars().buy(&lost).await.unwrap_err();
        assert_eq!(kind(), [Some("unknown_owner".into()), None, None]);
        store.users().rename(bert, "").await.unwrap_err();
        assert_eq!(kind(), [Some("invalid".into()), None, None]);
        // What the database refuses has its own code.
        client
            .batch_execute("ALTER TABLE cars RENAME TO gone")
            .await
            .unwrap();
        store.cars().count().await.unwrap_err();
        let code = || Some("42P01".to_owned());
        assert_eq!(kind(), [code(), code(), Some("ERROR".into())]);
        // Nothing was sent.
        let held = store.pool().get().await.unwrap();
        store.users().count().await.unwrap_err();
        assert_eq!(
            kind(),
            [Some("pool_exhausted".into()), None, Some("ERROR".into())]
        );
        drop(held);
        // Dropped halfway.
        assert!(store.users().count().now_or_never().is_none());
        assert_eq!(kind(), [Some("dropped".into()), None, None]);
        store.close().await;
        store.users().count().await.unwrap_err();
        assert_eq!(kind(), [Some("closed".into()), None, Some("ERROR".into())]);
    })
    .await;
}

#[tokio::test]
async fn slow_calls_and_slow_waits_are_warned_about_once() {
    with_database(async |database| {
        let limit = Duration::from_millis(30);
        let builder = PgStore::builder(&database.url).unwrap().max_connections(1);
        let builder = builder.slow_call(limit).slow_acquire(Duration::MAX);
        let store = builder.build().await.unwrap();
        let [anna, _] = owners(&store).await;
        let mut client = database.client().await;
        let spans = Spans::listen();
        // Behind a lock.
        let lock = client.transaction().await.unwrap();
        lock.execute("UPDATE users SET role = role", &[])
            .await
            .unwrap();
        let unlock = async {
            tokio::time::sleep(limit * 2).await;
            lock.commit().await.unwrap();
        };
        let (renamed, ()) = tokio::join!(store.users().rename(anna, CANARY), unlock);
        renamed.unwrap();
        store.users().count().await.unwrap();
        let warnings = spans.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:#?}");
        let fields = &warnings[0].fields;
        assert_eq!(fields["message"], "a call was slow");
        assert_eq!(fields["db.operation.name"], "rename");
        assert_eq!(fields["db.collection.name"], "users");
        let names: Vec<_> = fields.keys().copied().collect();
        assert_eq!(
            names,
            [
                "db.collection.name",
                "db.operation.name",
                "executed",
                "message",
                "took",
                "waited"
            ]
        );
        assert_eq!(warnings[0].inside.as_deref(), Some("rename"));
        assert_eq!(spans.take().len(), 2);
        // For a connection.
        let builder = PgStore::builder(&database.url).unwrap().max_connections(1);
        let builder = builder.slow_acquire(limit).slow_call(Duration::MAX);
        let store = builder.build().await.unwrap();
        let held = store.pool().get().await.unwrap();
        let give_back = async {
            tokio::time::sleep(limit * 2).await;
            drop(held);
        };
        let (counted, ()) = tokio::join!(store.users().count(), give_back);
        counted.unwrap();
        let warnings = spans.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:#?}");
        let fields = &warnings[0].fields;
        assert_eq!(fields["message"], "a call waited long for a connection");
        assert_eq!(fields["db.operation.name"], "count");
        assert_eq!(fields["pool.max"], "1");
        let span = spans.take_one();
        let wait = span.seconds("motorpool.wait_seconds");
        let execution = span.seconds("motorpool.execution_seconds");
        assert!(wait >= limit.as_secs_f64(), "{wait}");
        assert!(execution < wait, "{execution} {wait}");
    })
    .await;
}

#[tokio::test]
async fn no_value_is_in_a_span_or_a_warning() {
    with_database(async |database| {
        let builder = PgStore::builder(&database.url).unwrap();
        let builder = builder
            .slow_call(Duration::ZERO)
            .slow_acquire(Duration::ZERO);
        let store = builder.build().await.unwrap();
        let spans = Spans::listen();
        let new = NewUser::new(CANARY).unwrap();
        let (first, second) =
            tokio::join!(store.users().register(&new), store.users().register(&new));
        let id = first.unwrap().user().id;
        second.unwrap();
        store.users().register_many(&[new]).await.unwrap();
        store.users().get_by_username(CANARY).await.unwrap();
        store
            .users()
            .rename(id, &format!("{CANARY} 2"))
            .await
            .unwrap();
        store
            .users()
            .rename(id, &format!(" {CANARY}"))
            .await
            .unwrap_err();
        let car = NewCar::new(CANARY, id).unwrap();
        let calls = (0..20).map(|_| store.cars().buy(&car));
        assert!(join_all(calls).await.iter().all(Result::is_ok));
        store.cars().owned_by(id).await.unwrap();
        store.users().delete(id).await.unwrap_err();
        let (all, warnings) = (spans.take(), spans.warnings());
        assert_eq!(all.len(), 28);
        // Two for each: of the wait and of the call. One had nothing to wait for.
        assert_eq!(warnings.len(), 2 * all.len() - 1);
        let text = format!("{all:?}{warnings:?}");
        assert_eq!(text.matches(CANARY).count(), 0);
        assert_eq!(text.matches(&database.password()).count(), 0);
    })
    .await;
}
