//! Certificates and keys: where they are read from, when, and what is said if they cannot be used.
#![cfg(feature = "tls")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod authority;
mod record;
mod secure;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use authority::{Authority, folder, write};
use motorpool::{Error, PgStore, Result, UnavailableReason};
use record::everything_said;
use secure::{connect, reason, server, session, verify, with_database};

const CANARY: &str = "canary-in-the-path";

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
