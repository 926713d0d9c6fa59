//! The keys that libpq knows, the values given for them, and what can be wrong with either.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::str;

use crate::error::Error;

/// What is wrong, in words that quote nothing of what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// The text as a whole.
    Text(&'static str),
    /// A key of libpq's, and what holds of it.
    Key(&'static str, &'static str),
    /// The n-th key, counted from 1, is none of libpq's; the one that looks like it.
    Unknown(usize, Option<&'static str>),
}

/// Where the values came from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    Url,
    Environment,
}

impl Wrong {
    pub(super) fn error(self, origin: Origin) -> Error {
        let reason = match (self, origin) {
            (Wrong::Text(what), _) => format!("the database URL {what}"),
            (Wrong::Key(key, what), Origin::Url) => {
                format!("in the database URL, `{key}` {what}")
            }
            (Wrong::Key(key, what), Origin::Environment) => {
                let name = VARIABLES.iter().find(|(_, of)| *of == key);
                let name = name.map_or(key, |(name, _)| name);
                format!("in the environment, `{name}` {what}")
            }
            (Wrong::Unknown(nth, Some(hint)), _) => format!(
                "key {nth} of the database URL is not one that libpq knows; is `{hint}` meant?"
            ),
            (Wrong::Unknown(nth, None), _) => format!(
                "key {nth} of the database URL is not one that libpq knows; it is not quoted, \
                 because it may be a piece of a password that has to be quoted or percent-encoded"
            ),
        };
        Error::Config { reason }
    }
}

/// What is done with a key.
enum Use {
    /// Its value is stored under this name.
    Read(&'static str),
    /// It cannot be honoured, but these values say what happens anyway.
    Refuse(&'static [&'static str]),
}

use Use::{Read, Refuse};

const KEYS: &[(&str, Use)] = &[
    ("application_name", Read("application_name")),
    ("channel_binding", Read("channel_binding")),
    ("client_encoding", Read("client_encoding")),
    ("connect_timeout", Read("connect_timeout")),
    ("dbname", Read("dbname")),
    (
        "fallback_application_name",
        Read("fallback_application_name"),
    ),
    ("host", Read("host")),
    ("hostaddr", Read("hostaddr")),
    ("keepalives", Read("keepalives")),
    ("keepalives_count", Read("keepalives_count")),
    ("keepalives_idle", Read("keepalives_idle")),
    ("keepalives_interval", Read("keepalives_interval")),
    // The driver's own name for the count.
    ("keepalives_retries", Read("keepalives_count")),
    ("load_balance_hosts", Read("load_balance_hosts")),
    ("options", Read("options")),
    ("passfile", Read("passfile")),
    ("password", Read("password")),
    ("port", Read("port")),
    ("ssl_min_protocol_version", Read("ssl_min_protocol_version")),
    ("sslcert", Read("sslcert")),
    ("sslkey", Read("sslkey")),
    ("sslmode", Read("sslmode")),
    ("sslnegotiation", Read("sslnegotiation")),
    ("sslrootcert", Read("sslrootcert")),
    ("target_session_attrs", Read("target_session_attrs")),
    ("tcp_user_timeout", Read("tcp_user_timeout")),
    ("user", Read("user")),
    ("authtype", Refuse(&[])),
    ("gssdelegation", Refuse(&["0"])),
    ("gssencmode", Refuse(&["disable", "prefer"])),
    ("gsslib", Refuse(&[])),
    ("krbsrvname", Refuse(&[])),
    ("max_protocol_version", Refuse(&["3.0", "latest"])),
    ("min_protocol_version", Refuse(&["3.0"])),
    ("oauth_client_id", Refuse(&[])),
    ("oauth_client_secret", Refuse(&[])),
    ("oauth_issuer", Refuse(&[])),
    ("oauth_scope", Refuse(&[])),
    ("replication", Refuse(&["false", "off", "no", "0"])),
    ("require_auth", Refuse(&[])),
    ("requirepeer", Refuse(&[])),
    ("requiressl", Refuse(&["0"])),
    ("scram_client_key", Refuse(&[])),
    ("scram_server_key", Refuse(&[])),
    ("service", Refuse(&[])),
    ("servicefile", Refuse(&[])),
    // In a URL `ssl=true` is `sslmode=require`, see there.
    ("ssl", Refuse(&[])),
    ("ssl_max_protocol_version", Refuse(&[])),
    ("sslcertmode", Refuse(&["allow"])),
    ("sslcompression", Refuse(&["0"])),
    ("sslcrl", Refuse(&[])),
    ("sslcrldir", Refuse(&[])),
    ("sslkeylogfile", Refuse(&[])),
    ("sslpassword", Refuse(&[])),
    ("sslsni", Refuse(&["1"])),
];

