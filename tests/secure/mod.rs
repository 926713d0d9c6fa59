//! A Postgres server of a test program's own that is reached over TCP only with TLS.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use futures_util::FutureExt;
use motorpool::{Error, PgStore, Result, UnavailableReason};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::authority::{Authority, write};
use crate::support::Database;
use crate::support::server::{Options, Server};
use crate::support::shelf::Shelf;

/// Who comes over TCP is a client with a certificate for `certified`, sends the password in clear
/// as `plain`, or proves to know it. `clear` alone comes without TLS.
const ACCESS: &str = "\
local all all scram-sha-256
hostssl all certified 127.0.0.1/32 cert
hostssl all plain 127.0.0.1/32 password
hostnossl all clear 127.0.0.1/32 scram-sha-256
hostssl all all 127.0.0.1/32 scram-sha-256
";

pub const PLAIN_PASSWORD: &str = "known-to-plain";

pub struct Secure {
    pub server: Server,
    /// Of the server's certificate, which is for `localhost`, and of its clients'.
    pub authority: Authority,
}

/// The server of this test program.
pub fn server() -> &'static Secure {
    static SERVER: OnceLock<Secure> = OnceLock::new();
    SERVER.get_or_init(Secure::start)
}

impl Secure {
    fn start() -> Secure {
        let options = Options {
            tcp: true,
            ..Options::default()
        };
        let server = Server::start(options).unwrap_or_else(|error| panic!("{error}"));
        let authority = Authority::new();
        let identity = authority.issue("localhost");
        let data = server.data_dir();
        let owner = fs::metadata(&data).unwrap();
        for (name, text) in [
            ("server.crt", identity.certificate.as_str()),
            ("server.key", &identity.key),
            ("clients.crt", &authority.pem),
            ("pg_hba.conf", ACCESS),
        ] {
            let path = write(&data, name, text);
            chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        write(server.dir(), "root.crt", &authority.pem);
        Secure { server, authority }
    }

    /// Turns TLS on, makes the users, and waits until the server has noticed.
    async fn ready(&self) {
        static READY: OnceCell<()> = OnceCell::const_new();
        let prepare = || async {
            let admin = self.admin().await;
            for sql in [
                "ALTER SYSTEM SET ssl = on",
                "ALTER SYSTEM SET ssl_ca_file = 'clients.crt'",
                "CREATE ROLE certified LOGIN SUPERUSER",
                &format!("CREATE ROLE plain LOGIN PASSWORD '{PLAIN_PASSWORD}'"),
                "SELECT pg_reload_conf()",
            ] {
                admin.batch_execute(sql).await.unwrap();
            }
            // A new connection has what the postmaster has.
            loop {
                let row = self.admin().await.query_one("SHOW ssl", &[]).await;
                if row.unwrap().get::<_, &str>(0) == "on" {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        READY.get_or_init(prepare).await;
    }

    pub async fn admin(&self) -> Client {
        let url = self.server.url("postgres");
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A file with the authority of the server's certificate.
    pub fn root(&self) -> PathBuf {
        self.server.dir().join("root.crt")
    }

    /// A database over TLS, as the superuser who proves to know the password.
    pub fn url(&self, database: &Database, more: &str) -> String {
        self.url_at("localhost", self.server.port(), database, more)
    }

    pub fn url_at(&self, host: &str, port: u16, database: &Database, more: &str) -> String {
        let (name, password) = (&database.name, self.server.password());
        format!("host={host} port={port} user=postgres password={password} dbname={name} {more}")
    }

    /// With this authority, and the name in the certificate.
    pub fn verified(&self, database: &Database) -> String {
        let root = self.root();
        self.url(database, &verify(&root))
    }
}

pub fn verify(root: &Path) -> String {
    format!("sslmode=verify-full sslrootcert='{}'", root.display())
}

async fn make(server: &Secure) -> Database {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("motorpool_test_{}", COUNT.fetch_add(1, Relaxed));
    let sql = format!("CREATE DATABASE {name} TEMPLATE {}", template(server).await);
    server.admin().await.batch_execute(&sql).await.unwrap();
    let url = server.server.url(&name);
    Database { name, url }
}

/// Runs a test with a migrated database on the server in which others have worked before.
pub async fn with_emptied_database<F, Fut, T>(test: F) -> T
where
    F: FnOnce(Database) -> Fut,
    Fut: Future<Output = T>,
{
    static SHELF: Shelf = Shelf::new();
    let server = server();
    server.ready().await;
    let database = match SHELF.take() {
        Some(name) => Database {
            url: server.server.url(&name),
            name,
        },
        None => make(server).await,
    };
    let result = test(database.clone()).await;
    let client = database.client().await;
    SHELF.put(database.name, &client).await;
    result
}

/// Runs a test with a migrated database on the server. Its own URL goes through the socket.
pub async fn with_database<F, Fut, T>(test: F) -> T
where
    F: FnOnce(Database) -> Fut,
    Fut: Future<Output = T>,
{
    let server = server();
    server.ready().await;
    let database = make(server).await;
    let drop = format!("DROP DATABASE {} WITH (FORCE)", database.name);
    let result = AssertUnwindSafe(async { test(database).await })
        .catch_unwind()
        .await;
    let dropped = server.admin().await.batch_execute(&drop).await;
    match result {
        Ok(value) => {
            dropped.unwrap();
            value
        }
        Err(panic) => resume_unwind(panic),
    }
}

/// A migrated database that nobody is connected to.
async fn template(server: &Secure) -> &'static str {
    static TEMPLATE: OnceCell<&str> = OnceCell::const_new();
    let make = || async {
        let admin = server.admin().await;
        let sql = "CREATE DATABASE motorpool_template";
        admin.batch_execute(sql).await.unwrap();
        let url = server.server.url("motorpool_template");
        let store = PgStore::connect(&url).await.unwrap();
        store.migrate().await.unwrap();
        assert_eq!(store.close().await, 0);
        let sql = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
                   WHERE datname = 'motorpool_template'";
        admin.query(sql, &[]).await.unwrap();
        "motorpool_template"
    };
    TEMPLATE.get_or_init(make).await
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Connects with more patience than a busy machine needs.
pub async fn connect(url: &str) -> Result<PgStore> {
    let builder = PgStore::builder(url)?.call_timeout(PATIENCE);
    builder.build().await
}

/// What the server says of the store's connection: the version of TLS, and whose certificate the
/// client has shown.
pub async fn session(store: &PgStore) -> (bool, Option<String>, Option<String>) {
    let client = store.pool().get().await.unwrap();
    let sql = "SELECT ssl, version, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

/// Why there was no connection. The error has to say more about it.
pub fn reason(error: &Error) -> UnavailableReason {
    match error {
        Error::Unavailable { reason, source } => {
            assert!(source.is_some(), "{error:?}");
            reason.clone()
        }
        other => panic!("{other:?}"),
    }
}
