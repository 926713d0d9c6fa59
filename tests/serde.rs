//! The JSON of the model (feature `serde`), which hosts and their clients rely on.
#![cfg(feature = "serde")]
#![allow(clippy::expect_used, reason = "these are tests")]

use std::fmt::Debug;

use chrono::NaiveDate;
use motorpool::{Car, CarId, Page, PurchaseKey, Registration, Role, User, UserId};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn is<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T, json: &str) {
    assert_eq!(serde_json::to_string(&value).expect("writes"), json);
    assert_eq!(serde_json::from_str::<T>(json).expect("reads"), value);
}

fn ada() -> User {
    User {
        id: UserId::new(1),
        username: "Ada".into(),
        created_at: NaiveDate::from_ymd_opt(2026, 1, 1).expect("a date"),
        role: Role::Student,
    }
}

const ADA: &str = r#"{"id":1,"username":"Ada","created_at":"2026-01-01","role":"student"}"#;

#[test]
fn the_model_as_json() {
    is(ada(), ADA);
    let car = Car {
        id: CarId::new(1),
        model: "Golf".into(),
        owner_id: UserId::new(7),
    };
    is(car, r#"{"id":1,"model":"Golf","owner":7}"#);
    is(
        Registration::Created(ada()),
        &format!(r#"{{"created":{ADA}}}"#),
    );
    is(
        Registration::Existing(ada()),
        &format!(r#"{{"existing":{ADA}}}"#),
    );
    is(UserId::new(i64::MIN), "-9223372036854775808");
    is(
        Page {
            items: vec![ada()],
            next: Some(UserId::new(1)),
        },
        &format!(r#"{{"items":[{ADA}],"next":1}}"#),
    );
    let key = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    is(
        key.parse::<PurchaseKey>().expect("a key"),
        &format!("\"{key}\""),
    );
    for role in Role::ALL {
        is(role, &format!("\"{role}\""));
    }
}
