//! How a commit ended whose answer was lost, when the server has crashed since.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/cluster.rs"]
mod cluster;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cluster::server::{Options, Server};
use cluster::{Cluster, Setup};
use motorpool::{Batching, CommitOutcome, CommitToken, NewUser, PgStore, Store, TxOptions};
use tokio_postgres::{Client, NoTls};

const TOKEN: &str = "SELECT pg_current_xact_id()::text::bigint, \
    (extract(epoch FROM stats_reset) * 1000000)::bigint, \
    ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint FROM pg_stat_archiver";

async fn client(server: &Server) -> Client {
    let url = server.url("postgres");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Begins a transaction and gives the token that the store would give.
async fn begin(client: &Client) -> CommitToken {
    client.batch_execute("BEGIN").await.unwrap();
    let row = client.query_one(TOKEN, &[]).await.unwrap();
    let timeline = u32::try_from(row.get::<_, i64>(2)).unwrap();
    CommitToken::new(row.get::<_, i64>(0).cast_unsigned(), row.get(1)).on_timeline(timeline)
}

async fn outcome(server: &Server, token: &CommitToken) -> CommitOutcome {
    let store = PgStore::connect(&server.url("postgres")).await.unwrap();
    // Through its text, as a host would keep it.
    let token = token.to_string().parse().unwrap();
    let outcome = store.commit_outcome(&token).await.unwrap();
    for other in [&store as &dyn Store, &store.session()] {
        assert_eq!(other.commit_outcome(&token).await.unwrap(), outcome);
    }
    outcome
}

fn server() -> Server {
    let options = Options {
        fsync: true,
        ..Options::default()
    };
    Server::start(options).unwrap()
}

/// Lets the server give out numbers until this one is used, by transactions that commit.
async fn use_up(server: &Server, token: &CommitToken) {
    let client = client(server).await;
    loop {
        let used = client
            .query_one("SELECT pg_current_xact_id()::text::bigint", &[])
            .await;
        let used: i64 = used.unwrap().get(0);
        if used.cast_unsigned() >= token.transaction() {
            return;
        }
    }
}

// A number that the crash lost is given to another transaction, which commits.
#[tokio::test]
async fn the_number_of_a_lost_transaction_is_not_taken_for_its_commit() {
    let mut server = server();
    let before = client(&server).await;
    before
        .batch_execute("CREATE TABLE kept (id int)")
        .await
        .unwrap();
    let lost = begin(&before).await;
    before
        .batch_execute("INSERT INTO kept VALUES (1)")
        .await
        .unwrap();
    assert_eq!(outcome(&server, &lost).await, CommitOutcome::InProgress);
    server.kill().unwrap();
    server.start_again().unwrap();
    assert_eq!(outcome(&server, &lost).await, CommitOutcome::RolledBack);
    use_up(&server, &lost).await;
    assert_eq!(outcome(&server, &lost).await, CommitOutcome::RolledBack);
    let rows = client(&server).await.query("SELECT FROM kept", &[]).await;
    assert_eq!(rows.unwrap().len(), 0);
    // After a checkpoint nobody can tell any more.
    client(&server)
        .await
        .batch_execute("CHECKPOINT")
        .await
        .unwrap();
    assert_eq!(outcome(&server, &lost).await, CommitOutcome::Unknown);
}

#[tokio::test]
async fn what_was_committed_before_a_crash_is_found_committed() {
    let mut server = server();
    let before = client(&server).await;
    let committed = begin(&before).await;
    before.batch_execute("COMMIT").await.unwrap();
    let aborted = begin(&before).await;
    before.batch_execute("ROLLBACK").await.unwrap();
    // Makes both of them durable.
    let last = begin(&before).await;
    before
        .batch_execute("CREATE TABLE kept (); COMMIT")
        .await
        .unwrap();
    assert_eq!(outcome(&server, &committed).await, CommitOutcome::Committed);
    server.kill().unwrap();
    server.start_again().unwrap();
    assert_eq!(outcome(&server, &committed).await, CommitOutcome::Committed);
    assert_eq!(outcome(&server, &aborted).await, CommitOutcome::RolledBack);
    assert_eq!(outcome(&server, &last).await, CommitOutcome::Committed);
}

#[tokio::test]
async fn a_token_that_is_none_of_this_servers_is_unknown() {
    let server = server();
    let mut token = begin(&client(&server).await).await;
    token = CommitToken::new(token.transaction() + 1_000_000, token.era()).on_timeline(1);
    assert_eq!(outcome(&server, &token).await, CommitOutcome::Unknown);
}

/// A standby has statistics of its own, from when it was made: that is no crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_before_a_failover_is_not_taken_for_lost() {
    for timestamps in ["on", "off"] {
        let cluster = Cluster::set_up(Setup {
            standbys: 1,
            synchronous: Some("remote_apply"),
            fsync: false,
            settings: vec![("track_commit_timestamp".into(), timestamps.into())],
        })
        .await;
        let [old, new] = [0, 1].map(|number| cluster.node(number));
        let before = old.client().await;
        let committed = begin(&before).await;
        let stored = "CREATE TABLE kept AS SELECT 1 AS id; COMMIT";
        before.batch_execute(stored).await.unwrap();
        old.kill9();
        new.promote().await;
        let kept = new.client().await.query("SELECT FROM kept", &[]).await;
        assert_eq!(kept.unwrap().len(), 1);
        let store = PgStore::connect(&new.url()).await.unwrap();
        let checkpoint = "CHECKPOINT";
        for _ in 0..2 {
            let outcome = store.commit_outcome(&committed).await.unwrap();
            assert_eq!(outcome, CommitOutcome::Unknown, "{timestamps}");
            new.client().await.batch_execute(checkpoint).await.unwrap();
        }
    }
}

