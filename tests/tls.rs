//! Encrypted connections: to a real server that takes no others, and to servers that are not what
//! they should be.
#![cfg(feature = "tls")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod authority;
mod fake;
mod record;
mod secure;
mod support;
mod tap;

use authority::{Authority, Identity, folder, write};
use fake::{Fake, Tls};
use motorpool::UnavailableReason;
use record::everything_said;
use secure::{PLAIN_PASSWORD, connect, reason, server, session, verify, with_database};
use tap::Terminator;

const CANARY: &str = "canary-in-the-password";

#[tokio::test]
async fn every_mode_but_disable_is_encrypted() {
    with_database(async |database| {
        let root = server().root();
        let root = format!("sslrootcert='{}'", root.display());
        for more in [
            "",
            "sslmode=allow",
            "sslmode=prefer",
            "sslmode=require",
            &root,
            &format!("sslmode=require {root}"),
            &format!("sslmode=verify-ca {root}"),
            &format!("sslmode=verify-full {root}"),
            "sslmode=require ssl_min_protocol_version=TLSv1.3",
        ] {
            let store = connect(&server().url(&database, more)).await.unwrap();
            let (encrypted, version, client) = session(&store).await;
            assert!(encrypted, "{more}");
            assert_eq!(version.as_deref(), Some("TLSv1.3"), "{more}");
            assert_eq!(client, None, "{more}");
        }
        // The server lets nobody in without.
        let error = connect(&server().url(&database, "sslmode=disable")).await;
        let error = error.expect_err("not encrypted");
        assert_eq!(reason(&error), UnavailableReason::Authentication);
        // A socket is not encrypted, whatever is asked for, and needs not be.
        for root in [server().root(), "/nowhere".into()] {
            let root = root.display();
            let url = format!("{}?sslmode=verify-full&sslrootcert={root}", database.url);
            let (encrypted, ..) = session(&connect(&url).await.unwrap()).await;
            assert!(!encrypted);
        }
    })
    .await;
}

/// What a server with this certificate is told. `None`: the password.
async fn told(tls: Tls, host: &str, more: &str) -> (Fake, Option<(UnavailableReason, String)>) {
    let server = Fake::start(tls).await;
    let port = server.port;
    let url = format!("host={host} port={port} user=u password={CANARY} dbname=d {more}");
    // "localhost" can be two addresses, and the server has one.
    let url = format!("{url} hostaddr=127.0.0.1");
    let error = connect(&url).await.expect_err("it lets nobody in");
    let said = everything_said(&error);
    assert!(!said.contains(CANARY), "{said}");
    assert_eq!(server.connections(), 1, "{more}: {said}");
    if server.was_told(CANARY) {
        return (server, None);
    }
    assert!(!error.is_retryable(), "{error:?}");
    (server, Some((reason(&error), said)))
}

