//! Migrators as an operator runs them: many processes at once, killed ones, beside readers, and
//! migrations that no transaction can hold. The example `migrate` must have been built, as
//! `cargo test` without a choice of targets does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod programs;
mod support;
mod watch;

use std::time::{Duration, Instant};

use motorpool::{Adoption, Error, MigrationReport, Migrator, PgStore, SchemaStatus};
use programs::{Ended, FLASK, dump, end, migrate, psql};
use support::{Database, with_database, with_empty_database};
use watch::Watch;

const HISTORY: &str = "SELECT version::text FROM motorpool_schema_history ORDER BY version";

/// Runs the example to its end.
fn run(url: &str, arguments: &[&str]) -> Ended {
    let ended = end(migrate(url, arguments).spawn().unwrap());
    let password = url.split(['@', ':']).nth(2).unwrap();
    assert!(!ended.error.contains(password), "{ended:?}");
    ended
}

async fn status(store: &PgStore) -> SchemaStatus {
    Migrator::new().status(store.pool()).await.unwrap()
}

/// 8 processes at once for each fresh database.
async fn of_8_processes_one_migrates(databases: usize) {
    for _ in 0..databases {
        with_empty_database(async |database| {
            let all = (0..8).map(|_| migrate(&database.url, &["up"]).spawn().unwrap());
            let all: Vec<_> = all.collect();
            let all: Vec<_> = all.into_iter().map(end).collect();
            assert!(all.iter().all(|ended| ended.code == Some(0)), "{all:#?}");
            let applied = all.iter().flat_map(|ended| ended.out.lines());
            let applied = applied.filter(|line| line.starts_with("applied"));
            assert_eq!(applied.count(), 2, "{all:#?}");
            assert_eq!(psql(&database.url, HISTORY), "1\n2\n");
        })
        .await;
    }
}

