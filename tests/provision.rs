//! Roles, database and schema made for a service, and what its role may do.
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

use motorpool::{
    Error, MigrationState, Migrator, NewCar, NewUser, PgStore, Provision, Schema, Store, provision,
    schema_status,
};
use programs::{dump, dump_roles, psql};
use support::Database;
use support::server::{Options, Server};
use watch::Watch;

/// It must not be found in a log.
const CANARY: &str = "canary' of \"Garage\"";

/// A server with a provisioned database.
struct Garage {
    server: Server,
    wanted: Provision,
}

impl Garage {
    async fn new() -> Garage {
        let server = Server::start(Options {
            settings: vec![("log_statement".into(), "all".into())],
            ..Options::default()
        });
        let server = server.unwrap();
        let wanted = Provision::new("garage")
            .migrator_password(CANARY)
            .app_password(CANARY);
        let made = provision(&server.url("postgres"), &wanted).await.unwrap();
        assert_eq!(made.roles, wanted.role_names());
        assert!(made.database && made.schema);
        Garage { server, wanted }
    }

    fn url(&self, role: &str) -> String {
        let url = self.server.url("garage");
        let (_, rest) = url.split_once('@').unwrap();
        let password = CANARY
            .replace('\'', "%27")
            .replace('"', "%22")
            .replace(' ', "%20");
        format!("postgresql://{role}:{password}@{rest}")
    }

    async fn migrator(&self) -> PgStore {
        let url = self.url("garage_migrator");
        PgStore::connect(&url).await.unwrap()
    }

    async fn app(&self) -> PgStore {
        PgStore::connect(&self.url("garage_app")).await.unwrap()
    }

    /// A plain connection.
    async fn watch(&self, role: &str) -> Watch {
        let (name, url) = ("garage".into(), self.url(role));
        Watch::new(&Database { name, url }).await
    }
}

#[tokio::test]
async fn made_again_it_changes_nothing() {
    let garage = Garage::new().await;
    let admin = garage.server.url("postgres");
    let with_database = ["--create"];
    let state = || {
        let url = garage.server.url("garage");
        (
            dump_roles(&admin),
            programs::dump_with(&url, &with_database),
        )
    };
    let first = state();
    let made = provision(&admin, &garage.wanted).await.unwrap();
    assert_eq!(
        (made.roles.len(), made.database, made.schema),
        (0, false, false)
    );
    assert_eq!(state(), first);
    garage.migrator().await.migrate().await.unwrap();
    let migrated = state();
    provision(&admin, &garage.wanted).await.unwrap();
    garage.migrator().await.migrate().await.unwrap();
    assert_eq!(state(), migrated);
}

#[tokio::test]
async fn passwords_reach_the_server_as_verifiers() {
    let garage = Garage::new().await;
    let admin = garage.server.url("postgres");
    let stored = "SELECT rolname || ' ' || left(rolpassword, 14) FROM pg_authid
        WHERE rolname LIKE 'garage%' AND rolpassword IS NOT NULL ORDER BY 1";
    let stored = psql(&admin, stored);
    let stored: Vec<_> = stored.lines().collect();
    assert_eq!(
        stored,
        [
            "garage_app SCRAM-SHA-256$",
            "garage_migrator SCRAM-SHA-256$"
        ]
    );
    let log = std::fs::read_to_string(garage.server.log_path()).unwrap();
    assert!(
        log.contains("CREATE ROLE \"garage_app\""),
        "nothing was logged"
    );
    assert!(!log.contains("canary"), "a password stands in the log");
    assert!(!format!("{:?}", garage.wanted).contains("canary"));
    garage.app().await.ping().await.unwrap();
    let owner = psql(
        &admin,
        "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'garage_owner'",
    );
    assert_eq!(owner.trim(), "f");
    // Roles that are there keep theirs.
    let other = Provision::new("garage").app_password("another");
    provision(&admin, &other).await.unwrap();
    garage.app().await.ping().await.unwrap();
}

