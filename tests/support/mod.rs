//! Databases for tests: one server for each test program, a fresh database for each test.
//!
//! The server is started by the first test that needs one, and is gone a moment after the program
//! has ended, however it ended. `DATABASE_URL` names a server to use instead; then the databases of
//! a test program that is killed stay on it (`motorpool_test_…`).

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

pub mod inside;
pub mod server;
pub mod shelf;

use std::env;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use motorpool::PgStore;
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use server::{Options, Server};
use shelf::Shelf;

/// A database of a test's own.
#[derive(Clone, Debug)]
pub struct Database {
    pub name: String,
    pub url: String,
}

impl Database {
    /// A plain connection, to look into the database behind the store's back.
    pub async fn client(&self) -> Client {
        connect(&self.url).await
    }

    /// The password in the URL. A server that asks for none needs one there too, for the tests that
    /// look whether it turns up.
    pub fn password(&self) -> String {
        let config: tokio_postgres::Config = self.url.parse().expect("a URL");
        let password = config.get_password().expect("a password in the URL");
        String::from_utf8(password.to_vec()).expect("a text")
    }
}

/// Waits until no connection of a store to this client's database does anything: what was dropped is
/// rolled back or cancelled a moment later.
pub async fn until_idle(client: &Client) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name = 'motorpool' AND state <> 'idle'";
    let started = Instant::now();
    loop {
        let busy: i64 = client.query_one(sql, &[]).await.expect("counts").get(0);
        if busy == 0 {
            return;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{busy} connections are at work"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test with a migrated database, which is dropped at the end, whatever the end is.
pub async fn with_database<F, Fut, T>(test: F) -> T
where
    F: FnOnce(Database) -> Fut,
    Fut: Future<Output = T>,
{
    let host = host();
    let database = match host {
        Host::Ours(_) => {
            let template = format!("TEMPLATE {}", template(host).await);
            host.create(&template).await
        }
        // No template there: nobody would drop it at the end.
        Host::Theirs(_) => {
            let database = host.create("").await;
            migrate(&database.url).await;
            database
        }
    };
    run(host, database, test).await
}

/// The same with a database in which others have worked before, for a test that looks at nothing but
/// users and cars.
pub async fn with_emptied_database<F, Fut, T>(test: F) -> T
where
    F: FnOnce(Database) -> Fut,
    Fut: Future<Output = T>,
{
    static SHELF: Shelf = Shelf::new();
    let host = host();
    let Host::Ours(server) = host else {
        return with_database(test).await;
    };
    let database = match SHELF.take() {
        Some(name) => Database {
            url: server.url(&name),
            name,
        },
        None => {
            let template = format!("TEMPLATE {}", template(host).await);
            host.create(&template).await
        }
    };
    let result = test(database.clone()).await;
    let client = database.client().await;
    SHELF.put(database.name, &client).await;
    result
}

/// Runs a test with an empty database, which is dropped at the end, whatever the end is.
pub async fn with_empty_database<F, Fut, T>(test: F) -> T
where
    F: FnOnce(Database) -> Fut,
    Fut: Future<Output = T>,
{
    let host = host();
    let database = host.create("").await;
    run(host, database, test).await
}

/// The same with a database in this encoding.
pub async fn with_encoding<F, Fut, T>(encoding: &str, test: F) -> T
where
    F: FnOnce(Database) -> Fut,
    Fut: Future<Output = T>,
{
    let host = host();
    let like = format!("TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'");
    let database = host.create(&like).await;
    run(host, database, test).await
}

async fn run<F, Fut, T>(host: &Host, database: Database, test: F) -> T
where
    F: FnOnce(Database) -> Fut,
    Fut: Future<Output = T>,
{
    let name = database.name.clone();
    // The call is inside, because a test can panic before its first await.
    let result = AssertUnwindSafe(async { test(database).await })
        .catch_unwind()
        .await;
    let drop = format!("DROP DATABASE {name} WITH (FORCE)");
    let dropped = host.admin().await.batch_execute(&drop).await;
    match result {
        Ok(value) => {
            dropped.expect("the test's database is dropped");
            value
        }
        Err(panic) => resume_unwind(panic),
    }
}

/// The server that the tests run on.
enum Host {
    Ours(Server),
    /// The URL of a database on it.
    Theirs(String),
}

/// The first caller starts it, the others wait.
fn host() -> &'static Host {
    static HOST: OnceLock<Result<Host, String>> = OnceLock::new();
    let host = HOST.get_or_init(|| match env::var("DATABASE_URL") {
        Ok(url) if !url.is_empty() => Ok(Host::Theirs(url)),
        _ => Server::start(Options::default()).map(Host::Ours),
    });
    host.as_ref().unwrap_or_else(|error| panic!("{error}"))
}

impl Host {
    async fn admin(&self) -> Client {
        match self {
            Host::Ours(server) => connect(&server.url("postgres")).await,
            Host::Theirs(url) => connect(url).await,
        }
    }

    async fn create(&self, like: &str) -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Relaxed));
        let name = format!("motorpool_test_{process}_{count}");
        let sql = format!("CREATE DATABASE {name} {like}");
        let created = self.admin().await.batch_execute(&sql).await;
        created.expect("a database for the test is created");
        let url = match self {
            Host::Ours(server) => server.url(&name),
            Host::Theirs(url) => with_name(url, &name),
        };
        Database { name, url }
    }
}

/// The name of a migrated database that nobody is connected to, which a copy can be made of.
async fn template(host: &Host) -> &'static str {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    let make = || async {
        let database = host.create("").await;
        migrate(&database.url).await;
        // The server may need a moment to see that a client has gone.
        let sql = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
                   WHERE datname = $1";
        let alone = host.admin().await.query(sql, &[&database.name]).await;
        alone.expect("the template's connections end");
        database.name
    };
    TEMPLATE.get_or_init(make).await
}

async fn migrate(url: &str) {
    let store = PgStore::connect(url).await.expect("the store connects");
    store.migrate().await.expect("the database is migrated");
    store.close();
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .expect("the test server takes connections");
    // It ends with the client.
    tokio::spawn(connection);
    client
}

/// The connection string with another database in it, in either of its two forms.
fn with_name(url: &str, name: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return format!("{url} dbname={name}");
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, format!("?{query}")),
        None => (rest, String::new()),
    };
    let authority = rest.split('/').next().unwrap_or_default();
    format!("{scheme}://{authority}/{name}{query}")
}
