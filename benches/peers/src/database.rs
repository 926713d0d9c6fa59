//! The server of the run, and the rows in it.

use anyhow::{Result, anyhow};
use motorpool::PgStore;
use tokio_postgres::{Client, NoTls};

use crate::seed;
use crate::server::{Options, Server};

pub struct Database {
    pub server: Server,
    client: Client,
}

impl Database {
    /// Starts a server, makes the schema and fills it.
    pub async fn start(fsync: bool) -> Result<Database> {
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let options = Options {
            fsync,
            max_connections: 300,
            settings: vec![
                setting("shared_buffers", "512MB"),
                // Neither shall come in the middle of somebody's turn.
                setting("autovacuum", "off"),
                setting("checkpoint_timeout", "1h"),
                setting("max_wal_size", "8GB"),
            ],
            ..Options::default()
        };
        let start = tokio::task::spawn_blocking(|| Server::start(options));
        let server = start.await?.map_err(|error| anyhow!(error))?;
        let url = server.url("postgres");
        let store = PgStore::connect(&url).await?;
        motorpool::migrate(store.pool()).await?;
        store.close().await;
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(&seed::sql()).await?;
        client.batch_execute("VACUUM ANALYZE users, cars").await?;
        client.batch_execute("CHECKPOINT").await?;
        Ok(Database { server, client })
    }

    pub fn url(&self) -> String {
        self.server.url("postgres")
    }

    /// Such as "15.8".
    pub async fn version(&self) -> Result<String> {
        let row = self.client.query_one("SELECT version()", &[]).await?;
        let text: &str = row.try_get(0)?;
        Ok(text
            .split_whitespace()
            .take(2)
            .collect::<Vec<_>>()
            .join(" "))
    }

    /// Back to the seeded rows.
    pub async fn reset(&self) -> Result<()> {
        self.client.batch_execute(&seed::undo()).await?;
        self.client.batch_execute("VACUUM users, cars").await?;
        self.client.batch_execute("CHECKPOINT").await?;
        Ok(())
    }
}
