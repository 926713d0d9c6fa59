//! What is asked of TLS, and which wishes contradict each other.

use std::fmt;
use std::path::PathBuf;

use tokio_postgres::config;

use super::keys::{Values, Wrong};

/// How, and whether, connections are encrypted.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::postgres) struct Tls {
    pub(in crate::postgres) mode: SslMode,
    pub(in crate::postgres) root: RootCert,
    /// The client's certificate. There with `key` or not at all.
    pub(in crate::postgres) cert: Option<PathBuf>,
    pub(in crate::postgres) key: Option<PathBuf>,
    pub(in crate::postgres) negotiation: Negotiation,
    pub(in crate::postgres) min_version: TlsVersion,
}

/// From the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::postgres) enum SslMode {
    Disable,
    /// Encrypted if the server can, which somebody in between can prevent.
    Prefer,
    /// Encrypted, with whomever.
    Require,
    /// Encrypted, and the server's certificate is from a trusted authority.
    VerifyCa,
    /// And it is for the host that was asked for.
    VerifyFull,
}

/// Which authorities are trusted.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::postgres) enum RootCert {
    /// Nothing is said.
    Unset,
    /// Those that the system trusts.
    System,
    /// Those in a file, in PEM form.
    File(PathBuf),
}

/// Who speaks of TLS first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::postgres) enum Negotiation {
    /// The client asks whether the server can, which costs a round trip.
    Postgres,
    /// TLS from the first byte on; servers before Postgres 17 do not understand it.
    Direct,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::postgres) enum TlsVersion {
    V1_2,
    V1_3,
}

impl Tls {
    pub(super) fn read(values: &Values) -> Result<Tls, Wrong> {
        let path = |key| Ok(values.text(key)?.map(PathBuf::from));
        let root = match values.text("sslrootcert")? {
            None => RootCert::Unset,
            Some("system") => RootCert::System,
            Some(file) => RootCert::File(file.into()),
        };
        let mode = values.choice("sslmode", &MODES, MODE_NAMES)?;
        let mode = match (mode, &root) {
            (None, RootCert::System) => SslMode::VerifyFull,
            (None, _) => SslMode::Prefer,
            (Some(mode), RootCert::System) if mode < SslMode::VerifyFull => {
                return Err(Wrong::Key("sslmode", NOT_SYSTEM));
            }
            // As libpq does: who names the authorities means them to be asked.
            (Some(SslMode::Require), RootCert::File(_)) => SslMode::VerifyCa,
            (Some(mode), _) => mode,
        };
        let negotiation = values
            .choice("sslnegotiation", &NEGOTIATIONS, "is postgres or direct")?
            .unwrap_or(Negotiation::Postgres);
        if negotiation == Negotiation::Direct && mode < SslMode::Require {
            return Err(Wrong::Key("sslnegotiation", NOT_DIRECT));
        }
        let (cert, key) = (path("sslcert")?, path("sslkey")?);
        match (&cert, &key) {
            (Some(_), None) => return Err(Wrong::Key("sslcert", "is of no use without a key")),
            (None, Some(_)) => {
                return Err(Wrong::Key("sslkey", "is of no use without a certificate"));
            }
            _ => {}
        }
        let min_version = values
            .choice("ssl_min_protocol_version", &VERSIONS, VERSION_NAMES)?
            .unwrap_or(TlsVersion::V1_2);
        Ok(Tls {
            mode,
            root,
            cert,
            key,
            negotiation,
            min_version,
        })
    }
}

const MODE_NAMES: &str = "is disable, allow, prefer, require, verify-ca or verify-full";
const MODES: [(&str, SslMode); 6] = [
    ("disable", SslMode::Disable),
    ("allow", SslMode::Prefer),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];
const NEGOTIATIONS: [(&str, Negotiation); 2] = [
    ("postgres", Negotiation::Postgres),
    ("direct", Negotiation::Direct),
];
const VERSION_NAMES: &str = "is TLSv1.2 or TLSv1.3";
const VERSIONS: [(&str, TlsVersion); 2] =
    [("TLSv1.2", TlsVersion::V1_2), ("TLSv1.3", TlsVersion::V1_3)];
const NOT_SYSTEM: &str = "has to be verify-full where the authorities of the system are trusted: anyone can get a \
     certificate from one of them";
const NOT_DIRECT: &str = "can be direct only where sslmode is require, verify-ca or verify-full";

impl SslMode {
    /// What the driver has to know of it.
    pub(super) fn driver(self) -> config::SslMode {
        match self {
            SslMode::Disable => config::SslMode::Disable,
            SslMode::Prefer => config::SslMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => config::SslMode::Require,
        }
    }
}

impl Negotiation {
    pub(super) fn driver(self) -> config::SslNegotiation {
        match self {
            Negotiation::Postgres => config::SslNegotiation::Postgres,
            Negotiation::Direct => config::SslNegotiation::Direct,
        }
    }
}

/// Without the paths, which are from the text.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = match self.root {
            RootCert::Unset => "unset",
            RootCert::System => "system",
            RootCert::File(_) => "a file",
        };
        f.debug_struct("Tls")
            .field("mode", &self.mode)
            .field("root", &root)
            .field("client", &self.cert.is_some())
            .field("negotiation", &self.negotiation)
            .field("min_version", &self.min_version)
            .finish()
    }
}
