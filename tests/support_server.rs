//! The throwaway server itself: that it starts, and that nothing of it is ever left.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/server/mod.rs"]
mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use server::{Options, Server};
use tokio::time::timeout;
use tokio_postgres::{Client, Error, NoTls};

/// Set in a process that only starts a server and then waits to be killed.
const VICTIM: &str = "MOTORPOOL_TEST_VICTIM";

async fn connect(url: &str) -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn number(client: &Client, sql: &str) -> Result<i32, Error> {
    client.query_one(sql, &[]).await?.try_get(0)
}

fn is_alive(pid: u32) -> bool {
    let listed = Command::new("ps")
        .args(["-o", "stat=", "-p", &pid.to_string()])
        .output();
    let state = listed.expect("ps runs").stdout;
    !state.is_empty() && !state.starts_with(b"Z")
}

/// The directory of a server and its two main processes.
fn traces(server: &Server) -> (PathBuf, [u32; 2]) {
    let postmaster = server.pid().expect("a running server");
    (server.dir().to_owned(), [postmaster, server.watcher_pid()])
}

fn assert_gone(dir: &Path, pids: [u32; 2]) {
    assert!(!dir.exists(), "{} is left", dir.display());
    for pid in pids {
        assert!(!is_alive(pid), "process {pid} is left");
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn servers_side_by_side_answer_and_leave_nothing() {
    let tcp = Options {
        tcp: true,
        fsync: true,
        settings: vec![("work_mem".into(), "5MB".into())],
        ..Options::default()
    };
    let servers = [
        Server::start(Options::default()).unwrap(),
        Server::start(tcp).unwrap(),
    ];
    for server in &servers {
        let client = connect(&server.url("postgres")).await.unwrap();
        assert_eq!(number(&client, "SELECT 6 * 7").await.unwrap(), 42);
    }
    let client = connect(&servers[1].tcp_url("postgres")).await.unwrap();
    for (setting, value) in [
        ("work_mem", "5MB"),
        ("fsync", "on"),
        ("max_connections", "400"),
    ] {
        let row = client.query_one(&format!("SHOW {setting}"), &[]).await;
        assert_eq!(row.unwrap().get::<_, &str>(0), value);
    }
    let wrong = servers[1]
        .tcp_url("postgres")
        .replace(servers[1].password(), "wrong");
    assert!(connect(&wrong).await.is_err());
    for server in servers {
        let (dir, pids) = traces(&server);
        assert!(dir.exists() && pids.into_iter().all(is_alive));
        server.stop();
        assert_gone(&dir, pids);
    }
}

#[test]
fn a_panic_leaves_nothing() {
    let traces = std::sync::OnceLock::new();
    let panic = std::panic::catch_unwind(|| {
        let server = Server::start(Options::default()).unwrap();
        traces.set(self::traces(&server)).unwrap();
        panic!("on purpose");
    });
    assert!(panic.is_err());
    let (dir, pids) = traces.get().expect("the server was started");
    assert_gone(dir, *pids);
}

#[test]
fn a_setting_that_postgres_refuses_is_told() {
    let options = Options {
        settings: vec![("no_such_setting".into(), "1".into())],
        ..Options::default()
    };
    let error = Server::start(options).unwrap_err();
    assert!(error.contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn a_killed_server_starts_again_with_its_data() {
    let mut server = Server::start(Options::default()).unwrap();
    let client = connect(&server.url("postgres")).await.unwrap();
    let sql = "CREATE TABLE t AS SELECT 42 AS n";
    client.batch_execute(sql).await.unwrap();
    let first = server.pid();

    server.kill().unwrap();
    assert!(number(&client, "SELECT n FROM t").await.is_err());
    assert!(connect(&server.url("postgres")).await.is_err());
    server.start_again().unwrap();

    assert_ne!(server.pid(), first);
    let client = connect(&server.url("postgres")).await.unwrap();
    assert_eq!(number(&client, "SELECT n FROM t").await.unwrap(), 42);

    server.kill().unwrap();
    let dir = server.dir().to_owned();
    drop(server);
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_paused_server_answers_once_it_is_resumed() {
    let mut server = Server::start(Options::default()).unwrap();
    let client = connect(&server.url("postgres")).await.unwrap();

    server.pause().unwrap();
    let mut answer = std::pin::pin!(number(&client, "SELECT 42"));
    let wait = timeout(Duration::from_millis(200), &mut answer).await;
    assert!(wait.is_err(), "a paused server answered");
    server.resume().unwrap();
    assert_eq!(answer.await.unwrap(), 42);

    server.pause().unwrap();
    let (dir, pids) = traces(&server);
    drop(server);
    assert_gone(&dir, pids);
}

/// Not a test of its own: what the next two run in a process that they kill.
#[test]
fn victim() {
    let Some(file) = env::var_os(VICTIM) else {
        return;
    };
    let server = Server::start(Options::default()).unwrap();
    let (dir, [postmaster, watcher]) = traces(&server);
    let text = format!("{}\n{postmaster}\n{watcher}\n", dir.display());
    fs::write(file, text).unwrap();
    loop {
        thread::park();
    }
}

fn start_victim(folder: &Path, report: &Path) -> std::process::Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "victim"])
        .env(VICTIM, report)
        .env("TMPDIR", folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A temporary folder of our own, in which anybody may make directories.
fn folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::Builder::new()
        .prefix("mp-")
        .tempdir_in("/tmp")
        .unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    folder
}

#[test]
fn kill_minus_9_of_the_process_leaves_nothing() {
    let folder = folder();
    let report = folder.path().join("report");
    let mut victim = start_victim(folder.path(), &report);
    let mut text = String::new();
    wait_for("the victim did not start a server", || {
        text = fs::read_to_string(&report).unwrap_or_default();
        text.lines().count() == 3 && text.ends_with('\n')
    });
    let mut lines = text.lines();
    let dir = PathBuf::from(lines.next().unwrap());
    let pids: Vec<u32> = lines.map(|line| line.parse().unwrap()).collect();
    assert!(dir.starts_with(folder.path()) && dir.exists());
    assert!(pids.iter().copied().all(is_alive));

    victim.kill().unwrap();
    victim.wait().unwrap();

    wait_for("the directory is left", || !dir.exists());
    wait_for("a process is left", || !pids.iter().copied().any(is_alive));
}

#[test]
fn kill_minus_9_at_any_moment_of_the_start_leaves_nothing() {
    let folder = folder();
    let report = folder.path().join("report");
    for moment in [0, 5, 10, 20, 50, 100, 300, 600, 1000] {
        let mut victim = start_victim(folder.path(), &report);
        thread::sleep(Duration::from_millis(moment));
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
    // Whatever is alive has the directory in its arguments.
    let is_used = || {
        let all = Command::new("ps").args(["-A", "-o", "args="]).output();
        let all = String::from_utf8_lossy(&all.expect("ps runs").stdout).into_owned();
        all.contains(folder.path().to_str().unwrap())
    };
    wait_for("a process is left", || !is_used());
    let _ = fs::remove_file(&report);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
