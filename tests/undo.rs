//! Scripts for a database administrator, and the way back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod programs;
mod support;
mod watch;

use motorpool::{Error, Migrator, PgStore, SchemaStatus};
use programs::{dump, psql, psql_error};
use support::{with_database, with_empty_database};
use watch::Watch;

const ROWS: &str = "INSERT INTO users (username, created_at, role) VALUES
        ('Anna', '2026-01-01', 'student'), ('Bert', '2026-01-02', 'teacher');
    INSERT INTO cars (model, owner_id) VALUES ('Golf', 1), ('Polo', 1), ('Lupo', 2)";

const KEYS: &str = "UPDATE cars SET purchase_key = gen_random_uuid() WHERE id < 3";

async fn status(store: &PgStore) -> SchemaStatus {
    Migrator::new().status(store.pool()).await.unwrap()
}

/// The version that was undone.
async fn undo(store: &PgStore, lose_data: bool) -> Result<Option<u32>, Error> {
    let undone = Migrator::new().undo(store.pool(), lose_data).await?;
    Ok(undone.map(|undone| undone.version))
}

/// Status is current, check is clean, and there is nothing to do.
async fn is_as_migrated(store: &PgStore) {
    let found = status(store).await;
    assert!(found.is_current() && !found.is_foreign());
    assert_eq!(found.version(), 2);
    assert_eq!(found.lock_holder(), None);
    assert_eq!(Migrator::new().check(store.pool()).await.unwrap(), []);
    let report = store.migrate().await.unwrap();
    assert_eq!((report.applied(), report.version()), (&[][..], 2));
}

/// The dump without the times of the history.
fn timeless(dump: &str) -> String {
    let is_time = |word: &&str| word.len() > 20 && word.starts_with("20") && word.ends_with('Z');
    let lines = dump.lines().map(|line| {
        let words: Vec<_> = line.split('\t').filter(|word| !is_time(word)).collect();
        words.join("\t")
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn the_script_does_what_up_does() {
    with_empty_database(async |database| {
        let script = Migrator::new().sql(0);
        psql(&database.url, &script);
        let store = PgStore::connect(&database.url).await.unwrap();
        is_as_migrated(&store).await;
        let times = status(&store).await;
        let times = times.migrations().iter().map(|m| m.applied_on.clone());
        for time in times.map(Option::unwrap) {
            assert!(time.len() == 27 && time.ends_with('Z'), "{time}");
        }
        let by_script = dump(&database.url);
        with_database(async |fresh| {
            assert_eq!(timeless(&by_script), timeless(&dump(&fresh.url)));
        })
        .await;
        // Run again it fails at its first migration, and changes nothing.
        let error = psql_error(&database.url, &script);
        assert!(error.contains("the database is at version 2"), "{error}");
        assert_eq!(dump(&database.url), by_script);
    })
    .await;
}

#[tokio::test]
async fn a_script_goes_on_where_up_stopped() {
    with_empty_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let report = Migrator::new().to(1).up(store.pool()).await.unwrap();
        assert_eq!(report.version(), 1);
        psql(&database.url, &Migrator::new().sql(1));
        is_as_migrated(&store).await;
    })
    .await;
    with_empty_database(async |database| {
        psql(&database.url, &Migrator::new().to(1).sql(0));
        let store = PgStore::connect(&database.url).await.unwrap();
        assert_eq!(status(&store).await.version(), 1);
        assert_eq!(store.migrate().await.unwrap().applied().len(), 1);
        is_as_migrated(&store).await;
    })
    .await;
}

#[tokio::test]
async fn a_script_does_not_run_beside_a_migrator() {
    with_empty_database(async |database| {
        let watch = Watch::new(&database).await;
        watch
            .run("SELECT pg_advisory_lock(x'6d6f746f72706f6f'::bigint)")
            .await;
        let store = PgStore::connect(&database.url).await.unwrap();
        assert!(status(&store).await.lock_holder().is_some());
        let before = dump(&database.url);
        let error = psql_error(&database.url, &Migrator::new().sql(0));
        assert!(error.contains("another migrator"), "{error}");
        assert_eq!(dump(&database.url), before);
    })
    .await;
}

#[tokio::test]
async fn back_to_nothing_and_up_again_ends_where_it_began() {
    with_database(async |database| {
        let fresh = timeless(&dump(&database.url));
        let store = PgStore::connect(&database.url).await.unwrap();
        for version in [2, 1] {
            assert_eq!(undo(&store, false).await.unwrap(), Some(version));
            assert_eq!(status(&store).await.version(), version - 1);
            assert_eq!(Migrator::new().check(store.pool()).await.unwrap(), []);
        }
        assert_eq!(undo(&store, false).await.unwrap(), None);
        let watch = Watch::new(&database).await;
        let tables = "SELECT relname::text FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S')";
        assert_eq!(watch.texts(tables).await, ["motorpool_schema_history"]);
        assert!(!status(&store).await.is_foreign());
        assert_eq!(store.migrate().await.unwrap().applied().len(), 2);
        is_as_migrated(&store).await;
        assert_eq!(timeless(&dump(&database.url)), fresh);
    })
    .await;
}

/// An undo is refused because of these, and has changed nothing.
async fn is_refused(store: &PgStore, url: &str, losses: &[&str]) {
    let before = dump(url);
    let error = undo(store, false).await.expect_err("data would be lost");
    assert!(matches!(error, Error::Migration { .. }), "{error:?}");
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    let (_, named) = text.split_once("would lose data: ").expect(&text);
    assert_eq!(named.split(", ").collect::<Vec<_>>(), losses);
    assert_eq!(dump(url), before);
}

#[tokio::test]
async fn rows_are_not_lost_unless_that_is_wanted() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        watch.run(ROWS).await;
        assert_eq!(undo(&store, false).await.unwrap(), Some(2));
        is_refused(&store, &database.url, &["2 of users", "3 of cars"]).await;
        watch.run("DELETE FROM cars").await;
        is_refused(&store, &database.url, &["2 of users"]).await;
        assert_eq!(undo(&store, true).await.unwrap(), Some(1));
        assert_eq!(store.migrate().await.unwrap().applied().len(), 2);
        is_as_migrated(&store).await;
        assert_eq!(watch.number("SELECT count(*) FROM users").await, 0);
    })
    .await;
}

