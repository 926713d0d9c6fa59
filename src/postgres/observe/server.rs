//! Where a pool leads to, in words for an operator.

#[cfg(feature = "metrics")]
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The database, and the server that the pool's connections are to.
#[derive(Debug)]
pub(in crate::postgres) struct Server {
    namespace: Option<String>,
    hosts: Vec<Host>,
    /// The host of the last connection that came about.
    last: AtomicUsize,
    #[cfg(feature = "metrics")]
    name: Arc<str>,
    #[cfg(feature = "metrics")]
    pub(super) keys: super::meters::Keys,
}

/// A host: a name, an address or the directory of a socket; and a port, if it is no socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::postgres) struct Host {
    pub(in crate::postgres) address: String,
    pub(in crate::postgres) port: Option<u16>,
}

/// No host yet.
const NONE: usize = usize::MAX;

impl Server {
    /// `hosts`: where the connections lead to. None, if each may lead to another one of them, so
    /// that nobody can say where a call went.
    pub(in crate::postgres) fn new(namespace: Option<&str>, hosts: Vec<Host>) -> Self {
        let last = match hosts.len() {
            1 => 0,
            _ => NONE,
        };
        Server {
            #[cfg(feature = "metrics")]
            name: name(namespace, &hosts),
            namespace: namespace.map(str::to_owned),
            hosts,
            last: AtomicUsize::new(last),
            #[cfg(feature = "metrics")]
            keys: super::meters::Keys::default(),
        }
    }

    /// Of a host's own pool nobody says where it leads.
    pub(in crate::postgres) fn unknown() -> Self {
        Server::new(None, Vec::new())
    }

    /// From now on connections are made to this one of the hosts.
    pub(in crate::postgres) fn is_at(&self, place: usize) {
        self.last.store(place, Relaxed);
    }

    /// What its pool is called: `host:port/database`. Nothing of that is secret.
    #[cfg(feature = "metrics")]
    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    pub(super) fn host(&self) -> Option<&Host> {
        self.hosts.get(self.last.load(Relaxed))
    }

    /// The only one that there can be.
    #[cfg(feature = "metrics")]
    pub(super) fn only_host(&self) -> Option<&Host> {
        match self.hosts.as_slice() {
            [host] => Some(host),
            _ => None,
        }
    }
}

/// `host:port/database`, with all hosts where there are several.
#[cfg(feature = "metrics")]
fn name(namespace: Option<&str>, hosts: &[Host]) -> Arc<str> {
    let host = |host: &Host| match host.port {
        Some(port) => format!("{}:{port}", host.address),
        None => host.address.clone(),
    };
    let hosts: Vec<String> = hosts.iter().map(host).collect();
    match (hosts.is_empty(), namespace) {
        (true, None) => "host's own".into(),
        (_, namespace) => format!("{}/{}", hosts.join(","), namespace.unwrap_or_default()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(address: &str) -> Host {
        Host {
            address: address.into(),
            port: Some(5432),
        }
    }

    #[test]
    fn of_several_hosts_it_is_the_one_that_was_connected_to() {
        let server = Server::new(Some("garage"), vec![host("a"), host("b")]);
        assert_eq!(server.host(), None);
        server.is_at(1);
        assert_eq!(server.host(), Some(&host("b")));
        let server = Server::new(None, vec![host("a")]);
        assert_eq!(server.host(), Some(&host("a")));
        let server = Server::unknown();
        server.is_at(0);
        assert_eq!(server.host(), None);
    }
}
