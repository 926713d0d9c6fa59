//! Databases that the next test uses again. To make one takes twenty times as long as to make its tables
//! empty, and the contract has hundreds of tests that look at nothing else.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

/// Whoever still has a transaction open in it is waited for, but not for ever.
const EMPTY: &str = "SET lock_timeout = '20s'; TRUNCATE users, cars RESTART IDENTITY";

const PATIENCE: Duration = Duration::from_secs(20);

/// Names of databases that nobody uses.
pub struct Shelf(Mutex<Vec<String>>);

impl Shelf {
    pub const fn new() -> Shelf {
        Shelf(Mutex::new(Vec::new()))
    }

    fn names(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take(&self) -> Option<String> {
        self.names().pop()
    }

    /// One that is there, or a copy of this one, which nobody is connected to.
    pub async fn take_or_copy(&self, admin: &Client, template: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if let Some(name) = self.take() {
            return name;
        }
        let name = format!("{template}_{}", COUNT.fetch_add(1, Relaxed));
        let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
        let created = admin.batch_execute(&create).await;
        created.expect("a database is made");
        name
    }

    /// Puts one back after a test that went well, when nobody works in it any more. `client` is
    /// connected to it.
    pub async fn put(&self, name: String, client: &Client) {
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND pid <> pg_backend_pid() AND state <> 'idle'";
        let started = Instant::now();
        loop {
            let row = client.query_one(busy, &[]).await;
            if row.expect("counts").get::<_, i64>(0) == 0 {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "somebody works in {name}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let emptied = client.batch_execute(EMPTY).await;
        emptied.expect("the tables are made empty");
        self.names().push(name);
    }
}
