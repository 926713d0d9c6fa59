//! Taking over a database of the original application.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod log;
mod programs;
mod support;
mod watch;

use log::Log;
use motorpool::{
    Adoption, Error, Migrator, NewCar, NewUser, PageRequest, PgStore, Role, Store, UserId,
};
use programs::{FLASK, dump, psql};
use support::{Database, with_empty_database, with_encoding};
use watch::Watch;

const ROWS_OF_USERS: &str = "SELECT concat_ws('|', id, convert_to(username, 'UTF8'), created_at, \
    coalesce(role, 'employee')) FROM users ORDER BY id";
const ROWS_OF_CARS: &str =
    "SELECT concat_ws('|', id, convert_to(model, 'UTF8'), owner_id) FROM cars ORDER BY id";

/// The reason, when a call says that the migration failed.
fn reason<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(error @ Error::Migration { .. }) => {
            let text = error.to_string();
            assert_eq!(text.lines().count(), 1, "{text}");
            text
        }
        other => panic!("expected a failed migration, got {other:?}"),
    }
}

async fn adopt(store: &PgStore) -> Adoption {
    Migrator::new().adopt(store.pool()).await.unwrap()
}

async fn flask(database: &Database, script: &str) -> (PgStore, Watch) {
    psql(&database.url, script);
    let store = PgStore::connect(&database.url).await.unwrap();
    (store, Watch::new(database).await)
}

/// All users and cars, page by page, in the form of the plain SELECTs above.
async fn read_all(store: &PgStore) -> (Vec<String>, Vec<String>) {
    let hex = |text: &str| {
        let digits = text.bytes().map(|byte| format!("{byte:02x}"));
        format!("\\x{}", digits.collect::<String>())
    };
    let (mut users, mut cars) = (Vec::new(), Vec::new());
    let mut page = PageRequest::first(30).unwrap();
    loop {
        let found = store.users().list(page).await.unwrap();
        for user in &found.items {
            let name = hex(&user.username);
            users.push(format!(
                "{}|{name}|{}|{}",
                user.id, user.created_at, user.role
            ));
            let by_name = store.users().get_by_username(&user.username).await;
            assert_eq!(by_name.unwrap().as_ref(), Some(user));
            let owned = store.cars().owned_by(user.id).await.unwrap();
            cars.extend(owned.into_iter().map(|car| {
                let line = format!("{}|{}|{}", car.id, hex(&car.model), car.owner_id);
                (car.id, line)
            }));
        }
        match found.next {
            Some(next) => page = PageRequest::first(30).unwrap().after(next),
            None => break,
        }
    }
    cars.sort();
    (users, cars.into_iter().map(|(_, line)| line).collect())
}

