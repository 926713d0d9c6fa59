//! What goes wrong, and with which status the client gets to know it.

use std::sync::Arc;
use std::time::Duration;

use motorpool::testing::{Faulty, Operation};
use motorpool::{
    CarId, CommitToken, Error, Failure, InvalidInput, MemoryStore, Source, UnavailableReason,
    UserId,
};
use serde_json::json;
use tokio::net::TcpListener;

use super::client::Client;
use super::failing::Failing;
use super::program::{App, router};
use super::service::Service;
use super::{on_both, support};

on_both!(what_the_client_did_wrong_is_a_problem, wrong);

/// A request, its body, the status, and what the detail says.
type Case = (&'static str, Option<&'static str>, u16, &'static str);

const WRONG: &[Case] = &[
    ("GET /", None, 404, ""),
    ("GET /nowhere", None, 404, ""),
    ("POST /users/1/cars/1", Some("{}"), 404, ""),
    ("PUT /users", Some("{}"), 405, ""),
    ("DELETE /users/1/cars", None, 405, ""),
    ("POST /healthz", None, 405, ""),
    // Paths and queries that mean nothing.
    ("GET /users/%ff", None, 400, "UTF-8"),
    ("GET /users/abc/cars", None, 400, "abc"),
    ("DELETE /users/9223372036854775808", None, 400, ""),
    ("DELETE /users/1.5", None, 400, ""),
    ("PATCH /users/-", Some("{}"), 400, ""),
    ("POST /users/one/cars", Some("{}"), 400, ""),
    ("GET /users?limit=many", None, 400, ""),
    ("GET /users?limit=-1", None, 400, ""),
    ("GET /users?after=Ada", None, 400, ""),
    // Bodies that cannot be read.
    ("POST /users", Some(""), 400, "JSON"),
    ("POST /users", Some("{\"username\""), 400, "JSON"),
    ("PATCH /users/1", Some("{\"role\": }"), 400, "JSON"),
    ("POST /users/1/cars", Some("Golf"), 400, "JSON"),
    // Values that cannot be taken.
    ("POST /users", Some("[]"), 422, ""),
    ("POST /users", Some("{}"), 422, "empty"),
    ("POST /users", Some(r#"{"username": 7}"#), 422, "username"),
    ("POST /users", Some(r#"{"username": ""}"#), 422, "empty"),
    ("POST /users", Some(r#"{"username": " a"}"#), 422, "white"),
    (
        "POST /users",
        Some(r#"{"username": "\u0000"}"#),
        422,
        "control",
    ),
    (
        "POST /users",
        Some(r#"{"username": "a", "role": "king"}"#),
        422,
        "role",
    ),
    ("PATCH /users/1", Some(r#"{"username": ""}"#), 422, "empty"),
    ("PATCH /users/1", Some(r#"{"role": "7"}"#), 422, "role"),
    ("POST /users/1/cars", Some("{}"), 422, "model"),
    ("POST /users/1/cars", Some(r#"{"model": ""}"#), 422, "empty"),
    ("GET /users?limit=0", None, 422, "1 to 1000"),
    ("GET /users?limit=1001", None, 422, "1 to 1000"),
    // What is not there.
    ("GET /users/nobody", None, 404, "no user"),
    ("GET /users/%00", None, 404, "no user"),
    ("PATCH /users/0", Some("{}"), 404, "user 0"),
    (
        "PATCH /users/0",
        Some(r#"{"role": "student"}"#),
        404,
        "user 0",
    ),
    (
        "PATCH /users/-1",
        Some(r#"{"username": "a"}"#),
        404,
        "user -1",
    ),
    (
        "DELETE /users/9223372036854775807",
        None,
        404,
        "9223372036854775807",
    ),
    ("GET /users/0/cars", None, 404, "user 0"),
    (
        "POST /users/0/cars",
        Some(r#"{"model": "Golf"}"#),
        404,
        "user 0",
    ),
];

async fn wrong(mut client: Client) {
    for user in ["Ada", "Grace"] {
        let user = client.post("/users", json!({ "username": user })).await;
        user.expect(201);
    }
    let before = client.get("/users").await.expect(200);
    for (what, body, status, words) in WRONG {
        let body = body.map(String::from);
        client.send_with(what, "", body).await.unwrap();
        let answer = client.receive().await.unwrap();
        println!("{what}");
        let detail = answer.problem(*status);
        assert!(detail.contains(words), "{detail}");
        let allowed = answer.header("allow").is_some();
        assert_eq!(allowed, *status == 405, "{answer:?}");
    }

    // Not said to be JSON.
    let user = json!({"username": "Linus"}).to_string();
    let head = "Content-Type: text/plain\r\n";
    let sent = client.send_with("POST /users", head, Some(user)).await;
    sent.unwrap();
    client.receive().await.unwrap().problem(415);
    // Both changes or neither.
    let change = json!({"username": "Ada", "role": "student"});
    let taken = client.request("PATCH /users/2", Some(change)).await;
    assert!(taken.problem(409).contains("taken"));
    // Keys that are none.
    for key in ["", "\"\"", "schlüssel"] {
        let detail = client.buy(1, "Golf", key).await.problem(400);
        assert!(detail.contains("Idempotency-Key"), "{detail}");
    }
    assert_eq!(client.get("/users").await.expect(200), before);
    let cars = client.get("/users/1/cars").await.expect(200);
    assert_eq!(cars, json!([]));
    // Last, because the connection is closed: nobody reads what is left of such a body.
    let long = json!({"username": "a".repeat(20_000)});
    client.post("/users", long).await.problem(413);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let service = Service::in_memory(&["--drain", "0", "--call-timeout", "100"]);
    let mut client = service.client().await;
    let head = "POST /users HTTP/1.1\r\nHost: test\r\n\
        Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"user";
    client.send_raw(head).await.unwrap();
    client.receive().await.unwrap().problem(408);
    service.stop().await;
}

/// Not the client's fault, so another status.
#[tokio::test]
async fn a_handler_that_takes_too_long_is_not_waited_for() {
    let store = Faulty::new(MemoryStore::new());
    let hanging = store.hang(Operation::GetByUsername, 1);
    let app = App {
        store: Arc::new(store),
        postgres: None,
        call: Duration::from_millis(100),
        ending: Arc::default(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(axum::serve(listener, router(app)).into_future());
    let mut client = Client::connect(address).await.unwrap();
    client.request("GET /users/Ada", None).await.problem(504);
    assert!(hanging.has_struck());
    server.abort();
}

/// What only the log may say.
const SECRET: &str = "relation sesame";

fn failure() -> Failure {
    Failure::new(SECRET).with_sqlstate("42P01")
}

fn source() -> Option<Source> {
    Some(SECRET.into())
}

fn unavailable(reason: UnavailableReason) -> Error {
    Error::Unavailable {
        reason,
        source: source(),
    }
}

/// An error, the status, and whether the client is asked to try again.
type Mapping = (fn() -> Error, u16, bool);

const USER: UserId = UserId::new(7);
const CAR: CarId = CarId::new(8);
const SECOND: Duration = Duration::from_secs(1);

const STATUSES: &[Mapping] = &[
    (|| Error::UserNotFound { id: USER }, 404, false),
    (|| Error::CarNotFound { id: CAR }, 404, false),
    (
        || Error::UnknownOwner {
            owner: USER,
            index: None,
        },
        404,
        false,
    ),
    (|| Error::UsernameTaken, 409, false),
    (|| Error::UserOwnsCars { id: USER }, 409, false),
    (
        || Error::NotOwner {
            car: CAR,
            from: USER,
        },
        409,
        false,
    ),
    (|| Error::PurchaseKeyReused { index: None }, 422, false),
    (|| Error::Invalid(InvalidInput::Role), 422, false),
    (
        || Error::Conflict(Failure::new(SECRET).with_sqlstate("40001")),
        503,
        true,
    ),
    (
        || Error::RolledBack(Failure::new(SECRET).with_sqlstate("40P01")),
        503,
        true,
    ),
    (|| Error::PoolExhausted { waited: SECOND }, 503, true),
    (|| unavailable(UnavailableReason::Refused), 503, true),
    (|| unavailable(UnavailableReason::NotAccepting), 503, true),
    (
        || unavailable(UnavailableReason::ConnectionLost),
        503,
        false,
    ),
    (
        || unavailable(UnavailableReason::Authentication),
        503,
        false,
    ),
    (|| Error::Timeout { after: SECOND }, 504, false),
    (|| Error::RolledBack(failure()), 500, false),
    (
        || Error::CommitUnknown {
            token: CommitToken::new(7, 8),
        },
        504,
        false,
    ),
    (|| Error::TransactionClosed, 500, false),
    (
        || Error::Decode {
            table: "users",
            column: "role",
            key: Some(7),
            source: source(),
        },
        500,
        false,
    ),
    (
        || Error::Migration {
            reason: SECRET.into(),
            source: source(),
        },
        500,
        false,
    ),
    (
        || Error::Config {
            reason: SECRET.into(),
        },
        500,
        false,
    ),
    (|| Error::Database(failure()), 500, false),
];

#[tokio::test]
async fn every_error_has_its_status_and_tells_nothing_of_the_inside() {
    for (error, status, again) in STATUSES {
        let app = App {
            store: Arc::new(Failing(*error)),
            postgres: None,
            call: SECOND,
            ending: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(axum::serve(listener, router(app)).into_future());
        let mut client = Client::connect(address).await.unwrap();
        for (what, body) in [
            ("GET /users/Ada", None),
            ("GET /users", None),
            ("POST /users", Some(json!({"username": "Ada"}))),
            ("PATCH /users/7", Some(json!({}))),
            ("DELETE /users/7", None),
            ("GET /users/7/cars", None),
            ("POST /users/7/cars", Some(json!({"model": "Golf"}))),
        ] {
            let answer = client.request(what, body).await;
            let detail = answer.problem(*status);
            let kind = format!("urn:motorpool:{}", error().kind());
            assert_eq!(answer.json()["type"], kind, "{answer:?}");
            let expected = again.then_some("1");
            assert_eq!(answer.header("retry-after"), expected, "{answer:?}");
            match status {
                500.. => assert!(!detail.contains(SECRET), "{detail}"),
                _ => assert_eq!(detail, error().to_string()),
            }
        }
        server.abort();
    }
}