/// libpq's variables and the keys that they stand for.
const VARIABLES: &[(&str, &str)] = &[
    ("PGAPPNAME", "application_name"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGCLIENTENCODING", "client_encoding"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGDATABASE", "dbname"),
    ("PGGSSDELEGATION", "gssdelegation"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGGSSLIB", "gsslib"),
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGKRBSRVNAME", "krbsrvname"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
    ("PGMAXPROTOCOLVERSION", "max_protocol_version"),
    ("PGMINPROTOCOLVERSION", "min_protocol_version"),
    ("PGOPTIONS", "options"),
    ("PGPASSFILE", "passfile"),
    ("PGPASSWORD", "password"),
    ("PGPORT", "port"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGREQUIRESSL", "requiressl"),
    ("PGSERVICE", "service"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLCERTMODE", "sslcertmode"),
    ("PGSSLCOMPRESSION", "sslcompression"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLMAXPROTOCOLVERSION", "ssl_max_protocol_version"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLSNI", "sslsni"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGUSER", "user"),
];

/// What was given, by key. Bytes, because a password need not be text.
#[derive(Default)]
pub(super) struct Values {
    given: BTreeMap<&'static str, Vec<u8>>,
    /// How many keys were set by their name.
    named: usize,
}

impl Values {
    /// Stores a value under a key that this crate reads.
    pub(super) fn put(&mut self, key: &'static str, value: Vec<u8>) -> Result<(), Wrong> {
        if value.contains(&0) {
            return Err(Wrong::Key(
                key,
                "holds a character that Postgres cannot take",
            ));
        }
        self.given.insert(key, value);
        Ok(())
    }

    /// Stores a value under a key as it was written.
    pub(super) fn set(&mut self, name: &[u8], value: Vec<u8>) -> Result<(), Wrong> {
        self.named += 1;
        match KEYS.iter().find(|(key, _)| key.as_bytes() == name) {
            Some((_, Read(key))) => self.put(key, value),
            Some((_, Refuse(harmless))) if harmless.iter().any(|h| h.as_bytes() == value) => Ok(()),
            Some((key, Refuse(_))) => {
                Err(Wrong::Key(key, "is not supported, or not with this value"))
            }
            None => Err(Wrong::Unknown(self.named, similar(name))),
        }
    }

    pub(super) fn from_env(env: &impl Fn(&str) -> Option<OsString>) -> Result<Values, Wrong> {
        let mut values = Values::default();
        for (variable, key) in VARIABLES {
            if let Some(value) = env(variable).filter(|value| !value.is_empty()) {
                values.set(key.as_bytes(), value.into_encoded_bytes())?;
            }
        }
        // The file that libpq looks at unless told otherwise.
        let home = |variable: &str, path: &str| {
            let home = env(variable).filter(|home| !home.is_empty())?;
            Some(std::path::Path::new(&home).join(path).into_os_string())
        };
        let file = match cfg!(windows) {
            true => home("APPDATA", r"postgresql\pgpass.conf"),
            false => home("HOME", ".pgpass"),
        };
        if let (Some(file), None) = (file, values.bytes("passfile")) {
            values.put("passfile", file.into_encoded_bytes())?;
        }
        Ok(values)
    }

    pub(super) fn bytes(&self, key: &'static str) -> Option<&[u8]> {
        let value = self.given.get(key)?;
        (!value.is_empty()).then_some(value)
    }

    /// A text. One that is empty counts as not given.
    pub(super) fn text(&self, key: &'static str) -> Result<Option<&str>, Wrong> {
        self.bytes(key)
            .map(|value| str::from_utf8(value).map_err(|_| Wrong::Key(key, "is not UTF-8")))
            .transpose()
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &'static str,
        choices: &[(&str, T)],
        otherwise: &'static str,
    ) -> Result<Option<T>, Wrong> {
        let Some(value) = self.given.get(key) else {
            return Ok(None);
        };
        let choice = choices.iter().find(|(name, _)| name.as_bytes() == value);
        let (_, choice) = choice.ok_or(Wrong::Key(key, otherwise))?;
        Ok(Some(*choice))
    }

    /// A whole number, white space around it allowed.
    pub(super) fn number(&self, key: &'static str) -> Result<Option<i32>, Wrong> {
        let Some(value) = self.given.get(key) else {
            return Ok(None);
        };
        let number = str::from_utf8(value.trim_ascii()).ok();
        let number = number.and_then(|number| number.parse().ok());
        number
            .map(Some)
            .ok_or(Wrong::Key(key, "is not a whole number"))
    }
}

/// The key that was probably meant. The name of a key tells nothing of what was written but that
/// it looked like it.
fn similar(name: &[u8]) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let near = |key: &str| match key.len() {
        0..6 => 1,
        _ => 2,
    };
    KEYS.iter()
        .filter(|(key, _)| key.len().abs_diff(name.len()) <= near(key))
        .map(|(key, _)| (distance(key.as_bytes(), &name), *key))
        .filter(|(distance, key)| *distance <= near(key))
        .min()
        .map(|(_, key)| key)
}

/// How many letters have to be changed, added or left out.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        for (y, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let changed = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = changed.min(left + 1).min(*cell + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_recognized_only_when_it_is_close() {
        let hint = |name: &str| similar(name.as_bytes());
        assert_eq!(hint("sslmod"), Some("sslmode"));
        assert_eq!(hint("SSLMode"), Some("sslmode"));
        assert_eq!(hint("pasword"), Some("password"));
        assert_eq!(hint("prot"), None, "two letters of four");
        assert_eq!(hint("hots"), None);
        assert_eq!(hint("hosts"), Some("host"));
        assert_eq!(hint("application-name"), Some("application_name"));
        assert_eq!(hint("pgbouncer"), None);
        assert_eq!(hint(""), None);
        assert_eq!(hint(&"x".repeat(1_000_000)), None);
    }

    #[test]
    fn the_distance_counts_letters() {
        for (a, b, apart) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("host", "hosts", 1),
            ("port", "prot", 2),
        ] {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), apart, "{a} {b}");
        }
    }

    #[test]
    fn every_variable_stands_for_a_key_and_every_key_is_there_once() {
        for (variable, of) in VARIABLES {
            assert!(KEYS.iter().any(|(key, _)| key == of), "{variable}");
        }
        let mut keys: Vec<_> = KEYS.iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), KEYS.len());
    }
}
