//! What may be stored comes back byte for byte; what may not is refused before any I/O.

use chrono::NaiveDate;

use super::given::{car, everything, new_car, new_user, user};
use crate::error::Error;
use crate::model::{Field, InvalidInput, NewCar, NewUser, PurchaseKey, User};
use crate::store::Store;

/// Text that means something to a parser, a pattern, an array or a terminal on the way.
fn hostile() -> Vec<String> {
    let short = [
        "'",
        "''",
        "\"",
        "`",
        "O'Brien \"Bob\"",
        "$1",
        "$$",
        "?",
        ":name",
        "{}",
        "\\",
        "\\'",
        "\\N",
        "\\x00",
        "E'\\n'",
        "%",
        "%s",
        "_",
        "a%_b",
        "NULL",
        "{a,b}",
        "{\"a\",NULL}",
        "(1,2)",
        "--",
        "/*",
        ";",
        "'; DROP TABLE users;--",
        "<script>alert(1)</script>",
        "a b",
        "🚗",
        "👩‍👩‍👧‍👦",
        "שלום עולם",
        "\u{202e}nnA\u{202c}",
        "\u{200b}",
        "\u{feff}bom",
        "\u{301}",
        "\u{fffd}",
        "\u{10ffff}",
        "Ł",
        "日本語",
    ];
    let long = ["a", "é", "日", "🚗"].map(|c| c.repeat(255));
    short.map(str::to_owned).into_iter().chain(long).collect()
}

pub async fn hostile_usernames_are_stored_byte_for_byte(store: &dyn Store) {
    for name in hostile() {
        let stored = user(store.users(), &name).await;
        assert_eq!(stored.username, name);
        let by_id = store.users().get(stored.id).await.unwrap();
        assert_eq!(by_id.as_ref(), Some(&stored));
        let by_name = store.users().get_by_username(&name).await.unwrap();
        assert_eq!(by_name.as_ref(), Some(&stored));
        let again = store.users().register(&new_user(&name)).await.unwrap();
        assert_eq!((again.is_created(), again.into_user()), (false, stored));
    }
    let count = store.users().count().await.unwrap();
    assert_eq!(count, hostile().len() as u64);
}

pub async fn hostile_usernames_go_through_rename_byte_for_byte(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    for name in hostile() {
        let renamed = store.users().rename(anna.id, &name).await.unwrap();
        assert_eq!(renamed.username, name);
        assert_eq!(store.users().get(anna.id).await.unwrap(), Some(renamed));
    }
}

pub async fn hostile_models_are_stored_byte_for_byte(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    for (model, number) in hostile().into_iter().zip(0..) {
        let bought = car(store.cars(), &model, anna.id).await;
        assert_eq!(bought.model, model);
        assert_eq!(store.cars().get(bought.id).await.unwrap(), Some(bought));
        let key = PurchaseKey::new(uuid::Uuid::from_u128(number));
        let new = new_car(&model, anna.id).key(key);
        let with_key = store.cars().buy(&new).await.unwrap();
        assert_eq!(store.cars().buy(&new).await.unwrap(), with_key);
    }
    let count = store.cars().count().await.unwrap();
    assert_eq!(count, 2 * hostile().len() as u64);
}

pub async fn hostile_text_goes_through_many_byte_for_byte(store: &dyn Store) {
    let new: Vec<_> = hostile().into_iter().map(new_user).collect();
    let answers = store.users().register_many(&new).await.unwrap();
    assert!(answers.iter().all(|answer| answer.is_created()));
    let names = answers.iter().map(|answer| answer.user().username.clone());
    assert!(names.eq(hostile()));

    let owner = answers[0].user().id;
    let new = hostile().into_iter().map(|model| new_car(model, owner));
    let new: Vec<_> = new.collect();
    let bought = store.cars().buy_many(&new).await.unwrap();
    assert!(bought.iter().map(|car| car.model.clone()).eq(hostile()));
    assert_eq!(store.cars().owned_by(owner).await.unwrap(), bought);
}