#[tokio::test]
async fn purchase_keys_are_not_lost_unless_that_is_wanted() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        watch.run(ROWS).await;
        watch.run(KEYS).await;
        is_refused(&store, &database.url, &["2 of cars.purchase_key"]).await;
        assert_eq!(undo(&store, true).await.unwrap(), Some(2));
        assert_eq!(status(&store).await.version(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_step_back_keeps_the_rows() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        watch.run(ROWS).await;
        let users = "SELECT row(id, username, created_at, role)::text FROM users ORDER BY id";
        let cars = "SELECT row(id, model, owner_id)::text FROM cars ORDER BY id";
        let before = (watch.texts(users).await, watch.texts(cars).await);
        assert_eq!(undo(&store, false).await.unwrap(), Some(2));
        assert_eq!((watch.texts(users).await, watch.texts(cars).await), before);
        assert_eq!(Migrator::new().check(store.pool()).await.unwrap(), []);
        assert_eq!(store.migrate().await.unwrap().applied().len(), 1);
        assert_eq!((watch.texts(users).await, watch.texts(cars).await), before);
        is_as_migrated(&store).await;
        // Numbers go on.
        watch.run(ROWS.split(';').next_back().unwrap()).await;
        assert_eq!(watch.number("SELECT max(id) FROM cars").await, 6);
    })
    .await;
}

#[tokio::test]
async fn ids_that_do_not_fit_any_more_stop_a_step_back() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        watch
            .run("INSERT INTO users (id, username, role) VALUES (3000000000, 'far', 'student')")
            .await;
        let before = dump(&database.url);
        let error = undo(&store, false).await.expect_err("out of range");
        assert_eq!(error.sqlstate(), Some("22003"), "{error}");
        assert_eq!(dump(&database.url), before);
        is_as_migrated(&store).await;
    })
    .await;
}

/// A later program's migrations are not known here, so they are not undone here either.
#[tokio::test]
async fn a_history_that_is_not_ours_is_not_undone() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        let row = "INSERT INTO motorpool_schema_history VALUES (99, 'later', '', '4711')";
        watch.run(row).await;
        let before = dump(&database.url);
        let error = undo(&store, true).await.expect_err("not known");
        assert!(error.to_string().contains("99 is not known"), "{error}");
        assert_eq!(dump(&database.url), before);
    })
    .await;
    with_empty_database(async |database| {
        psql(&database.url, "CREATE TABLE users (); CREATE TABLE cars ()");
        let store = PgStore::connect(&database.url).await.unwrap();
        let before = dump(&database.url);
        let error = undo(&store, true).await.expect_err("not motorpool's");
        assert!(error.to_string().contains("did not make"), "{error}");
        assert_eq!(dump(&database.url), before);
    })
    .await;
}

/// Whatever a role or a database has set, rows that are stored while the undo waits are seen.
#[tokio::test]
async fn rows_that_come_while_it_waits_are_not_lost() {
    with_database(async |database| {
        let watch = Watch::new(&database).await;
        let name = &database.name;
        let set = format!(
            "ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'repeatable read'"
        );
        watch.run(&set).await;
        let store = PgStore::connect(&database.url).await.unwrap();
        assert_eq!(undo(&store, false).await.unwrap(), Some(2));
        let writer = Watch::new(&database).await;
        writer
            .run("BEGIN; INSERT INTO users (username, created_at) VALUES ('Carl', '2026-01-01')")
            .await;
        let other = store.clone();
        let undoing = tokio::spawn(async move { undo(&other, false).await });
        watch.waiting(1).await;
        writer.run("COMMIT").await;
        let error = undoing.await.unwrap().expect_err("a row would be lost");
        assert!(
            error.to_string().contains("would lose data: 1 of users"),
            "{error}"
        );
        assert_eq!(watch.number("SELECT count(*) FROM users").await, 1);
    })
    .await;
}

/// Who may make tables beside ours could make the history first, with a trigger on it.
#[tokio::test]
async fn a_history_of_a_stranger_is_not_written_to() {
    with_empty_database(async |database| {
        let watch = Watch::new(&database).await;
        let name = format!("mallory_{}", database.name);
        let make = format!(
            "CREATE ROLE \"{name}\";
            CREATE TABLE motorpool_schema_history (version int4 PRIMARY KEY,
                name varchar(255), applied_on varchar(255), checksum varchar(255));
            ALTER TABLE motorpool_schema_history OWNER TO \"{name}\""
        );
        watch.run(&make).await;
        let before = dump(&database.url);
        let store = PgStore::connect(&database.url).await.unwrap();
        let error = store.migrate().await.expect_err("it is a stranger's");
        assert!(matches!(error, Error::Migration { .. }), "{error:?}");
        let by_script = psql_error(&database.url, &Migrator::new().sql(0));
        for error in [error.to_string(), by_script] {
            assert!(error.contains(&name), "{error}");
        }
        assert_eq!(dump(&database.url), before);
        watch
            .run("ALTER TABLE motorpool_schema_history OWNER TO current_user")
            .await;
        assert_eq!(store.migrate().await.unwrap().applied().len(), 2);
        watch.run(&format!("DROP ROLE \"{name}\"")).await;
    })
    .await;
}
