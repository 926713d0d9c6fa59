//! Making one connection: to the first of the hosts that answers in its share of the time and is
//! the kind of server that is wanted.
//!
//! A host that said nothing a moment ago is asked after the others, by one at a time while there is
//! something else to answer, and for its share only: so that a dead primary does not keep those
//! waiting who could be with the new one.

#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Config};

use super::addresses::{self, Addresses, LookUp};
use super::observe::Server;
use super::silence::Silence;
use super::target::SessionAttrs;
use super::tls::Connector;
use super::wanted::demand;

/// Where connections are made to.
pub(super) struct Dial {
    hosts: Vec<Host>,
    tls: Connector,
    wanted: SessionAttrs,
    /// Whether the hosts are tried in a random order.
    balance: bool,
    /// What each of several hosts has.
    share: Duration,
    /// The host that was right the last time. Where any will do the first is always tried first.
    last: AtomicUsize,
    /// Who is told which host that was.
    told: Option<Arc<Server>>,
    hold: Hold,
}

/// Holds connections: what comes on them is not looked at any more, and they stay open until their
/// tasks are ended.
#[derive(Clone, Default)]
pub(super) struct Hold(Arc<AtomicBool>);

impl Hold {
    pub(super) fn begin(&self) {
        self.0.store(true, SeqCst);
    }

    /// Drives a connection to its end, unless it is held.
    async fn drive<T>(self, connection: impl Future<Output = T>) -> T {
        let mut connection = pin!(connection);
        poll_fn(|cx| match self.0.load(SeqCst) {
            true => Poll::Pending,
            false => connection.as_mut().poll(cx),
        })
        .await
    }
}

struct Host {
    addresses: Addresses,
    silence: Silence,
}

pub(super) type Dialled = (Client, JoinHandle<()>);

type Driver<T> = Result<T, tokio_postgres::Error>;

/// Why no connection came about so far; `None`: nobody has said anything.
#[derive(Default)]
struct Refused(Option<tokio_postgres::Error>);

impl Refused {
    fn add(&mut self, error: tokio_postgres::Error) {
        // A server that answered is the better reason.
        if self.0.is_none() || error.as_db_error().is_some() {
            self.0 = Some(error);
        }
    }

    /// Without a reason, time was the reason: the caller ends this when it is over.
    async fn end<T>(self) -> Driver<T> {
        match self.0 {
            Some(error) => Err(error),
            None => std::future::pending().await,
        }
    }
}

impl Dial {
    /// `limit`: for all hosts together.
    pub(super) fn new(
        hosts: Vec<Config>,
        tls: Connector,
        wanted: SessionAttrs,
        balance: bool,
        limit: Duration,
    ) -> Self {
        Self::with_names(hosts, tls, wanted, balance, limit, addresses::system)
    }

    fn with_names(
        hosts: Vec<Config>,
        tls: Connector,
        wanted: SessionAttrs,
        balance: bool,
        limit: Duration,
        look_up: LookUp,
    ) -> Self {
        let number = u32::try_from(hosts.len()).unwrap_or(u32::MAX).max(1);
        let host = |config| Host {
            addresses: Addresses::new(config, look_up),
            silence: Silence::default(),
        };
        Dial {
            hosts: hosts.into_iter().map(host).collect(),
            tls,
            wanted,
            balance,
            share: limit / number,
            last: AtomicUsize::new(0),
            told: None,
            hold: Hold::default(),
        }
    }

    /// The same, and this one is told where connections lead to. Unless they go to several servers
    /// at once.
    pub(super) fn telling(self, server: &Arc<Server>) -> Self {
        let one = self.wanted != SessionAttrs::Any && !self.balance;
        Dial {
            told: one.then(|| Arc::clone(server)),
            ..self
        }
    }

    /// What holds the connections that it makes.
    pub(super) fn hold(&self) -> Hold {
        self.hold.clone()
    }