/// Statistics can be thrown away without a crash: of one kind, and of all kinds at nearly one moment.
#[tokio::test]
async fn a_reset_of_the_statistics_is_no_crash() {
    let server = server();
    let (writer, other) = (client(&server).await, client(&server).await);
    let version: i32 = {
        let sql = "SELECT current_setting('server_version_num')::int";
        other.query_one(sql, &[]).await.unwrap().get(0)
    };
    let each = "SELECT pg_stat_reset_shared('archiver');
        SELECT pg_stat_reset_shared('bgwriter');
        SELECT pg_stat_reset_shared('wal')";
    let all = match version >= 170_000 {
        true => "SELECT pg_stat_reset_shared()",
        false => each,
    };
    for reset in ["SELECT pg_stat_reset_shared('archiver')"]
        .into_iter()
        .chain([all; 10])
    {
        let token = begin(&writer).await;
        other.batch_execute(reset).await.unwrap();
        assert_eq!(outcome(&server, &token).await, CommitOutcome::Unknown);
        writer.batch_execute("COMMIT").await.unwrap();
        assert_eq!(outcome(&server, &token).await, CommitOutcome::Unknown);
    }
}

/// The standby has not seen the transaction, gives its number to another one that commits, and
/// crashes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_was_given_out_on_two_timelines_says_nothing_after_a_crash() {
    let cluster = Cluster::set_up(Setup {
        standbys: 1,
        synchronous: None,
        fsync: true,
        settings: vec![],
    })
    .await;
    let [old, new] = [0, 1].map(|number| cluster.node(number));
    let before = old.client().await;
    let lost = begin(&before).await;
    old.kill9();
    new.promote().await;
    let other = new.client().await;
    loop {
        let used = begin(&other).await;
        let committed = other.batch_execute("CREATE TABLE IF NOT EXISTS other (); COMMIT");
        committed.await.unwrap();
        if used.transaction() >= lost.transaction() {
            break;
        }
    }
    new.kill9();
    new.start_again();
    let store = PgStore::connect(&new.url()).await.unwrap();
    let outcome = store.commit_outcome(&lost).await.unwrap();
    assert_eq!(outcome, CommitOutcome::Unknown);
    // Of its own timeline it knows all.
    let row = new.client().await.query_one(TOKEN, &[]).await.unwrap();
    let now = u32::try_from(row.get::<_, i64>(2)).unwrap();
    assert_eq!((lost.timeline(), now), (1, 2));
    let told = store.commit_outcome(&lost.on_timeline(now)).await.unwrap();
    assert_eq!(told, CommitOutcome::Committed);
}

/// What a standby has received and not replayed yet is stored, if it is promoted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_behind_does_not_call_it_lost() {
    let cluster = Cluster::set_up(Setup {
        standbys: 1,
        synchronous: Some("on"),
        fsync: false,
        settings: vec![],
    })
    .await;
    let [old, new] = [0, 1].map(|number| cluster.node(number));
    let before = old.client().await;
    new.pause_replay().await;
    let committed = begin(&before).await;
    let stored = "CREATE TABLE kept AS SELECT 1 AS id; COMMIT";
    before.batch_execute(stored).await.unwrap();
    old.kill9();
    let store = PgStore::connect(&new.url()).await.unwrap();
    let outcome = store.commit_outcome(&committed).await.unwrap();
    assert_eq!(outcome, CommitOutcome::Unknown);
    new.resume_replay().await;
    new.promote().await;
    let kept = new.client().await.query("SELECT FROM kept", &[]).await;
    assert_eq!(kept.unwrap().len(), 1);
}

