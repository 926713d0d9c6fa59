//! A password that must turn up nowhere: not in an error, not in a `Debug` form, and in no line
//! that this crate or any below it logs at any level, whatever goes wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod authority;
mod fake;
mod record;
mod support;

use std::fmt::Write as _;
use std::net::TcpListener;
use std::time::Duration;

use authority::{Authority, folder, write};
use fake::{Fake, Tls};
use motorpool::{Migrator, NewCar, NewUser, PgStore, Provision, Store, StoreExt, provision};
use record::{Record, everything_said};
use support::server::{Options, Server};

const CANARY: &str = "zanzibar";

/// Tries to connect, and gives all that can be printed on the way.
async fn attempt(url: &str) -> String {
    let mut said = String::new();
    let builder = match PgStore::builder(url) {
        Ok(builder) => builder,
        Err(error) => return everything_said(&error),
    };
    write!(said, "{builder:?}{builder:#?}").unwrap();
    let builder = builder.connect_timeout(Duration::from_millis(500));
    match builder.build().await {
        Ok(store) => {
            write!(said, "{store:?}{store:#?}{:?}", store.status()).unwrap();
            // The pool's own form shows the driver's, which keeps the password to itself.
            write!(said, "{:?}", store.pool()).unwrap();
            if let Err(error) = work(&store).await {
                said += &everything_said(&error);
            }
            store.close().await;
            if let Err(error) = store.ping().await {
                said += &everything_said(&error);
            }
        }
        Err(error) => said += &everything_said(&error),
    }
    said
}

/// A little of everything. What is stored is secret too.
async fn work(store: &PgStore) -> motorpool::Result<()> {
    let user = store.users().register(&NewUser::new(CANARY)?).await?;
    let id = user.user().id;
    store.users().register(&NewUser::new("another")?).await?;
    store.users().get_by_username(CANARY).await?;
    store.cars().buy(&NewCar::new(CANARY, id)?).await?;
    store.cars().owned_by(id).await?;
    let taken = store.users().rename(id, "another").await;
    let owns = store.users().delete(id).await;
    for refused in [taken.err(), owns.err()].into_iter().flatten() {
        assert!(!everything_said(&refused).contains(CANARY));
    }
    let ended = store
        .transaction(|tx| async move {
            tx.users().rename(id, CANARY).await?;
            tx.users().rename(id, "another").await
        })
        .await;
    ended.map(drop)
}

