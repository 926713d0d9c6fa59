//! A connection of its own for a migrator, and the lock that makes it the only one.

use std::time::{Duration, Instant};

use deadpool_postgres::{ClientWrapper, Object, Pool};
use tokio::time::{sleep, timeout};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::{Migrator, pooler};
use crate::error::{Error, Failure, Result, Source, UnavailableReason};
use crate::postgres::error::{failure_in, from_pool, unavailable};
use crate::postgres::{CancelRoute, abandon_direct};

/// The advisory lock of all migrators of one database: "motorpoo" in ASCII.
pub(super) const LOCK: i64 = 0x6d6f_746f_7270_6f6f;

/// Takes it in a script, which cannot poll: one that waited would hold a snapshot.
pub(super) fn lock_or_fail() -> String {
    format!(
        "DO $$ BEGIN
    IF NOT pg_try_advisory_lock({LOCK}) THEN
        RAISE EXCEPTION 'another migrator is at work';
    END IF;
END $$"
    )
}

/// As the server takes them. 0 would be no limit.
pub(super) fn milliseconds(limit: Duration) -> i32 {
    i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1)
}

/// What a migrator sets for itself, whatever its role or database says: a migration takes as long as
/// it takes, but waits for tables for this long only, and after it has waited for a lock it sees
/// what was stored meanwhile. The catalog writes its definitions as it does by itself.
pub(super) fn settings(lock_timeout: Duration) -> String {
    // The one by its name is known from version 17 on.
    format!(
        "SET client_min_messages = warning;
SET lock_timeout = {};
SET statement_timeout = 0;
SET idle_session_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET default_transaction_isolation = 'read committed';
SET quote_all_identifiers = off;
SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'",
        milliseconds(lock_timeout)
    )
}

/// So that the server notices soon when this process is gone, also while a statement runs, and when
/// its machine is gone with it, and lets go of the lock and of the tables: a migrator never leaves a
/// transaction alone. Not every version and platform has all of it.
const NOTICE: [&str; 3] = [
    "SET client_connection_check_interval = '1s'",
    "SET idle_in_transaction_session_timeout = '60s'",
    "SET tcp_keepalives_idle = 10;
    SET tcp_keepalives_interval = 3;
    SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = '20s'",
];

/// How long to wait for a connection.
const CONNECTION_WAIT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// A connection that nobody else uses, so that nothing that is set on it reaches anybody. Dropped
/// halfway, it is closed; one with the lock after what it was doing is cancelled, which frees it.
pub(super) struct Session {
    // Only its end takes it out.
    held: Option<Held>,
    route: CancelRoute,
    /// Nothing is between that a request to cancel could harm.
    direct: bool,
}

/// A connection.
enum Held {
    /// Of the pool.
    Lent(Object),
    /// Taken out of the pool, which has room for another one instead.
    Own(ClientWrapper),
}

impl Held {
    fn own(self) -> ClientWrapper {
        match self {
            Held::Lent(object) => Object::take(object),
            Held::Own(client) => client,
        }
    }
}

impl Session {
    pub(super) async fn open(pool: &Pool) -> Result<Session> {
        let started = Instant::now();
        match timeout(CONNECTION_WAIT, pool.get()).await {
            Ok(Ok(object)) => Ok(Session {
                held: Some(Held::Lent(object)),
                route: CancelRoute::of(pool),
                direct: false,
            }),
            Ok(Err(error)) => Err(from_pool(error, started.elapsed())),
            Err(_) => Err(Error::PoolExhausted {
                waited: started.elapsed(),
            }),
        }
    }

    pub(super) fn client(&self) -> Result<&ClientWrapper> {
        let lost = || unavailable(UnavailableReason::ConnectionLost, None);
        match self.held.as_ref().ok_or_else(lost)? {
            Held::Lent(object) => Ok(object),
            Held::Own(client) => Ok(client),
        }
    }

    pub(super) fn client_mut(&mut self) -> Result<&mut ClientWrapper> {
        let lost = || unavailable(UnavailableReason::ConnectionLost, None);
        match self.held.as_mut().ok_or_else(lost)? {
            Held::Lent(object) => Ok(object),
            Held::Own(client) => Ok(client),
        }
    }