#[tokio::test]
async fn the_app_role_may_not_do_more_than_it_needs() {
    let garage = Garage::new().await;
    garage.migrator().await.migrate().await.unwrap();
    let watch = garage.watch("garage_app").await;
    watch
        .run("INSERT INTO users (username) VALUES ('Anna'); SELECT FROM motorpool_schema_history")
        .await;
    let client = Database {
        name: "garage".into(),
        url: garage.url("garage_app"),
    };
    let client = client.client().await;
    for act in [
        "INSERT INTO motorpool_schema_history VALUES (3, 'forged', '', '')",
        "UPDATE motorpool_schema_history SET checksum = ''",
        "DELETE FROM motorpool_schema_history",
        "INSERT INTO users (id, username) VALUES (4711, 'Bert')",
        "INSERT INTO cars (id, model, owner_id) VALUES (4711, 'Golf', 1)",
        "UPDATE users SET id = 4711",
        "UPDATE users SET created_at = '2020-01-01'",
        "SELECT setval('users_id_seq', 4711)",
        "TRUNCATE cars",
        "ALTER TABLE users ADD email text",
        "CREATE INDEX ON users (role)",
        "CREATE TABLE mine ()",
        "CREATE TEMPORARY TABLE mine ()",
        "CREATE TABLE public.mine ()",
        "CREATE SCHEMA mine",
        "SET ROLE garage_owner",
        "SET ROLE garage_migrator",
        "SELECT * FROM pg_authid",
        "DROP TABLE cars",
        "GRANT garage_owner TO garage_app",
        "GRANT CREATE ON SCHEMA public TO garage_app",
        "ALTER ROLE garage_app SUPERUSER",
        "ALTER DATABASE garage SET motorpool.app_role = 'mine'",
    ] {
        let error = client.batch_execute(act).await.expect_err(act);
        assert_eq!(
            error.code().map(|c| c.code()),
            Some("42501"),
            "{act}: {error:?}"
        );
    }
    // It owns nothing, so that it can hand on nothing.
    let grant = "GRANT ALL ON users, motorpool_schema_history TO PUBLIC;
        GRANT CREATE ON SCHEMA garage TO PUBLIC";
    let _ = client.batch_execute(grant).await;
    let given = "SELECT count(*) FROM pg_class c, aclexplode(c.relacl) a
        WHERE a.grantee = 0 AND c.relnamespace = 'garage'::regnamespace";
    assert_eq!(watch.number(given).await, 0);
}

/// Nothing is left to PUBLIC: another role of the server cannot even come in.
#[tokio::test]
async fn others_stay_outside() {
    let garage = Garage::new().await;
    garage.migrator().await.migrate().await.unwrap();
    let admin = garage.server.url("postgres");
    psql(
        &admin,
        "CREATE ROLE stranger LOGIN PASSWORD 'canary'' of \"Garage\"'",
    );
    let refused = PgStore::connect(&garage.url("stranger")).await;
    let error = refused.expect_err("a stranger");
    assert_eq!(error.sqlstate(), Some("42501"), "{error:?}");
}

#[tokio::test]
async fn the_app_role_sees_how_the_schema_stands() {
    let garage = Garage::new().await;
    let app = garage.app().await;
    let demand = async || {
        let builder = PgStore::builder(&garage.url("garage_app")).unwrap();
        let store = builder.require_schema(Schema::AtLeastCurrent).build().await;
        store.map(|store| store.close())
    };
    let behind = |result: Result<_, Error>| {
        let error = result.map(drop).expect_err("it is behind");
        assert!(matches!(error, Error::Migration { .. }), "{error:?}");
        assert!(error.to_string().contains("run its migrations"), "{error}");
    };
    assert_eq!(schema_status(app.pool()).await.unwrap().version(), 0);
    behind(demand().await);

    let migrator = garage.migrator().await;
    Migrator::new().to(1).up(migrator.pool()).await.unwrap();
    let status = schema_status(app.pool()).await.unwrap();
    assert_eq!(status.version(), 1);
    assert_eq!(status.migrations()[1].state, MigrationState::Pending);
    behind(demand().await);

    migrator.migrate().await.unwrap();
    let status = schema_status(app.pool()).await.unwrap();
    assert!(status.is_current() && !status.is_ahead());
    let _ = demand().await.unwrap();
    // Where nothing is to be done, nobody needs the right to do it.
    assert_eq!(app.migrate().await.unwrap().applied(), []);

    let owner = garage.watch("garage_migrator").await;
    owner
        .run("INSERT INTO motorpool_schema_history VALUES (99, 'later', '', '4711')")
        .await;
    let status = schema_status(app.pool()).await.unwrap();
    assert!(status.is_current() && status.is_ahead());
    let _ = demand().await.unwrap();
}

