//! Brings the schema up to date. The only user of refinery.
//!
//! refinery runs each migration and its row in the history in one transaction, but it takes no
//! lock, so two processes would race. Here one migrator at a time works, and the state is read
//! while it holds the lock.

use std::time::{Duration, Instant};

use deadpool_postgres::{ClientWrapper, Object, Pool};
use refinery::error::Kind;
use tokio::time::{sleep, timeout};

use crate::error::{Error, Result, Source};
use crate::postgres::PgStore;
use crate::postgres::error::failure_in;

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The table of what has been applied. Not refinery's default, which may be the host's own.
const HISTORY: &str = "motorpool_schema_history";

/// The version that the database is at.
const LATEST: &str = "SELECT max(version) FROM motorpool_schema_history";

/// The advisory lock of all migrators of one database: "motorpoo" in ASCII.
const LOCK: i64 = 0x6d6f_746f_7270_6f6f;

/// How long to wait for a connection, and for another migrator to finish.
const CONNECTION_WAIT: Duration = Duration::from_secs(10);
const LOCK_WAIT: Duration = Duration::from_secs(300);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// What a session needs: a migration may take as long as it takes, but it must not wait long for
/// a lock on a table, because every other session queues behind it.
const SESSION: &str = "SET statement_timeout = 0; SET lock_timeout = '5s'; \
    SET idle_in_transaction_session_timeout = 0; SET client_min_messages = warning";

/// What [`migrate`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationReport {
    applied: Vec<Applied>,
    version: u32,
}

/// A migration that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// The number in its name.
    pub version: u32,
    /// The words in its name.
    pub name: String,
}

impl MigrationReport {
    /// The migrations that this call applied, in order. Empty: the schema was up to date.
    pub fn applied(&self) -> &[Applied] {
        &self.applied
    }

    /// The version of the schema now. It is higher than this crate's own when a newer version of
    /// the crate has migrated the database.
    pub fn version(&self) -> u32 {
        self.version
    }
}

/// Brings the schema up to date: applies the migrations of this crate that the database does not
/// have, each in a transaction of its own.
///
/// It can be called at every start, by any number of processes at once: one of them works, the
/// others wait for it (at most 5 minutes) and find nothing left to do. A database that a newer
/// version of the crate has migrated further is left as it is.
///
/// It takes a connection out of the pool for good and closes it at the end. A statement that waits
/// longer than 5 s for a lock on a table fails, so that a migration behind a long transaction does
/// not hold up everybody else; that migration is undone, the ones before it stay.
///
/// # Errors
/// [`Migration`](Error::Migration), with the name of the migration that failed; those of the
/// connection.
pub async fn migrate(pool: &Pool) -> Result<MigrationReport> {
    let mut client = connection(pool).await?;
    client
        .batch_execute(SESSION)
        .await
        .map_err(failed("preparing the session"))?;
    lock(&client).await?;
    let report = apply(&mut client).await;
    // Closing the connection frees the lock too, but only when the server notices.
    let unlock = client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]);
    if timeout(CONNECTION_WAIT, unlock).await.is_err() {
        tracing::warn!("the migration lock was not released; closing the connection does it");
    }
    report
}

impl PgStore {
    /// Brings the schema up to date: [`migrate`](crate::migrate) on the store's pool.
    ///
    /// # Errors
    /// The same.
    pub async fn migrate(&self) -> Result<MigrationReport> {
        migrate(self.pool()).await
    }
}

/// A connection of its own, so that nothing that is set on it reaches anybody else.
async fn connection(pool: &Pool) -> Result<ClientWrapper> {
    let started = Instant::now();
    match timeout(CONNECTION_WAIT, pool.get()).await {
        Ok(Ok(object)) => Ok(Object::take(object)),
        Ok(Err(error)) => Err(crate::postgres::error::from_pool(error, started.elapsed())),
        Err(_) => Err(Error::PoolExhausted {
            waited: started.elapsed(),
        }),
    }
}

/// Waits for its turn. Polled, because a session that waits inside `pg_advisory_lock` holds a
/// snapshot, for which a migration that builds an index concurrently would wait in turn.
async fn lock(client: &ClientWrapper) -> Result<()> {
    let started = Instant::now();
    loop {
        let row = client
            .query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])
            .await
            .map_err(failed("taking the migration lock"))?;
        if row
            .try_get(0)
            .map_err(failed("taking the migration lock"))?
        {
            return Ok(());
        }
        if started.elapsed() > LOCK_WAIT {
            return Err(Error::Migration {
                reason: "another migrator has held the lock for 5 minutes".into(),
                source: None,
            });
        }
        sleep(LOCK_POLL).await;
    }
}

async fn apply(client: &mut ClientWrapper) -> Result<MigrationReport> {
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(HISTORY);
    let latest = runner
        .get_migrations()
        .iter()
        .map(|m| version(m.version()))
        .max();
    let latest = latest.unwrap_or_default();
    match runner.run_async(&mut **client).await {
        Ok(report) => {
            let applied: Vec<_> = report
                .applied_migrations()
                .iter()
                .map(|migration| Applied {
                    version: version(migration.version()),
                    name: migration.name().to_owned(),
                })
                .collect();
            for migration in &applied {
                tracing::info!(
                    version = migration.version,
                    name = migration.name,
                    "migrated"
                );
            }
            Ok(MigrationReport {
                applied,
                version: latest,
            })
        }
        Err(error) => match error.kind() {
            Kind::MissingVersion(found) if version(found.version()) > latest => {
                // refinery names the first that it does not know.
                let row = client
                    .query_one(LATEST, &[])
                    .await
                    .map_err(failed("reading the history"))?;
                let ahead = row.try_get(0).map_err(failed("reading the history"))?;
                let ahead = version(ahead);
                tracing::info!(version = ahead, "the schema is ahead of this program");
                Ok(MigrationReport {
                    applied: Vec::new(),
                    version: ahead,
                })
            }
            _ => Err(describe(&error)),
        },
    }
}

fn version(number: i32) -> u32 {
    number.max(0).cast_unsigned()
}

fn describe(error: &refinery::Error) -> Error {
    let Some(failure) = failure_in(error) else {
        return Error::Migration {
            reason: error.to_string(),
            source: None,
        };
    };
    // refinery's text ends in the driver's, which says only "db error".
    let reason = match error.kind() {
        Kind::Connection(what, _) => format!("{what}: {failure}"),
        _ => failure.to_string(),
    };
    Error::Migration {
        reason,
        source: Some(Box::new(failure)),
    }
}

fn failed(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Error {
    move |error| {
        let source: Option<Source> = match failure_in(&error) {
            Some(failure) => Some(Box::new(failure)),
            None => error.into_source(),
        };
        Error::Migration {
            reason: what.into(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_is_embedded() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let files: BTreeSet<(String, String)> = std::fs::read_dir(directory)
            .expect("the directory")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.is_file())
            .map(|path| {
                let name = path.file_name().expect("a name").to_string_lossy();
                let text = std::fs::read_to_string(&path).expect("a text");
                (name.into_owned(), text)
            })
            .collect();
        let embedded: BTreeSet<(String, String)> = embedded::migrations::runner()
            .get_migrations()
            .iter()
            .map(|m| (format!("{m}.sql"), m.sql().unwrap_or_default().to_owned()))
            .collect();
        assert_eq!(files, embedded);
        assert_eq!(embedded.len(), 2);
        assert!(embedded.iter().all(|(_, text)| !text.contains('\r')));
    }
}
