//! Where the database is and how to talk to it, read from a text or from the environment the way
//! libpq, the client library of Postgres, reads them.
//!
//! Two forms, told apart by how the text begins:
//!
//! - `postgresql://user:password@host:port,host:port/database?key=value&…`, also with `postgres://`
//!   and, as SQLAlchemy writes it, `postgresql+psycopg2://` or `postgresql+psycopg://`. Every part
//!   may be percent-encoded; a key after the `?` overrides what stands before it.
//! - `key=value key='another value' …`, where a backslash takes the next character as it is.
//!
//! A key that is given twice counts as given last. White space around a URL is left out.
//!
//! Where this differs from libpq:
//!
//! - An empty text is an error: nobody means "the server of this machine" by it.
//! - No host means the socket directory `/var/run/postgresql` on Linux, `/tmp` on other Unix
//!   systems, and `localhost` elsewhere. libpq has the directory that its builder chose.
//! - `sslmode=allow` is read as `prefer`: neither promises anything, and TLS is tried first.
//! - A host name consists of letters, digits, `-`, `.` and `_`, and in a URL an `@` in the database
//!   and a `?` in the user have to be encoded: nearly always such a thing is a piece of a password
//!   that was not encoded, and libpq would look it up in the DNS.
//! - `connect_timeout=1` is one second, not two.
//! - `sslcert` and `sslkey` come together.
//! - Neither a service file nor `~/.postgresql` is looked at. A text reads no environment, and a
//!   password file only if it names one.
//! - A key that libpq knows and this crate cannot honour is an error, unless its value says what
//!   happens anyway.
//!
//! No error and no `Debug` form quotes anything of the text: in one that is misspelt, a piece of
//! the password can be where a key or a host is expected. An error names a key only if it is one of
//! libpq's.

mod keys;
mod pairs;
mod passfile;
mod resolve;
#[cfg(test)]
mod tests;
mod tls;
mod uri;

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode as DriverMode, SslNegotiation};

use self::keys::{Origin, Values};
#[cfg(any(test, feature = "tls"))]
pub(super) use self::tls::RootCert;
#[cfg(feature = "tls")]
pub(super) use self::tls::TlsVersion;
pub(super) use self::tls::{Negotiation, SslMode, Tls};
use super::observe::{Host, Server};
use crate::error::Result;

/// One or more servers of one database, and how to talk to them.
#[derive(Clone)]
pub(super) struct Target {
    endpoints: Vec<Endpoint>,
    /// `None`: the user that the process runs as.
    user: Option<String>,
    /// `None`: the one that has the user's name.
    dbname: Option<String>,
    options: Option<String>,
    application_name: String,
    keepalives: Keepalives,
    tcp_user_timeout: Option<Duration>,
    channel_binding: ChannelBinding,
    pub(super) tls: Tls,
    pub(super) session: SessionAttrs,
    /// Whether the hosts are tried in a random order.
    pub(super) balance: bool,
    /// For each host; [`Duration::MAX`] where no limit is asked for, `None` where nothing is said.
    pub(super) connect_timeout: Option<Duration>,
}

/// One of the servers.
#[derive(Clone)]
pub(super) struct Endpoint {
    at: Address,
    port: u16,
    password: Option<Vec<u8>>,
}

#[derive(Clone)]
enum Address {
    /// A name to look up, an address, or the directory of a Unix socket, which starts with `/`.
    Host(String),
    Addr(IpAddr),
    /// The address to go to, and the name that the certificate is for.
    Both(String, IpAddr),
}

/// What a server must be like to be of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionAttrs {
    Any,
    /// It takes writes.
    ReadWrite,
    ReadOnly,
    /// It is not in recovery.
    Primary,
    Standby,
    /// A standby if there is one, else any.
    PreferStandby,
}

#[derive(Clone, Copy)]
struct Keepalives {
    on: bool,
    idle: Option<Duration>,
    interval: Option<Duration>,
    count: Option<u32>,
}

impl Target {
    /// Reads a text in either form.
    pub(super) fn from_url(url: &str) -> Result<Target> {
        Target::parse(url, |name| std::env::var_os(name))
    }

    /// The environment only says who runs the process, for the lookup in a password file.
    fn parse(url: &str, env: impl Fn(&str) -> Option<OsString>) -> Result<Target> {
        parse_values(url)
            .and_then(|values| resolve::target(&values, &env))
            .map_err(|wrong| wrong.error(Origin::Url))
    }

    /// Reads libpq's variables, `PGHOST` and so on. One that is empty counts as not set. A password
    /// that is not in them is looked for in the password file, `PGPASSFILE` or `~/.pgpass`.
    pub(super) fn from_env(env: impl Fn(&str) -> Option<OsString>) -> Result<Target> {
        Values::from_env(&env)
            .and_then(|values| resolve::target(&values, &env))
            .map_err(|wrong| wrong.error(Origin::Environment))
    }

    /// The same servers, another database.
    pub(super) fn database(&mut self, name: &str) {
        self.dbname = Some(name.to_owned());
    }