    /// Hands the connection back to the pool: nothing was set on it and nothing runs on it.
    pub(super) fn give_back(mut self) {
        drop(self.held.take());
    }

    /// Takes the connection out of the pool for good.
    fn take_out(&mut self) {
        self.held = self.held.take().map(|held| Held::Own(held.own()));
    }

    /// The same for a migrator: without a limit on statements, because a migration takes as long as
    /// it takes, but with a short one on waiting for tables, because everybody else queues behind
    /// whoever waits.
    pub(super) async fn lock(pool: &Pool, migrator: &Migrator) -> Result<Session> {
        let mut session = Session::open(pool).await?;
        session.take_out();
        // Before anything is set that would stay on a connection that others use.
        pooler::refuse(&session, pool).await?;
        session.direct = true;
        let settings = settings(migrator.lock_timeout);
        session.batch("preparing the session", &settings).await?;
        for notice in NOTICE {
            let set = session.batch("preparing the session", notice).await;
            if set.is_err() {
                tracing::debug!(notice, "the server does not know how to");
            }
        }
        session.wait_for_lock(migrator.lock_wait).await?;
        Ok(session)
    }

    /// Polled, because a session that waits inside `pg_advisory_lock` holds a snapshot, for which a
    /// migration that builds an index concurrently would wait in turn.
    async fn wait_for_lock(&self, limit: Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            let what = "taking the migration lock";
            let sql = format!("SELECT pg_try_advisory_lock({LOCK})");
            for row in &self.query(what, &sql).await? {
                if value(row, 0)? {
                    return Ok(());
                }
            }
            if started.elapsed() > limit {
                return Err(Error::Migration {
                    reason: format!(
                        "another migrator has held the lock for {:.0} s",
                        limit.as_secs_f64()
                    ),
                    source: None,
                });
            }
            sleep(LOCK_POLL).await;
        }
    }

    /// Frees the lock, after whatever a failure left to be rolled back: its caller may go on at once.
    /// Closing the connection does it too, but only when the server notices.
    pub(super) async fn unlock(mut self) {
        let unlock = async {
            let sql = format!("SELECT pg_advisory_unlock({LOCK})");
            self.query("freeing the migration lock", &sql).await
        };
        if !matches!(timeout(CONNECTION_WAIT, unlock).await, Ok(Ok(_))) {
            tracing::warn!("the migration lock was not released; closing the connection does it");
            return;
        }
        // Nothing runs on it any more that would have to be cancelled.
        drop(self.held.take().map(Held::own));
    }

    /// Runs statements that give no rows.
    pub(super) async fn batch(&self, what: &str, sql: &str) -> Result<()> {
        let done = self.client()?.batch_execute(sql).await;
        done.map_err(failed(what))
    }

    /// Runs a statement and gives its rows. It gets no name on the server, so it can be sent through
    /// any pooler.
    pub(super) async fn query(&self, what: &str, sql: &str) -> Result<Vec<Row>> {
        let rows = self.client()?.query_typed(sql, &[]).await;
        rows.map_err(failed(what))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            let client = held.own();
            if self.direct {
                abandon_direct(client, self.route.clone());
            }
        }
    }
}

/// A failure of the driver in words: what was being done, and what the server said.
pub(super) fn failed(what: &str) -> impl FnOnce(tokio_postgres::Error) -> Error + '_ {
    move |error| match failure_in(&error) {
        Some(failure) => migration_failed(what, failure),
        None if error.is_closed() => unavailable(UnavailableReason::ConnectionLost, None),
        None => {
            let words = error.to_string();
            let source: Option<Source> = error.into_source();
            Error::Migration {
                reason: format!("{what}: {words}"),
                source,
            }
        }
    }
}

pub(super) fn migration_failed(what: &str, failure: Failure) -> Error {
    Error::Migration {
        reason: format!("{what}: {failure}"),
        source: Some(Box::new(failure)),
    }
}

/// The value at a position of a row, in the same words.
pub(super) fn value<'a, T: FromSql<'a>>(row: &'a Row, position: usize) -> Result<T> {
    row.try_get(position).map_err(failed("reading the catalog"))
}
