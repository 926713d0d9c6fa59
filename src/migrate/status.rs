//! What the database has of the migrations of this program.

use std::fmt;

use deadpool_postgres::Pool;

use super::apply::{refuse_elsewhere, strange};
use super::grants::APP_ROLE;
use super::session::{LOCK, Session, value};
use super::step::{HISTORY, Step};
use crate::error::{Error, Result};
use crate::postgres::PgStoreBuilder;

/// How one migration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MigrationState {
    /// The database has it.
    Applied,
    /// The database does not have it yet.
    Pending,
    /// The database has it under this number, but with another text or name.
    Changed,
    /// The database has it, and this program does not know it, though it knows later ones.
    Missing,
    /// The database has it, and it is later than all that this program knows: a newer version of
    /// the program has been here.
    Ahead,
}

impl fmt::Display for MigrationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            MigrationState::Applied => "applied",
            MigrationState::Pending => "pending",
            MigrationState::Changed => "changed",
            MigrationState::Missing => "missing",
            MigrationState::Ahead => "ahead",
        })
    }
}

/// One migration and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationStatus {
    /// The number in its name.
    pub version: u32,
    /// The words in its name; those of the database where the two differ.
    pub name: String,
    /// How it stands.
    pub state: MigrationState,
    /// When it was applied, as the migrator wrote it down (RFC 3339).
    pub applied_on: Option<String>,
}

/// Who holds the migration lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockHolder {
    /// The process of the server that holds it: what `pg_terminate_backend` takes.
    pub pid: i32,
    /// The role that it is logged in as, where the asking role may see it.
    pub user: Option<String>,
    /// Its `application_name`, likewise.
    pub application: Option<String>,
}

/// What [`schema_status`] found.
///
/// ```no_run
/// # async fn example(pool: &deadpool_postgres::Pool) -> motorpool::Result<()> {
/// use motorpool::MigrationState;
///
/// let status = motorpool::schema_status(pool).await?;
/// let pending = |migration: &&motorpool::MigrationStatus| migration.state == MigrationState::Pending;
/// println!("{} are pending", status.migrations().iter().filter(pending).count());
/// if let Some(holder) = status.lock_holder() {
///     println!("process {} is migrating", holder.pid);
/// }
/// if status.is_foreign() {
///     println!("its tables were made by something else");
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaStatus {
    pub(super) migrations: Vec<MigrationStatus>,
    pub(super) lock_holder: Option<LockHolder>,
    pub(super) foreign_tables: bool,
    /// The schema of the history, where a provisioned database has it out of this role's sight.
    pub(super) elsewhere: Option<String>,
    /// The owner of the history, where that is none that this role may trust.
    pub(super) stranger: Option<String>,
}

impl SchemaStatus {
    /// Every migration that the program or the database knows, in order.
    pub fn migrations(&self) -> &[MigrationStatus] {
        &self.migrations
    }

    /// The version of the database: the last migration that it has, 0 for none.
    pub fn version(&self) -> u32 {
        let applied = |m: &&MigrationStatus| m.state != MigrationState::Pending;
        let last = self.migrations.iter().rfind(applied);
        last.map_or(0, |migration| migration.version)
    }

    /// Nothing is pending, changed or missing: this program can work on the database. A database
    /// that is [ahead](MigrationState::Ahead) counts as current.
    pub fn is_current(&self) -> bool {
        use MigrationState::{Ahead, Applied};
        let fine = |m: &MigrationStatus| matches!(m.state, Applied | Ahead);
        self.migrations.iter().all(fine)
    }

    /// A newer version of the program has migrated the database further.
    pub fn is_ahead(&self) -> bool {
        self.has(MigrationState::Ahead)
    }

    /// The database has tables of these names and no history: it was made by something else.
    /// [`Migrator::adopt`](super::Migrator::adopt) takes over one that the original made.
    pub fn is_foreign(&self) -> bool {
        self.foreign_tables
    }

    /// Who is migrating at this moment.
    pub fn lock_holder(&self) -> Option<&LockHolder> {
        self.lock_holder.as_ref()
    }

    /// The schema of the tables, where the database was provisioned and this role does not have that
    /// schema in its search path. Everything is pending then, and nothing of it is to be applied.
    pub fn elsewhere(&self) -> Option<&str> {
        self.elsewhere.as_deref()
    }

    pub(super) fn has(&self, state: MigrationState) -> bool {
        self.migrations.iter().any(|m| m.state == state)
    }
}

/// What the database has of the migrations of this version of the crate. It changes nothing and
/// needs no right but to read the history, so a service can ask before it starts. It waits for a
/// connection for up to 10 s, and as long for the answers.
///
/// ```no_run
/// # async fn example(pool: &deadpool_postgres::Pool) -> motorpool::Result<()> {
/// let status = motorpool::schema_status(pool).await?;
/// if !status.is_current() {
///     println!("at version {}: run the migrations", status.version());
/// }
/// # Ok(()) }
/// ```
///
/// # Errors
/// Those of the connection; [`Migration`](crate::Error::Migration) when the history cannot be read;
/// [`Timeout`](crate::Error::Timeout) when the server does not answer.
pub async fn schema_status(pool: &Pool) -> Result<SchemaStatus> {
    super::Migrator::new().status(pool).await
}

/// What a store may require of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Schema {
    /// Everything that this version of the crate knows has been applied. A newer version may have
    /// applied more, as in a rolling deployment; that is logged.
    AtLeastCurrent,
}