#[tokio::test]
async fn a_certificate_that_is_not_right_is_refused() {
    let dir = folder();
    let (right, wrong) = (Authority::new(), Authority::new());
    let file = |name: &str, text: &str| {
        let path = write(dir.path(), name, text);
        format!("sslrootcert='{}'", path.display())
    };
    let right_root = file("right", &right.pem);
    let wrong_root = file("wrong", &wrong.pem);
    // Both are trusted where the file has both.
    let both_roots = file("both", &format!("{}{}", wrong.pem, right.pem));
    let (good, old) = (right.issue("localhost"), right.issue_expired("localhost"));
    let other = right.issue("db.example.com");
    let by_address = right.issue("127.0.0.1");
    let refused = "certificate is refused";
    let other_host = "certificate is for another host";
    // What is checked, and the answer; the password goes where there is none.
    let cases: [(&Identity, &str, &str, &str, Option<&str>); 14] = [
        (&good, "localhost", "verify-full", &right_root, None),
        (&good, "localhost", "verify-full", &both_roots, None),
        (&good, "localhost", "verify-ca", &right_root, None),
        (
            &good,
            "localhost",
            "verify-full",
            &wrong_root,
            Some(refused),
        ),
        (&good, "localhost", "verify-ca", &wrong_root, Some(refused)),
        (&good, "localhost", "require", &wrong_root, Some(refused)),
        (&good, "localhost", "prefer", &wrong_root, Some(refused)),
        (&old, "localhost", "verify-full", &right_root, Some(refused)),
        (&old, "localhost", "verify-ca", &right_root, Some(refused)),
        (
            &other,
            "localhost",
            "verify-full",
            &right_root,
            Some(other_host),
        ),
        (&other, "localhost", "verify-ca", &right_root, None),
        (&by_address, "127.0.0.1", "verify-full", &right_root, None),
        (
            &good,
            "127.0.0.1",
            "verify-full",
            &right_root,
            Some(other_host),
        ),
        (
            &good,
            "hß",
            "verify-full",
            &right_root,
            Some("in no certificate"),
        ),
    ];
    // The older version is good enough unless something else is asked for.
    let more = format!("sslmode=verify-full {right_root}");
    let (_, found) = told(Tls::Old(good.clone()), "localhost", &more).await;
    assert_eq!(found, None);
    for (identity, host, mode, root, refused) in cases {
        let more = format!("sslmode={mode} {root}");
        let (server, found) = told(Tls::Yes(identity.clone()), host, &more).await;
        match (refused, found) {
            (None, None) => assert_eq!((server.handshakes(), server.asked()), (1, 1), "{more}"),
            (Some(words), Some((reason, said))) => {
                assert_eq!(reason, UnavailableReason::Tls, "{more}");
                assert!(said.contains(words), "{more}: {said}");
                assert_eq!(server.asked(), 0, "{more}");
            }
            (_, found) => panic!("{host} {more}: {found:?}"),
        }
    }
}

#[tokio::test]
async fn the_password_in_clear_goes_to_no_server_that_was_not_verified() {
    let identity = Authority::new().issue("localhost");
    for more in [
        "",
        "sslmode=prefer",
        "sslmode=require",
        "sslmode=require channel_binding=prefer",
    ] {
        let (server, found) = told(Tls::Yes(identity.clone()), "localhost", more).await;
        let (reason, said) = found.expect(more);
        assert_eq!(reason, UnavailableReason::CleartextPassword, "{said}");
        assert_eq!((server.handshakes(), server.asked()), (1, 1), "{more}");
    }
    with_database(async |database| {
        let user = |more: &str| {
            let url = server().url(&database, more);
            format!("{url} user=plain password={PLAIN_PASSWORD}")
        };
        let error = connect(&user("sslmode=require")).await;
        let error = error.expect_err("not verified");
        assert_eq!(reason(&error), UnavailableReason::CleartextPassword);
        let store = connect(&user(&verify(&server().root()))).await.unwrap();
        assert!(session(&store).await.0);
    })
    .await;
}

#[tokio::test]
async fn nothing_is_said_to_a_server_without_tls() {
    let error = "does not say whether it has TLS";
    let identity = Authority::new().issue("localhost");
    for (tls, more, words) in [
        (Tls::No, "sslmode=require", "the server has no TLS"),
        (Tls::No, "sslmode=verify-full", "the server has no TLS"),
        (Tls::Error, "sslmode=require", error),
        // It has not said that it has none.
        (Tls::Error, "sslmode=prefer", error),
        (
            Tls::Old(identity),
            "sslmode=require ssl_min_protocol_version=TLSv1.3",
            "handshake failed",
        ),
    ] {
        let (server, found) = told(tls, "localhost", more).await;
        let (reason, said) = found.expect(more);
        assert_eq!(reason, UnavailableReason::Tls, "{more}");
        assert!(said.contains(words), "{more}: {said}");
        assert_eq!(server.asked(), 0, "{more}");
        assert!(!server.was_told("user"), "{more}");
    }
}

