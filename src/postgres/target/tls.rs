//! What is asked of TLS, and which wishes contradict each other.

use std::fmt;
use std::path::PathBuf;

use super::keys::{Values, Wrong};

/// How, and whether, connections are encrypted.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::postgres) struct Tls {
    /// `None`: nothing is said, and it depends on where the host is.
    said: Option<SslMode>,
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
        let said = values.choice("sslmode", &MODES, MODE_NAMES)?;
        let said = match (said, &root) {
            (None, RootCert::System) => Some(SslMode::VerifyFull),
            (Some(SslMode::VerifyCa), RootCert::Unset) => {
                return Err(Wrong::Key("sslmode", NO_ROOT));
            }
            (Some(mode), RootCert::System) if mode < SslMode::VerifyFull => {
                return Err(Wrong::Key("sslmode", NOT_SYSTEM));
            }
            // As libpq does: who names the authorities means them to be asked.
            (Some(SslMode::Require), RootCert::File(_)) => Some(SslMode::VerifyCa),
            (said, _) => said,
        };
        let negotiation = values
            .choice("sslnegotiation", &NEGOTIATIONS, "is postgres or direct")?
            .unwrap_or(Negotiation::Postgres);
        if negotiation == Negotiation::Direct && said < Some(SslMode::Require) {
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
            said,
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
const NO_ROOT: &str = "can be verify-ca only where `sslrootcert` names a file: anyone can get a certificate from \
     an authority of the system";
const NOT_DIRECT: &str = "can be direct only where sslmode is require, verify-ca or verify-full";

impl Tls {
    /// What holds for a host. Where nothing is said, one that is not on this machine is not talked
    /// to in clear.
    pub(in crate::postgres) fn mode(&self, distant: bool) -> SslMode {
        match self.said {
            Some(mode) => mode,
            None if distant && cfg!(feature = "tls") => SslMode::Require,
            None => SslMode::Prefer,
        }
    }

    #[cfg(test)]
    pub(super) fn said(&self) -> Option<SslMode> {
        self.said
    }

    /// Whether plaintext is what is asked for.
    pub(in crate::postgres) fn is_off(&self) -> bool {
        self.said == Some(SslMode::Disable)
    }

    /// Whether the host's name has to be in its certificate.
    #[cfg(feature = "tls")]
    pub(in crate::postgres) fn wants_name(&self) -> bool {
        self.said == Some(SslMode::VerifyFull)
    }

    /// Whether the server's certificate has to come from a trusted authority, so that only the
    /// server meant reads what is sent. As libpq does: who names the authorities means them to be
    /// asked.
    #[cfg(feature = "tls")]
    pub(in crate::postgres) fn verifies(&self) -> bool {
        self.said >= Some(SslMode::VerifyCa) || matches!(self.root, RootCert::File(_))
    }

    /// Whether what is said cannot be done without TLS.
    #[cfg(not(feature = "tls"))]
    pub(super) fn is_needed(&self) -> bool {
        let wishes = self.root != RootCert::Unset || self.cert.is_some();
        self.said >= Some(SslMode::Require) || wishes && !self.is_off()
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
            .field("mode", &self.said)
            .field("root", &root)
            .field("client", &self.cert.is_some())
            .field("negotiation", &self.negotiation)
            .field("min_version", &self.min_version)
            .finish()
    }
}
