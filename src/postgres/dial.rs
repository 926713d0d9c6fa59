//! Making one connection: to the first of the hosts that answers in its share of the time and is
//! the kind of server that is wanted.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Config};

use super::target::SessionAttrs;
use super::tls::Connector;

/// Where connections are made to.
pub(super) struct Dial {
    hosts: Vec<Config>,
    tls: Connector,
    wanted: SessionAttrs,
    /// Whether the hosts are tried in a random order.
    balance: bool,
    /// What each of several hosts has.
    share: Duration,
    /// The host that was right the last time. Where any will do the first is always tried first.
    last: AtomicUsize,
}

pub(super) type Dialled = (Client, JoinHandle<()>);

type Driver<T> = Result<T, tokio_postgres::Error>;

impl Dial {
    /// `limit`: for all hosts together.
    pub(super) fn new(
        hosts: Vec<Config>,
        tls: Connector,
        wanted: SessionAttrs,
        balance: bool,
        limit: Duration,
    ) -> Self {
        let number = u32::try_from(hosts.len()).unwrap_or(u32::MAX).max(1);
        Dial {
            hosts,
            tls,
            wanted,
            balance,
            share: limit / number,
            last: AtomicUsize::new(0),
        }
    }

    /// Makes a connection. The caller ends it when the time is over.
    pub(super) async fn connect(&self) -> Driver<Dialled> {
        let order = self.order();
        if self.wanted == SessionAttrs::PreferStandby {
            if let Ok(found) = self.first(&order, SessionAttrs::Standby, false).await {
                return Ok(found);
            }
            return self.first(&order, SessionAttrs::Any, true).await;
        }
        self.first(&order, self.wanted, true).await
    }

    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.hosts.len()).collect();
        if self.balance {
            let random = RandomState::new();
            order.sort_by_cached_key(|host| random.hash_one(host));
        } else if self.wanted != SessionAttrs::Any {
            let last = self.last.load(Relaxed);
            order.sort_by_key(|host| *host != last);
        }
        order
    }

    /// The first host that is right. `to_the_end`: the last host may take all of the time that is
    /// left.
    async fn first(
        &self,
        order: &[usize],
        wanted: SessionAttrs,
        to_the_end: bool,
    ) -> Driver<Dialled> {
        let mut refused = None;
        for (tried, host) in order.iter().enumerate() {
            let Some(config) = self.hosts.get(*host) else {
                continue;
            };
            let attempt = attempt(config, self.tls.clone(), wanted);
            let is_last = tried + 1 == order.len();
            let dialled = match is_last && to_the_end {
                true => attempt.await,
                false => match timeout(self.share, attempt).await {
                    Ok(dialled) => dialled,
                    // It has had its share.
                    Err(_) => continue,
                },
            };
            match dialled {
                Ok(dialled) => {
                    self.last.store(*host, Relaxed);
                    return Ok(dialled);
                }
                // A server that answered is the better reason.
                Err(error) if refused.is_none() || error.as_db_error().is_some() => {
                    refused = Some(error);
                }
                Err(_) => {}
            }
        }
        match refused {
            Some(error) => Err(error),
            // Every host had its share and said nothing.
            None => std::future::pending().await,
        }
    }
}

/// Connects to one host and looks what kind of server it is.
async fn attempt(config: &Config, tls: Connector, wanted: SessionAttrs) -> Driver<Dialled> {
    let (client, connection) = config.connect(tls).await?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended");
        }
    });
    // An error drops the client, which ends the task.
    if let Some(demand) = demand(wanted) {
        client.batch_execute(demand).await?;
    }
    Ok((client, task))
}

/// What a server that is not wanted refuses.
fn demand(wanted: SessionAttrs) -> Option<&'static str> {
    match wanted {
        SessionAttrs::Any | SessionAttrs::PreferStandby => None,
        SessionAttrs::ReadWrite => Some(
            "DO $$ BEGIN IF current_setting('transaction_read_only') = 'on' THEN
                RAISE SQLSTATE '25006' USING MESSAGE = 'the server takes no writes';
            END IF; END $$",
        ),
        SessionAttrs::Primary => Some(
            "DO $$ BEGIN IF pg_is_in_recovery() THEN
                RAISE SQLSTATE '25006' USING MESSAGE = 'the server is a standby';
            END IF; END $$",
        ),
        SessionAttrs::ReadOnly => Some(
            "DO $$ BEGIN IF current_setting('transaction_read_only') = 'off' THEN
                RAISE SQLSTATE '55000' USING MESSAGE = 'the server takes writes';
            END IF; END $$",
        ),
        SessionAttrs::Standby => Some(
            "DO $$ BEGIN IF NOT pg_is_in_recovery() THEN
                RAISE SQLSTATE '55000' USING MESSAGE = 'the server is no standby';
            END IF; END $$",
        ),
    }
}
