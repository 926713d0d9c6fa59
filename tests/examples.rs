//! The programs that show the crate, run as a newcomer runs them. They are built together with the
//! tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/cluster.rs"]
#[allow(clippy::duplicate_mod, reason = "a cluster has servers of its own")]
mod cluster;
mod support;

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use cluster::Cluster;
use motorpool::{PgStore, Store};
use support::{Database, with_empty_database};

const PURCHASES: &str = include_str!("data/purchases.csv");

fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let target: PathBuf = test.ancestors().nth(2).unwrap().into();
    Command::new(target.join("examples").join(name))
}

fn import(database: &Database, csv: &str) -> Output {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, csv.as_bytes()).unwrap();
    let mut command = example("import");
    command.arg("--url").arg(&database.url).arg(file.path());
    command.output().unwrap()
}

async fn counts(database: &Database) -> (u64, u64) {
    let store = PgStore::connect(&database.url).await.unwrap();
    let users = store.users().count().await.unwrap();
    (users, store.cars().count().await.unwrap())
}

#[tokio::test]
async fn the_tour_ends_well_and_adds_nothing_the_second_time() {
    with_empty_database(async |database| {
        for _ in 0..2 {
            let mut tour = example("quickstart");
            let output = tour.env("DATABASE_URL", &database.url).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            assert_eq!(counts(&database).await, (3, 3));
        }
    })
    .await;
}

#[tokio::test]
async fn the_import_of_real_purchases_can_be_repeated() {
    with_empty_database(async |database| {
        for _ in 0..2 {
            let output = import(&database, PURCHASES);
            assert!(output.status.success(), "{output:?}");
            assert_eq!(counts(&database).await, (102, 406));
        }
    })
    .await;
}

#[tokio::test]
async fn an_import_reports_bad_lines_and_stores_the_others() {
    with_empty_database(async |database| {
        let mut lines: Vec<_> = PURCHASES.lines().collect();
        let bad = [
            "Tristan,director,2025-05-30,golf",
            "Tristan,teacher,2025-13-30,golf",
            "Tristan,teacher",
        ];
        lines.splice(200..200, bad);
        let output = import(&database, &lines.join("\n"));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let reports = String::from_utf8(output.stderr).unwrap();
        for line in [201, 202, 203] {
            let number = format!("line {line}");
            assert_eq!(reports.matches(&number).count(), 1, "{reports}");
        }
        assert_eq!(reports.lines().count(), 3, "{reports}");
        assert_eq!(counts(&database).await, (102, 406));
    })
    .await;
}

/// A program that does not outlast its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program that shows it, run while the primary is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_goes_on_with_the_new_primary() {
    let cluster = Cluster::start(2, true).await;
    let url = cluster.url("target_session_attrs=read-write");
    let mut example = example("failover");
    example.args(["--purchases", "300", "--pause", "5", "--url", &url]);
    let mut running = Running(example.stdout(Stdio::piped()).spawn().unwrap());
    let client = cluster.node(0).client().await;
    let sql = "SELECT coalesce((SELECT max(id) FROM cars), 0)::int8";
    let started = Instant::now();
    loop {
        // There is no table at first.
        let bought = client.query_one(sql, &[]).await;
        if bought.is_ok_and(|row| row.get::<_, i64>(0) > 50) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.node(0).kill9();
    cluster.promote_furthest(&[1, 2]).await;
    let mut text = String::new();
    let mut output = running.0.stdout.take().unwrap();
    output.read_to_string(&mut text).unwrap();
    assert!(running.0.wait().unwrap().success(), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].starts_with("interrupted: "), "{text}");
    assert!(lines[2].starts_with("back after "), "{text}");
    assert_eq!(lines.last(), Some(&"All 300 are there, each once."));
}
