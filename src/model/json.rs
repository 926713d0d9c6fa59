//! How the model is written to JSON and its kin and read from them (feature `serde`), where it is not
//! derived: texts of a fixed form, and input that is checked. A text of them that is wrong is not
//! repeated; what has another type is the format's affair, and serde_json does repeat it.

use std::fmt::{self, Display};

use chrono::NaiveDate;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::input::InvalidInput;
use super::{NewCar, NewUser, PurchaseKey, Role, UserId};

/// What `read` makes of a text; or `wrong`.
fn text<'de, D, T>(
    from: D,
    wrong: impl Display,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    from.deserialize_str(Text { wrong, read })
}

struct Text<W, F> {
    wrong: W,
    read: F,
}

impl<T, W: Display, F: FnOnce(&str) -> Option<T>> Visitor<'_> for Text<W, F> {
    type Value = T;

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.read)(text).ok_or_else(|| E::custom(self.wrong))
    }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a text ({})", self.wrong)
    }
}

impl Serialize for Role {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        text(from, InvalidInput::Role, |text| text.parse().ok())
    }
}

impl<'de> Deserialize<'de> for PurchaseKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // Formats that nobody reads hold the 16 bytes.
        if !from.is_human_readable() {
            return Uuid::deserialize(from).map(PurchaseKey::new);
        }
        text(from, InvalidInput::PurchaseKey, |text| text.parse().ok())
    }
}

/// A user to register as it comes in, before the checks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a new user with its fields")]
struct UserInput {
    username: String,
    #[serde(default, deserialize_with = "given")]
    created_at: Option<NaiveDate>,
    #[serde(default)]
    role: Role,
}

/// A day that has to be one if it is there: `null` is none.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<NaiveDate>, D::Error> {
    NaiveDate::deserialize(from).map(Some)
}

impl<'de> Deserialize<'de> for NewUser {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let input = UserInput::deserialize(from)?;
        let mut new = NewUser::new(input.username).map_err(D::Error::custom)?;
        if let Some(date) = input.created_at {
            new = new.created_at(date);
        }
        new.check().map_err(D::Error::custom)?;
        Ok(new.role(input.role))
    }
}

/// A car to buy as it comes in, before the checks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a new car with its fields")]
struct CarInput {
    model: String,
    owner: UserId,
    #[serde(default)]
    purchase_key: Option<PurchaseKey>,
}

impl<'de> Deserialize<'de> for NewCar {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let input = CarInput::deserialize(from)?;
        let new = NewCar::new(input.model, input.owner).map_err(D::Error::custom)?;
        Ok(match input.purchase_key {
            Some(key) => new.key(key),
            None => new,
        })
    }
}
