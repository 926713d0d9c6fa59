//! Users and the cars they own, in Postgres: typed repositories for Rust services.

mod error;
mod model;
mod page;
pub mod repo;
pub mod store;

pub use error::{CommitToken, Error, Failure, Result, Source, UnavailableReason};
pub use model::{
    Car, CarId, Field, InvalidInput, MAX_NAME_LENGTH, NewCar, NewUser, PurchaseKey, Registration,
    Role, User, UserId,
};
pub use page::{Page, PageRequest};
pub use repo::{CarRepo, UserRepo};
pub use store::{IsolationLevel, Store, StoreExt, Transaction, Tx, TxOptions};
