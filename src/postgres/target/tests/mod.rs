//! What texts mean, one by one and at random.

mod bad;
mod environment;
mod good;
mod random;

use std::ffi::OsString;

use super::*;
use crate::error::Error;

/// Nobody runs the process.
fn nobody(_: &str) -> Option<OsString> {
    None
}

fn parse(url: &str) -> Result<Target> {
    Target::parse(url, nobody)
}

fn reason(result: Result<Target>) -> String {
    match result {
        Err(Error::Config { reason }) => reason,
        other => panic!("no error about the configuration: {other:?}"),
    }
}

/// Everything in a target that is not as if nothing had been said, in one line:
/// `user:password@host:port,…/database key=value …`.
fn say(target: &Target) -> String {
    use std::fmt::Write;

    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut said = text(&target.user);
    let password = &target.endpoints()[0].password;
    if let Some(password) = password {
        write!(said, ":{}", password.escape_ascii()).expect("text");
    }
    let hosts: Vec<_> = target.endpoints().iter().map(host).collect();
    write!(said, "@{}/{}", hosts.join(","), text(&target.dbname)).expect("text");

    let mut also = |key: &str, value: String, unless: &str| {
        if value != unless {
            write!(said, " {key}={value}").expect("text");
        }
    };
    also("options", text(&target.options), "");
    also("name", target.application_name.clone(), "motorpool");
    let Keepalives {
        on,
        idle,
        interval,
        count,
    } = target.keepalives;
    let keepalives = match on {
        true => format!("{}/{}/{count:?}", seconds(idle), seconds(interval)),
        false => "off".into(),
    };
    also("keepalives", keepalives, "10s/3s/Some(3)");
    also("unacknowledged", seconds(target.tcp_user_timeout), "5s");
    also("connect", seconds(target.connect_timeout), "-");
    also("binding", format!("{:?}", target.channel_binding), "Prefer");
    also("session", format!("{:?}", target.session), "Any");
    also("balance", target.balance.to_string(), "false");
    let tls = &target.tls;
    also("tls", format!("{:?}", tls.said()), "None");
    let root = match &tls.root {
        RootCert::Unset => "-",
        RootCert::System => "system",
        RootCert::File(file) => file.to_str().expect("text"),
    };
    also("root", root.into(), "-");
    let path = |path: &Option<std::path::PathBuf>| match path {
        Some(path) => path.display().to_string(),
        None => "-".into(),
    };
    also("cert", path(&tls.cert), "-");
    also("key", path(&tls.key), "-");
    also("negotiation", format!("{:?}", tls.negotiation), "Postgres");
    also("at least", format!("{:?}", tls.min_version), "V1_2");
    said
}

/// `host:port`, with the address where both are given.
fn host(endpoint: &Endpoint) -> String {
    match &endpoint.at {
        Address::Both(_, addr) => format!("{endpoint}({addr})"),
        _ => endpoint.to_string(),
    }
}

fn seconds(duration: Option<Duration>) -> String {
    match duration {
        None => "-".into(),
        Some(Duration::MAX) => "no limit".into(),
        Some(duration) => format!("{duration:?}"),
    }
}
