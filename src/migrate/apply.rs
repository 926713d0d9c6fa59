//! Applies migrations, and undoes them.

use std::time::{Duration, Instant};

use chrono::{SecondsFormat, Utc};
use deadpool_postgres::Transaction;
use tokio::time::sleep;

use super::session::{Session, failed, value};
use super::status::{self, MigrationState, SchemaStatus};
use super::step::{CREATE_HISTORY, HISTORY, Step};
use super::{Applied, Migrator, Undone};
use crate::error::{Error, Result};

/// The pause before a migration that could not lock a table tries again; each further one is
/// longer by as much.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Applies what is pending, up to the version that the migrator was told.
pub(super) async fn up(session: &mut Session, migrator: &Migrator) -> Result<Vec<Applied>> {
    let status = status::read(session, &migrator.steps).await?;
    refuse_unsound(&status)?;
    let is_pending = |step: &&Step| {
        let same = |m: &status::MigrationStatus| {
            m.version == step.version && m.state == MigrationState::Pending
        };
        migrator.wants(step) && status.migrations.iter().any(same)
    };
    let mut applied = Vec::new();
    for step in migrator.steps.iter().filter(is_pending) {
        // Not before: where nothing is pending, no right to make a table is needed.
        if applied.is_empty() {
            refuse_stranger(&status)?;
            session.batch("making the history", CREATE_HISTORY).await?;
        }
        let started = Instant::now();
        apply_patiently(session, migrator, step).await?;
        let took = started.elapsed();
        tracing::info!(version = step.version, name = step.name, ?took, "migrated");
        applied.push(Applied {
            version: step.version,
            name: step.name.clone(),
            took,
        });
    }
    if !applied.is_empty() {
        look_at_encoding(session).await;
        analyze(session).await;
    }
    Ok(applied)
}

/// In another encoding than UTF-8 not every name can be stored, and in SQL_ASCII lengths are counted in
/// bytes. Somebody may want that, so it is a warning.
pub(super) async fn look_at_encoding(session: &Session) {
    let ask = "SELECT current_setting('server_encoding')";
    // What was applied stays so, whatever becomes of the question.
    for row in (session.query("looking at the encoding", ask).await)
        .iter()
        .flatten()
    {
        let encoding: &str = value(row, 0).unwrap_or_default();
        if encoding != "UTF8" {
            tracing::warn!(encoding, "motorpool is made for databases in UTF8");
        }
    }
}

/// A table that was written anew has no statistics, and autovacuum does not count it as changed. Not
/// an empty one: of that nothing is known, which is better than to take it for empty. Statements
/// planned before its first rows would read all of it.
pub(super) const ANALYZE: &str = "DO $analyze$
BEGIN
    IF EXISTS (SELECT FROM users) THEN
        ANALYZE users;
    END IF;
    IF EXISTS (SELECT FROM cars) THEN
        ANALYZE cars;
    END IF;
END
$analyze$";

pub(super) async fn analyze(session: &Session) {
    if let Err(error) = session.batch("analyzing the tables", ANALYZE).await {
        tracing::warn!(%error, "the tables have no fresh statistics");
    }
}

/// Whoever owns the history can have it run anything as the role that writes to it.
pub(super) fn refuse_stranger(status: &SchemaStatus) -> Result<()> {
    match &status.stranger {
        None => Ok(()),
        Some(owner) => Err(strange(owner)),
    }
}

/// The history of somebody else.
pub(super) fn strange(owner: &str) -> Error {
    Error::Migration {
        reason: format!(
            "the history of the migrations belongs to the role {owner}; log in as that role, or as \
             one that is a member of it"
        ),
        source: None,
    }
}

/// Tables that this role does not see.
pub(super) fn refuse_elsewhere(status: &SchemaStatus) -> Result<()> {
    match &status.elsewhere {
        None => Ok(()),
        Some(schema) => Err(Error::Migration {
            reason: format!(
                "the tables are in the schema {schema}, which is not in the search path of this role; \
                 log in as one of the roles that this database was provisioned with"
            ),
            source: None,
        }),
    }
}

