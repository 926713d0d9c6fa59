use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::UserId;
use super::id::id_type;
use super::input::{Field, InvalidInput, check_name};

id_type! {
    /// Identifies a [`Car`]. The database hands it out, rising from 1.
    CarId
}

/// A car and who owns it.
///
/// ```
/// use motorpool::{CarId, NewCar, UserId};
///
/// let golf = NewCar::new("Golf", UserId::new(7))?.with_id(CarId::new(1));
/// assert_eq!(golf.to_string(), "Golf");
/// # Ok::<(), motorpool::InvalidInput>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Car {
    /// Handed out by the database. Rises with every purchase.
    pub id: CarId,
    /// What the car is. Any number of cars may be of one model.
    pub model: String,
    /// The owner.
    #[cfg_attr(feature = "serde", serde(rename = "owner"))]
    pub owner_id: UserId,
}

impl fmt::Display for Car {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.model)
    }
}

/// Makes [`CarRepo::buy`](crate::CarRepo::buy) repeatable: however often a purchase is sent with
/// the same key, there is one car.
///
/// The caller makes it up, once per purchase, and keeps it until the purchase is known to have
/// been stored: a random UUID, or one derived from what is bought (a line of a file, an
/// `Idempotency-Key` header).
///
/// ```
/// use motorpool::PurchaseKey;
///
/// let key: PurchaseKey = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse()?;
/// assert_eq!(key, PurchaseKey::new(key.get()));
/// # Ok::<(), motorpool::InvalidInput>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct PurchaseKey(Uuid);

impl PurchaseKey {
    /// Wraps a UUID of any version.
    pub const fn new(key: Uuid) -> Self {
        Self(key)
    }

    /// The UUID.
    pub const fn get(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for PurchaseKey {
    fn from(key: Uuid) -> Self {
        Self(key)
    }
}

impl From<PurchaseKey> for Uuid {
    fn from(key: PurchaseKey) -> Self {
        key.0
    }
}

impl fmt::Display for PurchaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for PurchaseKey {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, InvalidInput> {
        Uuid::try_parse(text)
            .map(Self)
            .map_err(|_| InvalidInput::PurchaseKey)
    }
}

/// A car to buy: input that has been checked.
///
/// ```
/// use motorpool::{NewCar, PurchaseKey, UserId};
///
/// let key: PurchaseKey = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse()?;
/// let new = NewCar::new("Golf", UserId::new(7))?.key(key);
/// assert_eq!(new.model(), "Golf");
/// assert_eq!(new.purchase_key(), Some(key));
/// # Ok::<(), motorpool::InvalidInput>(())
/// ```
///
/// With the feature `serde` it is `{"model":"Golf","owner":7,"purchase_key":"67e55044-…"}`; the key
/// may be `null` or missing. Reading it makes all checks, and fields of other names are refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct NewCar {
    model: String,
    #[cfg_attr(feature = "serde", serde(rename = "owner"))]
    owner_id: UserId,
    #[cfg_attr(feature = "serde", serde(rename = "purchase_key"))]
    key: Option<PurchaseKey>,
}

impl NewCar {
    /// A purchase without a key: sent twice, it buys two cars.
    ///
    /// # Errors
    /// [`InvalidInput`] unless the model has 1 to 255 characters, no control character and no
    /// white space at either end. Whether the owner exists is found out by
    /// [`CarRepo::buy`](crate::CarRepo::buy).
    pub fn new(model: impl Into<String>, owner_id: UserId) -> Result<NewCar, InvalidInput> {
        let model = model.into();
        check_name(Field::Model, &model)?;
        Ok(NewCar {
            model,
            owner_id,
            key: None,
        })
    }

    /// Makes the purchase repeatable.
    pub fn key(mut self, key: PurchaseKey) -> Self {
        self.key = Some(key);
        self
    }

    /// The model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The owner-to-be.
    pub fn owner_id(&self) -> UserId {
        self.owner_id
    }

    /// The key, if the purchase has one.
    pub fn purchase_key(&self) -> Option<PurchaseKey> {
        self.key
    }

    /// The car that this becomes once it has an id: what an implementation of
    /// [`CarRepo`](crate::CarRepo) stores.
    pub fn with_id(&self, id: CarId) -> Car {
        Car {
            id,
            model: self.model.clone(),
            owner_id: self.owner_id,
        }
    }

    /// Whether `car` is what this purchase would have stored: what a repeated key is held against.
    pub fn describes(&self, car: &Car) -> bool {
        self.model == car.model && self.owner_id == car.owner_id
    }
}
