//! Where the examples keep their data: in the database that they are given, else in a Postgres
//! server that lives as long as the program, else in memory.

#[path = "../../tests/support/server/mod.rs"]
mod server;

use std::sync::Arc;

use anyhow::Context;
use motorpool::{MemoryStore, PgStore, Store};

use server::{Options, Server};

/// A store, and the server that was started for it.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    server: Option<Server>,
}

impl Opened {
    /// Stops the server that was started here. Dropping does the same, as after an error.
    pub(crate) fn close(self) {
        drop(self.store);
        if let Some(server) = self.server {
            server.stop();
        }
    }
}

/// Opens the store and brings its schema up to date.
pub(crate) async fn open(url: Option<&str>) -> anyhow::Result<Opened> {
    if let Some(url) = url.filter(|url| !url.is_empty()) {
        let store = connect(url).await?;
        println!("Using the database that you named. Its schema is up to date.");
        let server = None;
        return Ok(Opened { store, server });
    }
    match Server::start(Options::default()) {
        Ok(server) => {
            let store = connect(&server.url("postgres")).await?;
            println!("Started a Postgres server for this run only, and made the tables in it.");
            let server = Some(server);
            Ok(Opened { store, server })
        }
        Err(reason) => {
            println!("{reason}\nGoing on without a database: all is kept in memory.");
            let store = Arc::new(MemoryStore::new());
            let server = None;
            Ok(Opened { store, server })
        }
    }
}

async fn connect(url: &str) -> anyhow::Result<Arc<dyn Store>> {
    let store = PgStore::connect(url)
        .await
        .context("cannot open the database")?;
    let migrated = store.migrate().await;
    migrated.context("cannot bring the schema up to date")?;
    Ok(Arc::new(store))
}
