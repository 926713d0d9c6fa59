//! The service while its database is away, silent or not as it should be.

use std::time::{Duration, Instant};

use motorpool::PgStore;
use serde_json::json;

use super::client::{Answer, Client};
use super::service::Service;
use super::support::server::{Options, Server};
use super::support::with_empty_database;

/// Asks until the answer has this status.
async fn wait_for(client: &mut Client, path: &str, status: u16) -> Answer {
    let started = Instant::now();
    loop {
        let answer = client.get(path).await;
        if answer.status == status {
            return answer;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{answer:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Every route that needs the database, on a user who is there.
async fn every_call(client: &mut Client) -> Vec<Answer> {
    let mut answers = Vec::new();
    for (what, body) in [
        ("GET /users/Ada", None),
        ("GET /users", None),
        ("GET /users/1/cars", None),
        ("POST /users", Some(json!({"username": "Ada"}))),
        ("PATCH /users/1", Some(json!({"role": "student"}))),
        ("POST /users/1/cars", Some(json!({"model": "Golf"}))),
        ("DELETE /users/7", None),
    ] {
        answers.push(client.request(what, body).await);
    }
    answers
}

#[tokio::test]
async fn a_database_that_goes_away_and_comes_back() {
    let mut server = Server::start(Options::default()).unwrap();
    let url = server.url("postgres");
    let store = PgStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    store.close().await;
    let service = Service::on(&url, &["--drain", "0", "--call-timeout", "400"]);
    let mut client = service.client().await;
    let ada = client.post("/users", json!({"username": "Ada"})).await;
    let ada = ada.expect(201);
    wait_for(&mut client, "/readyz", 200).await;

    server.kill().unwrap();
    let ready = client.get("/readyz").await;
    ready.problem(503);
    // The first ones may have found a connection that broke under them.
    for answer in every_call(&mut client).await {
        answer.problem(503);
    }
    for answer in every_call(&mut client).await {
        answer.problem(503);
        assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
    }
    assert_eq!(client.get("/healthz").await.status, 200);

    server.start_again().unwrap();
    wait_for(&mut client, "/readyz", 200).await;
    assert_eq!(client.get("/users/Ada").await.expect(200), ada);

    // Every connection that is idle now falls silent.
    server.pause().unwrap();
    let started = Instant::now();
    client.get("/users/Ada").await.problem(504);
    // By now there may be none left, and no new one comes about.
    let car = client.post("/users/1/cars", json!({"model": "Golf"})).await;
    car.problem(if car.status == 504 { 504 } else { 503 });
    assert!(started.elapsed() < Duration::from_secs(2));
    client.get("/readyz").await.problem(503);
    assert_eq!(client.get("/healthz").await.status, 200);

    server.resume().unwrap();
    wait_for(&mut client, "/readyz", 200).await;
    assert_eq!(client.get("/users/Ada").await.expect(200), ada);
    let log = service.stop().await.log;
    assert!(log.contains("a call failed"), "{log}");
    assert!(!log.contains(server.password()), "{log}");
    assert!(!log.contains("Ada") && !log.contains("Golf"), "{log}");
}

#[tokio::test]
async fn it_is_ready_once_the_schema_is_at_least_current() {
    with_empty_database(async |database| {
        let service = Service::on(&database.url, &["--drain", "0"]);
        let mut client = service.client().await;
        client.get("/readyz").await.problem(503);
        client.get("/users/Ada").await.problem(500);
        assert_eq!(client.get("/healthz").await.status, 200);

        let store = PgStore::connect(&database.url).await.unwrap();
        store.migrate().await.unwrap();
        let ready = client.get("/readyz").await;
        assert_eq!((ready.status, &ready.body[..]), (200, &b"ready"[..]));
        client.get("/users/Ada").await.problem(404);

        let direct = database.client().await;
        let later = "INSERT INTO motorpool_schema_history VALUES \
            (99, 'later', '2030-01-01T00:00:00Z', '1')";
        direct.batch_execute(later).await.unwrap();
        assert_eq!(client.get("/readyz").await.status, 200);
        let changed = "UPDATE motorpool_schema_history SET checksum = '1' WHERE version = 2";
        direct.batch_execute(changed).await.unwrap();
        client.get("/readyz").await.problem(503);
        service.stop().await;
    })
    .await;
}
