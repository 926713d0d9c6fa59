//! Why a connection is not trusted.

use std::error::Error as StdError;
#[cfg(feature = "tls")]
use std::io;

use super::inside;
#[cfg(feature = "tls")]
use crate::error::Source;
use crate::error::UnavailableReason;

/// In words that hold nothing of the URL: a certificate for another name is not said to be for a
/// name that was misspelt.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "the server asks for the password itself, and the connection is not encrypted to a server \
         that was verified (sslmode verify-ca or verify-full)"
    )]
    Cleartext,
    #[error("the server sent what is no message")]
    NoMessage,
    #[error("the server has no TLS")]
    NoTls,
    #[error("the server does not say whether it has TLS")]
    NoAnswer,
    #[cfg(feature = "tls")]
    #[error("the server closed the connection at once; before Postgres 17 it has no direct TLS")]
    NotDirect,
    #[cfg(feature = "tls")]
    #[error("the name of the host can be in no certificate")]
    NoName,
    #[cfg(feature = "tls")]
    #[error("the server's certificate is for another host")]
    OtherName,
    #[cfg(feature = "tls")]
    #[error("the server's certificate is refused")]
    Certificate(#[source] rustls::Error),
    #[cfg(feature = "tls")]
    #[error("the handshake failed")]
    Handshake(#[source] rustls::Error),
}

/// The reason, if this was the cause of an error of the driver.
pub(in crate::postgres) fn reason(cause: &(dyn StdError + 'static)) -> Option<UnavailableReason> {
    if let Some(refusal) = inside::<Refusal>(cause) {
        return Some(match refusal {
            Refusal::Cleartext => UnavailableReason::CleartextPassword,
            _ => UnavailableReason::Tls,
        });
    }
    // The server has the last word in a handshake, which comes after ours.
    #[cfg(feature = "tls")]
    if inside::<rustls::Error>(cause).is_some() {
        return Some(UnavailableReason::Tls);
    }
    None
}

/// What a failed handshake was.
#[cfg(feature = "tls")]
pub(super) fn of_handshake(error: io::Error, direct: bool) -> Source {
    use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
    use rustls::Error::InvalidCertificate;

    if direct && error.kind() == io::ErrorKind::UnexpectedEof {
        return Refusal::NotDirect.into();
    }
    match inside::<rustls::Error>(&error) {
        Some(InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
            Refusal::OtherName.into()
        }
        Some(error @ InvalidCertificate(_)) => Refusal::Certificate(error.clone()).into(),
        Some(error) => Refusal::Handshake(error.clone()).into(),
        // The connection broke.
        None => error.into(),
    }
}