/// Case and normal form count, and so does white space inside.
pub async fn names_that_differ_in_any_character_are_different_users(store: &dyn Store) {
    let alike = [
        "Zoé",
        "zoé",
        "ZOÉ",
        "Zoe\u{301}",
        "Zoe",
        "Z oé",
        "Z  oé",
        "Z\u{a0}oé",
        "Zоé",
    ];
    let new = alike.map(new_user);
    let mut stored = Vec::new();
    for new in &new {
        let answer = store.users().register(new).await.unwrap();
        assert!(answer.is_created(), "{:?}", new.username());
        stored.push(answer.into_user());
    }
    for user in &stored {
        let found = store.users().get_by_username(&user.username).await;
        assert_eq!(found.unwrap().as_ref(), Some(user));
    }
    let again = store.users().register_many(&new).await.unwrap();
    assert!(again.iter().map(|answer| answer.user()).eq(&stored));
}

pub async fn looking_up_an_impossible_name_finds_nobody(store: &dyn Store) {
    user(store.users(), "Anna").await;
    let long = "a".repeat(256);
    let huge = "a".repeat(1_000_000);
    let names = [
        "", "\0", "Anna\0", "\0Anna", "Anna\n", " Anna", "Anna ", " ", &long, &huge,
    ];
    for name in names {
        let found = store.users().get_by_username(name).await.unwrap();
        assert_eq!(found, None);
    }
}

pub async fn rename_to_an_impossible_name_is_refused(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let nobody = super::given::unknown_user(store).await;
    let field = Field::Username;
    let long = "🚗".repeat(256);
    let names = [
        ("", InvalidInput::Empty { field }),
        (&long, InvalidInput::TooLong { field, length: 256 }),
        (
            "Anna\0",
            InvalidInput::ControlCharacter { field, position: 4 },
        ),
        (
            "An\nna",
            InvalidInput::ControlCharacter { field, position: 2 },
        ),
        (" Anna", InvalidInput::SurroundingWhitespace { field }),
        ("Anna\u{a0}", InvalidInput::SurroundingWhitespace { field }),
    ];
    for (name, why) in names {
        // The input is looked at before the user.
        for id in [anna.id, nobody] {
            let refused = store.users().rename(id, name).await;
            assert_refused!(refused, Error::Invalid(found) if found == why);
        }
    }
    assert_eq!(everything(store).await.0, [anna]);
}

/// There is no value of the type that could be stored, so there is nothing to send.
pub async fn impossible_new_users_and_cars_cannot_be_made(store: &dyn Store) {
    let anna = user(store.users(), "Anna").await;
    let long = "a".repeat(256);
    for text in ["", &long, "\0", "a\nb", "\u{7f}", " a", "a ", "\u{2003}a"] {
        assert!(NewUser::new(text).is_err(), "{text:?}");
        assert!(NewCar::new(text, anna.id).is_err(), "{text:?}");
    }
}

pub async fn dates_that_cannot_be_stored_are_refused(store: &dyn Store) {
    let before_all = NaiveDate::from_ymd_opt(-4713, 11, 23).unwrap();
    for date in [NaiveDate::MIN, before_all] {
        let bad = new_user("Anna").created_at(date);
        let refused = store.users().register(&bad).await;
        assert_refused!(
            refused,
            Error::Invalid(InvalidInput::DateTooEarly { index: None })
        );
        let refused = store.users().register_many(&[new_user("Bert"), bad]).await;
        assert_refused!(
            refused,
            Error::Invalid(InvalidInput::DateTooEarly { index: Some(1) })
        );
    }
    assert_eq!(store.users().count().await.unwrap(), 0);
}

pub async fn dates_at_the_ends_are_stored(store: &dyn Store) {
    let day = |y, m, d| NaiveDate::from_ymd_opt(y, m, d).unwrap();
    let first = day(-4713, 11, 24);
    let dates = [
        first,
        day(0, 1, 1),
        day(1, 1, 1),
        day(9999, 12, 31),
        NaiveDate::MAX,
    ];
    for date in dates {
        let new = new_user(date.to_string()).created_at(date);
        let stored: User = store.users().register(&new).await.unwrap().into_user();
        assert_eq!(stored.created_at, date);
        assert_eq!(store.users().get(stored.id).await.unwrap(), Some(stored));
        let again = new_user(format!("{date} again")).created_at(date);
        let answers = store.users().register_many(&[again]).await.unwrap();
        assert_eq!(answers[0].user().created_at, date);
    }
}