async fn is_taken_over(script: &str) {
    with_empty_database(async |database| {
        let (store, watch) = flask(&database, script).await;
        let empty = "SELECT id::text FROM users WHERE role IS NULL ORDER BY id";
        let without_role = watch.texts(empty).await;
        assert_eq!(without_role.len(), 2);
        let users = watch.texts(ROWS_OF_USERS).await;
        let cars = watch.texts(ROWS_OF_CARS).await;
        assert_eq!((users.len(), cars.len()), (100, 300));

        let before = dump(&database.url);
        let error = reason(store.migrate().await);
        assert!(error.contains("that motorpool did not make"), "{error}");
        assert!(error.contains("Migrator::adopt"), "{error}");
        assert_eq!(dump(&database.url), before);
        let status = Migrator::new().status(store.pool()).await.unwrap();
        assert!(status.is_foreign() && !status.is_current());

        let adoption = adopt(&store).await;
        let Adoption::Adopted {
            applied,
            users: 100,
            cars: 300,
            roles_filled: 2,
            ..
        } = &adoption
        else {
            panic!("{adoption:?}");
        };
        let applied: Vec<_> = applied.iter().map(|one| one.version).collect();
        assert_eq!(applied, [2]);

        assert_eq!(watch.texts(ROWS_OF_USERS).await, users);
        assert_eq!(watch.texts(ROWS_OF_CARS).await, cars);
        assert_eq!(read_all(&store).await, (users, cars));
        for id in &without_role {
            let id: UserId = id.parse().unwrap();
            let user = store.users().get(id).await.unwrap().unwrap();
            assert_eq!(user.role, Role::Employee);
        }
        let carl = store.users().register(&NewUser::new("Carl").unwrap()).await;
        assert_eq!(carl.unwrap().into_user().id.get(), 101);
        let car = NewCar::new("Golf", UserId::new(101)).unwrap();
        assert_eq!(store.cars().buy(&car).await.unwrap().id.get(), 301);

        let migrator = Migrator::new();
        assert_eq!(migrator.check(store.pool()).await.unwrap(), []);
        let status = migrator.status(store.pool()).await.unwrap();
        assert!(status.is_current() && !status.is_foreign());
        let report = store.migrate().await.unwrap();
        assert_eq!((report.applied(), report.version()), (&[][..], 2));
        let error = reason(migrator.adopt(store.pool()).await);
        assert!(error.contains("nothing to adopt"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn the_originals_database_is_taken_over_with_every_row() {
    is_taken_over(FLASK).await;
}

#[tokio::test]
async fn it_need_not_have_the_table_of_its_migrations() {
    let script = format!("{FLASK}\nDROP TABLE public.alembic_version;");
    is_taken_over(&script).await;
}

#[tokio::test]
async fn an_empty_database_has_nothing_to_adopt() {
    with_empty_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let before = dump(&database.url);
        let error = reason(Migrator::new().adopt(store.pool()).await);
        assert!(error.contains("no tables to adopt"), "{error}");
        assert_eq!(dump(&database.url), before);
    })
    .await;
}

/// Adopts a database with these rows, and gives the ids of the next user and car.
async fn next_ids(rows: &str) -> (i64, i64) {
    let script = format!("{FLASK}\nSET search_path = public; {rows}");
    with_empty_database(async |database| {
        let (store, _) = flask(&database, &script).await;
        assert!(matches!(adopt(&store).await, Adoption::Adopted { .. }));
        let dora = store.users().register(&NewUser::new("Dora").unwrap()).await;
        let dora = dora.unwrap().into_user().id;
        let car = store.cars().buy(&NewCar::new("Golf", dora).unwrap()).await;
        (dora.get(), car.unwrap().id.get())
    })
    .await
}

#[tokio::test]
async fn ids_go_on_after_the_highest_one_however_it_came_there() {
    let explicit = "INSERT INTO users VALUES (4711, 'far', '2026-01-01', 'teacher');
        INSERT INTO cars VALUES (815, 'Golf', 4711), (500, 'Polo', 4711)";
    assert_eq!(next_ids(explicit).await, (4712, 816));
    let first = "TRUNCATE users, cars RESTART IDENTITY;
        INSERT INTO users VALUES (1, 'first', '2026-01-01', 'teacher');
        INSERT INTO cars VALUES (1, 'Golf', 1)";
    assert_eq!(next_ids(first).await, (2, 2));
    // Numbers that were given out are not given out again.
    let deleted = "DELETE FROM cars; DELETE FROM users WHERE id > 50";
    assert_eq!(next_ids(deleted).await, (101, 301));
    assert_eq!(
        next_ids("TRUNCATE users, cars RESTART IDENTITY").await,
        (1, 1)
    );
}

/// Adoption stops at these rows, and nothing has changed.
async fn is_refused_for(rows: &str, expected: &[&str]) {
    let script = format!("{FLASK}\nSET search_path = public; {rows}");
    with_empty_database(async |database| {
        let (store, _) = flask(&database, &script).await;
        let before = dump(&database.url);
        let Adoption::BadRows(bad) = adopt(&store).await else {
            panic!("adopted");
        };
        let bad: Vec<_> = bad.iter().map(ToString::to_string).collect();
        assert_eq!(bad, expected);
        assert_eq!(dump(&database.url), before);
        assert!(store.migrate().await.is_err());
    })
    .await;
}

#[tokio::test]
async fn rows_that_cannot_stay_are_listed_each_with_its_reason() {
    is_refused_for(
        "INSERT INTO users VALUES
             (1001, 'for ever', 'infinity', 'student'),
             (1002, 'since ever', '-infinity', NULL),
             (1003, '', '2026-01-01', 'teacher'),
             (1004, repeat('é', 256), '2026-01-01', 'employee'),
             (1005, repeat('é', 255), '2026-01-01', NULL);
         INSERT INTO cars VALUES
             (2001, '', 1), (2002, repeat('m', 300), 2), (2003, repeat('m', 255), 2)",
        &[
            "users 1001: the date of creation is infinite",
            "users 1002: the date of creation is infinite",
            "users 1003: the username is empty",
            "users 1004: the username has 256 characters, more than 255",
            "cars 2001: the model is empty",
            "cars 2002: the model has 300 characters, more than 255",
        ],
    )
    .await;
}

#[tokio::test]
async fn rows_that_a_constraint_did_not_look_at_are_found() {
    is_refused_for(
        "ALTER TABLE users DROP CONSTRAINT role_types;
         UPDATE users SET role = 'admin' WHERE id = 7;
         UPDATE users SET role = '' WHERE id = 8;
         ALTER TABLE users ADD CONSTRAINT role_types
             CHECK (role IN ('student', 'teacher', 'employee')) NOT VALID;
         SET session_replication_role = replica;
         INSERT INTO cars VALUES (2001, 'Golf', 4711);",
        &[
            "users 7: the role is none of student, teacher, employee",
            "users 8: the role is none of student, teacher, employee",
            "cars 2001: there is no user 4711 to own it",
        ],
    )
    .await;
}

#[tokio::test]
async fn constraints_that_looked_at_no_row_are_made_to_look() {
    let script = format!(
        "{FLASK}\nSET search_path = public;
         ALTER TABLE users DROP CONSTRAINT role_types, ADD CONSTRAINT role_types
             CHECK (role IN ('student', 'teacher', 'employee')) NOT VALID;
         ALTER TABLE cars DROP CONSTRAINT cars_owner_id_fkey, ADD CONSTRAINT cars_owner_id_fkey
             FOREIGN KEY (owner_id) REFERENCES users (id) NOT VALID;"
    );
    with_empty_database(async |database| {
        let (store, _) = flask(&database, &script).await;
        let adoption = adopt(&store).await;
        assert!(matches!(adoption, Adoption::Adopted { .. }), "{adoption:?}");
        let found = Migrator::new().check(store.pool()).await.unwrap();
        assert_eq!(found, []);
    })
    .await;
}

#[tokio::test]
async fn another_schema_is_refused_with_what_differs() {
    let unrelated = "CREATE TABLE users (login text PRIMARY KEY)";
    for (of_the_original, seed, expected) in [
        (
            true,
            "ALTER TABLE cars DROP COLUMN model",
            &["column cars.model: type"][..],
        ),
        (
            true,
            "ALTER TABLE users ALTER created_at TYPE timestamptz",
            &["column users.created_at: type"],
        ),
        (
            true,
            "ALTER TABLE users DROP CONSTRAINT users_username_key",
            &["constraint users.users_username_key"],
        ),
        (true, "DROP TABLE cars", &["table cars"]),
        (
            true,
            "ALTER TABLE users ADD email text",
            &["column users.email: type"],
        ),
        (
            false,
            unrelated,
            &["column users.login: type", "table cars"],
        ),
        (
            false,
            "CREATE VIEW users AS SELECT 1 AS id",
            &["table users", "table cars"],
        ),
    ] {
        with_empty_database(async |database| {
            let original = if of_the_original { FLASK } else { "" };
            let script = format!("{original}\nSET search_path = public; {seed}");
            let (store, _) = flask(&database, &script).await;
            let before = dump(&database.url);
            let Adoption::NotTheOriginal(differences) = adopt(&store).await else {
                panic!("{seed}: adopted");
            };
            let what: Vec<_> = differences.iter().map(|found| &*found.what).collect();
            for name in expected {
                assert!(what.contains(name), "{seed}: {what:?}");
            }
            assert_eq!(dump(&database.url), before, "{seed}");
            let error = reason(store.migrate().await);
            assert!(error.contains("Migrator::adopt"), "{seed}: {error}");
            assert_eq!(dump(&database.url), before, "{seed}");
        })
        .await;
    }
}

/// What SQLAlchemy sends, with its own texts and types.
#[tokio::test]
async fn the_original_goes_on_working_on_the_tables() {
    with_empty_database(async |database| {
        let (store, _) = flask(&database, FLASK).await;
        assert!(matches!(adopt(&store).await, Adoption::Adopted { .. }));
        let client = database.client().await;
        let by_name = "SELECT users.id AS users_id, users.username AS users_username, \
            users.created_at AS users_created_at, users.role AS users_role \
            FROM users WHERE users.username = 'o''brien' LIMIT 1";
        let row = client.query_one(by_name, &[]).await.unwrap();
        assert_eq!((row.get(0), row.get(3)), (7_i64, "teacher"));
        let insert = "INSERT INTO users (username, created_at, role) \
            VALUES ('Emil', '2026-01-01'::date, 'student') RETURNING users.id";
        let row = client.query_one(insert, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 101);
        let without_role = "INSERT INTO users (username, created_at) \
            VALUES ('Fritz', '2026-01-01'::date) RETURNING users.id, users.role";
        let row = client.query_one(without_role, &[]).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), (102_i64, "employee"));
        let buy = "INSERT INTO cars (model, owner_id) VALUES ('Golf', 102) RETURNING cars.id";
        let row = client.query_one(buy, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 301);
        let by_owner = "SELECT cars.id AS cars_id, cars.model AS cars_model, \
            cars.owner_id AS cars_owner_id FROM cars WHERE cars.owner_id = 102";
        let rows = client.query(by_owner, &[]).await.unwrap();
        let cars: Vec<(i64, &str)> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
        assert_eq!(cars, [(301, "Golf")]);
        let null = "INSERT INTO users (username, created_at, role) \
            VALUES ('Gerd', '2026-01-01'::date, NULL) RETURNING users.id";
        let error = client.query_one(null, &[]).await.expect_err("no role");
        assert_eq!(error.code().unwrap().code(), "23502");
    })
    .await;
}

/// Who has read a table and then writes to it, as the original does with every new user, is let by.
#[tokio::test]
async fn a_writer_that_has_read_before_is_not_waited_for_in_turn() {
    with_empty_database(async |database| {
        let (store, watch) = flask(&database, FLASK).await;
        let writer = Watch::new(&database).await;
        let path = "SET search_path = public; BEGIN";
        writer.run(path).await;
        assert_eq!(writer.number("SELECT count(*) FROM users").await, 100);
        let pool = store.pool().clone();
        let once = Migrator::new().attempts(1);
        let adopting = tokio::spawn(async move { once.adopt(&pool).await });
        watch.waiting(1).await;
        let insert = "INSERT INTO users (username, created_at, role)
            VALUES ('Carl', '2026-01-01', 'student')";
        writer.run(insert).await;
        writer.run("COMMIT").await;
        let adoption = adopting.await.unwrap().unwrap();
        assert!(
            matches!(adoption, Adoption::Adopted { users: 101, .. }),
            "{adoption:?}"
        );
    })
    .await;
}

/// The other way round, somebody has read the second table and wants the first: the adoption gives way.
#[tokio::test]
async fn a_reader_of_both_is_not_ended_by_an_adoption() {
    with_empty_database(async |database| {
        let (store, watch) = flask(&database, FLASK).await;
        let reader = Watch::new(&database).await;
        reader.run("SET search_path = public; BEGIN").await;
        assert_eq!(reader.number("SELECT count(*) FROM cars").await, 300);
        let pool = store.pool().clone();
        let once = Migrator::new().attempts(1);
        let adopting = tokio::spawn(async move { once.adopt(&pool).await });
        // It has the one table and waits for the other.
        watch.waiting(1).await;
        assert_eq!(reader.number("SELECT count(*) FROM users").await, 100);
        let given_up = adopting.await.unwrap().unwrap_err();
        assert_eq!(given_up.sqlstate(), Some("55P03"), "{given_up}");
        reader.run("COMMIT").await;
        let adoption = adopt(&store).await;
        assert!(matches!(adoption, Adoption::Adopted { .. }), "{adoption:?}");
    })
    .await;
}

/// A bad row is told while somebody else holds the table, and nobody waits behind the one who looks.
#[tokio::test]
async fn bad_rows_are_found_without_a_lock() {
    with_empty_database(async |database| {
        let (store, _) = flask(&database, FLASK).await;
        let writer = Watch::new(&database).await;
        let bad = "SET search_path = public; UPDATE users SET username = '' WHERE id = 7";
        writer.run(bad).await;
        let held = "BEGIN; UPDATE users SET username = 'Carl' WHERE id = 8";
        writer.run(held).await;
        let Adoption::BadRows(rows) = adopt(&store).await else {
            panic!("there is one");
        };
        assert_eq!((rows.len(), rows[0].id), (1, 7));
    })
    .await;
}

#[tokio::test]
async fn tables_that_have_lost_their_history_are_not_the_originals() {
    with_empty_database(async |database| {
        let (store, watch) = flask(&database, FLASK).await;
        adopt(&store).await;
        watch
            .run("DROP TABLE public.motorpool_schema_history")
            .await;
        let before = dump(&database.url);
        let adopted = Migrator::new().adopt(store.pool()).await;
        let error = reason(adopted);
        assert!(error.contains("tables of version 2"), "{error}");
        assert_eq!(dump(&database.url), before);

        // What the error says.
        let script = Migrator::new().sql(0);
        let history = script
            .lines()
            .filter(|line| line.starts_with("INSERT INTO motorpool"));
        let history: Vec<_> = history.collect();
        assert_eq!(history.len(), 2);
        let table = "CREATE TABLE motorpool_schema_history (version int4 PRIMARY KEY,
            name varchar(255), applied_on varchar(255), checksum varchar(255));";
        psql(&database.url, &format!("{table}{}", history.concat()));
        assert!(store.migrate().await.unwrap().applied().is_empty());
        assert_eq!(Migrator::new().check(store.pool()).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn a_database_in_another_encoding_is_warned_of() {
    let warning = "motorpool is made for databases in UTF8";
    for (encoding, warnings) in [("LATIN1", 1), ("UTF8", 0)] {
        with_encoding(encoding, async |database| {
            let (store, watch) = flask(&database, "").await;
            Migrator::new().to(1).up(store.pool()).await.unwrap();
            watch.run("DROP TABLE motorpool_schema_history").await;
            let log = Log::new();
            let adoption = adopt(&store).await;
            assert!(matches!(adoption, Adoption::Adopted { .. }), "{adoption:?}");
            assert_eq!(log.count(warning), warnings, "{encoding}");
        })
        .await;
    }
}
