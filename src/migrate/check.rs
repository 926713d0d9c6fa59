//! Compares the tables with what the migrations make.

use std::fmt;

use tokio_postgres::Transaction;

use super::Migrator;
use super::apply::refuse_elsewhere;
use super::catalog::{Facts, facts, settle};
use super::session::{Session, failed, value};
use super::status::{self, MigrationState};
use super::step::Step;
use crate::error::{Error, Result};

/// The tables that the migrations make.
const TABLES: [&str; 2] = ["users", "cars"];

/// Something that is not as the migrations make it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// What differs, such as `column users.role: default`.
    pub what: String,
    /// How the migrations make it. `None`: not at all.
    pub expected: Option<String>,
    /// How it is. `None`: not at all.
    pub found: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        match (&self.expected, &self.found) {
            (Some(expected), Some(found)) => {
                write!(f, "{what} is {found}, expected is {expected}")
            }
            (Some(expected), None) => write!(f, "{what} is missing, expected is {expected}"),
            (None, Some(found)) => write!(f, "{what} is not expected: {found}"),
            (None, None) => write!(f, "{what}"),
        }
    }
}

/// Compares with what the migrations make that the database has.
pub(super) async fn check(session: &mut Session, migrator: &Migrator) -> Result<Vec<Difference>> {
    let status = status::read(session, &migrator.steps).await?;
    refuse_elsewhere(&status)?;
    let known = |m: &&status::MigrationStatus| {
        matches!(m.state, MigrationState::Applied | MigrationState::Pending)
    };
    if let Some(other) = status.migrations.iter().find(|m| !known(m)) {
        return Err(Error::Migration {
            reason: format!(
                "version {} of the database is not known here, so there is nothing to compare with",
                other.version
            ),
            source: None,
        });
    }
    let has = |step: &&Step| {
        let applied = |m: &status::MigrationStatus| {
            m.version == step.version && m.state != MigrationState::Pending
        };
        status.migrations.iter().any(applied)
    };
    let steps: Vec<_> = migrator.steps.iter().filter(has).collect();
    compare(session, &steps).await
}

/// Compares with what these migrations make of an empty schema. Changes nothing.
pub(super) async fn compare(session: &mut Session, steps: &[&Step]) -> Result<Vec<Difference>> {
    let what = "comparing the schema";
    let mut transaction = (session.client_mut()?.transaction().await).map_err(failed(what))?;
    let row = transaction.query_one(PLACES, &[]).await;
    let row = row.map_err(failed(what))?;
    let (live, path): (String, String) = (value(&row, 0)?, value(&row, 1)?);
    let scratch: String = value(&row, 2)?;

    let mut found = facts(&transaction, &live, &TABLES).await?;
    build(&transaction, &scratch, steps).await?;
    let mut expected = facts(&transaction, &scratch, &TABLES).await?;
    settle(&mut transaction, &scratch, &mut expected).await?;
    let back = "SELECT set_config('search_path', $1, true)";
    let back = transaction.execute(back, &[&path]).await;
    back.map_err(failed(what))?;
    settle(&mut transaction, &scratch, &mut found).await?;
    transaction.rollback().await.map_err(failed(what))?;
    Ok(differences(expected, found))
}

// The schema that the tables are in, quoted; the search path; and the name of a schema that nobody
// has.
const PLACES: &str = "SELECT coalesce(
        (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('users')),
        (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('cars')),
        quote_ident(current_schema())
    ), current_setting('search_path'), 'motorpool_check_' || pg_backend_pid()";

/// Runs the migrations in a schema of its own.
async fn build(transaction: &Transaction<'_>, scratch: &str, steps: &[&Step]) -> Result<()> {
    let what = "running the migrations for comparison";
    let schema = format!("CREATE SCHEMA {scratch}; SET LOCAL search_path = {scratch}");
    let made = transaction.batch_execute(&schema).await;
    made.map_err(failed(what))?;
    for step in steps {
        // Nobody else sees these tables, so an index can be built at once.
        let sql = step.sql.replace(" CONCURRENTLY", "");
        let done = transaction.batch_execute(&sql).await;
        done.map_err(failed(what))?;
    }
    Ok(())
}

fn differences(mut expected: Facts, found: Facts) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (what, found) in found {
        let expected = expected.remove(&what);
        if expected.as_ref() != Some(&found) {
            let found = Some(found);
            differences.push(Difference {
                what,
                expected,
                found,
            });
        }
    }
    differences.extend(expected.into_iter().map(|(what, expected)| Difference {
        what,
        expected: Some(expected),
        found: None,
    }));
    differences.sort_by(|a, b| a.what.cmp(&b.what));
    differences
}
