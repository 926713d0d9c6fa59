//! Whom a store trusts, and what it shows of itself: from files and the system to what rustls
//! needs.
//!
//! Files are read when the store is set up and again for each connection, so that certificates can
//! be replaced under a running store. What cannot be used then, perhaps because it is just being
//! replaced, leaves what was there before in use.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::refusal::Refusal;
use super::verifier::AnyName;
use crate::error::{Error, Result};
use crate::postgres::target::{RootCert, Tls, TlsVersion};

pub(super) struct Credentials {
    tls: Tls,
    /// The authorities of the system, where they are asked. Read once: there are a hundred and
    /// more, and they change with the system.
    system: RootCertStore,
    current: Mutex<MakeRustlsConnect>,
}

impl Credentials {
    pub(super) fn new(tls: &Tls) -> Result<Credentials> {
        let asks_system = tls.wants_name() && !matches!(tls.root, RootCert::File(_));
        let system = match asks_system {
            true => system()?,
            false => RootCertStore::empty(),
        };
        let current = connect(config(tls, &system)?);
        Ok(Credentials {
            tls: tls.clone(),
            system,
            current: Mutex::new(current),
        })
    }

    /// What the files say at this moment. Blocks.
    pub(super) fn current(&self) -> MakeRustlsConnect {
        let has_files = matches!(self.tls.root, RootCert::File(_)) || self.tls.cert.is_some();
        let read = has_files.then(|| config(&self.tls, &self.system));
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            None => {}
            Some(Ok(config)) => *current = connect(config),
            Some(Err(error)) => tracing::warn!(%error, "the certificates read before are used"),
        }
        current.clone()
    }
}

/// TLS with whoever is there, for a request that holds no secret.
pub(super) fn anyone() -> Option<MakeRustlsConnect> {
    let provider = Arc::new(ring::default_provider());
    let verifier = AnyName {
        roots: None,
        provider: Arc::clone(&provider),
    };
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().ok()?;
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Some(connect(builder.with_no_client_auth()))
}

fn connect(mut config: ClientConfig) -> MakeRustlsConnect {
    // Postgres 17 looks at it, always where TLS begins at once.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    // Postgres knows none, and so every connection is verified anew.
    config.resumption = Resumption::disabled();
    MakeRustlsConnect::new(config)
}

fn config(tls: &Tls, system: &RootCertStore) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let versions: &[_] = match tls.min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(versions).map_err(unusable)?;
    let roots = match &tls.root {
        RootCert::File(path) => Some(roots(path)?),
        RootCert::System | RootCert::Unset => None,
    };
    let builder = match (tls.wants_name(), roots) {
        (true, roots) => builder.with_root_certificates(roots.unwrap_or_else(|| system.clone())),
        (false, roots) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyName { roots, provider })),
    };
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates("sslcert", cert)?, key_in(key)?)
            .map_err(|_| wrong("sslkey", "has not the key of the certificate in `sslcert`")),
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn unusable(error: rustls::Error) -> Error {
    Error::Config {
        reason: format!("TLS cannot be set up: {error}"),
    }
}

/// Without the path, which is from the URL.
fn wrong(key: &str, what: &str) -> Error {
    Error::Config {
        reason: format!("the file that `{key}` names {what}"),
    }
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| wrong(key, &format!("cannot be read: {}", error.kind())))
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(key, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(wrong(key, "has no certificate in PEM form")),
    }
}

fn roots(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("sslrootcert", path)? {
        let added = roots.add(certificate);
        added.map_err(|_| wrong("sslrootcert", "has a certificate that cannot be read"))?;
    }
    Ok(roots)
}

fn key_in(path: &Path) -> Result<PrivateKeyDer<'static>> {
    if is_open_to_others(path) {
        return Err(wrong(
            "sslkey",
            "can be read by others; give it mode 0600, or 0640 if root owns it",
        ));
    }
    let pem = read("sslkey", path)?;
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| wrong("sslkey", "has no key in PEM form without a password"))
}

/// libpq does not use such a key either.
#[cfg(unix)]
fn is_open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).is_ok_and(|metadata| {
        let forbidden = match metadata.uid() {
            0 => 0o037,
            _ => 0o077,
        };
        metadata.is_file() && metadata.mode() & forbidden != 0
    })
}

#[cfg(not(unix))]
fn is_open_to_others(_: &Path) -> bool {
    false
}

/// The authorities that the system trusts, or that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
fn system() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    if !found.errors.is_empty() || ignored > 0 {
        let errors = found.errors.len();
        tracing::debug!(errors, ignored, "authorities of the system were left out");
    }
    match added {
        0 => Err(Error::Config {
            reason: "the system trusts no authorities; name a file of them with `sslrootcert`"
                .into(),
        }),
        _ => Ok(roots),
    }
}

/// The name to find in the certificate. Where none is looked for, one that can be in none is left
/// out; an address is not told to the server.
pub(super) fn name(host: &str, wanted: bool) -> Result<String, Refusal> {
    match ServerName::try_from(host) {
        Ok(_) => Ok(host.to_owned()),
        Err(_) if !wanted => Ok(NOWHERE.to_string()),
        Err(_) => Err(Refusal::NoName),
    }
}

const NOWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
