//! Takes over a database that the original application made.

use std::fmt;
use std::time::{Duration, Instant};

use tokio_postgres::{Row, Transaction};

use super::apply::{again, analyze, look_at_encoding, note, now, refuse_stranger, up};
use super::check::{self, Difference};
use super::session::{Session, failed, milliseconds, value};
use super::status;
use super::step::{CREATE_HISTORY, Step};
use super::{Applied, Migrator};
use crate::error::{Error, Result};

/// What became of an adoption.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Adoption {
    /// The database is motorpool's now, with all its rows.
    #[non_exhaustive]
    Adopted {
        /// The migrations after the first that were applied.
        applied: Vec<Applied>,
        /// How many users there are.
        users: u64,
        /// How many cars there are.
        cars: u64,
        /// How many users had no role and are employees now.
        roles_filled: u64,
    },
    /// The tables are not those of the original: this differs. Nothing has changed.
    NotTheOriginal(Vec<Difference>),
    /// These rows would be refused by later versions of the schema. Nothing has changed.
    BadRows(Vec<BadRow>),
}

/// A row that a later version of the schema would refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadRow {
    /// Its table.
    pub table: String,
    /// Its id.
    pub id: i64,
    /// Why.
    pub reason: String,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.table, self.id, self.reason)
    }
}

// Each row once for each reason.
const BAD_ROWS: &str = "
SELECT 'users', id::bigint, 'the role is none of student, teacher, employee' FROM users
WHERE role NOT IN ('student', 'teacher', 'employee')
UNION ALL
SELECT 'users', id, 'the date of creation is infinite' FROM users WHERE NOT isfinite(created_at)
UNION ALL
SELECT 'users', id, 'the username is empty' FROM users WHERE username = ''
UNION ALL
SELECT 'users', id, format('the username has %s characters, more than 255', char_length(username))
FROM users WHERE char_length(username) > 255
UNION ALL
SELECT 'cars', id, 'the model is empty' FROM cars WHERE model = ''
UNION ALL
SELECT 'cars', id, format('the model has %s characters, more than 255', char_length(model))
FROM cars WHERE char_length(model) > 255
UNION ALL
SELECT 'cars', id, format('there is no user %s to own it', owner_id) FROM cars
WHERE NOT EXISTS (SELECT FROM users WHERE users.id = cars.owner_id)
ORDER BY 1 DESC, 2, 3";

/// How long the second table is waited for: less than the server waits before it looks for a deadlock
/// (`deadlock_timeout`, 1 s by default).
const SECOND_LOCK: Duration = Duration::from_millis(800);

/// Whoever owns the tables reads the history, also where somebody else has adopted them for that role.
const SHOW_HISTORY: &str = "DO $$
DECLARE
    owner oid := (SELECT relowner FROM pg_class WHERE oid = to_regclass('users'));
BEGIN
    IF pg_get_userbyid(owner) <> current_user THEN
        EXECUTE format('GRANT SELECT ON motorpool_schema_history TO %I', pg_get_userbyid(owner));
    END IF;
END
$$";

/// Sequences go on after the highest id, also where rows were put in with ids of their own. A
/// sequence that was never used has its first value before it.
const SEQUENCES: &str = "
SELECT setval('users_id_seq', max(id)) FROM users
HAVING max(id) >= (SELECT last_value + is_called::int FROM users_id_seq);
SELECT setval('cars_id_seq', max(id)) FROM cars
HAVING max(id) >= (SELECT last_value + is_called::int FROM cars_id_seq)";

pub(super) async fn adopt(session: &mut Session, migrator: &Migrator) -> Result<Adoption> {
    let refuse = |reason: &str| {
        Err(Error::Migration {
            reason: reason.into(),
            source: None,
        })
    };
    let status = status::read(session, &migrator.steps).await?;
    if status.version() > 0 {
        return refuse("the database is motorpool's already, there is nothing to adopt");
    }
    if !status.is_foreign() {
        return refuse(
            "there are no tables to adopt in the search path of this role; if the database has them, \
             log in as their owner",
        );
    }
    refuse_stranger(&status)?;
    let Some((first, rest)) = migrator.steps.split_first() else {
        return refuse("there are no migrations");
    };
    let mut differences = check::compare(session, &[first]).await?;
    // A constraint that has not looked at all rows is made to, once the rows are known to be good.
    let unlooked = |d: &Difference| d.what.starts_with("validity of ");
    let unvalidated: Vec<_> = differences
        .iter()
        .filter(|d| unlooked(d))
        .cloned()
        .collect();
    differences.retain(|d| !unlooked(d) && !differs_in_validity_alone(d));
    if !differences.is_empty() {
        refuse_without_history(session, &migrator.steps).await?;
        return Ok(Adoption::NotTheOriginal(differences));
    }
    // Looks before it locks anybody out, because it may have to refuse.
    let rows = session.query("looking for bad rows", BAD_ROWS).await?;
    let bad = bad_rows(&rows)?;
    if !bad.is_empty() {
        return Ok(Adoption::BadRows(bad));
    }

    let mut attempt = 1;
    let mut adoption = loop {
        let result = take_over(session, migrator, first, rest, &unvalidated).await;
        if !again(migrator, attempt, &result).await {
            break result?;
        }
        attempt += 1;
    };
    // What cannot run in a transaction, and what comes after it.
    if let Adoption::Adopted { applied, .. } = &mut adoption {
        look_at_encoding(session).await;
        analyze(session).await;
        applied.extend(up(session, migrator).await?);
    }
    Ok(adoption)
}

