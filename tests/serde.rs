//! The JSON of the model (feature `serde`), which hosts and their clients rely on.
#![cfg(feature = "serde")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use chrono::{NaiveDate, Utc};
use motorpool::{Car, CarId, NewCar, NewUser, Page, PurchaseKey, Registration, Role, User, UserId};
use serde::de::value::Error as ValueError;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::{Serialize, forward_to_deserialize_any};
use serde_json::{from_str, from_value, json, to_string, to_value};

fn is<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T, json: &str) {
    assert_eq!(to_string(&value).unwrap(), json);
    assert_eq!(from_str::<T>(json).unwrap(), value);
    let tree = to_value(&value).unwrap();
    assert_eq!(from_value::<T>(tree).unwrap(), value);
}

/// Why this JSON is refused, without the place in it.
fn refused<T: DeserializeOwned + Debug>(json: &str) -> String {
    let why = from_str::<T>(json).expect_err(json).to_string();
    let (why, _) = why.split_once(" at line").unwrap_or((&why, ""));
    why.to_owned()
}

fn day(year: i32, month: u32, day: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(year, month, day).unwrap()
}

fn ada() -> User {
    User {
        id: UserId::new(1),
        username: "Ada".into(),
        created_at: day(2026, 1, 1),
        role: Role::Student,
    }
}

fn golf() -> Car {
    Car {
        id: CarId::new(1),
        model: "Golf".into(),
        owner_id: UserId::new(7),
    }
}

fn key() -> PurchaseKey {
    KEY.parse().unwrap()
}

const KEY: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";
const ADA: &str = r#"{"id":1,"username":"Ada","created_at":"2026-01-01","role":"student"}"#;
const GOLF: &str = r#"{"id":1,"model":"Golf","owner":7}"#;