/// What is pending it may not apply; that is an error of the migration and changes nothing.
#[tokio::test]
async fn the_app_role_does_not_migrate() {
    let garage = Garage::new().await;
    let before = dump(&garage.server.url("garage"));
    let error = garage.app().await.migrate().await.expect_err("no right");
    assert!(matches!(error, Error::Migration { .. }), "{error:?}");
    assert_eq!(error.sqlstate(), Some("42501"), "{error}");
    assert_eq!(dump(&garage.server.url("garage")), before);
}

#[tokio::test]
async fn the_migrator_checks_and_goes_back_and_forth() {
    let garage = Garage::new().await;
    let (migrator, app) = (garage.migrator().await, garage.app().await);
    migrator.migrate().await.unwrap();
    for _ in 0..2 {
        let found = Migrator::new().check(migrator.pool()).await.unwrap();
        assert_eq!(found, []);
        assert_eq!(app.users().count().await.unwrap(), 0);
        for _ in 0..2 {
            let undone = Migrator::new().undo(migrator.pool(), false).await;
            assert!(undone.unwrap().is_some());
        }
        migrator.migrate().await.unwrap();
    }
    // By hand, with the script: the rights of the role too.
    Migrator::new().undo(migrator.pool(), false).await.unwrap();
    Migrator::new().undo(migrator.pool(), false).await.unwrap();
    psql(&garage.url("garage_migrator"), &Migrator::new().sql(0));
    assert_eq!(app.users().count().await.unwrap(), 0);
    assert!(schema_status(app.pool()).await.unwrap().is_current());
}

#[cfg(feature = "contract")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_app_role_keeps_the_contract() {
    let garage = Garage::new().await;
    garage.migrator().await.migrate().await.unwrap();
    let owner = garage.watch("garage_migrator").await;
    let app = garage.app().await;
    for rule in motorpool::contract::RULES {
        println!("{}", rule.name);
        rule.run(&app).await;
        owner.run("TRUNCATE users, cars RESTART IDENTITY").await;
    }
}

/// A role that may make roles and databases, and is no superuser: what managed servers have.
#[tokio::test]
async fn an_administrator_need_not_be_a_superuser() {
    let server = Server::start(Options::default()).unwrap();
    let admin = server.url("postgres");
    let make = format!(
        "CREATE ROLE \"an admin\" LOGIN CREATEROLE CREATEDB PASSWORD '{}'",
        "secret"
    );
    psql(&admin, &make);
    let (_, rest) = admin.split_once('@').unwrap();
    let url = format!("postgresql://an%20admin:secret@{rest}");
    let wanted = Provision::new("garage")
        .migrator_password("secret")
        .app_password("secret");
    let made = provision(&url, &wanted).await.unwrap();
    assert!(made.database && made.schema && made.roles.len() == 3);
    assert_eq!(provision(&url, &wanted).await.unwrap().roles.len(), 0);
    let url = server.url("garage");
    let (_, rest) = url.split_once('@').unwrap();
    let migrator = format!("postgresql://garage_migrator:secret@{rest}");
    let migrator = PgStore::connect(&migrator).await.unwrap();
    migrator.migrate().await.unwrap();
    assert_eq!(Migrator::new().check(migrator.pool()).await.unwrap(), []);
    let app = format!("postgresql://garage_app:secret@{rest}");
    let builder = PgStore::builder(&app).unwrap();
    let app = builder.require_schema(Schema::AtLeastCurrent).build();
    let app = app.await.unwrap();
    let ada = NewUser::new("Ada").unwrap();
    let ada = app.users().register(&ada).await.unwrap().into_user();
    let golf = NewCar::new("Golf", ada.id).unwrap();
    app.cars().buy(&golf).await.unwrap();
}