#[tokio::test]
async fn processes_at_once_all_succeed() {
    of_8_processes_one_migrates(6).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn processes_at_once_all_succeed_on_50_databases() {
    of_8_processes_one_migrates(50).await;
}

/// The process with the lock waits for a table. It is killed, and another one takes its place
/// while the table is still locked; the server has to notice that the first one is gone.
async fn of_8_processes_the_working_one_is_killed(database: Database) {
    let store = PgStore::connect(&database.url).await.unwrap();
    let (holder, watch) = (Watch::new(&database).await, Watch::new(&database).await);
    Migrator::new().to(1).up(store.pool()).await.unwrap();
    holder
        .run("BEGIN; LOCK TABLE users IN ACCESS SHARE MODE")
        .await;
    let mut first = migrate(&database.url, &["up"]).spawn().unwrap();
    watch.waiting(1).await;
    let locked_by = |status: SchemaStatus| status.lock_holder().map(|holder| holder.pid);
    let pid = locked_by(status(&store).await).expect("the first one has the lock");
    let shown = run(&database.url, &["status"]);
    assert!(shown.out.contains(&format!("process {pid}")), "{shown:?}");

    let others: Vec<_> = (0..7)
        .map(|_| migrate(&database.url, &["up"]).spawn().unwrap())
        .collect();
    first.kill().unwrap();
    let killed = Instant::now();
    while locked_by(status(&store).await).is_none_or(|other| other == pid) {
        // The wait of the one that was killed would have ended by itself after 5 s.
        assert!(killed.elapsed() < Duration::from_secs(4), "it is not freed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    holder.run("COMMIT").await;
    first.wait().unwrap();
    let others: Vec<_> = others.into_iter().map(end).collect();
    assert!(
        others.iter().all(|ended| ended.code == Some(0)),
        "{others:#?}"
    );
    let applied = others.iter().filter(|e| e.out.contains("applied V2__"));
    assert_eq!(applied.count(), 1, "{others:#?}");
    assert_eq!(watch.texts(HISTORY).await, ["1", "2"]);
    assert_eq!(Migrator::new().check(store.pool()).await.unwrap(), []);
}

#[tokio::test]
async fn when_the_working_one_is_killed_another_finishes() {
    with_empty_database(of_8_processes_the_working_one_is_killed).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn when_the_working_one_is_killed_another_finishes_on_50_databases() {
    for _ in 0..50 {
        with_empty_database(of_8_processes_the_working_one_is_killed).await;
    }
}

#[tokio::test]
async fn the_exit_code_says_whether_there_is_something_to_do() {
    with_empty_database(async |database| {
        let url = &database.url;
        let ends = |arguments: &[&str], code: i32, says: &str| {
            let ended = run(url, arguments);
            assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
            let text = if code == 2 { &ended.error } else { &ended.out };
            assert!(text.contains(says), "{arguments:?}: {ended:?}");
        };
        ends(&["status"], 1, "pending  V1__users_and_cars");
        ends(&["up", "--to", "1"], 0, "the schema is at version 1");
        ends(&["status"], 1, "pending  V2__harden");
        ends(&["up"], 0, "applied V2__harden in ");
        ends(&["up"], 0, "the schema is at version 2");
        ends(&["status"], 0, "applied  V2__harden");
        ends(&["check"], 0, "0 differences");
        psql(url, "ALTER TABLE users ALTER role DROP DEFAULT");
        ends(&["check"], 1, "column users.role: default is missing");
        ends(&["adopt"], 2, "nothing to adopt");
        ends(&["up", "--wrong"], 2, "--wrong");
        let sql = run(url, &["sql", "--from", "1"]);
        assert_eq!((sql.code, sql.out), (Some(0), Migrator::new().sql(1)));
    })
    .await;
}

#[tokio::test]
async fn the_exit_code_says_what_was_refused() {
    with_empty_database(async |database| {
        let url = &database.url;
        psql(url, FLASK);
        psql(url, "UPDATE users SET created_at = 'infinity' WHERE id = 5");
        let ended = run(url, &["status"]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.out.contains("not motorpool's"), "{ended:?}");
        let ended = run(url, &["up"]);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let ended = run(url, &["adopt"]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.out.contains("users 5: the date"), "{ended:?}");
        psql(
            url,
            "UPDATE users SET created_at = '2026-01-01' WHERE id = 5",
        );
        let ended = run(url, &["adopt"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.out.contains("100 users and 300 cars"), "{ended:?}");
        assert_eq!(run(url, &["undo"]).code, Some(0));
        let ended = run(url, &["undo"]);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(
            ended.error.contains("100 of users, 300 of cars"),
            "{ended:?}"
        );
        assert_eq!(run(url, &["undo", "--lose-data"]).code, Some(0));
        assert_eq!(run(url, &["undo"]).out, "there is nothing to undo\n");
    })
    .await;
}

/// A migration that waits behind a reader lets the readers behind itself wait only for as long
/// as it waits, and then it gives up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_behind_a_reader_does_not_stop_the_others() {
    with_empty_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let (reader, other) = (Watch::new(&database).await, Watch::new(&database).await);
        let patient = Migrator::new().lock_timeout(Duration::from_millis(300));
        patient.clone().to(1).up(store.pool()).await.unwrap();
        let before = dump(&database.url);
        reader
            .run("BEGIN; LOCK TABLE users IN ACCESS SHARE MODE")
            .await;
        let started = Instant::now();
        let pool = store.pool().clone();
        let up = tokio::spawn(async move { patient.attempts(3).up(&pool).await });
        let mut longest = Duration::ZERO;
        while !up.is_finished() {
            let asked = Instant::now();
            other.number("SELECT count(*) FROM users").await;
            longest = longest.max(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let took = started.elapsed();
        let error = up.await.unwrap().expect_err("the table is in use");
        assert!(matches!(error, Error::Migration { .. }), "{error:?}");
        assert_eq!(error.sqlstate(), Some("55P03"), "{error}");
        assert!(took > Duration::from_millis(2300), "3 attempts: {took:?}");
        assert!(took < Duration::from_secs(8), "{took:?}");
        assert!(
            longest > Duration::from_millis(100),
            "{longest:?}: nobody waited"
        );
        assert!(longest < Duration::from_millis(1200), "{longest:?}");
        assert_eq!(dump(&database.url), before);
        reader.run("COMMIT").await;
        assert_eq!(store.migrate().await.unwrap().version(), 2);
    })
    .await;
}

/// A migrator with a third migration, which runs outside a transaction.
fn with_index(statement: &str) -> Migrator {
    let sql = format!("-- no transaction\n{statement};\n");
    let migrator = Migrator::new().lock_timeout(Duration::from_millis(300));
    migrator.with_migration("V3__index", &sql).unwrap()
}

const UNIQUE: &str = "CREATE UNIQUE INDEX CONCURRENTLY cars_model_idx ON cars (model)";
const LENIENT: &str = "CREATE INDEX CONCURRENTLY IF NOT EXISTS cars_model_idx ON cars (model)";

fn versions(report: &MigrationReport) -> Vec<u32> {
    report.applied().iter().map(|one| one.version).collect()
}

/// Whether the index is there, and valid.
async fn index(watch: &Watch) -> Vec<String> {
    let sql = "SELECT indisvalid::text FROM pg_index
        WHERE indexrelid = to_regclass('cars_model_idx')";
    watch.texts(sql).await
}

async fn is_complete(migrator: &Migrator, store: &PgStore, watch: &Watch) {
    assert_eq!(index(watch).await, ["true"]);
    assert_eq!(watch.texts(HISTORY).await, ["1", "2", "3"]);
    assert_eq!(migrator.check(store.pool()).await.unwrap(), []);
    assert!(migrator.status(store.pool()).await.unwrap().is_current());
}

#[tokio::test]
async fn an_index_that_was_left_unfinished_is_rebuilt() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        watch
            .run(
                "INSERT INTO users (username) VALUES ('Anna');
                 INSERT INTO cars (model, owner_id) VALUES ('Golf', 1), ('Golf', 1)",
            )
            .await;
        let migrator = with_index(UNIQUE);
        for _ in 0..2 {
            let error = migrator.up(store.pool()).await.expect_err("not unique");
            assert_eq!(error.sqlstate(), Some("23505"), "{error}");
            assert!(error.to_string().contains("V3__index"), "{error}");
            assert!(!error.to_string().contains("Golf"), "{error}");
            assert_eq!(index(&watch).await, ["false"]);
            assert_eq!(watch.texts(HISTORY).await, ["1", "2"]);
        }
        watch.run("DELETE FROM cars WHERE id = 2").await;
        assert_eq!(versions(&migrator.up(store.pool()).await.unwrap()), [3]);
        is_complete(&migrator, &store, &watch).await;
    })
    .await;
}

/// It waits for older snapshots, and it gives up on them as on tables.
#[tokio::test]
async fn an_index_behind_a_long_transaction_is_built_later() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let (reader, watch) = (Watch::new(&database).await, Watch::new(&database).await);
        reader
            .run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM cars")
            .await;
        let migrator = with_index(LENIENT).attempts(2);
        let error = migrator.up(store.pool()).await.expect_err("it waits");
        assert_eq!(error.sqlstate(), Some("55P03"), "{error}");
        assert_eq!(index(&watch).await, ["false"]);
        reader.run("COMMIT").await;
        assert_eq!(versions(&migrator.up(store.pool()).await.unwrap()), [3]);
        is_complete(&migrator, &store, &watch).await;
        // Interrupted after the index was there and before it was written down.
        watch
            .run("DELETE FROM motorpool_schema_history WHERE version = 3")
            .await;
        assert_eq!(versions(&migrator.up(store.pool()).await.unwrap()), [3]);
        is_complete(&migrator, &store, &watch).await;
    })
    .await;
}