/// A history that this program cannot continue.
pub(super) fn refuse_unsound(status: &SchemaStatus) -> Result<()> {
    let refuse = |reason: String| {
        Err(Error::Migration {
            reason,
            source: None,
        })
    };
    if status.is_foreign() {
        return refuse(
            "the database has tables named users or cars that motorpool did not make; \
             `Migrator::adopt` takes over a database of the original application"
                .into(),
        );
    }
    refuse_elsewhere(status)?;
    for migration in &status.migrations {
        let name = format!("V{}__{}", migration.version, migration.name);
        match migration.state {
            MigrationState::Changed => {
                return refuse(format!(
                    "the database has {name} with another text than this program"
                ));
            }
            MigrationState::Missing => {
                return refuse(format!("the database has {name}, which is not known here"));
            }
            MigrationState::Pending if migration.version < status.version() => {
                return refuse(format!(
                    "the database has later migrations than {name}, but not this one"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether something that failed is to be tried again, after a pause: a table was locked, or the
/// others waited for this one in turn, and it was not the last attempt.
pub(super) async fn again<T: Sync>(migrator: &Migrator, attempt: u32, result: &Result<T>) -> bool {
    let locked = |error: &Error| matches!(error.sqlstate(), Some("55P03" | "40P01"));
    if attempt >= migrator.attempts || !result.as_ref().is_err_and(locked) {
        return false;
    }
    tracing::warn!(attempt, "a table is locked; the migration tries again");
    sleep(RETRY_PAUSE * attempt).await;
    true
}

async fn apply_patiently(session: &mut Session, migrator: &Migrator, step: &Step) -> Result<()> {
    let mut attempt = 1;
    loop {
        let result = apply(session, step).await;
        if !again(migrator, attempt, &result).await {
            return result;
        }
        attempt += 1;
    }
}

async fn apply(session: &mut Session, step: &Step) -> Result<()> {
    let what = format!("applying {}", step.file());
    if step.in_transaction() {
        let transaction = session.client_mut()?.transaction().await;
        let transaction = transaction.map_err(failed(&what))?;
        let done = transaction.batch_execute(&step.sql).await;
        done.map_err(failed(&what))?;
        let noted = transaction.batch_execute(&note(step, &now())).await;
        noted.map_err(failed(&what))?;
        return transaction.commit().await.map_err(failed(&what));
    }
    drop_invalid_indexes(session, step).await?;
    for statement in step.statements() {
        session.batch(&what, statement).await?;
    }
    session.batch(&what, &note(step, &now())).await
}

/// A concurrent index build that was interrupted leaves an index that is not used and blocks its
/// name.
async fn drop_invalid_indexes(session: &Session, step: &Step) -> Result<()> {
    let what = "looking for unfinished indexes";
    let sql = "SELECT c.relname::text, quote_ident(c.relname) FROM pg_index i \
        JOIN pg_class c ON c.oid = i.indexrelid \
        WHERE NOT i.indisvalid AND c.relnamespace = quote_ident(current_schema())::regnamespace";
    for row in &session.query(what, sql).await? {
        let (name, quoted): (&str, &str) = (value(row, 0)?, value(row, 1)?);
        let words = step.sql.split(|c: char| !c.is_alphanumeric() && c != '_');
        if words.into_iter().any(|word| word == name) {
            tracing::info!(name, "rebuilding an index that was left unfinished");
            let drop = format!("DROP INDEX CONCURRENTLY {quoted}");
            session.batch(what, &drop).await?;
        }
    }
    Ok(())
}

/// The row of the history. Names and checksums are the crate's own.
pub(super) fn note(step: &Step, applied_on: &str) -> String {
    format!(
        "INSERT INTO {HISTORY} (version, name, applied_on, checksum) \
         VALUES ({}, '{}', {applied_on}, '{}')",
        step.version, step.name, step.checksum
    )
}

/// This moment as it stands in the history, quoted.
pub(super) fn now() -> String {
    format!(
        "'{}'",
        Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true)
    )
}

/// Undoes the last migration, unless rows or values would be lost that the caller wants to keep.
pub(super) async fn undo(
    session: &mut Session,
    migrator: &Migrator,
    lose_data: bool,
) -> Result<Option<Undone>> {
    let status = status::read(session, &migrator.steps).await?;
    refuse_unsound(&status)?;
    let version = status.version();
    if version == 0 {
        return Ok(None);
    }
    refuse_stranger(&status)?;
    let step = migrator.steps.iter().find(|step| step.version == version);
    let Some((step, undo)) = step.and_then(|step| Some((step, step.undo.as_deref()?))) else {
        return Err(Error::Migration {
            reason: format!("version {version} is not known here, so it cannot be undone"),
            source: None,
        });
    };
    let mut attempt = 1;
    loop {
        let result = undo_step(session, step, undo, lose_data).await;
        if !again(migrator, attempt, &result).await {
            result?;
            break;
        }
        attempt += 1;
    }
    tracing::info!(version, name = step.name, "undone");
    Ok(Some(Undone {
        version,
        name: step.name.clone(),
    }))
}

async fn undo_step(session: &mut Session, step: &Step, undo: &str, lose_data: bool) -> Result<()> {
    let what = format!("undoing {}", step.file());
    let transaction = session.client_mut()?.transaction().await;
    let transaction = transaction.map_err(failed(&what))?;
    // Looks before it locks anybody out, because it may have to refuse.
    refuse_losses(&transaction, step, lose_data).await?;
    // Counted under a lock, so that what was counted is what is lost.
    let lock = "LOCK TABLE users, cars IN ACCESS EXCLUSIVE MODE";
    let locked = transaction.batch_execute(lock).await;
    locked.map_err(failed(&what))?;
    refuse_losses(&transaction, step, lose_data).await?;
    let forget = format!("DELETE FROM {HISTORY} WHERE version = {}", step.version);
    for sql in [undo, &forget] {
        let done = transaction.batch_execute(sql).await;
        done.map_err(failed(&what))?;
    }
    transaction.commit().await.map_err(failed(&what))
}

/// What would be lost is an error, unless the caller agrees.
async fn refuse_losses(transaction: &Transaction<'_>, step: &Step, lose_data: bool) -> Result<()> {
    if lose_data {
        return Ok(());
    }
    let what = format!("undoing {}", step.file());
    let mut lost = Vec::new();
    for loss in step.losses() {
        let row = transaction.query_one(&loss.count, &[]).await;
        let count: i64 = value(&row.map_err(failed(&what))?, 0)?;
        if count > 0 {
            lost.push(format!("{count} of {}", loss.what));
        }
    }
    match lost.is_empty() {
        true => Ok(()),
        false => Err(Error::Migration {
            reason: format!("{what} would lose data: {}", lost.join(", ")),
            source: None,
        }),
    }
}