fn bad_urls() -> Vec<String> {
    let slips = [
        "postgresql://u:C@h:port/d",
        "postgresql://u:C@h/d?sslmode=C",
        "postgresql://u:C@h/d?sslmod=require",
        "postgresql://u:C@h/d?C=C",
        "postgresql://u:C@h/d?options",
        "postgresql://u:C@h/d?a=b=C",
        "postgresql://u:%zzC@h/d",
        "postgresql://u:C/x@h/d",
        "postgresql://u:C?x@h/d?y=z@C",
        "postgresql://u:C@[::1/d",
        "postgresql://u:C@h@C/d",
        "postgresql://C:C@C:C/C",
        "postgress://u:C@h/d",
        "mysql://u:C@h/d",
        "u:C@h/d",
        "host=h password=C C",
        "host=h password='C",
        "host=h pasword=C",
        "host=h password=C port=C",
        "host=h password=C sslmode=C",
        "host=h password=C connect_timeout=C",
        "host=h password=C hostaddr=C",
        "host='C C' password=C",
        "host=h password=C channel_binding=C",
        "host=h password=C channel_binding=require sslmode=disable",
        "host=h password=C sslcert=C",
        "host=h password=C sslmode=verify-ca",
        "host=h password=C sslmode=require sslrootcert=/C",
        "host=h password=C sslmode=require sslcert=/C sslkey=/C",
        "host=h password=C sslmode=require sslnegotiation=C",
        "host=h password=C sslpassword=C",
        "host=h password=C service=C",
        "host=h passfile=/C",
    ];
    slips.map(|slip| slip.replace('C', CANARY)).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_turns_up_nowhere() {
    let record = Record::of_all_threads();
    let mut urls = bad_urls();

    // Nobody there, nobody who answers, no such name.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().map(|at| (at.port(), silent)).unwrap();
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let nowhere = nowhere.local_addr().unwrap().port();
    let with = |host: &str, port: u16, more: &str| {
        format!("host={host} port={port} user=postgres password={CANARY} dbname=postgres {more}")
    };
    for more in ["", "sslmode=disable", "sslmode=prefer"] {
        urls.push(with("127.0.0.1", nowhere, more));
        urls.push(with("127.0.0.1", silent.0, more));
        urls.push(with("nohost.invalid", 5432, more));
        urls.push(with("/no/such/directory", 5432, more));
        urls.push(with(
            "127.0.0.1,127.0.0.1",
            nowhere,
            &format!("{more} target_session_attrs=standby"),
        ));
    }

    // Servers that are not what they should be.
    let dir = folder();
    let authority = Authority::new();
    let other = write(dir.path(), "other", &Authority::new().pem);
    let good = authority.issue("localhost");
    let mut fakes = Vec::new();
    for tls in [
        Tls::No,
        Tls::Error,
        Tls::Yes(good.clone()),
        Tls::Yes(authority.issue("db.example.com")),
        Tls::Yes(authority.issue_expired("localhost")),
        Tls::Old(good.clone()),
        Tls::Direct(good),
    ] {
        let fake = Fake::start(tls).await;
        for more in [
            "sslmode=prefer",
            "sslmode=require",
            "sslmode=require sslnegotiation=direct",
            "sslmode=require ssl_min_protocol_version=TLSv1.3",
            "channel_binding=require",
            &format!("sslmode=verify-ca sslrootcert='{}'", other.display()),
            &format!("sslmode=verify-full sslrootcert='{}'", other.display()),
            "sslmode=verify-full",
        ] {
            urls.push(with(
                "localhost",
                fake.port,
                &format!("hostaddr=127.0.0.1 {more}"),
            ));
        }
        fakes.push(fake);
    }

    // A real server: with the wrong password, and with the right one, which is the canary.
    let options = Options {
        tcp: true,
        ..Options::default()
    };
    let server = Server::start(options).unwrap_or_else(|error| panic!("{error}"));
    let (dir, port) = (server.dir().display().to_string(), server.port());
    urls.push(with(&dir, port, ""));
    urls.push(with("127.0.0.1", port, "sslmode=disable"));
    urls.push(with(
        "127.0.0.1",
        port,
        "sslmode=disable channel_binding=disable",
    ));
    let url = server.url("postgres");
    let admin = PgStore::connect(&url).await.unwrap();
    admin.migrate().await.unwrap();
    let plan = Provision::new("garage")
        .migrator_password(CANARY)
        .app_password(CANARY);
    provision(&url, &plan).await.unwrap();
    let migrator =
        format!("host={dir} port={port} user=garage_migrator password={CANARY} dbname=garage");
    let store = PgStore::connect(&migrator).await.unwrap();
    store.migrate().await.unwrap();
    Migrator::new().check(store.pool()).await.unwrap();
    drop(store);
    for place in [dir.as_str(), "127.0.0.1"] {
        for more in [
            "",
            "dbname=nothing",
            "channel_binding=require",
            "target_session_attrs=standby",
        ] {
            let user = format!(
                "{} user=garage_app dbname=garage {more}",
                with(place, port, "")
            );
            urls.push(user);
        }
    }

    let mut answered = 0;
    for url in &urls {
        let said = attempt(url).await;
        assert!(!said.contains(CANARY), "{url}: {said}");
        answered += usize::from(!said.is_empty());
    }
    assert_eq!(answered, urls.len());
    for fake in &fakes {
        assert!(fake.connections() > 0);
        assert!(!fake.was_told(CANARY));
    }

    // The log was heard: of the driver, and of this crate.
    assert!(record.count("tokio_postgres::") > 100);
    assert!(record.count("motorpool::") > 0);
    let found = record.lines(CANARY);
    assert!(found.is_empty(), "{found:#?}");
}