impl PgStoreBuilder {
    /// Refuses, in [`build`](Self::build), to make a store on a schema that this program cannot
    /// work on. It reads the history and needs no other right. Default: nothing is required.
    ///
    /// ```no_run
    /// # async fn example() -> motorpool::Result<()> {
    /// use motorpool::{PgStore, Schema};
    ///
    /// // A service whose role may not migrate.
    /// let store = PgStore::builder("postgresql://garage_app@localhost/garage")?
    ///     .require_schema(Schema::AtLeastCurrent)
    ///     .build()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn require_schema(self, schema: Schema) -> Self {
        match schema {
            Schema::AtLeastCurrent => self.demand(|pool| Box::pin(at_least_current(pool))),
        }
    }
}

async fn at_least_current(pool: Pool) -> Result<()> {
    let status = schema_status(&pool).await?;
    refuse_elsewhere(&status)?;
    let version = status.version();
    if status.is_ahead() {
        tracing::info!(version, "the schema is ahead of this program");
    }
    match status.is_current() {
        true => Ok(()),
        false => Err(Error::Migration {
            reason: format!(
                "the schema is at version {version} and not what this program needs; \
                 run its migrations"
            ),
            source: None,
        }),
    }
}

/// A row of the history.
struct Entry {
    version: u32,
    name: String,
    applied_on: Option<String>,
    checksum: String,
}

/// The owner of the history, if that is a role which this one has no reason to trust. Every superuser
/// is a member of every role, which is no reason.
pub(super) const STRANGER: &str = "SELECT o.rolname::text
    FROM pg_class c JOIN pg_roles o ON o.oid = c.relowner, pg_roles me, pg_database d
    WHERE c.oid = to_regclass('motorpool_schema_history')
        AND me.rolname = current_user AND d.datname = current_database()
        AND CASE WHEN me.rolsuper THEN NOT o.rolsuper AND o.oid <> d.datdba
            ELSE NOT pg_has_role(o.oid, 'MEMBER') END";

/// Compares the history with the steps.
pub(super) async fn read(session: &Session, steps: &[Step]) -> Result<SchemaStatus> {
    let what = "reading the history";
    let tables = format!(
        "SELECT to_regclass('{HISTORY}') IS NOT NULL, \
         to_regclass('users') IS NOT NULL OR to_regclass('cars') IS NOT NULL, ({STRANGER})"
    );
    let found = session.query(what, &tables).await?;
    let (mut has_history, mut has_tables, mut stranger) = (false, false, None::<String>);
    for row in &found {
        (has_history, has_tables, stranger) = (value(row, 0)?, value(row, 1)?, value(row, 2)?);
    }
    let mut entries = Vec::new();
    let mut elsewhere = None;
    if !has_history {
        // A database may have one in each of its schemas; one that was provisioned has one.
        let sql = format!(
            "SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relname = '{HISTORY}' AND (current_setting('{APP_ROLE}', true) <> '' \
                OR obj_description(n.oid, 'pg_namespace') LIKE '{APP_ROLE} = %')"
        );
        for row in &session.query(what, &sql).await? {
            elsewhere = value(row, 0)?;
        }
    }
    if has_history {
        let sql = format!(
            "SELECT version, coalesce(name, ''), applied_on, coalesce(checksum, '') \
             FROM {HISTORY} ORDER BY version"
        );
        let rows = session.query(what, &sql).await;
        let rows = rows.map_err(|error| match &stranger {
            Some(owner) if error.sqlstate() == Some("42501") => strange(owner),
            _ => error,
        });
        for row in &rows? {
            entries.push(Entry {
                version: value::<i32>(row, 0)?.max(0).cast_unsigned(),
                name: value(row, 1)?,
                applied_on: value(row, 2)?,
                checksum: value(row, 3)?,
            });
        }
    }
    Ok(SchemaStatus {
        foreign_tables: has_tables && entries.is_empty(),
        migrations: compare(steps, entries),
        lock_holder: lock_holder(session).await?,
        elsewhere,
        stranger,
    })
}

fn compare(steps: &[Step], entries: Vec<Entry>) -> Vec<MigrationStatus> {
    let latest = steps.iter().map(|step| step.version).max().unwrap_or(0);
    let mut all: Vec<_> = steps
        .iter()
        .filter(|step| entries.iter().all(|entry| entry.version != step.version))
        .map(|step| MigrationStatus {
            version: step.version,
            name: step.name.clone(),
            state: MigrationState::Pending,
            applied_on: None,
        })
        .collect();
    for entry in entries {
        let step = steps.iter().find(|step| step.version == entry.version);
        let state = match step {
            Some(step) if step.checksum == entry.checksum && step.name == entry.name => {
                MigrationState::Applied
            }
            Some(_) => MigrationState::Changed,
            None if entry.version > latest => MigrationState::Ahead,
            None => MigrationState::Missing,
        };
        all.push(MigrationStatus {
            version: entry.version,
            name: entry.name,
            state,
            applied_on: entry.applied_on,
        });
    }
    all.sort_by_key(|migration| migration.version);
    all
}

async fn lock_holder(session: &Session) -> Result<Option<LockHolder>> {
    let sql = format!(
        "SELECT l.pid, a.usename::text, a.application_name \
         FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'advisory' AND l.granted AND l.pid <> pg_backend_pid() \
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND (l.classid::bigint << 32) + l.objid::bigint = {LOCK} AND l.objsubid = 1"
    );
    let rows = session.query("looking for the lock", &sql).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    Ok(Some(LockHolder {
        pid: value(row, 0)?,
        user: value(row, 1)?,
        application: value(row, 2)?,
    }))
}