#[tokio::test]
async fn a_client_shows_its_certificate() {
    with_database(async |database| {
        let dir = folder();
        let identity = |name: &str, identity: &Identity| {
            let certificate = write(dir.path(), &format!("{name}.crt"), &identity.certificate);
            let key = write(dir.path(), &format!("{name}.key"), &identity.key);
            format!(
                "sslcert='{}' sslkey='{}'",
                certificate.display(),
                key.display()
            )
        };
        let url = |more: &str| format!("{} user=certified {more}", server().verified(&database));
        let own = identity("own", &server().authority.issue("certified"));
        let store = connect(&url(&own)).await.unwrap();
        let (encrypted, _, client) = session(&store).await;
        assert!(encrypted);
        assert!(client.is_some_and(|name| name.contains("CN=certified")));

        let error = connect(&url("")).await.expect_err("no certificate");
        assert_eq!(reason(&error), UnavailableReason::Authentication);
        let another = identity("another", &server().authority.issue("somebody"));
        let error = connect(&url(&another)).await.expect_err("somebody else's");
        assert_eq!(reason(&error), UnavailableReason::Authentication);
        let forged = identity("forged", &Authority::new().issue("certified"));
        let error = connect(&url(&forged)).await.expect_err("a forged one");
        assert_eq!(reason(&error), UnavailableReason::Tls, "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn channel_binding_works_with_tls_and_not_without() {
    with_database(async |database| {
        for more in ["sslmode=require", &verify(&server().root())] {
            let url = server().url(&database, &format!("{more} channel_binding=require"));
            let store = connect(&url).await.unwrap();
            assert!(session(&store).await.0);
        }
        // A client with a certificate of its own proves nothing to the server's.
        let socket = format!("{}?channel_binding=require", database.url);
        let error = connect(&socket).await.expect_err("not encrypted");
        assert!(
            everything_said(&error).contains("channel binding"),
            "{error:?}"
        );
        // Somebody in between who has a certificate too does not get away with it.
        let between = Terminator::start(&database.url, &Authority::new().issue("localhost")).await;
        let url = |more: &str| server().url_at("localhost", between.port, &database, more);
        let direct = "hostaddr=127.0.0.1 sslmode=require sslnegotiation=direct";
        connect(&url(direct)).await.unwrap();
        let error = connect(&url(&format!("{direct} channel_binding=require"))).await;
        let said = everything_said(&error.expect_err("bound to another certificate"));
        assert!(said.contains("channel binding"), "{said}");
    })
    .await;
}

#[tokio::test]
async fn tls_from_the_first_byte_on() {
    with_database(async |database| {
        let authority = Authority::new();
        let front = Terminator::start(&database.url, &authority.issue("localhost")).await;
        let dir = folder();
        let root = write(dir.path(), "root", &authority.pem);
        let more = format!("hostaddr=127.0.0.1 {} sslnegotiation=direct", verify(&root));
        let url = server().url_at("localhost", front.port, &database, &more);
        let store = connect(&url).await.unwrap();
        store.ping().await.unwrap();
        assert_eq!(front.protocols(), ["postgresql"]);
    })
    .await;
    // Postgres 17 understands it. A server that waits for the question takes it for nonsense.
    with_database(async |database| {
        let version = server()
            .admin()
            .await
            .query_one("SHOW server_version_num", &[])
            .await;
        let version: i32 = version.unwrap().get::<_, &str>(0).parse().unwrap();
        let more = format!("{} sslnegotiation=direct", verify(&server().root()));
        match connect(&server().url(&database, &more)).await {
            Ok(store) => {
                assert!(version >= 170_000, "{version}");
                store.ping().await.unwrap();
            }
            Err(error) => {
                assert!(version < 170_000, "{version}: {error:?}");
                assert_eq!(reason(&error), UnavailableReason::Tls, "{error:?}");
            }
        }
    })
    .await;
}
