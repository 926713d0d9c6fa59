//! `postgresql://user:password@host:port,host:port/database?key=value&…`

use super::keys::{Values, Wrong};

const SCHEMES: [&str; 4] = [
    "postgresql://",
    "postgres://",
    // What SQLAlchemy calls them.
    "postgresql+psycopg2://",
    "postgresql+psycopg://",
];

/// What comes after the scheme. `None`: this is no URL.
pub(super) fn after_scheme(text: &str) -> Result<Option<&str>, Wrong> {
    if let Some(rest) = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)) {
        return Ok(Some(rest));
    }
    let in_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.:".contains(c);
    match text.split_once("://") {
        Some((scheme, _)) if scheme.chars().all(in_scheme) => Err(Wrong::Text(
            "has to begin with postgresql:// or postgres://",
        )),
        _ => Ok(None),
    }
}

pub(super) fn parse(text: &str) -> Result<Values, Wrong> {
    let mut values = Values::default();
    let mut put = |key, encoded: &str| match encoded {
        "" => Ok(()),
        encoded => values.put(key, decode(encoded)?),
    };

    // Up to the first `@`, if it comes before any `/`, are user and password.
    let credentials = text.split_once('@');
    let rest = match credentials.filter(|(before, _)| !before.contains('/')) {
        Some((credentials, rest)) => {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            if user.contains('?') {
                return Err(Wrong::Text(STRAY_QUESTION));
            }
            put("user", user)?;
            put("password", password)?;
            rest
        }
        None => text,
    };
    let (hosts, ports, rest) = hosts(rest)?;
    let (dbname, parameters) = match rest.strip_prefix('/') {
        Some(path) => path.split_once('?').unwrap_or((path, "")),
        None => ("", rest.strip_prefix('?').unwrap_or("")),
    };
    if hosts.contains('@') || dbname.contains('@') {
        return Err(Wrong::Text(STRAY_AT));
    }
    put("host", &hosts)?;
    put("port", &ports)?;
    put("dbname", dbname)?;
    parameter_list(parameters, &mut values)?;
    Ok(values)
}

const STRAY_AT: &str = "has an `@` where none can be: in a user name, a password or a database \
                        it is written %40, and a `/` is written %2F";

/// libpq would take `host?key=` for the user, and what comes after the `@` for the host.
const STRAY_QUESTION: &str = "has an `@` after a `?`: in a parameter it is written %40, and in a \
                              user name a `?` is written %3F";

/// The hosts and the ports, each separated by commas, and what comes after them.
fn hosts(mut text: &str) -> Result<(String, String, &str), Wrong> {
    let (mut hosts, mut ports) = (String::new(), String::new());
    loop {
        let host;
        (host, text) = match text.strip_prefix('[') {
            Some(bracketed) => match bracketed.split_once(']').ok_or(Wrong::Text(OPEN))? {
                // It would be the socket of this machine.
                ("", _) => return Err(Wrong::Text(EMPTY)),
                address => address,
            },
            None => until(text, &[':', '/', '?', ',']),
        };
        hosts.push_str(host);
        if let Some(after) = text.strip_prefix(':') {
            let port;
            (port, text) = until(after, &['/', '?', ',']);
            ports.push_str(port);
        }
        match text.strip_prefix(',') {
            Some(next) => text = next,
            None if text.is_empty() || text.starts_with(['/', '?']) => {
                return Ok((hosts, ports, text));
            }
            None => return Err(Wrong::Text(BRACKETS)),
        }
        hosts.push(',');
        ports.push(',');
    }
}

const OPEN: &str = "has a `[` without a `]`; an IPv6 address is written [::1]";
const EMPTY: &str = "has nothing between a `[` and its `]`; an IPv6 address is written [::1]";
const BRACKETS: &str = "has something behind a `]` that is neither a port nor the end of the host";

fn until<'a>(text: &'a str, ends: &[char]) -> (&'a str, &'a str) {
    let end = text.find(ends).unwrap_or(text.len());
    text.split_at(end)
}

fn parameter_list(parameters: &str, values: &mut Values) -> Result<(), Wrong> {
    if parameters.is_empty() {
        return Ok(());
    }
    let parameters = parameters.strip_suffix('&').unwrap_or(parameters);
    for parameter in parameters.split('&') {
        let (key, value) = match parameter.split_once('=') {
            None => return Err(Wrong::Text("has a parameter without a `=`")),
            Some((_, value)) if value.contains('=') => {
                return Err(Wrong::Text(
                    "has a parameter with two `=`; in a value it is written %3D",
                ));
            }
            Some((key, value)) => (decode(key)?, decode(value)?),
        };
        // As JDBC has it.
        match (key.as_slice(), value.as_slice()) {
            (b"ssl", b"true") => values.set(b"sslmode", b"require".to_vec())?,
            _ => values.set(&key, value)?,
        }
    }
    Ok(())
}

fn decode(text: &str) -> Result<Vec<u8>, Wrong> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => match (digit(bytes.next()), digit(bytes.next())) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(Wrong::Text(PERCENT)),
            },
            byte => byte,
        };
        decoded.push(byte);
    }
    Ok(decoded)
}

const PERCENT: &str = "has a `%` without two hexadecimal digits after it; a percent sign is \
                       written %25";

fn digit(byte: Option<u8>) -> Option<u8> {
    match byte? {
        byte @ b'0'..=b'9' => Some(byte - b'0'),
        byte @ b'a'..=b'f' => Some(byte - b'a' + 10),
        byte @ b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}
