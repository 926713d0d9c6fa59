//! What is stored: users, cars, and what a caller hands in to make them. No I/O.

mod car;
mod id;
mod input;
mod user;

pub use car::{Car, CarId, NewCar, PurchaseKey};
pub use input::{Field, InvalidInput, MAX_NAME_LENGTH};
pub use user::{NewUser, Registration, Role, User, UserId};

pub(crate) use input::{At, check_name, storable};
