//! What an operator may do by mistake, and what stops it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod programs;
mod support;

use motorpool::{Adoption, Error, Migrator, PgStore, Provision, provision};
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
