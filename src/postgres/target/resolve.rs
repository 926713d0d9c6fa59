//! From the values of single keys to what they mean together.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr};
use std::str;
use std::time::Duration;

use tokio_postgres::config::ChannelBinding;

use super::keys::{Values, Wrong};
use super::passfile::PasswordFile;
use super::tls::Tls;
use super::{Address, Endpoint, Keepalives, SessionAttrs, Target};

const DEFAULT_PORT: u16 = 5432;

/// Where a server of this machine listens unless told otherwise.
pub(super) const LOCAL: &str = match (cfg!(target_os = "linux"), cfg!(unix)) {
    (true, _) => "/var/run/postgresql",
    (false, true) => "/tmp",
    (false, false) => "localhost",
};

pub(super) fn target(
    values: &Values,
    env: &impl Fn(&str) -> Option<OsString>,
) -> Result<Target, Wrong> {
    let owned = |key| Ok(values.text(key)?.map(str::to_owned));
    let (user, dbname) = (owned("user")?, owned("dbname")?);
    let mut endpoints = endpoints(values)?;
    match values.bytes("password") {
        Some(password) => {
            for endpoint in &mut endpoints {
                endpoint.password = Some(password.to_vec());
            }
        }
        None => look_up(values, user.as_deref(), env, &mut endpoints)?,
    }
    let tls = Tls::read(values)?;
    let channel_binding = values
        .choice(
            "channel_binding",
            &BINDINGS,
            "is disable, prefer or require",
        )?
        .unwrap_or(ChannelBinding::Prefer);
    if channel_binding == ChannelBinding::Require && tls.is_off() {
        return Err(Wrong::Key(
            "channel_binding",
            "cannot be required without TLS",
        ));
    }
    client_encoding(values)?;
    let application_name = match owned("application_name")? {
        Some(name) => name,
        None => owned("fallback_application_name")?.unwrap_or_else(|| "motorpool".into()),
    };
    Ok(Target {
        endpoints,
        user,
        dbname,
        options: owned("options")?,
        application_name,
        keepalives: keepalives(values)?,
        tcp_user_timeout: match values.number("tcp_user_timeout")? {
            // Without a limit, a peer that vanished is noticed after a quarter of an hour.
            None => Some(Duration::from_secs(5)),
            Some(millis) => positive(millis).map(|millis| Duration::from_millis(millis.into())),
        },
        channel_binding,
        tls,
        session: values
            .choice("target_session_attrs", &SESSIONS, SESSION_NAMES)?
            .unwrap_or(SessionAttrs::Any),
        balance: values
            .choice("load_balance_hosts", &BALANCE, "is disable or random")?
            .unwrap_or(false),
        connect_timeout: values
            .number("connect_timeout")?
            .map(|limit| seconds(limit).unwrap_or(Duration::MAX)),
    })
}

const BINDINGS: [(&str, ChannelBinding); 3] = [
    ("disable", ChannelBinding::Disable),
    ("prefer", ChannelBinding::Prefer),
    ("require", ChannelBinding::Require),
];
const SESSION_NAMES: &str = "is any, read-write, read-only, primary, standby or prefer-standby";
const SESSIONS: [(&str, SessionAttrs); 6] = [
    ("any", SessionAttrs::Any),
    ("read-write", SessionAttrs::ReadWrite),
    ("read-only", SessionAttrs::ReadOnly),
    ("primary", SessionAttrs::Primary),
    ("standby", SessionAttrs::Standby),
    ("prefer-standby", SessionAttrs::PreferStandby),
];
const BALANCE: [(&str, bool); 2] = [("disable", false), ("random", true)];

