//! Many requests at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::Barrier;

use super::client::{Answer, Client};
use super::service::{Service, allow_many_files};
use super::support::with_database;

/// Sends all of them, each on a connection of its own, before anybody looks for an answer.
async fn at_once(service: &Service, requests: Vec<(String, String, Value)>) -> Vec<Answer> {
    let sent = Arc::new(Barrier::new(requests.len()));
    let one = |(what, head, body): (String, String, Value)| {
        let (sent, address) = (Arc::clone(&sent), service.address);
        tokio::spawn(async move {
            let mut client = Client::connect(address).await.unwrap();
            sent.wait().await;
            let body = (!body.is_null()).then(|| body.to_string());
            client.send_with(&what, &head, body).await.unwrap();
            sent.wait().await;
            client.receive().await.unwrap()
        })
    };
    let answers = join_all(requests.into_iter().map(one)).await;
    answers.into_iter().map(Result::unwrap).collect()
}

#[tokio::test]
async fn one_key_from_thirty_two_at_once_is_one_car() {
    with_database(async |database| {
        let service = Service::on(&database.url, &["--drain", "0"]);
        let mut client = service.client().await;
        client.post("/users", json!({"username": "Ada"})).await;
        for key in ["67e55044-10b1-426f-9247-bb680e5fe0c8", "order 7"] {
            let head = format!("Idempotency-Key: {key}\r\n");
            let purchase = ("POST /users/1/cars".into(), head, json!({"model": "Golf"}));
            let answers = at_once(&service, vec![purchase; 32]).await;
            let car = answers[0].expect(201);
            assert!(answers.iter().all(|answer| answer.expect(201) == car));
            client.buy(1, "Mini", key).await.problem(422);
        }
        let sql = "SELECT count(*), count(DISTINCT purchase_key) FROM cars";
        let row = database.client().await.query_one(sql, &[]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (2, 2));
        service.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_thousand_requests_at_once_are_all_answered() {
    allow_many_files();
    with_database(async |database| {
        let service = Service::on(&database.url, &["--drain", "0"]);
        let mut client = service.client().await;
        for number in 0..50 {
            let user = json!({"username": format!("user {number}")});
            assert_eq!(
                client.post("/users", user).await.expect(201)["id"],
                number + 1
            );
        }
        let request = |number: usize| {
            let (id, kind) = (number / 5 % 50 + 1, number % 5);
            let (what, body) = match kind {
                0 => (format!("GET /users/user%20{}", id - 1), Value::Null),
                1 => (
                    "POST /users".into(),
                    json!({"username": format!("new {number}")}),
                ),
                2 => (
                    "POST /users".into(),
                    json!({"username": format!("user {}", id - 1)}),
                ),
                3 => (
                    format!("POST /users/{id}/cars"),
                    json!({"model": format!("car {number}")}),
                ),
                _ => (format!("GET /users/nobody%20{number}"), Value::Null),
            };
            (what, String::new(), body)
        };
        let answers = at_once(&service, (0..1000).map(request).collect()).await;
        let mut counts = BTreeMap::new();
        let (mut users, mut cars) = (BTreeSet::new(), BTreeSet::new());
        for (number, answer) in answers.iter().enumerate() {
            let (id, kind) = (number / 5 % 50 + 1, number % 5);
            *counts.entry((kind, answer.status)).or_insert(0) += 1;
            let body = answer.json();
            match kind {
                0 | 2 => {
                    assert_eq!(body["id"], id);
                    assert_eq!(body["username"], format!("user {}", id - 1));
                }
                1 => {
                    assert_eq!(body["username"], format!("new {number}"));
                    assert!(users.insert(body["id"].as_i64()), "{body}");
                }
                3 => {
                    assert_eq!(body["owner"], id);
                    assert_eq!(body["model"], format!("car {number}"));
                    assert!(cars.insert(body["id"].as_i64()), "{body}");
                }
                _ => drop(answer.problem(404)),
            }
        }
        let expected = [(0, 200), (1, 201), (2, 200), (3, 201), (4, 404)];
        assert_eq!(counts, expected.map(|kind| (kind, 200)).into());
        let sql = "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM cars)";
        let row = database.client().await.query_one(sql, &[]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (250, 200));
        service.stop().await;
    })
    .await;
}
