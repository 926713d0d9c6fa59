//! Databases behind PgBouncer, and a second process that works on the same one.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

pub mod neighbour;
#[path = "../support/pgbouncer.rs"]
pub mod pgbouncer;

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use futures_util::FutureExt;
use motorpool::{PgStore, PgStoreBuilder, StatementMode};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::support::server::{self, Server};
use crate::support::shelf::Shelf;
use pgbouncer::{Options, PgBouncer};

/// Which PgBouncer is between. All are in transaction mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooler {
    /// With one connection to the server, which all clients of a database share.
    Narrow,
    /// With four.
    Wide,
    /// With one, and it drops the startup parameter that a store with named statements sends.
    Lenient,
}

/// One server for the test program, and what stands before it.
struct Host {
    narrow: PgBouncer,
    wide: PgBouncer,
    lenient: PgBouncer,
    server: Server,
}

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let server = Server::start(server::Options::default()).unwrap_or_else(|e| panic!("{e}"));
        let lenient = Options {
            ignored: "options",
            ..Options::transactions(1)
        };
        Host {
            narrow: PgBouncer::start(&server, &Options::transactions(1)),
            wide: PgBouncer::start(&server, &Options::transactions(4)),
            lenient: PgBouncer::start(&server, &lenient),
            server,
        }
    })
}

/// A database of a test's own.
#[derive(Clone, Debug)]
pub struct Database {
    pub name: String,
    /// Through the pooler.
    pub url: String,
    /// Past it.
    pub direct: String,
}

impl Database {
    /// A plain connection past the pooler.
    pub async fn client(&self) -> Client {
        connect(&self.direct).await
    }

    /// A plain connection through it.
    pub async fn pooled(&self) -> Client {
        connect(&self.url).await
    }
}

/// What holds of all stores here. The limit is for a machine that does many things at once.
pub fn builder(url: &str) -> PgStoreBuilder {
    let builder = PgStore::builder(url).expect("a URL");
    let builder = builder.statement_mode(StatementMode::Unnamed);
    builder.call_timeout(Duration::from_secs(60))
}

impl Database {
    fn behind(pooler: Pooler, name: String) -> Database {
        let host = host();
        let between = match pooler {
            Pooler::Narrow => &host.narrow,
            Pooler::Wide => &host.wide,
            Pooler::Lenient => &host.lenient,
        };
        Database {
            url: between.url(&name),
            direct: host.server.url(&name),
            name,
        }
    }

    async fn make(pooler: Pooler) -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let template = template().await;
        let name = format!("motorpool_test_{}", COUNT.fetch_add(1, Relaxed));
        let sql = format!("CREATE DATABASE {name} TEMPLATE {template}");
        admin().await.batch_execute(&sql).await.expect("a database");
        Database::behind(pooler, name)
    }
}

/// Runs a test with a migrated database in which others have worked before, through the same pooler.
pub async fn with_emptied_database<F, Fut, T>(pooler: Pooler, test: F) -> T
where
    F: FnOnce(Database) -> Fut,
    Fut: Future<Output = T>,
{
    static SHELVES: [Shelf; 3] = [const { Shelf::new() }; 3];
    let shelf = match pooler {
        Pooler::Narrow => &SHELVES[0],
        Pooler::Wide => &SHELVES[1],
        Pooler::Lenient => &SHELVES[2],
    };
    let database = match shelf.take() {
        Some(name) => Database::behind(pooler, name),
        None => Database::make(pooler).await,
    };
    let result = test(database.clone()).await;
    let client = database.client().await;
    shelf.put(database.name, &client).await;
    result
}

/// Runs a test with a migrated database, which is dropped at the end, whatever the end is.
pub async fn with_database<F, Fut, T>(pooler: Pooler, test: F) -> T
where
    F: FnOnce(Database) -> Fut,
    Fut: Future<Output = T>,
{
    let database = Database::make(pooler).await;
    let drop = format!("DROP DATABASE {} WITH (FORCE)", database.name);
    let result = AssertUnwindSafe(async { test(database).await })
        .catch_unwind()
        .await;
    let dropped = admin().await.batch_execute(&drop).await;
    match result {
        Ok(value) => {
            dropped.expect("the database is dropped");
            value
        }
        Err(panic) => resume_unwind(panic),
    }
}

async fn admin() -> Client {
    connect(&host().server.url("postgres")).await
}

/// A migrated database that nobody is connected to.
async fn template() -> &'static str {
    static TEMPLATE: OnceCell<&str> = OnceCell::const_new();
    let make = || async {
        let url = host().server.url("postgres");
        let store = PgStore::connect(&url).await.expect("connects");
        store.migrate().await.expect("migrates");
        store.close();
        let sql = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
                   WHERE datname = 'postgres' AND pid <> pg_backend_pid()";
        let admin = connect(&host().server.url("template1")).await;
        admin.query(sql, &[]).await.expect("its connections end");
        let sql = "CREATE DATABASE migrated TEMPLATE postgres";
        admin.batch_execute(sql).await.expect("a template");
        "migrated"
    };
    TEMPLATE.get_or_init(make).await
}

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}