/// All of it in one transaction.
async fn take_over(
    session: &mut Session,
    migrator: &Migrator,
    first: &Step,
    rest: &[Step],
    unvalidated: &[Difference],
) -> Result<Adoption> {
    let what = "adopting the database";
    let transaction = (session.client_mut()?.transaction().await).map_err(failed(what))?;
    let inside = |step: &&Step| migrator.wants(step) && step.in_transaction();
    let inside: Vec<_> = rest.iter().take_while(inside).collect();
    // From here on nobody adds a row that was not looked at. A step needs the tables for itself; who
    // asks for that with the weaker lock in hand, and who has read and asks to write, would wait for
    // each other.
    let mode = match inside.is_empty() {
        true => "SHARE ROW EXCLUSIVE",
        false => "ACCESS EXCLUSIVE",
    };
    run(&transaction, &format!("LOCK TABLE users IN {mode} MODE")).await?;
    // Somebody may have read the cars and wait for the users now. It is this one that gives way, before
    // the server takes the other one for the cause of the deadlock.
    let [short, long] = [
        SECOND_LOCK.min(migrator.lock_timeout),
        migrator.lock_timeout,
    ]
    .map(|limit| format!("SET LOCAL lock_timeout = {}", milliseconds(limit)));
    run(&transaction, &short).await?;
    run(&transaction, &format!("LOCK TABLE cars IN {mode} MODE")).await?;
    run(&transaction, &long).await?;
    let rows = transaction.query(BAD_ROWS, &[]).await;
    let bad = bad_rows(&rows.map_err(failed(what))?)?;
    if !bad.is_empty() {
        transaction.rollback().await.map_err(failed(what))?;
        return Ok(Adoption::BadRows(bad));
    }
    let roles_filled = count(&transaction, "users WHERE role IS NULL").await?;
    for difference in unvalidated {
        let of = difference.what.trim_start_matches("validity of ");
        if let Some((table, name)) = of.split_once('.') {
            let validate = format!("ALTER TABLE {table} VALIDATE CONSTRAINT \"{name}\"");
            run(&transaction, &validate).await?;
        }
    }
    run(&transaction, CREATE_HISTORY).await?;
    run(&transaction, SHOW_HISTORY).await?;
    record(&transaction, first).await?;
    let mut applied = Vec::new();
    for step in inside {
        let started = Instant::now();
        run(&transaction, &step.sql).await?;
        record(&transaction, step).await?;
        applied.push(Applied {
            version: step.version,
            name: step.name.clone(),
            took: started.elapsed(),
        });
    }
    run(&transaction, SEQUENCES).await?;
    let users = count(&transaction, "users").await?;
    let cars = count(&transaction, "cars").await?;
    transaction.commit().await.map_err(failed(what))?;
    tracing::info!(users, cars, roles_filled, "adopted");
    Ok(Adoption::Adopted {
        applied,
        users,
        cars,
        roles_filled,
    })
}

fn bad_rows(rows: &[Row]) -> Result<Vec<BadRow>> {
    let bad = rows.iter().map(|row| {
        Ok(BadRow {
            table: value(row, 0)?,
            id: value(row, 1)?,
            reason: value(row, 2)?,
        })
    });
    bad.collect()
}

/// Tables that all migrations have made, and whose history is gone, are not to be taken apart.
async fn refuse_without_history(session: &mut Session, steps: &[Step]) -> Result<()> {
    let all: Vec<_> = steps.iter().collect();
    let version = all.last().map_or(0, |step| step.version);
    let differences = check::compare(session, &all).await;
    match differences.is_ok_and(|differences| differences.is_empty()) {
        false => Ok(()),
        true => Err(Error::Migration {
            reason: format!(
                "these are the tables of version {version}, and their history is missing; put its rows \
                 back, which stand in the script of `Migrator::sql`"
            ),
            source: None,
        }),
    }
}

/// `… NOT VALID` at the end of a foreign key.
fn differs_in_validity_alone(difference: &Difference) -> bool {
    match (&difference.expected, &difference.found) {
        (Some(expected), Some(found)) => found.strip_suffix(" NOT VALID") == Some(expected),
        _ => false,
    }
}

async fn run(transaction: &Transaction<'_>, sql: &str) -> Result<()> {
    let done = transaction.batch_execute(sql).await;
    done.map_err(failed("adopting the database"))
}

async fn record(transaction: &Transaction<'_>, step: &Step) -> Result<()> {
    run(transaction, &note(step, &now())).await
}

async fn count(transaction: &Transaction<'_>, of: &str) -> Result<u64> {
    let row = transaction
        .query_one(&format!("SELECT count(*) FROM {of}"), &[])
        .await;
    let row = row.map_err(failed("counting the rows"))?;
    Ok(value::<i64>(&row, 0)?.max(0).cast_unsigned())
}
