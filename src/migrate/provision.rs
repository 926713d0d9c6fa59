//! Roles, database and schema, from an administrator's connection.

use std::fmt;

use postgres_protocol::password::scram_sha_256;

use super::grants::APP_ROLE;
use super::session::{Session, value};
use crate::error::{Error, Result};
use crate::postgres::PgStore;

/// The longest name that the server takes, in bytes.
const MAX_NAME: usize = 63;

/// The roles and the database to make.
///
/// - The owner owns everything and cannot log in.
/// - The migrator logs in and acts as the owner: it runs the migrations.
/// - The app role logs in for the service. It can work with the rows of the tables and read the
///   history, nothing else; [`Migrator::up`](super::Migrator::up) grants it what new tables need.
///
/// ```
/// use motorpool::Provision;
///
/// let wanted = Provision::new("garage")
///     .schema("app")
///     .roles("garage_owner", "deploy", "garage_service");
/// assert_eq!(wanted.role_names(), ["garage_owner", "deploy", "garage_service"]);
/// ```
#[derive(Clone)]
pub struct Provision {
    database: String,
    schema: String,
    owner: String,
    migrator: String,
    app: String,
    migrator_password: Option<String>,
    app_password: Option<String>,
}

impl Provision {
    /// A database of this name, with a schema of the same name, and the roles `…_owner`,
    /// `…_migrator` and `…_app`.
    pub fn new(database: &str) -> Self {
        Provision {
            database: database.to_owned(),
            schema: database.to_owned(),
            owner: format!("{database}_owner"),
            migrator: format!("{database}_migrator"),
            app: format!("{database}_app"),
            migrator_password: None,
            app_password: None,
        }
    }

    /// Another name for the schema.
    #[must_use]
    pub fn schema(mut self, name: &str) -> Self {
        name.clone_into(&mut self.schema);
        self
    }

    /// Other names for the owner, the migrator and the app role.
    #[must_use]
    pub fn roles(mut self, owner: &str, migrator: &str, app: &str) -> Self {
        owner.clone_into(&mut self.owner);
        migrator.clone_into(&mut self.migrator);
        app.clone_into(&mut self.app);
        self
    }

    /// The migrator's password, for when the role is made. Without one it cannot log in with a
    /// password.
    #[must_use]
    pub fn migrator_password(mut self, password: impl Into<String>) -> Self {
        self.migrator_password = Some(password.into());
        self
    }

    /// The app role's password, likewise.
    #[must_use]
    pub fn app_password(mut self, password: impl Into<String>) -> Self {
        self.app_password = Some(password.into());
        self
    }

    /// The names of the owner, the migrator and the app role.
    pub fn role_names(&self) -> [&str; 3] {
        [&self.owner, &self.migrator, &self.app]
    }
}

impl fmt::Debug for Provision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provision")
            .field("database", &self.database)
            .field("schema", &self.schema)
            .field("roles", &self.role_names())
            .finish_non_exhaustive()
    }
}

/// What [`provision`] made that was not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Provisioned {
    /// Roles, by name.
    pub roles: Vec<String>,
    /// The database.
    pub database: bool,
    /// The schema.
    pub schema: bool,
    /// Not made, but found: everybody may use the schema `public`, or even make tables in it, and
    /// `admin` may not change that, because it belongs to somebody else. So it is in clusters that
    /// were made by PostgreSQL 14 or before. Its owner, a superuser, should run `REVOKE ALL ON SCHEMA
    /// public FROM PUBLIC`.
    pub public_is_open: bool,
}

