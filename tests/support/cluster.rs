//! A primary with streaming standbys, each a throwaway server of its own on a port of its own.
//!
//! The processes of a node are dealt with by functions that block; what is asked of it in SQL is
//! asynchronous.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

#[path = "quick.rs"]
mod quick;
#[path = "server/mod.rs"]
pub mod server;

use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use server::{Options, Server, USER};

const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// The user of the URLs, a superuser whose password costs nothing to check.
const CREDENTIALS: &str = "quick:quick";

/// How a cluster is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many there are beside the primary, which is node 0.
    pub standbys: usize,
    /// `synchronous_commit`, `on` or `remote_apply`, for commits that wait for any one standby.
    /// Without it they wait for none.
    pub synchronous: Option<&'static str>,
    /// Write through to the disk. What a killed process has written is kept without it.
    pub fsync: bool,
    /// More settings, for every node.
    pub settings: Vec<(String, String)>,
}

/// The nodes are numbered as they were at the start, whatever becomes of them. Dropped, all of
/// them are stopped and removed.
pub struct Cluster {
    nodes: Vec<Node>,
}

/// One of the servers.
pub struct Node {
    server: Mutex<Server>,
    port: u16,
    /// How other nodes reach it.
    conninfo: String,
}

impl Cluster {
    /// Starts a cluster; `synchronous`: commits wait until any one standby has flushed them.
    pub async fn start(standbys: usize, synchronous: bool) -> Cluster {
        Cluster::set_up(Setup {
            standbys,
            synchronous: synchronous.then_some("on"),
            fsync: false,
            settings: Vec::new(),
        })
        .await
    }

    /// Starts a cluster, and waits until all standbys stream.
    pub async fn set_up(setup: Setup) -> Cluster {
        let options = setup.options();
        let primary = Server::start(options.clone()).unwrap();
        // There is no standby yet that this commit could wait for.
        let alone = "?options=-c%20synchronous_commit%3Dlocal";
        quick::user(&format!("{}{alone}", primary.tcp_url("postgres"))).await;
        let standbys: Vec<Server> = thread::scope(|scope| {
            let start = || Server::start_standby(options.clone(), &primary).unwrap();
            let starting: Vec<_> = (0..setup.standbys).map(|_| scope.spawn(start)).collect();
            let started = starting.into_iter().map(|one| one.join().unwrap());
            started.collect()
        });
        let nodes = std::iter::once(primary).chain(standbys).map(Node::new);
        let cluster = Cluster {
            nodes: nodes.collect(),
        };
        cluster.node(0).has_standbys(setup.standbys).await;
        cluster
    }

    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The URL of all nodes, in their order. `more`: keys and values, joined by `&`.
    pub fn url(&self, more: &str) -> String {
        url(&self.nodes.iter().collect::<Vec<_>>(), more)
    }

    /// Promotes the one of these standbys that has received most, after the others have been told
    /// to follow it. Gives its number once it takes writes.
    ///
    /// Of a primary that cannot acknowledge anything any more, it has all that was acknowledged.
    pub async fn promote_furthest(&self, standbys: &[usize]) -> usize {
        let mut furthest = (0, 0);
        for number in standbys {
            furthest = furthest.max((self.node(*number).received().await, *number));
        }
        let (_, chosen) = furthest;
        for number in standbys.iter().filter(|number| **number != chosen) {
            self.node(*number).follow(self.node(chosen)).await;
        }
        self.node(chosen).promote().await;
        chosen
    }
}

/// The URL of some nodes.
pub fn url(nodes: &[&Node], more: &str) -> String {
    let hosts = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
    let hosts = hosts.collect::<Vec<_>>().join(",");
    format!("postgresql://{CREDENTIALS}@{hosts}/postgres?{more}")
}

impl Setup {
    fn options(&self) -> Options {
        let mut options = Options {
            tcp: true,
            max_connections: 100,
            fsync: self.fsync,
            settings: self.settings.clone(),
        };
        let mut set = |name: &str, value: &str| {
            let setting = (name.to_owned(), value.to_owned());
            options.settings.insert(0, setting);
        };
        // A standby that is new or was away finds what it missed.
        set("wal_keep_size", "1GB");
        set("wal_retrieve_retry_interval", "50ms");
        if let Some(commit) = self.synchronous {
            set("synchronous_standby_names", "ANY 1 (*)");
            set("synchronous_commit", commit);
        }
        options
    }
}

