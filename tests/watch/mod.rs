//! What the server says about a store's connections, asked through a plain connection.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::support::Database;

/// How long a condition may take to come true.
const BOUND: Duration = Duration::from_secs(20);

const STORE: &str = "FROM pg_stat_activity WHERE datname = current_database() \
    AND application_name = 'motorpool'";

pub struct Watch {
    client: Client,
}

impl Watch {
    pub async fn new(database: &Database) -> Watch {
        let client = database.client().await;
        Watch { client }
    }

    /// Runs statements.
    pub async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    /// The number that a statement gives.
    pub async fn number(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// The first column of all rows, as text.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let rows = self.client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// How many connections the store has.
    pub async fn backends(&self) -> i64 {
        self.number(&format!("SELECT count(*) {STORE}")).await
    }

    /// How many of them work on something or are inside a transaction.
    pub async fn busy(&self) -> i64 {
        let sql = format!("SELECT count(*) {STORE} AND state IS DISTINCT FROM 'idle'");
        self.number(&sql).await
    }

    /// Waits until none of them does.
    pub async fn settled(&self) {
        let sql = format!("SELECT count(*) {STORE} AND state IS DISTINCT FROM 'idle'");
        self.until(&sql, 0).await;
    }

    /// Waits until there are this many.
    pub async fn until_backends(&self, number: i64) {
        self.until(&format!("SELECT count(*) {STORE}"), number)
            .await;
    }

    /// Waits until there is none.
    pub async fn ended(&self) {
        self.until_backends(0).await;
    }

    /// Waits until this many of them wait for a lock.
    pub async fn waiting(&self, number: i64) {
        let sql = format!("SELECT count(*) {STORE} AND wait_event_type = 'Lock'");
        self.until(&sql, number).await;
    }

    /// Waits until the statement gives this number.
    pub async fn until(&self, sql: &str, wanted: i64) {
        let started = Instant::now();
        loop {
            let found = self.number(sql).await;
            if found == wanted {
                return;
            }
            assert!(started.elapsed() < BOUND, "{sql}: {found}, not {wanted}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
