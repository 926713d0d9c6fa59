//! The comparison of a live schema with what the migrations make.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod programs;
#[path = "support/quick.rs"]
mod quick;
mod support;
mod watch;

use motorpool::{Adoption, Migrator, PgStore};
use programs::{FLASK, dump, psql};
use support::server::{Options, Server};
use support::{Database, with_database, with_empty_database};
use watch::Watch;

/// What is done to a fresh schema, and what is to be found.
const SEEDS: &[(&str, &[&str])] = &[
    (
        "ALTER TABLE users DROP COLUMN created_at",
        &[
            "check users.users_created_at_finite",
            "column users.created_at: default",
            "column users.created_at: null",
            "column users.created_at: type",
        ],
    ),
    (
        "ALTER TABLE cars ALTER model TYPE text",
        &["column cars.model: type"],
    ),
    (
        "ALTER TABLE cars ALTER model TYPE varchar(255)",
        &["column cars.model: type"],
    ),
    (
        "ALTER TABLE cars ALTER model TYPE varchar COLLATE \"C\"",
        &["column cars.model: collation"],
    ),
    (
        "ALTER TABLE users ALTER role DROP NOT NULL",
        &["column users.role: null"],
    ),
    (
        "ALTER TABLE cars ALTER purchase_key SET NOT NULL",
        &["column cars.purchase_key: null"],
    ),
    (
        "ALTER TABLE users ALTER role SET DEFAULT 'student'",
        &["column users.role: default"],
    ),
    (
        "ALTER TABLE users ALTER created_at DROP DEFAULT",
        &["column users.created_at: default"],
    ),
    (
        "ALTER TABLE cars ALTER model SET DEFAULT 'Golf'",
        &["column cars.model: default"],
    ),
    (
        "ALTER TABLE users DROP CONSTRAINT role_types, ADD CONSTRAINT role_types
             CHECK (role IN ('student', 'teacher', 'employee', 'admin'))",
        &["check users.role_types"],
    ),
    (
        "ALTER TABLE users DROP CONSTRAINT users_username_length, ADD CONSTRAINT
             users_username_length CHECK (char_length(username) BETWEEN 1 AND 256)",
        &["check users.users_username_length"],
    ),
    (
        "ALTER TABLE cars DROP CONSTRAINT cars_model_length",
        &["check cars.cars_model_length"],
    ),
    (
        "ALTER TABLE cars ADD CONSTRAINT cars_of_ours CHECK (model <> 'Edsel')",
        &["check cars.cars_of_ours"],
    ),
    (
        "ALTER TABLE users DROP CONSTRAINT role_types, ADD CONSTRAINT role_types
             CHECK (role IN ('student', 'teacher', 'employee')) NOT VALID",
        &["validity of users.role_types"],
    ),
    (
        "ALTER TABLE cars DROP CONSTRAINT cars_owner_id_fkey, ADD CONSTRAINT cars_owner_id_fkey
             FOREIGN KEY (owner_id) REFERENCES users (id) ON DELETE CASCADE",
        &["constraint cars.cars_owner_id_fkey"],
    ),
    (
        "ALTER TABLE cars DROP CONSTRAINT cars_owner_id_fkey, ADD CONSTRAINT cars_owner_id_fkey
             FOREIGN KEY (owner_id) REFERENCES users (id) ON UPDATE SET NULL",
        &["constraint cars.cars_owner_id_fkey"],
    ),
    (
        "ALTER TABLE cars ALTER CONSTRAINT cars_owner_id_fkey DEFERRABLE",
        &["constraint cars.cars_owner_id_fkey"],
    ),
    (
        "ALTER TABLE cars DROP CONSTRAINT cars_owner_id_fkey",
        &["constraint cars.cars_owner_id_fkey"],
    ),
    (
        "ALTER TABLE users DROP CONSTRAINT users_username_key",
        &[
            "constraint users.users_username_key",
            "index users_username_key",
        ],
    ),
    (
        "ALTER TABLE users RENAME CONSTRAINT users_username_key TO names",
        &[
            "constraint users.names",
            "constraint users.users_username_key",
            "index names",
            "index users_username_key",
        ],
    ),
    (
        "ALTER TABLE cars DROP CONSTRAINT cars_purchase_key_key,
             ADD CONSTRAINT cars_purchase_key_key UNIQUE (purchase_key) DEFERRABLE",
        &["constraint cars.cars_purchase_key_key"],
    ),
    (
        "ALTER TABLE cars DROP CONSTRAINT cars_purchase_key_key;
             CREATE UNIQUE INDEX cars_purchase_key_key ON cars (purchase_key)",
        &["constraint cars.cars_purchase_key_key"],
    ),
    (
        "ALTER TABLE users RENAME CONSTRAINT role_types TO roles",
        &["check users.role_types", "check users.roles"],
    ),
    (
        "DROP INDEX cars_owner_id_id_idx",
        &["index cars_owner_id_id_idx"],
    ),
    (
        "DROP INDEX cars_owner_id_id_idx; CREATE INDEX cars_owner_id_id_idx ON cars (id, owner_id)",
        &["index cars_owner_id_id_idx"],
    ),
    (
        "DROP INDEX cars_owner_id_id_idx;
             CREATE INDEX cars_owner_id_id_idx ON cars (owner_id, id) WHERE id > 100",
        &["index cars_owner_id_id_idx"],
    ),
    (
        "UPDATE pg_index SET indisvalid = false
             WHERE indexrelid = 'cars_owner_id_id_idx'::regclass",
        &["index cars_owner_id_id_idx"],
    ),
    (
        "CREATE INDEX ON users (created_at)",
        &["index users_created_at_idx"],
    ),
    (
        "ALTER TABLE users ADD email text",
        &["column users.email: null", "column users.email: type"],
    ),
    (
        "ALTER TABLE users RENAME username TO login",
        &[
            "check users.users_username_length",
            "column users.login: null",
            "column users.login: type",
            "column users.username: null",
            "column users.username: type",
            "constraint users.users_username_key",
            "index users_username_key",
        ],
    ),
    (
        "ALTER TABLE cars ALTER id TYPE integer",
        &["column cars.id: type"],
    ),
    (
        "ALTER SEQUENCE users_id_seq OWNED BY NONE",
        &["sequence users_id_seq: owned by"],
    ),
    (
        "ALTER SEQUENCE cars_id_seq OWNED BY cars.owner_id",
        &["sequence cars_id_seq: owned by"],
    ),
    (
        "ALTER SEQUENCE users_id_seq AS integer",
        &[
            "sequence users_id_seq: range",
            "sequence users_id_seq: type",
        ],
    ),
    (
        "ALTER SEQUENCE users_id_seq INCREMENT 2",
        &["sequence users_id_seq: range"],
    ),
    (
        "ALTER SEQUENCE users_id_seq MAXVALUE 4711 CYCLE",
        &["sequence users_id_seq: range"],
    ),
    (
        "ALTER TABLE users ALTER id DROP DEFAULT,
             ALTER id ADD GENERATED BY DEFAULT AS IDENTITY (SEQUENCE NAME users_id_seq2)",
        &[
            "column users.id: default",
            "column users.id: generated",
            "sequence users_id_seq: owned by",
            "sequence users_id_seq: range",
            "sequence users_id_seq: type",
        ],
    ),
    (
        "ALTER TABLE cars SET UNLOGGED",
        &["table cars: persistence"],
    ),
    (
        "ALTER TABLE users ENABLE ROW LEVEL SECURITY",
        &["table users: row security"],
    ),
    (
        "CREATE RULE nothing AS ON INSERT TO users DO INSTEAD NOTHING",
        &["rule users.nothing"],
    ),
    (
        "ALTER TABLE cars DISABLE TRIGGER ALL",
        &["constraint cars.cars_owner_id_fkey: enforced"],
    ),
    (
        "CREATE TRIGGER same BEFORE UPDATE ON cars FOR EACH ROW
             EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        &["trigger cars.same"],
    ),
    (
        "ALTER TABLE cars DROP CONSTRAINT cars_model_length, ADD CONSTRAINT cars_model_length
             CHECK (char_length(model) BETWEEN 1 AND 255) NO INHERIT",
        &["inheritance of cars.cars_model_length"],
    ),
    (
        "DROP TABLE cars",
        &[
            "check cars.cars_model_length",
            "column cars.id: default",
            "column cars.id: null",
            "column cars.id: type",
            "column cars.model: null",
            "column cars.model: type",
            "column cars.owner_id: null",
            "column cars.owner_id: type",
            "column cars.purchase_key: null",
            "column cars.purchase_key: type",
            "constraint cars.cars_owner_id_fkey",
            "constraint cars.cars_pkey",
            "constraint cars.cars_purchase_key_key",
            "index cars_owner_id_id_idx",
            "index cars_pkey",
            "index cars_purchase_key_key",
            "sequence cars_id_seq: owned by",
            "sequence cars_id_seq: range",
            "sequence cars_id_seq: type",
            "table cars",
        ],
    ),
];