    /// For each host, in the order given, what the driver needs to connect to it. What kind of
    /// server it turns out to be is not the driver's business.
    pub(super) fn configs(&self) -> Vec<Config> {
        self.endpoints
            .iter()
            .map(|endpoint| self.config(endpoint))
            .collect()
    }

    fn config(&self, endpoint: &Endpoint) -> Config {
        let mut config = Config::new();
        match &endpoint.at {
            Address::Host(host) => config.host(host),
            Address::Addr(addr) => config.host(addr.to_string()).hostaddr(*addr),
            Address::Both(_, addr) => config.host(endpoint.name()).hostaddr(*addr),
        };
        // Everything but a socket of this machine goes through the connector, which sees to what
        // is said about TLS; the driver has only to leave it to it.
        match endpoint.is_socket() {
            true => config.ssl_mode(DriverMode::Disable),
            false => config
                .ssl_mode(DriverMode::Require)
                .ssl_negotiation(SslNegotiation::Direct),
        };
        config
            .port(endpoint.port)
            .application_name(&self.application_name)
            .channel_binding(self.channel_binding)
            .keepalives(self.keepalives.on);
        if let Some(user) = &self.user {
            config.user(user);
        }
        if let Some(password) = &endpoint.password {
            config.password(password);
        }
        if let Some(dbname) = &self.dbname {
            config.dbname(dbname);
        }
        if let Some(options) = &self.options {
            config.options(options);
        }
        if let Some(idle) = self.keepalives.idle {
            config.keepalives_idle(idle);
        }
        if let Some(interval) = self.keepalives.interval {
            config.keepalives_interval(interval);
        }
        if let Some(count) = self.keepalives.count {
            config.keepalives_retries(count);
        }
        if let Some(limit) = self.tcp_user_timeout {
            config.tcp_user_timeout(limit);
        }
        config
    }

    /// The hosts that are not on this machine, by the names that the driver has for them. One that
    /// is given twice, here and there, is not.
    pub(super) fn distant(&self) -> Vec<String> {
        let distant = self.endpoints.iter().filter(|host| !host.is_local());
        distant.map(|host| host.name().into_owned()).collect()
    }

    /// Whether there is nothing that would be encrypted.
    pub(super) fn has_only_sockets(&self) -> bool {
        self.endpoints.iter().all(Endpoint::is_socket)
    }

    /// Whether what is said cannot be done without TLS.
    #[cfg(not(feature = "tls"))]
    pub(super) fn needs_tls(&self) -> bool {
        let encrypted = self.tls.is_needed() && !self.has_only_sockets();
        encrypted || self.channel_binding == ChannelBinding::Require
    }

    /// The servers and the database, for those who look on.
    pub(super) fn server(&self) -> Server {
        let host = |endpoint: &Endpoint| Host {
            address: endpoint.address().into_owned(),
            port: (!endpoint.is_socket()).then_some(endpoint.port),
        };
        // As the server has it: without a database, the one that has the user's name.
        let database = self.dbname.as_ref().or(self.user.as_ref());
        let hosts = self.endpoints.iter().map(host).collect();
        Server::new(database.map(String::as_str), hosts)
    }

    /// The hosts, for logs: an [`Endpoint`] displays as `host:port` and nothing else.
    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }
}

fn parse_values(url: &str) -> Result<Values, keys::Wrong> {
    let text = url.trim_ascii();
    match uri::after_scheme(text)? {
        Some(rest) => uri::parse(rest),
        // White space at the end may belong to the last value here, behind a backslash.
        None => pairs::parse(url),
    }
}

impl Endpoint {
    /// The host: a name, an address, or the directory of a socket.
    pub(super) fn address(&self) -> Cow<'_, str> {
        match &self.at {
            Address::Host(host) | Address::Both(host, _) => Cow::Borrowed(host),
            Address::Addr(addr) => Cow::Owned(addr.to_string()),
        }
    }

    /// The name that the driver has for it.
    fn name(&self) -> Cow<'_, str> {
        match &self.at {
            Address::Both(host, addr) if host.starts_with('/') => Cow::Owned(addr.to_string()),
            _ => self.address(),
        }
    }

    fn is_socket(&self) -> bool {
        matches!(&self.at, Address::Host(host) if host.starts_with('/'))
    }

    /// Whether the way to it does not leave this machine.
    fn is_local(&self) -> bool {
        match &self.at {
            Address::Addr(addr) | Address::Both(_, addr) => addr.to_canonical().is_loopback(),
            Address::Host(host) => match host.parse::<IpAddr>() {
                Ok(addr) => addr.to_canonical().is_loopback(),
                Err(_) => self.is_socket() || host.eq_ignore_ascii_case("localhost"),
            },
        }
    }

    #[cfg(test)]
    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address();
        match address.contains(':') && !address.starts_with('/') {
            true => write!(f, "[{address}]:{}", self.port),
            false => write!(f, "{address}:{}", self.port),
        }
    }
}

/// Nothing of the text: only how many hosts there are, and what was chosen from fixed lists.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("hosts", &self.endpoints.len())
            .field("tls", &self.tls)
            .field("session", &self.session)
            .field("balance", &self.balance)
            .finish_non_exhaustive()
    }
}
