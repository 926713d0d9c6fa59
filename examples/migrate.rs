//! What an operator does to a schema.
//!
//! ```sh
//! cargo run --example migrate -- --url postgresql://migrator@localhost/garage up
//! ```
//!
//! Exit code 0: it is done, and for `status` and `check` that there is nothing to do; 1: there is
//! something to do or to look at; 2: it failed.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use motorpool::{Adoption, MigrationState, Migrator, PgStore, Provision, SchemaStatus, provision};

#[derive(Parser)]
#[command(about = "Migrations of a motorpool database")]
struct Arguments {
    /// The database, or for `provision` any database of the server.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, global = true)]
    url: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows what is applied and what is pending, and who is migrating.
    Status,
    /// Applies what is pending.
    Up {
        /// The last version to apply.
        #[arg(long)]
        to: Option<u32>,
    },
    /// Prints what `up` would run.
    Sql {
        /// The version that the database is at.
        #[arg(long, default_value_t = 0)]
        from: u32,
    },
    /// Compares the tables with what the migrations make.
    Check,
    /// Takes over a database that the original application made.
    Adopt,
    /// Undoes the last migration. Nobody can read the tables meanwhile, and no service can work on them
    /// afterwards.
    Undo {
        /// Even if rows or values are lost.
        #[arg(long)]
        lose_data: bool,
    },
    /// Makes the roles, the database and the schema. Passwords are taken from MIGRATOR_PASSWORD
    /// and APP_PASSWORD.
    Provision {
        /// The name of the database.
        #[arg(long)]
        database: String,
    },
}

/// What an operator should see: a connection in plaintext, a table that is locked.
fn show_warnings() {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    log.with_max_level(tracing::Level::WARN).init();
}

#[tokio::main]
async fn main() -> ExitCode {
    show_warnings();
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all is well.
async fn run(arguments: Arguments) -> anyhow::Result<bool> {
    let migrator = Migrator::new();
    if let Command::Sql { from } = arguments.command {
        print!("{}", migrator.sql(from));
        return Ok(true);
    }
    let url = arguments
        .url
        .ok_or_else(|| anyhow::anyhow!("say which database: --url or DATABASE_URL"))?;
    if let Command::Provision { database } = &arguments.command {
        return make_roles(&url, database).await;
    }
    let store = PgStore::builder(&url)?.max_connections(2).build().await?;
    let pool = store.pool();
    let well = match arguments.command {
        Command::Sql { .. } | Command::Provision { .. } => true,
        Command::Status => show(&migrator.status(pool).await?),
        Command::Up { to } => {
            let migrator = to.map_or_else(Migrator::new, |to| Migrator::new().to(to));
            let report = migrator.up(pool).await?;
            for done in report.applied() {
                let took = done.took.as_secs_f64();
                println!("applied V{}__{} in {took:.3} s", done.version, done.name);
            }
            println!("the schema is at version {}", report.version());
            true
        }
        Command::Check => {
            let differences = migrator.check(pool).await?;
            differences.iter().for_each(|found| println!("{found}"));
            println!("{} differences", differences.len());
            differences.is_empty()
        }
        Command::Adopt => adopted(&migrator.adopt(pool).await?),
        Command::Undo { lose_data } => {
            match migrator.undo(pool, lose_data).await? {
                Some(undone) => println!("undid V{}__{}", undone.version, undone.name),
                None => println!("there is nothing to undo"),
            }
            true
        }
    };
    store.close().await;
    Ok(well)
}

fn show(status: &SchemaStatus) -> bool {
    for migration in status.migrations() {
        let when = migration.applied_on.as_deref().unwrap_or("-");
        let name = format!("V{}__{}", migration.version, migration.name);
        println!("{:<8} {name:<30} {when}", migration.state);
    }
    if let Some(holder) = status.lock_holder() {
        let user = holder.user.as_deref().unwrap_or("?");
        println!("locked by {user}, process {}", holder.pid);
    }
    if let Some(schema) = status.elsewhere() {
        println!("the tables are in the schema {schema}, which this role does not see");
    }
    if status.is_foreign() {
        println!("the tables are not motorpool's; `adopt` takes over the original's");
    }
    let pending = |m: &motorpool::MigrationStatus| m.state == MigrationState::Pending;
    status.is_current() && !status.migrations().iter().any(pending)
}

fn adopted(adoption: &Adoption) -> bool {
    match adoption {
        Adoption::Adopted {
            applied,
            users,
            cars,
            roles_filled,
            ..
        } => {
            for done in applied {
                println!("applied V{}__{}", done.version, done.name);
            }
            println!("adopted {users} users and {cars} cars");
            println!("{roles_filled} users had no role and are employees now");
            return true;
        }
        Adoption::NotTheOriginal(differences) => {
            println!("these are not the tables of the original; nothing was changed");
            differences.iter().for_each(|found| println!("{found}"));
        }
        Adoption::BadRows(rows) => {
            println!("these rows have to be put right first; nothing was changed");
            rows.iter().for_each(|row| println!("{row}"));
        }
        _ => println!("{adoption:?}"),
    }
    false
}

async fn make_roles(url: &str, database: &str) -> anyhow::Result<bool> {
    let mut wanted = Provision::new(database);
    if let Ok(password) = std::env::var("MIGRATOR_PASSWORD") {
        wanted = wanted.migrator_password(password);
    }
    if let Ok(password) = std::env::var("APP_PASSWORD") {
        wanted = wanted.app_password(password);
    }
    let made = provision(url, &wanted).await?;
    for role in &made.roles {
        println!("made the role {role}");
    }
    let [_, migrator, app] = wanted.role_names();
    for (role, variable) in [(migrator, "MIGRATOR_PASSWORD"), (app, "APP_PASSWORD")] {
        let made = made.roles.iter().any(|made| made == role);
        match (made, std::env::var(variable).is_ok()) {
            (true, false) => println!("{role} has no password: {variable} is not set"),
            (false, true) => println!("{role} was there already and keeps its password"),
            _ => {}
        }
    }
    if made.public_is_open {
        println!("everybody may use the schema public: its owner should revoke that");
    }
    for (made, what) in [(made.database, "database"), (made.schema, "schema")] {
        if made {
            println!("made the {what} {database}");
        }
    }
    println!("all is there");
    Ok(true)
}
