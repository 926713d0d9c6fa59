//! The addresses of one host. A name can have several, of which some are right and some say nothing.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::net::lookup_host;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// How a name is looked up. Nothing is found if that fails.
pub(super) type LookUp = fn(String) -> BoxFuture<'static, Vec<IpAddr>>;

/// In which order the addresses of a name are asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// That of the look-up.
    Found,
    /// The one that was right the last time first.
    LastFirst,
    /// Each time another one.
    Random,
}

/// One host, and which of its addresses was right the last time.
pub(super) struct Addresses {
    config: Config,
    look_up: LookUp,
    last: Mutex<Option<IpAddr>>,
}

/// One address, and what the driver needs to connect to it.
pub(super) struct Address {
    pub(super) config: Config,
    /// `None`: there is no other one.
    ip: Option<IpAddr>,
}

impl Addresses {
    pub(super) fn new(config: Config, look_up: LookUp) -> Self {
        Addresses {
            config,
            look_up,
            last: Mutex::new(None),
        }
    }

    pub(super) async fn in_order(&self, order: Order) -> Vec<Address> {
        let mut found = match (self.config.get_hosts(), self.config.get_hostaddrs()) {
            ([Host::Tcp(name)], []) => self.of_name(name).await,
            _ => Vec::new(),
        };
        match order {
            Order::Found => {}
            Order::LastFirst => {
                if let Some(last) = *self.last() {
                    found.sort_by_key(|ip| *ip != last);
                }
            }
            Order::Random => {
                let random = RandomState::new();
                found.sort_by_cached_key(|ip| random.hash_one(ip));
            }
        }
        if found.len() < 2 {
            // There is nothing to choose. What is wrong with the name the driver will say.
            return vec![Address {
                config: self.config.clone(),
                ip: None,
            }];
        }
        let address = |ip| {
            let mut config = self.config.clone();
            // Beside the name, which a certificate is for.
            config.hostaddr(ip);
            Address {
                config,
                ip: Some(ip),
            }
        };
        found.into_iter().map(address).collect()
    }

    async fn of_name(&self, name: &str) -> Vec<IpAddr> {
        if name.parse::<IpAddr>().is_ok() {
            return Vec::new();
        }
        let mut addresses = (self.look_up)(name.to_owned()).await;
        let mut seen = HashSet::new();
        addresses.retain(|ip| seen.insert(*ip));
        addresses
    }

    /// This address is right.
    pub(super) fn remember(&self, address: &Address) {
        *self.last() = address.ip;
    }

    fn last(&self) -> MutexGuard<'_, Option<IpAddr>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the system.
pub(super) fn system(name: String) -> BoxFuture<'static, Vec<IpAddr>> {
    Box::pin(async move {
        // The driver knows the port.
        let found = lookup_host((name, 0)).await;
        found.map_or_else(|_| Vec::new(), |found| found.map(|at| at.ip()).collect())
    })
}
