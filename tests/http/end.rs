//! The end of the service, while it is busy.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::client::Client;
use super::service::Service;
use super::support::{Database, with_database};

/// What became of the requests of one client. Each is in one of the four.
#[derive(Debug, Default)]
struct Counts {
    /// A whole answer, with the status that it should have.
    answered: usize,
    /// Purchases among them.
    bought: usize,
    /// Not a byte of an answer, to a request that was not sent to its end before the signal. The
    /// connection may have been closed while it was under way.
    too_late: usize,
    /// Not a byte of an answer, to a request that was sent before the signal.
    lost: usize,
    /// A part of an answer, or another status.
    broken: usize,
}

/// Reads and buys, one after the other, until nobody takes connections.
async fn work(service: SocketAddr, signal: watch::Receiver<Option<Instant>>) -> Counts {
    let mut counts = Counts::default();
    let mut kept: Option<Client> = None;
    for number in 0.. {
        let mut client = match kept.take() {
            Some(client) => client,
            None => match Client::connect(service).await {
                Ok(client) => client,
                Err(_) => break,
            },
        };
        let buys = number % 2 == 0;
        let sent = match buys {
            true => {
                let car = json!({"model": "Golf"});
                client.send("POST /users/1/cars", Some(car)).await
            }
            false => client.send("GET /users/Ada", None).await,
        };
        let at = Instant::now();
        let in_time = || sent.is_ok() && signal.borrow().is_none_or(|signal| at < signal);
        match client.receive().await {
            Ok(answer) if answer.status == if buys { 201 } else { 200 } => {
                counts.answered += 1;
                counts.bought += usize::from(buys);
                if answer.header("connection") != Some("close") {
                    kept = Some(client);
                }
            }
            Err(broken) if broken.received == 0 && in_time() => counts.lost += 1,
            Err(broken) if broken.received == 0 => counts.too_late += 1,
            _ => counts.broken += 1,
        }
    }
    counts
}

/// Waits until nobody but the caller is connected to the database.
async fn alone(database: &Database) {
    let client = database.client().await;
    let sql = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let started = Instant::now();
    while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "connections are left"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_it_ends_without_a_broken_answer() {
    with_database(async |database| {
        let service = Service::on(&database.url, &["--drain", "300"]);
        let mut client = service.client().await;
        client.post("/users", json!({"username": "Ada"})).await;
        let (tell, told) = watch::channel(None);
        let clients: Vec<_> = (0..32)
            .map(|_| tokio::spawn(work(service.address, told.clone())))
            .collect();
        // All of them are at work.
        let direct = database.client().await;
        let cars = "SELECT count(*) FROM cars";
        while direct.query_one(cars, &[]).await.unwrap().get::<_, i64>(0) < 500 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tell.send_replace(Some(Instant::now()));
        service.terminate();
        let mut all = Counts::default();
        for client in clients {
            let counts = client.await.unwrap();
            all.answered += counts.answered;
            all.bought += counts.bought;
            all.too_late += counts.too_late;
            all.lost += counts.lost;
            all.broken += counts.broken;
        }
        let ended = service.ended().await;
        println!("{all:?}");
        assert_eq!((all.lost, all.broken), (0, 0), "{all:?}");
        assert!(all.answered > 1000, "{all:?}");
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        let stored: i64 = direct.query_one(cars, &[]).await.unwrap().get(0);
        let stored = usize::try_from(stored).unwrap();
        let known = all.bought..=all.bought + all.too_late;
        assert!(known.contains(&stored), "{stored}, {all:?}");
        drop(direct);
        alone(&database).await;
    })
    .await;
}

#[tokio::test]
async fn requests_that_run_are_finished_and_the_drain_is_announced() {
    with_database(async |database| {
        let service = Service::on(&database.url, &["--drain", "200"]);
        let (mut idle, mut busy) = (service.client().await, service.client().await);
        let mut reading = service.client().await;
        idle.post("/users", json!({"username": "Ada"})).await;
        // Both wait for a lock, for as long as the test likes, and have more to ask for after that.
        let mut direct = database.client().await;
        let lock = direct.transaction().await.unwrap();
        let sql = "SELECT FROM users WHERE id = 1 FOR UPDATE";
        lock.execute(sql, &[]).await.unwrap();
        let sql = "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE";
        lock.execute(sql, &[]).await.unwrap();
        reading.send("GET /users/1/cars", None).await.unwrap();
        let change = json!({"role": "student"});
        busy.send("PATCH /users/1", Some(change)).await.unwrap();
        let waits = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        // From outside the transaction, which would go on seeing what it saw first.
        let watcher = database.client().await;
        while watcher
            .query_one(waits, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            < 2
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }

        service.terminate();
        let started = Instant::now();
        let ready = loop {
            let answer = service.client().await.get("/readyz").await;
            if answer.status != 200 {
                break answer;
            }
        };
        ready.problem(503);
        assert_eq!(ready.header("connection"), Some("close"));
        // Others are served until the drain is over, and told to go.
        let ada = idle.get("/users/Ada").await;
        ada.expect(200);
        assert_eq!(ada.header("connection"), Some("close"));
        while TcpStream::connect(service.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(started.elapsed() >= Duration::from_millis(200));
        lock.commit().await.unwrap();
        let changed = busy.receive().await.unwrap();
        assert_eq!(changed.expect(200)["role"], "student");
        let cars = reading.receive().await.unwrap();
        assert_eq!(cars.expect(200), json!([]));
        let ended = service.ended().await;
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        drop((direct, watcher));
        alone(&database).await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_never_completes_its_request_keeps_nobody() {
    let arguments = ["--drain", "0", "--call-timeout", "100"];
    let service = Service::in_memory(&arguments);
    let mut stuck = service.client().await;
    stuck.send_raw("GET /users/Ada HT").await.unwrap();
    // It has been read, as far as it goes, when another one is answered.
    service.client().await.get("/healthz").await;
    let started = Instant::now();
    let ended = service.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(ended.log.contains("not all connections ended"), "{ended:?}");
}
