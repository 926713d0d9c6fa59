//! The service among the examples, over HTTP: as a process, in memory and on Postgres.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "http/client.rs"]
mod client;
#[path = "http/end.rs"]
mod end;
#[path = "http/errors.rs"]
mod errors;
#[path = "http/failing.rs"]
mod failing;
#[path = "http/load.rs"]
mod load;
#[path = "http/outage.rs"]
mod outage;
#[path = "../examples/axum_service.rs"]
#[allow(dead_code, reason = "its `main` is run as a process")]
mod program;
#[path = "http/service.rs"]
mod service;
mod support;

use client::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use service::{Service, program};
use support::with_database;

/// Runs a test on a service with an empty store of each kind.
macro_rules! on_both {
    ($(#[$doc:meta])* $name:ident, $test:expr) => {
        $(#[$doc])*
        mod $name {
            use super::*;

            #[tokio::test]
            async fn in_memory() {
                let service = Service::in_memory(&["--drain", "0"]);
                $test(service.client().await).await;
                service.stop().await;
            }

            #[tokio::test]
            async fn on_postgres() {
                support::with_database(async |database| {
                    let service = Service::on(&database.url, &["--drain", "0"]);
                    $test(service.client().await).await;
                    service.stop().await;
                })
                .await;
            }
        }
    };
}
pub(crate) use on_both;

on_both!(users_are_registered_found_changed_and_deleted, users);

async fn users(mut client: Client) {
    let teacher = json!({"username": "Ada", "role": "teacher"});
    let ada = client.post("/users", teacher).await.expect(201);
    let today = chrono::Utc::now().date_naive();
    let since: chrono::NaiveDate = ada["created_at"].as_str().unwrap().parse().unwrap();
    assert!((today - since).num_days() <= 1);
    let expected = json!({
        "id": ada["id"], "username": "Ada", "created_at": ada["created_at"], "role": "teacher",
    });
    assert_eq!(ada, expected);
    let student = json!({"username": "Ada", "role": "student"});
    assert_eq!(client.post("/users", student).await.expect(200), ada);
    assert_eq!(client.get("/users/Ada").await.expect(200), ada);

    let grace = client.post("/users", json!({"username": "Grace"})).await;
    let grace = grace.expect(201);
    assert_eq!(grace["role"], "employee");
    let path = format!("/users/{}", grace["id"]);
    let change = format!("PATCH {path}");
    for (change_to, username, role) in [
        (json!({}), "Grace", "employee"),
        (json!({"role": "student"}), "Grace", "student"),
        (json!({"username": "Hopper"}), "Hopper", "student"),
        (
            json!({"username": "Grace H.", "role": "teacher"}),
            "Grace H.",
            "teacher",
        ),
        (json!({"username": "Grace H."}), "Grace H.", "teacher"),
    ] {
        let changed = client.request(&change, Some(change_to)).await.expect(200);
        let expected = json!({
            "id": grace["id"], "username": username, "role": role,
            "created_at": grace["created_at"],
        });
        assert_eq!(changed, expected);
    }
    client.get("/users/Grace").await.problem(404);

    let delete = format!("DELETE {path}");
    let deleted = client.request(&delete, None).await;
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    client.request(&delete, None).await.problem(404);
    client.request(&change, Some(json!({}))).await.problem(404);
}

on_both!(names_of_any_kind_are_found_by_their_path, names);

async fn names(mut client: Client) {
    for (name, path) in [
        ("42", "42"),
        ("Ada Lovelace", "Ada%20Lovelace"),
        ("a/b?c#d%20", "a%2Fb%3Fc%23d%2520"),
        ("Zoë 🚗", "Zo%C3%AB%20%F0%9F%9A%97"),
        ("'; DROP TABLE users;--", "'%3B%20DROP%20TABLE%20users%3B--"),
        ("cars", "cars"),
    ] {
        let user = client.post("/users", json!({"username": name})).await;
        let user = user.expect(201);
        assert_eq!(user["username"], name);
        let found = client.get(&format!("/users/{path}")).await;
        assert_eq!(found.expect(200), user);
    }
}

on_both!(pages_give_every_user_once, pages);

async fn pages(mut client: Client) {
    let mut all = Vec::new();
    for number in 0..7 {
        let user = json!({"username": format!("user {number}")});
        all.push(client.post("/users", user).await.expect(201));
    }
    let mut walked = Vec::new();
    let mut next = String::from("/users?limit=3");
    for expected in [3, 3, 1] {
        let page = client.get(&next).await.expect(200);
        let items = page["items"].as_array().unwrap();
        assert_eq!(items.len(), expected);
        walked.extend(items.iter().cloned());
        next = format!("/users?after={}&limit=3", page["next"]);
    }
    assert!(next.contains("after=null"), "{next}");
    assert_eq!(walked, all);
    let whole = client.get("/users").await.expect(200);
    assert_eq!(whole, json!({"items": all, "next": null}));
}

on_both!(cars_are_bought_and_listed, cars);

/// What a client of the original knows of a car.
#[derive(Debug, Deserialize, PartialEq)]
struct FlaskCar {
    model: String,
    owner: i64,
}

async fn cars(mut client: Client) {
    let ada = client.post("/users", json!({"username": "Ada"})).await;
    let owner = ada.expect(201)["id"].as_i64().unwrap();
    let path = format!("/users/{owner}/cars");
    assert_eq!(client.get(&path).await.expect(200), json!([]));
    let mut bought = Vec::new();
    for model in ["Golf", "2CV", "Golf"] {
        let car = client.post(&path, json!({ "model": model })).await;
        let car = car.expect(201);
        let expected = json!({"id": car["id"], "model": model, "owner": owner});
        assert_eq!(car, expected);
        bought.push(car);
    }
    let listed = client.get(&path).await;
    assert_eq!(listed.expect(200), Value::from(bought));
    let known: Vec<FlaskCar> = serde_json::from_slice(&listed.body).unwrap();
    let expected = ["Golf", "2CV", "Golf"].map(|model| FlaskCar {
        model: model.into(),
        owner,
    });
    assert_eq!(known, expected);
    let delete = format!("DELETE /users/{owner}");
    client.request(&delete, None).await.problem(409);
}

on_both!(a_purchase_with_a_key_is_made_once, keys);

async fn keys(mut client: Client) {
    let mut owners = Vec::new();
    for name in ["Ada", "Grace"] {
        let user = client.post("/users", json!({ "username": name })).await;
        owners.push(user.expect(201)["id"].as_i64().unwrap());
    }
    let [ada, grace] = owners[..] else { panic!() };
    let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let golf = client.buy(ada, "Golf", uuid).await.expect(201);
    // In capitals, and as a string of a structured header, it is the same UUID.
    for same in [uuid, &uuid.to_uppercase(), &format!("\"{uuid}\"")] {
        assert_eq!(client.buy(ada, "Golf", same).await.expect(201), golf);
    }
    // Without hyphens it is a text as any other.
    let text = uuid.replace('-', "");
    client.buy(grace, "Golf", &text).await.expect(201);
    // A UUID is one for everybody; any other text is a user's own.
    client.buy(grace, "Golf", uuid).await.problem(422);
    client.buy(ada, "Mini", uuid).await.problem(422);
    let first = client.buy(ada, "Mini", "order 7").await.expect(201);
    let again = client.buy(ada, "Mini", "\"order 7\"").await.expect(201);
    assert_eq!(again, first);
    client.buy(ada, "Golf", "order 7").await.problem(422);
    let other = client.buy(grace, "Mini", "order 7").await.expect(201);
    assert_eq!(other["owner"], grace);
    assert_ne!(other["id"], first["id"]);
    let cars = client.get(&format!("/users/{ada}/cars")).await.expect(200);
    assert_eq!(cars, json!([golf, first]));
}

on_both!(every_answer_has_a_request_id, request_ids);

async fn request_ids(mut client: Client) {
    let mut made = std::collections::BTreeSet::new();
    for path in ["/healthz", "/users/nobody", "/nowhere"] {
        let head = "X-Request-Id: mine-7\r\n";
        let what = format!("GET {path}");
        client.send_with(&what, head, None).await.unwrap();
        let answer = client.receive().await.unwrap();
        assert_eq!(answer.header("x-request-id"), Some("mine-7"));
        let id = client.get(path).await;
        made.insert(id.header("x-request-id").unwrap().to_owned());
    }
    assert_eq!(made.len(), 3);
    assert!(made.iter().all(|id| uuid::Uuid::try_parse(id).is_ok()));
}

#[tokio::test]
async fn the_log_has_ids_and_routes_and_no_names() {
    let service = Service::in_memory(&["--drain", "0"]);
    let mut client = service.client().await;
    let ada = json!({"username": "Ada Lovelace"}).to_string();
    let head = "X-Request-Id: of-the-client\r\n";
    client
        .send_with("POST /users", head, Some(ada))
        .await
        .unwrap();
    client.receive().await.unwrap().expect(201);
    client.get("/users/Ada%20Lovelace").await.expect(200);
    let cars = client.post("/users/1/cars", json!({"model": "Golf"})).await;
    cars.expect(201);
    client.get("/users/Nobody%20Lovelace").await.problem(404);
    let log = service.stop().await.log;
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 4, "{log}");
    assert!(lines[0].contains(r#"id="of-the-client""#), "{log}");
    for (line, route) in lines.iter().zip([
        r#"method=POST route="/users"}"#,
        r#"method=GET route="/users/{user}"}"#,
        r#"method=POST route="/users/{user}/cars"}"#,
        r#"method=GET route="/users/{user}"}"#,
    ]) {
        assert!(line.contains(route), "{log}");
    }
    assert!(!log.contains("Lovelace") && !log.contains("Golf"), "{log}");
}

#[tokio::test]
async fn without_a_store_it_does_not_start() {
    let output = program().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("--url") && words.contains("--memory"));
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn the_rows_are_in_the_database() {
    with_database(async |database| {
        let service = Service::on(&database.url, &["--drain", "0"]);
        let mut client = service.client().await;
        let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        client.post("/users", json!({"username": "Ada"})).await;
        client.buy(1, "Golf", uuid).await.expect(201);
        service.stop().await;
        let sql = "SELECT username || ' ' || model || ' ' || purchase_key \
            FROM users JOIN cars ON owner_id = users.id";
        let rows = database.client().await.query(sql, &[]).await.unwrap();
        let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(rows, [format!("Ada Golf {uuid}")]);
    })
    .await;
}