    /// Makes a connection. The caller ends it when the time is over.
    pub(super) async fn connect(&self) -> Driver<Dialled> {
        if self.wanted == SessionAttrs::PreferStandby {
            if let Ok(found) = self.first(SessionAttrs::Standby, false).await {
                return Ok(found);
            }
            return self.first(SessionAttrs::Any, true).await;
        }
        self.first(self.wanted, true).await
    }

    /// In which order the hosts are asked, each with its place in the URL.
    fn order(&self) -> Vec<(usize, &Host)> {
        let mut order: Vec<(usize, &Host)> = self.hosts.iter().enumerate().collect();
        if self.balance {
            let random = RandomState::new();
            order.sort_by_cached_key(|(place, _)| random.hash_one(place));
        } else if self.wanted != SessionAttrs::Any {
            let last = self.last.load(Relaxed);
            order.sort_by_key(|(place, _)| *place != last);
        }
        order.sort_by_cached_key(|(_, host)| host.silence.is_recent());
        order
    }

    /// The first host that is right. `to_the_end`: the last host may take all of the time that is
    /// left.
    async fn first(&self, wanted: SessionAttrs, to_the_end: bool) -> Driver<Dialled> {
        let order = self.order();
        let mut refused = Refused::default();
        for (tried, (place, host)) in order.iter().enumerate() {
            let mut question = host.silence.ask(self.share);
            if refused.0.is_some() {
                // There is an answer, which those who wait for it need not wait longer for.
                match question.unless_asked() {
                    Some(first) => question = first,
                    None => continue,
                }
            }
            let is_last = tried + 1 == order.len();
            // Many a server has been promoted in the time that a dead one could take here.
            let has_share =
                !is_last || !to_the_end || question.is_repeated() && refused.0.is_some();
            let order = match wanted {
                _ if self.balance => addresses::Order::Random,
                SessionAttrs::Any => addresses::Order::Found,
                _ => addresses::Order::LastFirst,
            };
            let attempt = host.attempt((&self.tls, &self.hold), wanted, self.share, order);
            let dialled = match has_share {
                true => match timeout(self.share, attempt).await {
                    Ok(dialled) => dialled,
                    // It has had its share.
                    Err(_) => {
                        tracing::debug!(host = place, "a host says nothing");
                        continue;
                    }
                },
                false => attempt.await,
            };
            question.answered();
            match dialled {
                Ok(dialled) => {
                    self.last.store(*place, Relaxed);
                    if let Some(server) = &self.told {
                        server.is_at(*place);
                    }
                    return Ok(dialled);
                }
                Err(error) => refused.add(error),
            }
        }
        refused.end().await
    }
}

impl Host {
    /// Connects to the first of its addresses that is right. Each has an equal part of the share;
    /// the last one ends when the caller ends it.
    async fn attempt(
        &self,
        with: (&Connector, &Hold),
        wanted: SessionAttrs,
        share: Duration,
        order: addresses::Order,
    ) -> Driver<Dialled> {
        let addresses = self.addresses.in_order(order).await;
        let number = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut refused = Refused::default();
        for (tried, address) in addresses.iter().enumerate() {
            let attempt = attempt(&address.config, with, wanted);
            let dialled = match tried + 1 == addresses.len() {
                true => attempt.await,
                false => match timeout(share / number, attempt).await {
                    Ok(dialled) => dialled,
                    Err(_) => continue,
                },
            };
            match dialled {
                Ok(dialled) => {
                    self.addresses.remember(address);
                    return Ok(dialled);
                }
                Err(error) => refused.add(error),
            }
        }
        refused.end().await
    }
}

/// Connects to one address and looks what kind of server it is.
async fn attempt(
    config: &Config,
    (tls, hold): (&Connector, &Hold),
    wanted: SessionAttrs,
) -> Driver<Dialled> {
    let (client, connection) = config.connect(tls.clone()).await?;
    let hold = hold.clone();
    let task = tokio::spawn(async move {
        if let Err(error) = hold.drive(connection).await {
            tracing::debug!(%error, "a connection ended");
        }
    });
    // An error drops the client, which ends the task.
    if let Some(demand) = demand(wanted) {
        client.batch_execute(demand).await?;
    }
    Ok((client, task))
}
