//! Users and the cars they own, in Postgres: typed repositories for Rust services.

#[cfg(feature = "contract")]
pub mod contract;
mod error;
#[cfg(feature = "memory")]
mod memory;
mod migrate;
mod model;
mod page;
mod postgres;
pub mod repo;
pub mod store;

pub use error::{CommitToken, Error, Failure, Result, Source, UnavailableReason};
#[cfg(feature = "memory")]
pub use memory::MemoryStore;
pub use migrate::{Applied, MigrationReport, migrate};
pub use model::{
    Car, CarId, Field, InvalidInput, MAX_NAME_LENGTH, NewCar, NewUser, PurchaseKey, Registration,
    Role, User, UserId,
};
pub use page::{Page, PageRequest};
pub use postgres::{PgStore, PgStoreBuilder};
pub use repo::{CarRepo, UserRepo};
pub use store::{IsolationLevel, Store, StoreExt, Transaction, Tx, TxOptions};