impl Node {
    fn new(server: Server) -> Node {
        let (dir, port) = (server.dir().display(), server.port());
        let password = server.password();
        Node {
            port,
            conninfo: format!("host={dir} port={port} user={USER} password={password}"),
            server: Mutex::new(server),
        }
    }

    pub fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap()
    }

    /// The URL of the database `postgres` on this node alone.
    pub fn url(&self) -> String {
        url(&[self], "")
    }

    /// On 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends all its processes as a crash does. Blocks.
    pub fn kill9(&self) {
        self.server().kill().unwrap();
    }

    /// Stops all its processes: its connections stay open, new ones are taken by the operating
    /// system, and nothing answers. Blocks.
    pub fn stop_process(&self) {
        self.server().pause().unwrap();
    }

    /// Lets a stopped node go on. Blocks.
    pub fn resume(&self) {
        self.server().resume().unwrap();
    }

    /// Starts a node that has ended as what it was. Blocks.
    pub fn start_again(&self) {
        self.server().start_again().unwrap();
    }

    /// Starts a node that has ended as a standby of another one, with a fresh copy of its data,
    /// and waits until it streams. Blocks at first.
    pub async fn rejoin(&self, primary: &Node) {
        let before = primary.standbys().await;
        self.server().follow_afresh(&primary.server()).unwrap();
        primary.has_standbys(before + 1).await;
    }

    /// Lets a standby follow another node from now on.
    pub async fn follow(&self, primary: &Node) {
        let client = self.client().await;
        let follow = format!("ALTER SYSTEM SET primary_conninfo = '{}'", primary.conninfo);
        client.batch_execute(&follow).await.unwrap();
        run(&client, "SELECT pg_reload_conf()").await;
    }

    /// Makes a standby a primary, and waits until it takes writes.
    pub async fn promote(&self) {
        let client = self.client().await;
        run(&client, "SELECT pg_promote(false)").await;
        let promoted = async || client_is_primary(&client).await;
        until("the standby is promoted", promoted).await;
    }

    pub async fn is_primary(&self) -> bool {
        client_is_primary(&self.client().await).await
    }

    /// Lets a standby receive and not apply.
    pub async fn pause_replay(&self) {
        let client = self.client().await;
        run(&client, "SELECT pg_wal_replay_pause()").await;
        let sql = "SELECT pg_get_wal_replay_pause_state() = 'paused'";
        let paused = async || client.query_one(sql, &[]).await.unwrap().get(0);
        until("the replay is paused", paused).await;
    }

    pub async fn resume_replay(&self) {
        run(&self.client().await, "SELECT pg_wal_replay_resume()").await;
    }

    /// How far the log is that a standby has received, in bytes.
    pub async fn received(&self) -> i64 {
        let sql = "SELECT coalesce(pg_wal_lsn_diff(greatest(pg_last_wal_receive_lsn(), \
                   pg_last_wal_replay_lsn()), '0/0'), 0)::int8";
        let client = self.client().await;
        client.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// How many standbys stream from it.
    pub async fn standbys(&self) -> usize {
        let client = self.client().await;
        streaming(&client).await
    }

    /// Waits until so many standbys stream from it.
    pub async fn has_standbys(&self, number: usize) {
        let client = self.client().await;
        let all = async || streaming(&client).await >= number;
        until("the standbys stream", all).await;
    }

    /// Waits until a standby shows all that this one has written.
    pub async fn has_replayed(&self, standby: &Node) {
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::int8";
        let written: i64 = (self.client().await.query_one(sql, &[]).await.unwrap()).get(0);
        let sql = "SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::int8 >= $1";
        let client = standby.client().await;
        let shown = async || client.query_one(sql, &[&written]).await.unwrap().get(0);
        until("the standby shows what was written", shown).await;
    }

    /// A plain connection, as a superuser.
    pub async fn client(&self) -> Client {
        self.client_of("postgres").await
    }

    /// The same to another database.
    pub async fn client_of(&self, database: &str) -> Client {
        let url = self.url().replace("/postgres?", &format!("/{database}?"));
        let connected = tokio_postgres::connect(&url, NoTls).await;
        let (client, connection) = connected.expect("the node takes connections");
        // It ends with the client.
        tokio::spawn(connection);
        client
    }
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap();
}

async fn client_is_primary(client: &Client) -> bool {
    let sql = "SELECT NOT pg_is_in_recovery()";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn streaming(client: &Client) -> usize {
    let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    let number: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
    usize::try_from(number).unwrap()
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(POLL).await;
    }
}