/// Building an index concurrently waits for every snapshot; whoever waits for the lock holds none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_migrator_does_not_stop_an_index() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let (reader, watch) = (Watch::new(&database).await, Watch::new(&database).await);
        reader
            .run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM cars")
            .await;
        let migrator = with_index(LENIENT).lock_timeout(Duration::from_secs(20));
        let up = || {
            let (migrator, pool) = (migrator.clone(), store.pool().clone());
            tokio::spawn(async move { migrator.up(&pool).await })
        };
        let (one, two, three) = (up(), up(), up());
        watch.waiting(1).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        reader.run("COMMIT").await;
        let mut applied = Vec::new();
        for done in [one, two, three] {
            applied.extend(versions(&done.await.unwrap().unwrap()));
        }
        assert_eq!(applied, [3]);
        is_complete(&migrator, &store, &watch).await;
    })
    .await;
}

#[tokio::test]
async fn adoption_goes_on_to_what_no_transaction_can_hold() {
    with_empty_database(async |database| {
        psql(&database.url, FLASK);
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        let migrator = with_index(LENIENT);
        let adoption = migrator.adopt(store.pool()).await.unwrap();
        let Adoption::Adopted { applied, .. } = adoption else {
            panic!("{adoption:?}");
        };
        let applied: Vec<_> = applied.iter().map(|one| one.version).collect();
        assert_eq!(applied, [2, 3]);
        is_complete(&migrator, &store, &watch).await;
    })
    .await;
}
