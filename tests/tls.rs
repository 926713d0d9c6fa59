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
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use authority::{Authority, Identity, write};
use fake::{Fake, Tls};
use motorpool::{Error, Migrator, NewUser, PgStore, Result, Store, UnavailableReason};
use record::everything_said;
use secure::{PLAIN_PASSWORD, server, verify, with_database};
use tap::{Tap, Terminator};
use tempfile::TempDir;
use watch::Watch;

const CANARY: &str = "canary-in-the-password";
const PATIENCE: Duration = Duration::from_secs(60);

fn folder() -> TempDir {
    tempfile::Builder::new()
        .prefix("motorpool-")
        .tempdir()
        .unwrap()
}

async fn connect(url: &str) -> Result<PgStore> {
    PgStore::builder(url)?.call_timeout(PATIENCE).build().await
}

/// What the server says of the store's connection: the version of TLS, and whose certificate the
/// client has shown.
async fn session(store: &PgStore) -> (bool, Option<String>, Option<String>) {
    let client = store.pool().get().await.unwrap();
    let sql = "SELECT ssl, version, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

fn reason(error: &Error) -> UnavailableReason {
    match error {
        Error::Unavailable { reason, source } => {
            assert!(source.is_some(), "{error:?}");
            reason.clone()
        }
        other => panic!("{other:?}"),
    }
}

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
        let url = format!(
            "{}?sslmode=verify-full&sslrootcert={}",
            database.url,
            server().root().display()
        );
        let (encrypted, ..) = session(&connect(&url).await.unwrap()).await;
        assert!(!encrypted);
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
    // A server that waits for the question takes it for nonsense.
    with_database(async |database| {
        let more = format!("{} sslnegotiation=direct", verify(&server().root()));
        let error = connect(&server().url(&database, &more)).await;
        let error = error.expect_err("before Postgres 17");
        let version = server()
            .admin()
            .await
            .query_one("SHOW server_version_num", &[])
            .await;
        let version: i32 = version.unwrap().get::<_, &str>(0).parse().unwrap();
        assert!(version < 170_000, "newer servers know it: {error:?}");
        assert_eq!(reason(&error), UnavailableReason::Tls, "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_cancel_request_is_encrypted_too_and_arrives() {
    with_database(async |database| {
        let tap = Tap::start(server().server.port()).await;
        let more = format!("hostaddr=127.0.0.1 {}", verify(&server().root()));
        let url = server().url_at("localhost", tap.port, &database, &more);
        let store = connect(&url).await.unwrap();
        let (lock, look) = (Watch::new(&database).await, Watch::new(&database).await);
        lock.run("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            .await;
        let register = |store: &PgStore| {
            let (store, new) = (store.clone(), NewUser::new("Ada").unwrap());
            tokio::spawn(async move { store.users().register(&new).await })
        };

        let before = tap.connections().len();
        let call = register(&store);
        look.waiting(1).await;
        call.abort();
        look.settled().await;
        let after_call = tap.connections().len();
        assert!(after_call > before);

        let pool = store.pool().clone();
        let undo = tokio::spawn(async move { Migrator::new().undo(&pool, true).await });
        look.waiting(1).await;
        undo.abort();
        look.settled().await;
        let after_migrator = tap.connections().len();
        assert!(after_migrator > after_call);

        let call = register(&store);
        look.waiting(1).await;
        assert_eq!(store.close().within(Duration::ZERO).await, 1);
        look.settled().await;
        assert!(tap.connections().len() > after_migrator);
        assert!(call.await.unwrap().is_err());

        for first in tap.connections() {
            // The question for TLS, and the beginning of a handshake.
            let (question, then) = first.split_at(8);
            assert_eq!(question, [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]);
            assert_eq!(then.first(), Some(&0x16), "{first:?}");
        }
        lock.run("COMMIT").await;
        assert_eq!(look.number("SELECT count(*) FROM users").await, 0);
    })
    .await;
}

/// What [`in_a_process_of_its_own`] connects to.
const URL: &str = "MOTORPOOL_TEST_URL";

#[tokio::test]
async fn the_authorities_of_the_system_are_trusted() {
    with_database(async |database| {
        for more in ["sslrootcert=system", "sslmode=verify-full"] {
            let url = server().url(&database, more);
            let run = |authorities: &Path| {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command.args(["--exact", "in_a_process_of_its_own", "--ignored"]);
                command.env_remove("SSL_CERT_DIR");
                command.env(URL, &url).env("SSL_CERT_FILE", authorities);
                command.output().unwrap()
            };
            let output = run(&server().root());
            assert!(output.status.success(), "{more}: {output:?}");
            let dir = folder();
            let another = write(dir.path(), "another", &Authority::new().pem);
            let output = run(&another);
            assert!(!output.status.success(), "{more}");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.contains("certificate is refused"), "{more}: {said}");
            let output = run(&write(dir.path(), "none", ""));
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.contains("the system trusts no authorities"), "{said}");
        }
    })
    .await;
}

/// The environment says which authorities those of the system are, and is the process's.
#[tokio::test]
#[ignore = "run by another test"]
async fn in_a_process_of_its_own() {
    let url = std::env::var(URL).expect("set by the other test");
    match connect(&url).await {
        Ok(store) => assert!(session(&store).await.0),
        Err(error) => panic!("{}", everything_said(&error)),
    }
}

/// Ends the connections that are there, and makes one.
async fn reconnect(store: &PgStore) -> Result<()> {
    store.pool().retain(|_, _| false);
    store.ping().await
}

#[tokio::test]
async fn files_are_read_again_for_each_connection() {
    with_database(async |database| {
        let dir = folder();
        let root = write(dir.path(), "root", &server().authority.pem);
        let store = connect(&server().url(&database, &verify(&root)))
            .await
            .unwrap();
        // Replaced by another authority.
        write(dir.path(), "root", &Authority::new().pem);
        let error = reconnect(&store)
            .await
            .expect_err("the server's is another");
        assert_eq!(reason(&error), UnavailableReason::Tls);
        let said = everything_said(&error);
        assert!(said.contains("certificate is refused"), "{said}");
        // And back.
        write(dir.path(), "root", &server().authority.pem);
        reconnect(&store).await.unwrap();
        // Half written, or gone: what was read before is used.
        write(dir.path(), "root", "-----BEGIN CERTIFICATE-----\nMII");
        reconnect(&store).await.unwrap();
        fs::remove_file(&root).unwrap();
        reconnect(&store).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_by_its_key() {
    let dir = folder();
    let authority = Authority::new();
    let (own, another) = (authority.issue("u"), authority.issue("u"));
    let file = |name: &str, text: &str| write(dir.path(), &format!("{CANARY}-{name}"), text);
    let (certificate, key) = (file("crt", &own.certificate), file("key", &own.key));
    let (garbage, other_key) = (file("garbage", CANARY), file("other", &another.key));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let broken = file("broken", broken);
    let open = file("open", &own.key);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&open, mode).unwrap();
    let missing = dir.path().join(CANARY);
    let with = |key: &str, path: &Path| format!("{key}='{}'", path.display());
    let pair = |certificate: &PathBuf, key: &PathBuf| {
        format!("{} {}", with("sslcert", certificate), with("sslkey", key))
    };
    for (more, key, words) in [
        (
            with("sslrootcert", &missing),
            "sslrootcert",
            "cannot be read",
        ),
        (
            with("sslrootcert", dir.path()),
            "sslrootcert",
            "cannot be read",
        ),
        (
            with("sslrootcert", &garbage),
            "sslrootcert",
            "no certificate in PEM form",
        ),
        (
            with("sslrootcert", &key),
            "sslrootcert",
            "no certificate in PEM form",
        ),
        (
            with("sslrootcert", &broken),
            "sslrootcert",
            "cannot be read",
        ),
        (pair(&missing, &key), "sslcert", "cannot be read"),
        (
            pair(&garbage, &key),
            "sslcert",
            "no certificate in PEM form",
        ),
        (pair(&certificate, &missing), "sslkey", "cannot be read"),
        (pair(&certificate, &garbage), "sslkey", "no key in PEM form"),
        (
            pair(&certificate, &certificate),
            "sslkey",
            "no key in PEM form",
        ),
        (
            pair(&certificate, &other_key),
            "sslkey",
            "not the key of the certificate",
        ),
        (pair(&certificate, &open), "sslkey", "read by others"),
    ] {
        // Nothing listens there; it does not come to that.
        let url = format!("host=127.0.0.1 port=1 user=u sslmode=require {more}");
        let error = connect(&url).await.expect_err(words);
        assert!(matches!(error, Error::Config { .. }), "{words}: {error:?}");
        let said = everything_said(&error);
        assert!(said.contains(&format!("`{key}`")), "{key}: {said}");
        assert!(said.contains(words), "{words}: {said}");
        assert!(!said.contains("canary"), "{said}");
    }
}

/// A pool of the host's own, whose connections are encrypted.
#[tokio::test]
async fn a_cancel_request_for_a_hosts_own_pool_is_encrypted() {
    use deadpool_postgres::{Manager, Pool};
    use tokio_postgres_rustls::MakeRustlsConnect;
    use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

    with_database(async |database| {
        let tap = Tap::start(server().server.port()).await;
        let url = server().url_at(
            "localhost",
            tap.port,
            &database,
            "hostaddr=127.0.0.1 sslmode=require",
        );
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(server().authority.pem.as_bytes()).unwrap();
        roots.add(root).unwrap();
        let builder = ClientConfig::builder_with_provider(ring::default_provider().into());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let tls = builder.with_root_certificates(roots).with_no_client_auth();
        let manager = Manager::new(url.parse().unwrap(), MakeRustlsConnect::new(tls));
        let store = PgStore::from_pool(Pool::builder(manager).build().unwrap());
        let (lock, look) = (Watch::new(&database).await, Watch::new(&database).await);
        lock.run("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            .await;
        let new = NewUser::new("Ada").unwrap();
        let call = tokio::spawn({
            let store = store.clone();
            async move { store.users().register(&new).await }
        });
        let blocked = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        look.until(blocked, 1).await;
        call.abort();
        look.until(blocked, 0).await;
        let connections = tap.connections();
        assert!(connections.len() > 1);
        assert!(connections.iter().all(|first| first.get(8) == Some(&0x16)));
    })
    .await;
}
