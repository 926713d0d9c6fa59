//! What is not encrypted: where it is allowed at all, what is said about it, and that no password
//! goes that way. With and without the feature `tls`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod authority;
mod fake;
mod record;

use fake::{Fake, Tls};
use motorpool::{Error, PgStore, UnavailableReason};
use record::{Record, everything_said};

const CANARY: &str = "canary-in-the-password";

/// Tries to connect to a server that asks for the password in clear, and gives the reason why it
/// did not get it; `None`: it did.
async fn reason(server: &Fake, host: &str, more: &str) -> Option<UnavailableReason> {
    let port = server.port;
    let url = format!("host={host} port={port} user=u password={CANARY} dbname=d {more}");
    let error = PgStore::connect(&url).await.expect_err("it lets nobody in");
    let said = everything_said(&error);
    assert!(!said.contains(CANARY), "{said}");
    assert!(!error.is_retryable() || server.was_told(CANARY), "{error}");
    match error {
        _ if server.was_told(CANARY) => None,
        Error::Unavailable { reason, source } => {
            assert!(source.is_some(), "a refusal says why");
            Some(reason)
        }
        other => panic!("{more}: {other:?}"),
    }
}

#[tokio::test]
async fn a_question_for_the_password_in_clear_is_not_answered() {
    let refused = Some(UnavailableReason::CleartextPassword);
    for more in ["", "sslmode=prefer", "sslmode=allow"] {
        for host in ["127.0.0.1", "localhost"] {
            let server = Fake::start(Tls::No).await;
            assert_eq!(reason(&server, host, more).await, refused, "{host} {more}");
            assert_eq!((server.connections(), server.asked()), (1, 1), "{more}");
        }
    }
    // It leaves the machine, as far as anybody can tell.
    let server = Fake::start(Tls::No).await;
    assert_eq!(reason(&server, "0.0.0.0", "sslmode=disable").await, refused);
    assert_eq!((server.connections(), server.asked()), (1, 1));
    let server = Fake::start(Tls::No).await;
    let both = "hostaddr=0.0.0.0 sslmode=disable";
    assert_eq!(reason(&server, "localhost", both).await, refused);
    assert_eq!((server.connections(), server.asked()), (1, 1));
}

#[tokio::test]
async fn on_this_machine_it_is_answered_where_plaintext_is_asked_for() {
    for host in ["127.0.0.1", "localhost"] {
        let server = Fake::start(Tls::No).await;
        assert_eq!(reason(&server, host, "sslmode=disable").await, None);
        assert_eq!(server.asked(), 1);
    }
}

#[tokio::test]
async fn channel_binding_cannot_be_had_without_encryption() {
    let server = Fake::start(Tls::No).await;
    let port = server.port;
    let url =
        format!("host=127.0.0.1 port={port} user=u password={CANARY} channel_binding=require");
    let error = PgStore::connect(&url).await.expect_err("not encrypted");
    assert!(!server.was_told(CANARY), "{error:?}");
    match cfg!(feature = "tls") {
        true => assert!(matches!(error, Error::Unavailable { .. }), "{error:?}"),
        false => assert!(matches!(error, Error::Config { .. }), "{error:?}"),
    }
}

#[tokio::test]
async fn a_connection_to_another_machine_in_clear_is_warned_of_once() {
    let record = Record::start();
    let warnings = || record.count("connections to a host that is not this machine");
    let server = Fake::start(Tls::No).await;
    reason(&server, "127.0.0.1", "").await;
    assert_eq!(warnings(), 0);
    let url = format!(
        "host=0.0.0.0,0.0.0.0 port={} user=u sslmode=disable",
        server.port
    );
    PgStore::connect(&url).await.expect_err("it lets nobody in");
    assert_eq!((server.connections(), warnings()), (3, 1));
    PgStore::connect(&url).await.expect_err("it lets nobody in");
    assert_eq!((server.connections(), warnings()), (5, 2));
}

/// Without a word about TLS, another machine is not talked to in clear if the feature is there.
#[tokio::test]
async fn the_default_for_another_machine_is_encrypted() {
    let server = Fake::start(Tls::No).await;
    let found = reason(&server, "0.0.0.0", "").await;
    match cfg!(feature = "tls") {
        true => assert_eq!((found, server.asked()), (Some(UnavailableReason::Tls), 0)),
        false => assert_eq!(found, Some(UnavailableReason::CleartextPassword)),
    }
}

#[cfg(not(feature = "tls"))]
#[tokio::test]
async fn without_the_feature_what_needs_it_says_so() {
    for more in [
        "sslmode=require",
        "sslmode=verify-full",
        "sslmode=verify-ca sslrootcert=/canary",
        "sslrootcert=/canary",
        "sslrootcert=system",
        "sslmode=prefer sslrootcert=/canary",
        "sslcert=/canary sslkey=/canary",
        "channel_binding=require",
        "sslmode=require sslnegotiation=direct",
    ] {
        for host in ["127.0.0.1", "db.example.com", "/run,127.0.0.1"] {
            let url = format!("host={host} password={CANARY} {more}");
            let error = PgStore::connect(&url).await.expect_err(more);
            assert!(matches!(error, Error::Config { .. }), "{more}: {error:?}");
            let said = everything_said(&error);
            assert!(said.contains("the feature `tls`"), "{more}: {said}");
            assert!(!said.contains("canary"), "{said}");
        }
    }
    // A socket is not encrypted anyway.
    let url = "host=/nowhere sslmode=verify-full sslrootcert=/canary";
    let error = PgStore::connect(url).await.expect_err("nobody is there");
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    // What is harmless without TLS is let be.
    for more in [
        "sslmode=disable sslrootcert=/canary sslcert=/canary sslkey=/canary",
        "ssl_min_protocol_version=TLSv1.3",
        "channel_binding=prefer",
    ] {
        let server = Fake::start(Tls::No).await;
        reason(&server, "127.0.0.1", more).await;
        assert_eq!(server.connections(), 1, "{more}");
    }
}