/// The copy of a server that was stopped in order has its statistics too, and gives its numbers out
/// again.
#[tokio::test]
async fn a_copy_that_was_promoted_is_not_the_server_that_was_copied() {
    let mut server = server();
    server.shut_down().unwrap();
    let (data, copy) = (server.data_dir(), server.dir().join("copy"));
    let run = |program: &str, arguments: &[&Path]| {
        let done = Command::new(program).arg("-a").args(arguments).status();
        assert!(done.unwrap().success());
    };
    run("cp", &[&data, &copy]);
    server.start_again().unwrap();
    let before = client(&server).await;
    let lost = begin(&before).await;
    before
        .batch_execute("CREATE TABLE kept (); COMMIT")
        .await
        .unwrap();
    assert_eq!(outcome(&server, &lost).await, CommitOutcome::Committed);
    drop(before);
    server.shut_down().unwrap();

    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    // Of the same owner as the rest.
    run(
        "cp",
        &[&data.join("PG_VERSION"), &data.join("standby.signal")],
    );
    server.start_again().unwrap();
    let copied = client(&server).await;
    let promoted = copied.query_one("SELECT pg_promote()", &[]).await.unwrap();
    assert!(promoted.get::<_, bool>(0));
    use_up(&server, &lost).await;
    let row = copied.query_one(TOKEN, &[]).await.unwrap();
    let (era, timeline): (i64, i64) = (row.get(1), row.get(2));
    assert_eq!((lost.timeline(), timeline), (1, 2));
    let version = "SELECT current_setting('server_version_num')::int";
    let version: i32 = copied.query_one(version, &[]).await.unwrap().get(0);
    // Older ones throw the statistics away.
    assert_eq!(era == lost.era(), version >= 150_000);
    assert_eq!(outcome(&server, &lost).await, CommitOutcome::Unknown);
}

/// The server calls a commit done when it is told not to wait for a standby any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_waits_for_a_standby_is_not_called_done_by_a_close() {
    let cluster = Cluster::set_up(Setup {
        standbys: 1,
        synchronous: Some("on"),
        fsync: false,
        settings: vec![],
    })
    .await;
    let [primary, standby] = [0, 1].map(|number| cluster.node(number));
    let setting = PgStore::connect(&primary.url()).await.unwrap();
    setting.migrate().await.unwrap();
    setting.close().await;
    let look = primary.client().await;
    for transaction in [true, false] {
        let store = PgStore::builder(&primary.url()).unwrap();
        let store = store.call_timeout(Duration::from_secs(60));
        let store = store.batching(Batching::Off).build().await.unwrap();
        let new = NewUser::new(format!("Ada {transaction}")).unwrap();
        let tx = store.begin(TxOptions::new()).await.unwrap();
        tx.users().register(&new).await.unwrap();
        standby.stop_process();
        let other = store.clone();
        let waiting = tokio::spawn(async move {
            match transaction {
                true => tx.commit().await,
                false => {
                    tx.rollback().await.unwrap();
                    other.users().register(&new).await.map(drop)
                }
            }
        });
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let started = Instant::now();
        while look.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            assert!(started.elapsed() < Duration::from_secs(20), "nobody waits");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(store.close().within(Duration::ZERO).await, 1);
        let answer = waiting.await.unwrap();
        assert!(answer.unwrap_err().is_outcome_unknown());
        standby.resume();
    }
}

/// A server that was left behind by a failover gives the same numbers out.
#[tokio::test]
async fn a_server_of_an_older_timeline_does_not_know() {
    let server = server();
    let client = client(&server).await;
    let aborted = begin(&client).await;
    client.batch_execute("ROLLBACK").await.unwrap();
    let of_this_one = aborted.clone().on_timeline(1);
    assert_eq!(
        outcome(&server, &of_this_one).await,
        CommitOutcome::RolledBack
    );
    let of_the_next = aborted.on_timeline(2);
    assert_eq!(outcome(&server, &of_the_next).await, CommitOutcome::Unknown);
}