/// A template as PostgreSQL 14 has it, from which everybody may use the schema `public`, and then
/// one without that schema, in another encoding.
#[tokio::test]
async fn a_database_may_come_from_an_unusual_template() {
    let server = Server::start(Options::default()).unwrap();
    let admin = server.url("postgres");
    psql(
        &admin,
        "CREATE ROLE admin LOGIN CREATEROLE CREATEDB PASSWORD 'secret'",
    );
    let (_, rest) = admin.split_once('@').unwrap();
    let url = format!("postgresql://admin:secret@{rest}");
    let template = server.url("template1");
    psql(
        &template,
        "ALTER SCHEMA public OWNER TO postgres; GRANT CREATE, USAGE ON SCHEMA public TO PUBLIC",
    );
    let wanted = |name: &str| Provision::new(name).app_password("secret");
    for _ in 0..2 {
        let made = provision(&url, &wanted("open")).await.unwrap();
        assert!(made.public_is_open, "{made:?}");
    }
    psql(
        &server.url("open"),
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    );
    let made = provision(&url, &wanted("open")).await.unwrap();
    assert!(made.public_is_open, "{made:?}");
    // The second time there is nothing to take away, and no privilege to do it with.
    for by in [&admin, &url] {
        let made = provision(by, &wanted("open")).await.unwrap();
        assert!(!made.public_is_open, "{made:?}");
    }

    for sql in [
        "ALTER DATABASE template1 IS_TEMPLATE false",
        "DROP DATABASE template1",
        "CREATE DATABASE template1 TEMPLATE template0 ENCODING 'SQL_ASCII'
            LC_COLLATE 'C' LC_CTYPE 'C'",
    ] {
        psql(&admin, sql);
    }
    let made = provision(&url, &wanted("garage")).await.unwrap();
    assert!(made.database && !made.public_is_open, "{made:?}");
    psql(&server.url("garage"), "DROP SCHEMA public");
    provision(&url, &wanted("garage")).await.unwrap();
    let encoding = psql(&server.url("garage"), "SHOW server_encoding");
    assert_eq!(encoding.trim(), "UTF8");
}

#[tokio::test]
async fn names_that_the_server_would_cut_are_refused() {
    let server = Server::start(Options::default()).unwrap();
    let admin = server.url("postgres");
    let [one, more] = [55, 56].map(|length| "g".repeat(length));
    for wanted in [
        Provision::new(&more),
        Provision::new("garage").schema(&"ä".repeat(32)),
        Provision::new("garage").roles("a", "b", "a"),
    ] {
        let refused = provision(&admin, &wanted).await;
        assert!(matches!(refused, Err(Error::Config { .. })), "{refused:?}");
    }
    // With "_migrator" it is 64 bytes long.
    let wanted = Provision::new(&one).roles("an owner", "a migrator", "an app");
    let made = provision(&admin, &wanted).await.unwrap();
    assert!(made.database && made.roles.len() == 3);
}

/// A database is a copy of a template, which takes longer than a call may.
#[tokio::test]
async fn it_takes_as_long_as_it_takes() {
    let server = Server::start(Options::default()).unwrap();
    let admin = PgStore::connect(&server.url("postgres")).await.unwrap();
    let [blocker, look] = [admin.pool().get().await, admin.pool().get().await].map(Result::unwrap);
    let block = "BEGIN; LOCK TABLE pg_authid IN SHARE MODE";
    blocker.batch_execute(block).await.unwrap();
    let url = server.url("postgres");
    let sign = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{sign}options=-c%20statement_timeout%3D300");
    let mut provisioning =
        tokio::spawn(async move { provision(&url, &Provision::new("garage")).await });
    let longer = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
        AND clock_timestamp() - query_start > '600ms'";
    let started = Instant::now();
    while look.query_one(longer, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(
            !provisioning.is_finished(),
            "{:?}",
            (&mut provisioning).await
        );
        assert!(started.elapsed() < Duration::from_secs(20), "nobody waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    blocker.batch_execute("COMMIT").await.unwrap();
    let made = provisioning.await.unwrap().unwrap();
    assert!(made.database && made.roles.len() == 3);
}

/// A schema that is there, and of somebody else.
#[tokio::test]
async fn the_owner_may_use_a_schema_that_it_did_not_make() {
    let garage = Garage::new().await;
    let url = garage.server.url("garage");
    psql(&url, "CREATE SCHEMA other");
    let wanted = Provision::new("garage").schema("other");
    let made = provision(&garage.server.url("postgres"), &wanted)
        .await
        .unwrap();
    assert!(!made.schema);
    let report = garage.migrator().await.migrate().await.unwrap();
    assert_eq!(report.applied().len(), 2);
    assert_eq!(psql(&url, "SELECT count(*) FROM other.users").trim(), "0");
}