/// As many as there are addresses, or else hosts; the other lists have to fit.
fn endpoints(values: &Values) -> Result<Vec<Endpoint>, Wrong> {
    let list = |key| Ok(values.text(key)?.map(|list| list.split(',').collect()));
    let addrs: Option<Vec<&str>> = list("hostaddr")?;
    let hosts: Option<Vec<&str>> = list("host")?;
    let ports: Option<Vec<&str>> = list("port")?;
    let count = addrs.as_ref().or(hosts.as_ref()).map_or(1, Vec::len);
    if hosts.as_ref().is_some_and(|hosts| hosts.len() != count) {
        return Err(Wrong::Key("hostaddr", "has to be as many as `host`"));
    }
    let ports = match ports {
        None => vec![DEFAULT_PORT; count],
        Some(ports) => match ports.as_slice() {
            [one] => vec![port(one)?; count],
            many if many.len() == count => {
                many.iter().copied().map(port).collect::<Result<_, _>>()?
            }
            _ => {
                return Err(Wrong::Key(
                    "port",
                    "has to be one for all hosts, or one for each",
                ));
            }
        },
    };
    let entry = |list: &Option<Vec<&str>>, n: usize| {
        let entry = list.as_ref().and_then(|list| list.get(n).copied());
        entry.filter(|entry| !entry.is_empty()).map(str::to_owned)
    };
    let endpoint = |(n, port)| {
        let host = entry(&hosts, n);
        if host.as_deref().is_some_and(has_zone) {
            return Err(Wrong::Key("host", ZONE));
        }
        if !host.as_deref().is_none_or(is_host) {
            return Err(Wrong::Key("host", NO_HOST));
        }
        let addr = entry(&addrs, n).map(|addr| addr.parse::<IpAddr>());
        let addr = addr.transpose();
        let addr = addr.map_err(|_| Wrong::Key("hostaddr", "is not an IP address"))?;
        let at = match (host, addr) {
            (Some(host), Some(addr)) => Address::Both(host, addr),
            (None, Some(addr)) => Address::Addr(addr),
            (host, None) => Address::Host(host.unwrap_or_else(|| LOCAL.into())),
        };
        Ok(Endpoint {
            at,
            port,
            password: None,
        })
    };
    ports.into_iter().enumerate().map(endpoint).collect()
}

const NO_HOST: &str = "is not a host name, an IP address or the absolute path of a socket's \
                       directory";

const ZONE: &str = "names the network card of an IPv6 address behind a `%`, which the driver has \
                    no way to use; an address that is not link-local needs none";

fn port(text: &str) -> Result<u16, Wrong> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(Wrong::Key("port", "is not a number from 1 to 65535")),
    }
}

/// Whether this can be a host at all. What cannot, and least of all a piece of a password, is not
/// worth asking the DNS for.
fn is_host(host: &str) -> bool {
    if host.starts_with('/') {
        return !host.contains('=') && !host.contains(char::is_control);
    }
    let is_word = |c: char| c.is_alphanumeric() || "-._".contains(c);
    let is_name = !host.is_empty() && host.chars().all(is_word);
    is_name || host.parse::<Ipv6Addr>().is_ok()
}

/// Whether this is an IPv6 address as libpq reads it, with the network card that it is behind.
fn has_zone(host: &str) -> bool {
    let parts = host.split_once('%');
    parts.is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok())
}

/// The password of each host, from the password file.
fn look_up(
    values: &Values,
    user: Option<&str>,
    env: &impl Fn(&str) -> Option<OsString>,
    endpoints: &mut [Endpoint],
) -> Result<(), Wrong> {
    let Some(path) = values.text("passfile")? else {
        return Ok(());
    };
    let Some(file) = PasswordFile::read(path.as_ref()) else {
        return Ok(());
    };
    let of_process = || {
        let names = ["USER", "LOGNAME"].into_iter().filter_map(env);
        let mut names = names.filter_map(|name| name.into_string().ok());
        names.find(|name| !name.is_empty())
    };
    let user = user.map(str::to_owned).or_else(of_process);
    let user = user.unwrap_or_default();
    let dbname = values.text("dbname")?.unwrap_or(&user);
    for endpoint in endpoints {
        let address = endpoint.address();
        let host = match &*address {
            LOCAL => "localhost",
            address => address,
        };
        endpoint.password = file.find(host, endpoint.port, dbname, &user);
    }
    Ok(())
}

/// Without these, a peer that vanished is noticed after hours. Who says anything about it says all.
fn keepalives(values: &Values) -> Result<Keepalives, Wrong> {
    let on = values.number("keepalives")?;
    let idle = values.number("keepalives_idle")?;
    let interval = values.number("keepalives_interval")?;
    let count = values.number("keepalives_count")?;
    if (on, idle, interval, count) == (None, None, None, None) {
        return Ok(Keepalives {
            on: true,
            idle: Some(Duration::from_secs(10)),
            interval: Some(Duration::from_secs(3)),
            count: Some(3),
        });
    }
    Ok(Keepalives {
        on: on != Some(0),
        idle: idle.and_then(seconds),
        interval: interval.and_then(seconds),
        count: count.and_then(positive),
    })
}

/// The driver speaks UTF-8 and nothing else.
fn client_encoding(values: &Values) -> Result<(), Wrong> {
    let name = values.text("client_encoding")?.unwrap_or("auto");
    let name = name.to_ascii_lowercase().replace(['-', '_'], "");
    match name.as_str() {
        "auto" | "utf8" | "unicode" => Ok(()),
        _ => Err(Wrong::Key("client_encoding", "can only be UTF8 or auto")),
    }
}

/// Zero and less mean "as the system has it".
fn positive(number: i32) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number > 0)
}

fn seconds(number: i32) -> Option<Duration> {
    positive(number).map(|number| Duration::from_secs(number.into()))
}
