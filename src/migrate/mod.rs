//! The schema: brings it up to date, says how it stands, compares it with what it should be, takes
//! over the original's, and goes back a step. The only user of refinery, whose files, checksums
//! and history it keeps.
//!
//! refinery runs migrations too, but without a lock, so that two processes race. Here one migrator
//! at a time works, and the state is read while it holds the lock.

mod adopt;
mod apply;
mod catalog;
mod check;
mod grants;
mod pooler;
mod provision;
mod script;
mod session;
mod status;
mod step;

use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::time::timeout;

pub use adopt::{Adoption, BadRow};
pub use check::Difference;
pub use provision::{Provision, Provisioned, provision};
pub use status::{
    LockHolder, MigrationState, MigrationStatus, Schema, SchemaStatus, schema_status,
};

use crate::error::{Error, Result};
use crate::postgres::PgStore;
use session::Session;
use step::Step;

/// How long the server may take to say what it has.
const READ_LIMIT: Duration = Duration::from_secs(10);

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
    /// How long it took, waiting for locks on tables included.
    pub took: Duration,
}

/// A migration that was undone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Undone {
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
/// Version 2 makes the ids of a table that has rows wider, for which Postgres writes the table anew
/// and lets nobody read it meanwhile: on millions of rows a matter of a maintenance window.
/// It is [`Migrator::up`] with the defaults.
///
/// It can be called at every start, by any number of processes at once: one of them works, the
/// others wait for it and find nothing left to do. A database that a newer version of the crate
/// has migrated further is left as it is.
///
/// ```no_run
/// # async fn example(pool: &deadpool_postgres::Pool) -> motorpool::Result<()> {
/// let report = motorpool::migrate(pool).await?;
/// for applied in report.applied() {
///     println!("{} {}: {:?}", applied.version, applied.name, applied.took);
/// }
/// println!("the schema is at version {}", report.version());
/// # Ok(()) }
/// ```
///
/// # Errors
/// Those of [`Migrator::up`].
pub async fn migrate(pool: &Pool) -> Result<MigrationReport> {
    Migrator::new().up(pool).await
}

impl PgStore {
    /// Brings the schema up to date: [`migrate`](crate::migrate) on the store's pool.
    ///
    /// ```no_run
    /// # async fn example(store: motorpool::PgStore) -> motorpool::Result<()> {
    /// // At every start, by as many processes as there are.
    /// store.migrate().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The same.
    pub async fn migrate(&self) -> Result<MigrationReport> {
        migrate(self.pool()).await
    }
}

/// What an operator does to a schema.
///
/// Calls that change or compare something take a connection out of the pool for good and close it at
/// the end, so that nothing that is set on it reaches anybody else. It must be a direct one, or
/// through a pooler in session mode: one in transaction mode does not keep the lock. To find that
/// out they ask it and another connection of the pool in turn: six round trips, and up to 22 where
/// that other one was there before, or through a pooler.
///
/// ```no_run
/// # async fn example(pool: &deadpool_postgres::Pool) -> motorpool::Result<()> {
/// use std::time::Duration;
/// use motorpool::Migrator;
///
/// let migrator = Migrator::new()
///     .lock_wait(Duration::from_secs(60))
///     .lock_timeout(Duration::from_secs(1))
///     .attempts(10);
/// migrator.up(pool).await?;
/// assert!(migrator.status(pool).await?.is_current());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Migrator {
    steps: Vec<Step>,
    to: Option<u32>,
    lock_wait: Duration,
    lock_timeout: Duration,
    attempts: u32,
}

impl Default for Migrator {
    fn default() -> Self {
        Migrator {
            steps: step::embedded(),
            to: None,
            lock_wait: Duration::from_secs(5 * 60),
            lock_timeout: Duration::from_secs(5),
            attempts: 3,
        }
    }
}

impl Migrator {
    /// All migrations of this version of the crate, and the defaults.
    pub fn new() -> Self {
        Migrator::default()
    }

