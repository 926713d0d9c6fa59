//! A URL of several hosts: the first that answers and is of the wanted kind is taken, and a host
//! that says nothing leaves time for the others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/quick.rs"]
mod quick;
#[path = "support/server/mod.rs"]
mod server;

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use motorpool::{Error, NewUser, PgStore, Result, Store, UnavailableReason};
use server::{Options, Server};

const PATIENCE: Duration = Duration::from_secs(60);

/// A host that takes connections and never says a word.
struct Silent(TcpListener);

impl Silent {
    fn new() -> Self {
        Silent(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn at(&self) -> (String, u16) {
        ("127.0.0.1".into(), self.0.local_addr().unwrap().port())
    }
}

fn at(server: &Server) -> (String, u16) {
    (server.dir().to_str().unwrap().into(), server.port())
}

/// Nothing listens there.
fn nowhere() -> (String, u16) {
    Silent::new().at()
}

fn url(hosts: &[(String, u16)], more: &str) -> String {
    let names: Vec<&str> = hosts.iter().map(|(host, _)| host.as_str()).collect();
    let ports: Vec<String> = hosts.iter().map(|(_, port)| port.to_string()).collect();
    format!(
        "host={} port={} user=quick password=quick dbname=postgres {more}",
        names.join(","),
        ports.join(",")
    )
}

async fn server() -> Server {
    let server = Server::start(Options::default()).unwrap();
    quick::user(&server.url("postgres")).await;
    server
}

/// A server that was a primary and is a standby now. It follows nobody.
async fn standby() -> Server {
    let mut server = server().await;
    server.shut_down().unwrap();
    fs::write(server.data_dir().join("standby.signal"), "").unwrap();
    server.start_again().unwrap();
    server
}

async fn connect(url: &str) -> Result<PgStore> {
    PgStore::builder(url)?.call_timeout(PATIENCE).build().await
}

/// Which of the servers a store is connected to.
async fn place(store: &PgStore) -> PathBuf {
    let client = store.pool().get().await.unwrap();
    let row = client.query_one("SHOW data_directory", &[]).await;
    row.unwrap().get::<_, &str>(0).into()
}

#[tokio::test]
async fn the_first_host_that_answers_is_taken() {
    let (server, silent) = (server().await, Silent::new());
    for before in [
        vec![nowhere()],
        vec![silent.at()],
        vec![nowhere(), silent.at()],
    ] {
        let hosts = [before, vec![at(&server)]].concat();
        let store = connect(&url(&hosts, "")).await.unwrap();
        assert_eq!(place(&store).await, server.data_dir());
        // One that is right is not passed over.
        let hosts = [vec![at(&server)], hosts].concat();
        let store = connect(&url(&hosts, "")).await.unwrap();
        assert_eq!(place(&store).await, server.data_dir());
    }
}

#[tokio::test]
async fn hosts_that_all_say_nothing_are_given_up() {
    let silent = [Silent::new(), Silent::new()];
    let hosts = silent.each_ref().map(Silent::at);
    let builder = PgStore::builder(&url(&hosts, "")).unwrap();
    let builder = builder.connect_timeout(Duration::from_millis(200));
    let error = builder.build().await.expect_err("nobody answers");
    let reason = UnavailableReason::ConnectTimeout;
    assert!(
        matches!(&error, Error::Unavailable { reason: found, .. } if *found == reason),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_kind_of_server_is_the_one_asked_for() {
    let (primary, standby) = (server().await, standby().await);
    let orders = [[at(&primary), at(&standby)], [at(&standby), at(&primary)]];
    for (wanted, found) in [
        ("read-write", &primary),
        ("primary", &primary),
        ("read-only", &standby),
        ("standby", &standby),
        ("prefer-standby", &standby),
    ] {
        for hosts in &orders {
            let url = url(hosts, &format!("target_session_attrs={wanted}"));
            let store = connect(&url).await.unwrap();
            assert_eq!(place(&store).await, found.data_dir(), "{wanted}");
        }
    }
    let wanted = |server: &Server, wanted: &str| {
        url(&[at(server)], &format!("target_session_attrs={wanted}"))
    };
    for (server, wants, reason) in [
        (&standby, "read-write", UnavailableReason::ReadOnly),
        (&standby, "primary", UnavailableReason::ReadOnly),
        (&primary, "read-only", UnavailableReason::Other),
        (&primary, "standby", UnavailableReason::Other),
    ] {
        let error = connect(&wanted(server, wants)).await.expect_err(wants);
        assert!(
            matches!(&error, Error::Unavailable { reason: found, .. } if *found == reason),
            "{wants}: {error:?}"
        );
    }
    connect(&wanted(&primary, "prefer-standby")).await.unwrap();
    connect(&wanted(&primary, "any")).await.unwrap();
}

#[tokio::test]
async fn hosts_are_balanced_if_asked_for() {
    let servers = [server().await, server().await];
    let hosts = servers.each_ref().map(at);
    let mut found = [0; 2];
    for _ in 0..40 {
        let store = connect(&url(&hosts, "load_balance_hosts=random"))
            .await
            .unwrap();
        let place = place(&store).await;
        found[usize::from(place == servers[1].data_dir())] += 1;
    }
    // Less than once in 10^11 runs by chance.
    assert!(found[0] > 0 && found[1] > 0, "{found:?}");
}

/// The primary dies, the standby is promoted: the store goes on with it.
#[tokio::test]
async fn after_a_promotion_writes_go_to_the_new_primary() {
    let (mut old, new) = (server().await, standby().await);
    let hosts = [at(&old), at(&new)];
    let store = connect(&url(&hosts, "target_session_attrs=read-write")).await;
    let store = store.unwrap();
    store.migrate().await.unwrap();
    let user = |number: usize| NewUser::new(format!("user {number}")).unwrap();
    store.users().register(&user(0)).await.unwrap();
    old.kill().unwrap();
    let refused = store.users().register(&user(1)).await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
    let (client, connection) =
        tokio_postgres::connect(&url(&hosts[1..], ""), tokio_postgres::NoTls)
            .await
            .unwrap();
    tokio::spawn(connection);
    client.batch_execute("SELECT pg_promote()").await.unwrap();
    // It follows nobody, so it has none of the tables.
    store.migrate().await.unwrap();
    assert!(store.users().register(&user(0)).await.unwrap().is_created());
    assert_eq!(place(&store).await, new.data_dir());
    // When the old one is back it is not gone back to.
    old.start_again().unwrap();
    assert!(!store.pool().retain(|_, _| false).removed.is_empty());
    assert!(!store.users().register(&user(0)).await.unwrap().is_created());
    assert_eq!(place(&store).await, new.data_dir());
}