/// Makes the roles, the database and the schema, with the privileges and settings of each; nothing
/// is left to PUBLIC, unless [`public_is_open`](Provisioned::public_is_open) says so. Run again it
/// changes nothing: roles that are there keep their passwords.
///
/// `admin` is the URL of a role that may make roles and databases; it need not be a superuser.
/// Which role is the application's is noted for later migrations: in the database's setting
/// `motorpool.app_role`, or where the role may not set that, in the comment of the schema. Passwords
/// reach the server only as SCRAM verifiers, so they do not stand in its log.
///
/// ```no_run
/// # async fn example(secret: String) -> motorpool::Result<()> {
/// use motorpool::{Provision, provision};
///
/// let wanted = Provision::new("garage").app_password(secret);
/// let made = provision("postgresql://postgres@localhost/postgres", &wanted).await?;
/// println!("made the roles {:?}", made.roles);
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`Config`](crate::Error::Config) for a URL that cannot be read, and for names that are too long
/// for the server (63 bytes) or not three different ones for the roles;
/// [`Migration`](crate::Error::Migration) when the role may not do it, and when the database exists
/// and belongs to somebody else; those of the connection.
pub async fn provision(admin: &str, wanted: &Provision) -> Result<Provisioned> {
    refuse_names(wanted)?;
    let builder = PgStore::builder(admin)?.max_connections(1);
    let mut made = Provisioned::default();
    let server = builder.clone().build().await?;
    let session = unlimited(&server).await?;
    refuse_foreign(&session, wanted).await?;
    make_roles(&session, wanted, &mut made).await?;
    make_database(&session, wanted, &mut made).await?;
    session.give_back();
    server.close().await;

    let database = builder.database(&wanted.database).build().await?;
    let session = unlimited(&database).await?;
    make_schema(&session, wanted, &mut made).await?;
    name_app(&session, wanted).await?;
    session.give_back();
    database.close().await;
    Ok(made)
}

/// A session in which a statement takes as long as it takes: a database is a copy of a template.
async fn unlimited(store: &PgStore) -> Result<Session> {
    let session = Session::open(store.pool()).await?;
    let limit = "SET statement_timeout = 0";
    session.batch("preparing the session", limit).await?;
    Ok(session)
}

/// The server cuts what is too long, and so could take two names for one.
fn refuse_names(wanted: &Provision) -> Result<()> {
    let [owner, migrator, app] = wanted.role_names();
    let names = [owner, migrator, app, &wanted.database, &wanted.schema];
    let reason = if let Some(name) = names.iter().find(|name| name.len() > MAX_NAME) {
        format!("the name {name} has more than {MAX_NAME} bytes")
    } else if owner == migrator || owner == app || migrator == app {
        "the owner, the migrator and the app role need three names".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::Config { reason })
}

/// A database of somebody else is left alone: who works in it would be shut out.
async fn refuse_foreign(session: &Session, wanted: &Provision) -> Result<()> {
    let ask = format!(
        "SELECT FROM pg_database WHERE datname = {} AND pg_get_userbyid(datdba) <> {}",
        literal(&wanted.database),
        literal(&wanted.owner)
    );
    let theirs = session.query("looking for the database", &ask).await?;
    match theirs.is_empty() {
        true => Ok(()),
        false => Err(Error::Migration {
            reason: format!(
                "the database {} exists and does not belong to {}; nothing was changed",
                wanted.database, wanted.owner
            ),
            source: None,
        }),
    }
}

async fn make_roles(session: &Session, wanted: &Provision, made: &mut Provisioned) -> Result<()> {
    let login = |password: &Option<String>| match password {
        Some(password) => {
            let verifier = scram_sha_256(password.as_bytes());
            format!("LOGIN PASSWORD '{verifier}'")
        }
        None => "LOGIN".to_owned(),
    };
    let roles = [
        (&wanted.owner, "NOLOGIN".to_owned()),
        (&wanted.migrator, login(&wanted.migrator_password)),
        (&wanted.app, login(&wanted.app_password)),
    ];
    for (name, login) in roles {
        let ask = format!("SELECT FROM pg_roles WHERE rolname = {}", literal(name));
        if session.query("looking for a role", &ask).await?.is_empty() {
            let what = format!("making the role {name}");
            let make = format!("CREATE ROLE {} {login}", quoted(name));
            session.batch(&what, &make).await?;
            made.roles.push(name.clone());
        }
    }
    let (owner, migrator) = (quoted(&wanted.owner), quoted(&wanted.migrator));
    let grant = format!("GRANT {owner} TO {migrator}");
    session.batch("granting the owner's role", &grant).await?;
    // To make something for another role one has to be a member of it, unless one is a superuser.
    let ask = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
    for row in &session.query("looking for a role", ask).await? {
        if !value::<bool>(row, 0)? {
            let grant = format!("GRANT {owner} TO current_user");
            session.batch("granting the owner's role", &grant).await?;
        }
    }
    Ok(())
}