    /// Stops [`up`](Self::up) after this version. Default: the last one.
    ///
    /// ```no_run
    /// # async fn example(pool: &deadpool_postgres::Pool) -> motorpool::Result<()> {
    /// use motorpool::Migrator;
    ///
    /// let report = Migrator::new().to(1).up(pool).await?;
    /// assert!(report.version() >= 1);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn to(mut self, version: u32) -> Self {
        self.to = Some(version);
        self
    }

    /// How long to wait while another migrator works. Default: 5 minutes.
    #[must_use]
    pub fn lock_wait(mut self, limit: Duration) -> Self {
        self.lock_wait = limit;
        self
    }

    /// How long a migration waits for a lock on a table, in whole milliseconds; less than one counts
    /// as one. Everybody else who wants the table queues behind it for that time. Default: 5 s.
    #[must_use]
    pub fn lock_timeout(mut self, limit: Duration) -> Self {
        self.lock_timeout = limit;
        self
    }

    /// How often a migration is tried at most when it cannot lock a table. Default: 3. 0 counts
    /// as 1.
    #[must_use]
    pub fn attempts(mut self, number: u32) -> Self {
        self.attempts = number.max(1);
        self
    }

    fn wants(&self, step: &Step) -> bool {
        self.to.is_none_or(|to| step.version <= to)
    }

    /// For the crate's own tests: adds a migration.
    #[doc(hidden)]
    pub fn with_migration(mut self, name: &str, sql: &str) -> Result<Self> {
        self.steps.push(Step::parse(name, sql)?);
        Ok(self)
    }

    /// Applies what the database does not have yet. Each migration runs with its row in the
    /// history in a transaction of its own, so it is there wholly or not at all; one that says in
    /// its first line that it cannot run in a transaction is run statement by statement, and run
    /// again from its start if it was interrupted.
    ///
    /// ```no_run
    /// # async fn example(pool: &deadpool_postgres::Pool) -> motorpool::Result<()> {
    /// let report = motorpool::Migrator::new().up(pool).await?;
    /// println!("{} migrations were applied", report.applied().len());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Migration`](crate::Error::Migration), with the name of the migration that failed: it is
    /// undone, the ones before it stay. Also when another migrator holds the lock for too long,
    /// when the history is none that this program can continue, and when the database has tables
    /// that motorpool did not make. [`Config`](crate::Error::Config) through a pooler in
    /// transaction mode, also when nothing is pending. Those of the connection.
    pub async fn up(&self, pool: &Pool) -> Result<MigrationReport> {
        let mut session = Session::lock(pool, self).await?;
        let done = async {
            let applied = apply::up(&mut session, self).await?;
            grants::grant(&session).await?;
            let status = status::read(&session, &self.steps).await?;
            Ok((applied, status))
        };
        let done: Result<_> = done.await;
        session.unlock().await;
        let (applied, status) = done?;
        let version = status.version();
        if status.is_ahead() {
            tracing::info!(version, "the schema is ahead of this program");
        }
        Ok(MigrationReport { applied, version })
    }

    /// What the database has. Changes nothing, and takes no lock, so it can go through any pooler.
    /// It waits for a connection for up to 10 s, and as long for the answers.
    ///
    /// ```no_run
    /// # async fn example(pool: &deadpool_postgres::Pool) -> motorpool::Result<()> {
    /// for migration in motorpool::Migrator::new().status(pool).await?.migrations() {
    ///     println!("{} {}: {}", migration.version, migration.name, migration.state);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Migration`](crate::Error::Migration) when the history cannot be read;
    /// [`Timeout`](crate::Error::Timeout) when the server does not answer; those of the connection.
    pub async fn status(&self, pool: &Pool) -> Result<SchemaStatus> {
        let session = Session::open(pool).await?;
        let read = status::read(&session, &self.steps);
        // Dropped halfway, the session closes its connection.
        let missed = |_| Error::Timeout { after: READ_LIMIT };
        let status = timeout(READ_LIMIT, read).await.map_err(missed)??;
        session.give_back();
        Ok(status)
    }

    /// What [`up`](Self::up) would run on a database at the version `from`, as a script for a
    /// database administrator, with the rows of the history. Each migration in it fails on a
    /// database that is not at the version before. A database that it was run on is up to date.
    ///
    /// ```
    /// let script = motorpool::Migrator::new().sql(0);
    /// assert!(script.contains("V1__users_and_cars"));
    /// ```
    pub fn sql(&self, from: u32) -> String {
        let wanted = |step: &&Step| step.version > from && self.wants(step);
        script::script(self.steps.iter().filter(wanted), from, self.lock_timeout)
    }

    /// Compares the tables, as they are, with what the migrations that the database has make of an
    /// empty schema. Nothing found: they are the same.
    ///
    /// It runs those migrations in a schema of its own, in a transaction that is rolled back, so
    /// the role needs the right to create a schema.
    ///
    /// ```no_run
    /// # async fn example(pool: &deadpool_postgres::Pool) -> motorpool::Result<()> {
    /// for difference in motorpool::Migrator::new().check(pool).await? {
    ///     println!("{difference}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Migration`](crate::Error::Migration); [`Config`](crate::Error::Config) through a pooler in
    /// transaction mode; those of the connection.
    pub async fn check(&self, pool: &Pool) -> Result<Vec<Difference>> {
        let mut session = Session::lock(pool, self).await?;
        let differences = check::check(&mut session, self).await;
        session.unlock().await;
        differences
    }

    /// Takes over a database that the original application made, with all its rows: records
    /// version 1 as applied and applies the rest.
    ///
    /// Before anything is touched it compares the tables with the original's, for which the role needs
    /// the right to create a schema, and looks for rows that version 2 would refuse. Then nobody else
    /// reads or writes the tables until it is done.
    ///
    /// ```no_run
    /// # async fn example(pool: &deadpool_postgres::Pool) -> motorpool::Result<()> {
    /// use motorpool::{Adoption, Migrator};
    ///
    /// match Migrator::new().adopt(pool).await? {
    ///     Adoption::Adopted { users, cars, .. } => println!("took over {users} users, {cars} cars"),
    ///     refused => println!("nothing was changed: {refused:?}"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Migration`](crate::Error::Migration) when there is nothing to adopt, and those of
    /// [`up`](Self::up).
    pub async fn adopt(&self, pool: &Pool) -> Result<Adoption> {
        let mut session = Session::lock(pool, self).await?;
        let adoption = async {
            let adoption = adopt::adopt(&mut session, self).await?;
            if matches!(adoption, Adoption::Adopted { .. }) {
                grants::grant(&session).await?;
            }
            Ok(adoption)
        };
        let adoption = adoption.await;
        session.unlock().await;
        adoption
    }

    /// Undoes the last migration, in a transaction. `None`: there is none.
    ///
    /// Undoing version 2 makes the ids narrower, for which Postgres writes both tables anew and lets
    /// nobody read them meanwhile. No program of this version can work on what is left, so stop it
    /// first; one that migrates at its start applies version 2 again.
    ///
    /// ```no_run
    /// # async fn example(pool: &deadpool_postgres::Pool) -> motorpool::Result<()> {
    /// match motorpool::Migrator::new().undo(pool, false).await? {
    ///     Some(undone) => println!("undid {} {}", undone.version, undone.name),
    ///     None => println!("there is nothing to undo"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Migration`](crate::Error::Migration) when rows or values would be lost and `lose_data` is
    /// not set: it names how many of what. Those of [`up`](Self::up).
    pub async fn undo(&self, pool: &Pool, lose_data: bool) -> Result<Option<Undone>> {
        let mut session = Session::lock(pool, self).await?;
        let undone = apply::undo(&mut session, self, lose_data).await;
        session.unlock().await;
        undone
    }
}
