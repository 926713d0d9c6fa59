//! What an operator may do by mistake, and what stops it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod programs;
mod support;

use motorpool::{Adoption, Error, Migrator, PgStore, Provision, Schema, Store, provision};
use programs::{FLASK, dump, psql};
use support::server::{Options, Server};
use support::{with_database, with_empty_database};

fn reason<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(error @ Error::Migration { .. }) => error.to_string(),
        other => panic!("expected a failed migration, got {other:?}"),
    }
}

#[tokio::test]
async fn a_script_that_runs_over_its_errors_leaves_the_originals_database_to_be_adopted() {
    with_empty_database(async |database| {
        psql(&database.url, FLASK);
        let script = Migrator::new().sql(0);
        // The dump leaves the path empty, and this is how psql is without the option.
        psql(&database.url, &format!("\\set ON_ERROR_STOP off\n{script}"));
        let store = PgStore::connect(&database.url).await.unwrap();
        let adoption = Migrator::new().adopt(store.pool()).await.unwrap();
        assert!(
            matches!(adoption, Adoption::Adopted { users: 100, .. }),
            "{adoption:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_database_that_is_ahead_is_not_compared() {
    with_database(async |database| {
        let client = database.client().await;
        let later = "INSERT INTO motorpool_schema_history VALUES \
            (99, 'later', '2030-01-01T00:00:00Z', '1')";
        client.batch_execute(later).await.unwrap();
        let store = PgStore::connect(&database.url).await.unwrap();
        let refused = reason(Migrator::new().check(store.pool()).await);
        assert!(refused.contains("version 99"), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn another_role_makes_no_second_set_of_tables() {
    let server = Server::start(Options::default()).unwrap();
    let wanted = Provision::new("garage").migrator_password("secret");
    let made = provision(&server.url("postgres"), &wanted).await.unwrap();
    assert!(made.database);
    let admin = PgStore::connect(&server.url("garage")).await.unwrap();
    let url = server.url("garage");
    let migrator = url
        .replace("postgres:", "garage_migrator:")
        .replace(server.password(), "secret");
    let migrator = PgStore::connect(&migrator).await.unwrap();
    migrator.migrate().await.unwrap();
    let before = dump(&url);
    let refused = reason(admin.migrate().await);
    assert!(refused.contains("schema garage"), "{refused}");
    // Nor is it told that all is well, or that something is to be done.
    let compared = reason(Migrator::new().check(admin.pool()).await);
    let required = PgStore::builder(&url).unwrap();
    let required = required
        .require_schema(Schema::AtLeastCurrent)
        .build()
        .await;
    for refused in [compared, reason(required.map(|_| ()))] {
        assert!(refused.contains("schema garage"), "{refused}");
    }
    let status = Migrator::new().status(admin.pool()).await.unwrap();
    assert_eq!(status.elsewhere(), Some("garage"));
    let status = Migrator::new().status(migrator.pool()).await.unwrap();
    assert_eq!(status.elsewhere(), None);
    assert_eq!(dump(&url), before);
}

#[tokio::test]
async fn a_database_of_somebody_else_is_not_provisioned() {
    let server = Server::start(Options::default()).unwrap();
    let admin = PgStore::connect(&server.url("postgres")).await.unwrap();
    let client = admin.pool().get().await.unwrap();
    let theirs = "CREATE ROLE flask LOGIN";
    client.batch_execute(theirs).await.unwrap();
    let theirs = "CREATE DATABASE garage OWNER flask";
    client.batch_execute(theirs).await.unwrap();
    psql(&server.url("garage"), FLASK);
    let before = dump(&server.url("garage"));
    let refused = provision(&server.url("postgres"), &Provision::new("garage")).await;
    let refused = reason(refused);
    assert!(
        refused.contains("does not belong to garage_owner"),
        "{refused}"
    );
    assert_eq!(dump(&server.url("garage")), before);
}

/// An administrator adopts for the role that owns the tables, and that one goes on.
#[tokio::test]
async fn who_owns_the_tables_reads_a_history_that_somebody_else_made() {
    let server = Server::start(Options::default()).unwrap();
    psql(
        &server.url("postgres"),
        "CREATE ROLE flask LOGIN PASSWORD 'secret'",
    );
    psql(&server.url("postgres"), "CREATE DATABASE garage");
    let url = server.url("garage");
    psql(&url, FLASK);
    psql(
        &url,
        "ALTER TABLE public.users OWNER TO flask; ALTER TABLE public.cars OWNER TO flask",
    );
    let admin = PgStore::connect(&url).await.unwrap();
    let adoption = Migrator::new().adopt(admin.pool()).await.unwrap();
    assert!(matches!(adoption, Adoption::Adopted { .. }), "{adoption:?}");

    let theirs = url
        .replace("postgres:", "flask:")
        .replace(server.password(), "secret");
    let flask = PgStore::builder(&theirs).unwrap();
    let flask = flask.require_schema(Schema::AtLeastCurrent).build().await;
    let flask = flask.unwrap();
    assert_eq!(flask.users().count().await.unwrap(), 100);
    assert!(flask.migrate().await.unwrap().applied().is_empty());

    // Where nothing was granted, the error says whose it is.
    psql(
        &url,
        "REVOKE ALL ON public.motorpool_schema_history FROM flask",
    );
    let refused = reason(flask.migrate().await);
    assert!(
        refused.contains("belongs to the role postgres"),
        "{refused}"
    );
}