/// Makes the schema anew, over the connection that is there.
async fn anew(watch: &Watch) {
    watch
        .run("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        .await;
    watch.run(&Migrator::new().sql(0)).await;
}

/// What `check` finds.
async fn check(store: &PgStore) -> Vec<String> {
    let found = Migrator::new().check(store.pool()).await.unwrap();
    found.iter().map(|found| found.what.clone()).collect()
}

async fn is_silent(database: &Database) {
    let store = PgStore::connect(&database.url).await.unwrap();
    let before = dump(&database.url);
    let found = Migrator::new().check(store.pool()).await.unwrap();
    assert_eq!(found, []);
    assert_eq!(dump(&database.url), before, "it left something behind");
}

#[tokio::test]
async fn each_difference_is_found_and_no_other() {
    // A connection is made for each comparison.
    let server = Server::start(Options::default()).unwrap();
    let url = quick::user(&server.url("postgres")).await;
    let store = PgStore::connect(&url).await.unwrap();
    let name = "postgres".to_owned();
    let watch = Watch::new(&Database { name, url }).await;
    let mut wrong = Vec::new();
    for (seed, expected) in SEEDS {
        anew(&watch).await;
        watch.run(seed).await;
        let found = check(&store).await;
        if found != *expected {
            wrong.push(format!("{seed}: {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    anew(&watch).await;
    assert_eq!(check(&store).await, [""; 0]);
}

#[tokio::test]
async fn a_fresh_database_is_as_it_should_be() {
    with_database(async |database| is_silent(&database).await).await;
}

/// A dump that is restored changes the spelling of expressions, the first time and the second.
#[tokio::test]
async fn a_restored_database_is_as_it_should_be() {
    with_database(async |database| {
        with_empty_database(async |once| {
            psql(&once.url, &dump(&database.url));
            is_silent(&once).await;
            with_empty_database(async |twice| {
                psql(&twice.url, &dump(&once.url));
                is_silent(&twice).await;
                psql(&twice.url, "ALTER TABLE users DROP CONSTRAINT role_types");
                let store = PgStore::connect(&twice.url).await.unwrap();
                assert_eq!(check(&store).await, ["check users.role_types"]);
            })
            .await;
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn an_adopted_database_is_as_it_should_be() {
    with_empty_database(async |database| {
        psql(&database.url, FLASK);
        let store = PgStore::connect(&database.url).await.unwrap();
        let adoption = Migrator::new().adopt(store.pool()).await.unwrap();
        assert!(matches!(adoption, Adoption::Adopted { .. }), "{adoption:?}");
        is_silent(&database).await;
    })
    .await;
}

/// A database is compared with what it should be at its own version.
#[tokio::test]
async fn a_database_behind_is_compared_with_its_version() {
    with_empty_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        assert_eq!(check(&store).await, [""; 0]);
        Migrator::new().to(1).up(store.pool()).await.unwrap();
        is_silent(&database).await;
        psql(&database.url, "ALTER TABLE users ALTER id TYPE bigint");
        assert_eq!(check(&store).await, ["column users.id: type"]);
    })
    .await;
}

#[tokio::test]
async fn tables_of_the_host_are_its_own_affair() {
    with_database(async |database| {
        psql(
            &database.url,
            "CREATE TABLE orders (id serial PRIMARY KEY, user_id bigint REFERENCES users,
                 number int CHECK (number > 0));
             CREATE VIEW teachers AS SELECT * FROM users WHERE role = 'teacher'",
        );
        is_silent(&database).await;
    })
    .await;
}

#[tokio::test]
async fn the_tables_may_be_in_another_schema() {
    with_empty_database(async |database| {
        psql(
            &database.url,
            &format!(
                "CREATE SCHEMA \"Cars & Co\";
                 ALTER DATABASE {} SET search_path = \"Cars & Co\", public",
                database.name
            ),
        );
        let store = PgStore::connect(&database.url).await.unwrap();
        store.migrate().await.unwrap();
        is_silent(&database).await;
        psql(&database.url, "DROP INDEX cars_owner_id_id_idx");
        assert_eq!(check(&store).await, ["index cars_owner_id_id_idx"]);
    })
    .await;
}

/// A difference says what is expected and what is there, in one line.
#[tokio::test]
async fn a_difference_can_be_read() {
    with_database(async |database| {
        psql(
            &database.url,
            "ALTER TABLE users ALTER role SET DEFAULT 'student', ADD email text;
             DROP INDEX cars_owner_id_id_idx",
        );
        let store = PgStore::connect(&database.url).await.unwrap();
        let found = Migrator::new().check(store.pool()).await.unwrap();
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "column users.email: null is not expected: allowed",
                "column users.email: type is not expected: text",
                "column users.role: default is 'student'::character varying, \
                 expected is 'employee'::character varying",
                "index cars_owner_id_id_idx is missing, expected is \
                 CREATE INDEX cars_owner_id_id_idx ON cars USING btree (owner_id, id)",
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn names_may_be_quoted_in_all_definitions() {
    with_empty_database(async |database| {
        let all = "SET quote_all_identifiers = on";
        psql(
            &database.url,
            &format!("ALTER DATABASE {} {all}", database.name),
        );
        let store = PgStore::connect(&database.url).await.unwrap();
        store.migrate().await.unwrap();
        is_silent(&database).await;
    })
    .await;
}