async fn make_database(
    session: &Session,
    wanted: &Provision,
    made: &mut Provisioned,
) -> Result<()> {
    let what = format!("making the database {}", wanted.database);
    let (name, owner) = (quoted(&wanted.database), quoted(&wanted.owner));
    let literal = literal(&wanted.database);
    let ask = format!("SELECT FROM pg_database WHERE datname = {literal}");
    if session.query(&what, &ask).await?.is_empty() {
        let encoding = encoding(session).await?;
        let make = format!("CREATE DATABASE {name} OWNER {owner} {encoding}");
        session.batch(&what, &make).await?;
        made.database = true;
    }
    let (migrator, app, schema) = (
        quoted(&wanted.migrator),
        quoted(&wanted.app),
        quoted(&wanted.schema),
    );
    let settings = format!(
        "REVOKE ALL ON DATABASE {name} FROM PUBLIC;
        GRANT CONNECT ON DATABASE {name} TO {migrator}, {app};
        ALTER ROLE {migrator} IN DATABASE {name} SET role = {owner};
        ALTER ROLE {migrator} IN DATABASE {name} SET search_path = {schema};
        ALTER ROLE {migrator} IN DATABASE {name} SET lock_timeout = '5s';
        ALTER ROLE {app} IN DATABASE {name} SET search_path = {schema};
        ALTER ROLE {app} IN DATABASE {name} SET statement_timeout = '30s';
        ALTER ROLE {app} IN DATABASE {name} SET lock_timeout = '10s';
        ALTER ROLE {app} IN DATABASE {name} SET idle_in_transaction_session_timeout = '60s'"
    );
    session.batch(&what, &settings).await
}

/// What makes the database one in UTF-8, where one is not anyway: lengths are counted in characters,
/// and a name may have any of them.
async fn encoding(session: &Session) -> Result<&'static str> {
    let ask = "SELECT FROM pg_database
        WHERE datname = 'template1' AND pg_encoding_to_char(encoding) = 'UTF8'";
    let found = session.query("looking for the template", ask).await?;
    Ok(match found.is_empty() {
        false => "",
        true => "TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'",
    })
}

/// Notes which role the application's is, for the grants of later migrations.
async fn name_app(session: &Session, wanted: &Provision) -> Result<()> {
    let what = "noting the application's role";
    // The setting holds the name as it stands in SQL.
    let setting = format!(
        "ALTER DATABASE {} SET {APP_ROLE} = {}",
        quoted(&wanted.database),
        literal(&quoted(&wanted.app))
    );
    match session.batch(what, &setting).await {
        // Only a superuser may set what the server does not know.
        Err(error) if error.sqlstate() == Some("42501") => {
            let comment = literal(&format!("{APP_ROLE} = {}", wanted.app));
            let comment = format!("COMMENT ON SCHEMA {} IS {comment}", quoted(&wanted.schema));
            session.batch(what, &comment).await
        }
        done => done,
    }
}

/// A row for each privilege that everybody has on the schema `public`. Without a list its owner
/// alone has any.
const OPEN: &str = "SELECT FROM pg_namespace, aclexplode(nspacl) AS granted
    WHERE nspname = 'public' AND grantee = 0";

async fn make_schema(session: &Session, wanted: &Provision, made: &mut Provisioned) -> Result<()> {
    let what = format!("making the schema {}", wanted.schema);
    let (schema, owner, app) = (
        quoted(&wanted.schema),
        quoted(&wanted.owner),
        quoted(&wanted.app),
    );
    let literal = literal(&wanted.schema);
    let ask = format!("SELECT FROM pg_namespace WHERE nspname = {literal}");
    if session.query(&what, &ask).await?.is_empty() {
        let make = format!("CREATE SCHEMA {schema} AUTHORIZATION {owner}");
        session.batch(&what, &make).await?;
        made.schema = true;
    }
    let privileges = format!(
        "DO $$ BEGIN
            IF EXISTS ({OPEN}) THEN
                REVOKE ALL ON SCHEMA public FROM PUBLIC;
            END IF;
        END $$;
        REVOKE ALL ON SCHEMA {schema} FROM PUBLIC;
        GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner};
        GRANT USAGE ON SCHEMA {schema} TO {app};
        ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
        ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE USAGE ON TYPES FROM PUBLIC"
    );
    session.batch(&what, &privileges).await?;
    // Of a schema of somebody else nothing can be revoked, which the server says as a warning, or as
    // an error where the role has no privilege on it at all.
    if !session.query(&what, OPEN).await?.is_empty() {
        tracing::warn!("everybody may use the schema public of the database");
        made.public_is_open = true;
    }
    Ok(())
}

/// A name as it stands in SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as it stands in SQL, whatever `standard_conforming_strings` says.
fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''").replace('\\', "\\\\");
    format!("E'{doubled}'")
}