#[test]
fn the_model_as_json() {
    is(ada(), ADA);
    is(golf(), GOLF);
    is(
        Registration::Created(ada()),
        &format!(r#"{{"created":{ADA}}}"#),
    );
    is(
        Registration::Existing(ada()),
        &format!(r#"{{"existing":{ADA}}}"#),
    );
    let next = Some(UserId::new(1));
    is(
        Page {
            items: vec![ada()],
            next,
        },
        &format!(r#"{{"items":[{ADA}],"next":1}}"#),
    );
    is(
        Page::<_, CarId> {
            items: vec![golf()],
            next: None,
        },
        &format!(r#"{{"items":[{GOLF}],"next":null}}"#),
    );
    is(key(), &format!("\"{KEY}\""));
    for role in Role::ALL {
        is(role, &format!("\"{role}\""));
    }
}

#[test]
fn what_is_stored_comes_back_whatever_it_is() {
    let names = [
        "",
        " ",
        "\0",
        "'\"\\",
        "🚗",
        "\u{202e}nnA",
        &"a".repeat(999),
    ];
    let dates = [
        NaiveDate::MIN,
        day(-4713, 11, 24),
        day(0, 1, 1),
        NaiveDate::MAX,
    ];
    for (name, created_at) in names.iter().zip(dates.iter().cycle()) {
        let user = User {
            username: (*name).into(),
            created_at: *created_at,
            ..ada()
        };
        assert_eq!(from_str::<User>(&to_string(&user).unwrap()).unwrap(), user);
        let model = (*name).into();
        let car = Car { model, ..golf() };
        assert_eq!(from_str::<Car>(&to_string(&car).unwrap()).unwrap(), car);
    }
}

#[test]
fn input_as_json() {
    let new = NewUser::new("Ada").unwrap().created_at(day(2026, 1, 1));
    is(
        new.role(Role::Teacher),
        r#"{"username":"Ada","created_at":"2026-01-01","role":"teacher"}"#,
    );
    let golf = NewCar::new("Golf", UserId::new(7)).unwrap();
    is(
        golf.clone(),
        r#"{"model":"Golf","owner":7,"purchase_key":null}"#,
    );
    is(
        golf.clone().key(key()),
        &format!(r#"{{"model":"Golf","owner":7,"purchase_key":"{KEY}"}}"#),
    );
    assert_eq!(
        from_str::<NewCar>(r#"{"owner":7,"model":"Golf"}"#).unwrap(),
        golf
    );

    let before = Utc::now().date_naive();
    let ada = from_str::<NewUser>(r#"{"username":"Ada"}"#).unwrap();
    let ada = ada.with_id(UserId::new(1));
    assert_eq!((ada.username.as_str(), ada.role), ("Ada", Role::Employee));
    assert!((before..=Utc::now().date_naive()).contains(&ada.created_at));
}

#[test]
fn input_is_checked_when_it_is_read() {
    let user = |name: &str| refused::<NewUser>(&json!({ "username": name }).to_string());
    let car = |name: &str| refused::<NewCar>(&json!({ "model": name, "owner": 7 }).to_string());
    assert_eq!(user(""), "the username is empty");
    assert_eq!(car(""), "the model is empty");
    let long = "secret".repeat(50);
    let why = "the username has 300 characters, more than 255";
    assert_eq!(user(&long), why);
    let why = "the model has a control character at position 6";
    assert_eq!(car("secret\0"), why);
    let why = "the username begins or ends with white space";
    assert_eq!(user(" secret"), why);
    let early = r#"{"username":"secret","created_at":"-4713-11-23"}"#;
    let why = "the date is before the first one that can be stored";
    assert_eq!(refused::<NewUser>(early), why);
}

#[test]
fn input_of_another_form_is_refused() {
    let user = refused::<NewUser>;
    let car = refused::<NewCar>;
    assert_eq!(user("{}"), "missing field `username`");
    assert_eq!(car(r#"{"model":"Golf"}"#), "missing field `owner`");
    let why = user(r#"{"username":"Ada","rôle":"student"}"#);
    let named = "unknown field `rôle`, expected one of `username`, `created_at`, `role`";
    assert_eq!(why, named);
    let why = user(r#"{"username":"Ada","username":"Ada"}"#);
    assert_eq!(why, "duplicate field `username`");
    for wrong in ["12345", "-12345", "6.5", "true", "null", r#""Ada""#] {
        assert!(user(wrong).ends_with("expected a new user with its fields"));
        assert!(car(wrong).ends_with("expected a new car with its fields"));
    }
    for wrong in ["12345", "6.5", "true", "null", "[]", "{}"] {
        for field in ["username", "created_at", "role"] {
            let mut new = json!({ "username": "Ada" });
            new[field] = from_str(wrong).unwrap();
            user(&new.to_string());
        }
        let owned = |model: &str, key: &str| {
            format!(r#"{{"model":{model},"owner":7,"purchase_key":{key}}}"#)
        };
        car(&owned(wrong, "null"));
        if wrong != "null" {
            car(&owned(r#""Golf""#, wrong));
        }
    }
}

#[test]
fn a_text_that_cannot_be_read_is_not_repeated() {
    for wrong in ["secret", "12345-01-01", "67e55044secret", ""] {
        let why = refused::<Role>(&json!(wrong).to_string());
        assert_eq!(why, "a role is student, teacher or employee");
        let why = refused::<PurchaseKey>(&json!(wrong).to_string());
        assert_eq!(why, "a purchase key is a UUID");
        let why = refused::<NewUser>(&json!({"username": "Ada", "role": wrong}).to_string());
        assert_eq!(why, "a role is student, teacher or employee");
        let why = refused::<NewUser>(&json!({"username": "Ada", "created_at": wrong}).to_string());
        assert!(wrong.is_empty() || !why.contains(wrong), "{why}");
    }
}

#[test]
fn what_is_stored_is_refused_in_another_form() {
    for (field, wrong) in [
        ("id", json!("secret")),
        ("id", json!(6.5)),
        ("username", json!(12345)),
        ("created_at", json!("secret")),
        ("created_at", json!(12345)),
        ("role", json!("secret")),
    ] {
        let mut user: serde_json::Value = from_str(ADA).unwrap();
        user[field] = wrong;
        refused::<User>(&user.to_string());
        user.as_object_mut().unwrap().remove(field);
        let why = refused::<User>(&user.to_string());
        assert_eq!(why, format!("missing field `{field}`"));
    }
    for (field, wrong) in [("model", json!(12345)), ("owner", json!("secret"))] {
        let mut car: serde_json::Value = from_str(GOLF).unwrap();
        car[field] = wrong;
        refused::<Car>(&car.to_string());
    }
    // What a newer version may add is passed over.
    let newer = ADA.replace("{", r#"{"email":"ada@example.org","#);
    assert_eq!(from_str::<User>(&newer).unwrap(), ada());
}

#[test]
fn ids_are_numbers() {
    for number in [i64::MIN, -1, 0, 1, i64::MAX] {
        is(UserId::new(number), &number.to_string());
        is(CarId::new(number), &number.to_string());
        let text = number.to_string();
        assert_eq!(text.parse(), Ok(UserId::new(number)));
        assert_eq!(UserId::new(number).to_string(), text);
    }
    for wrong in [
        "9223372036854775808",
        "-9223372036854775809",
        "12345678901234567890123",
        "6.5",
        "1.0",
        "1e3",
        "true",
        r#""12345""#,
        r#""secret""#,
        "null",
        "[]",
        "{}",
    ] {
        refused::<UserId>(wrong);
        refused::<CarId>(wrong);
    }
    for wrong in ["", " 1", "1.0", "9223372036854775808", "secret"] {
        let why = wrong.parse::<CarId>().unwrap_err().to_string();
        assert_eq!(why, "an id is a 64-bit number");
    }
}

#[test]
fn ids_are_keys_of_maps() {
    let owned = BTreeMap::from([
        (UserId::new(-1), vec![]),
        (UserId::new(7), vec![golf()]),
        (UserId::new(i64::MAX), vec![]),
    ]);
    let json = format!(r#"{{"-1":[],"7":[{GOLF}],"{}":[]}}"#, i64::MAX);
    is(owned, &json);
    is(HashMap::from([(CarId::new(7), 1)]), r#"{"7":1}"#);
    is(BTreeMap::from([(key(), 1)]), &format!(r#"{{"{KEY}":1}}"#));
    is(BTreeMap::from([(Role::Teacher, 1)]), r#"{"teacher":1}"#);
    for wrong in [
        r#"{"secret":1}"#,
        r#"{"6.5":1}"#,
        r#"{"9223372036854775808":1}"#,
    ] {
        refused::<HashMap<CarId, u8>>(wrong);
        refused::<BTreeMap<UserId, u8>>(wrong);
    }
}

/// A part of a path, read as web frameworks read it: a text that becomes a number when one is asked
/// for.
struct Segment<'de>(&'de str);

impl<'de> Deserializer<'de> for Segment<'de> {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self.0.parse() {
            Ok(number) => visitor.visit_i64(number),
            Err(_) => Err(serde::de::Error::custom("no number")),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[test]
fn ids_are_read_from_a_path() {
    assert_eq!(UserId::deserialize(Segment("7")).unwrap(), UserId::new(7));
    assert_eq!(CarId::deserialize(Segment("-7")).unwrap(), CarId::new(-7));
    assert!(CarId::deserialize(Segment("seven")).is_err());
    assert_eq!(
        Role::deserialize(Segment("teacher")).unwrap(),
        Role::Teacher
    );
    assert_eq!(PurchaseKey::deserialize(Segment(KEY)).unwrap(), key());

    fn id(from: impl IntoDeserializer<'static, ValueError>) -> Result<UserId, ValueError> {
        UserId::deserialize(from.into_deserializer())
    }
    let seven = Ok(UserId::new(7));
    assert_eq!(
        [id(7_i64), id(7_u64), id(7_u8)],
        [seven.clone(), seven.clone(), seven]
    );
    for wrong in [id(u64::MAX), id("7"), id(7.0_f64), id(true)] {
        wrong.unwrap_err();
    }
}
