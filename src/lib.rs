//! Users and the cars they own, in Postgres: typed repositories for Rust services.
//!
//! - [`PgStore`] is the store in Postgres, over a pool of connections. [`migrate()`] brings its
//!   schema up to date.
//! - [`Store::users`] and [`Store::cars`] give the repositories. The traits [`UserRepo`] and
//!   [`CarRepo`], and the module [`repo`], say what every call promises.
//! - With [replicas](PgStoreBuilder::replica), reads go to them, and a [`Session`] reads what it has
//!   written.
//! - [`StoreExt::transaction`] runs a closure in a transaction over both.
//! - [`StatementMode`] is for stores behind a pooler.
//! - [`Error`] says what went wrong, and whether to try again.
//! - The feature `tls` encrypts connections; [`PgStore::builder`] says how they are asked for.
//! - `MemoryStore` (feature `memory`) is the same without a database, for a host's own tests; the
//!   module `contract` (feature `contract`) holds the promises as tests for any other store.
//!
//! ```no_run
//! use motorpool::{NewCar, NewUser, PgStore, Store};
//!
//! # async fn example() -> motorpool::Result<()> {
//! let store = PgStore::connect("postgresql://app@localhost/garage").await?;
//! store.migrate().await?;
//! let ada = store.users().register(&NewUser::new("Ada")?).await?.into_user();
//! store.cars().buy(&NewCar::new("Golf", ada.id)?).await?;
//! for car in store.cars().owned_by(ada.id).await? {
//!     println!("{ada} owns a {car}");
//! }
//! # Ok(())
//! # }
//! ```

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

/// The type of [`UserRepo::stream`] and [`CarRepo::stream`], from `futures-util` 0.3.
pub use futures_util::stream::BoxStream;

pub use error::{CommitOutcome, CommitToken, Error, Failure, Result, Source, UnavailableReason};
#[cfg(feature = "memory")]
pub use memory::MemoryStore;
pub use migrate::{
    Adoption, Applied, BadRow, Difference, LockHolder, MigrationReport, MigrationState,
    MigrationStatus, Migrator, Provision, Provisioned, Schema, SchemaStatus, Undone, migrate,
    provision, schema_status,
};
pub use model::{
    Car, CarId, Field, InvalidInput, MAX_NAME_LENGTH, NewCar, NewUser, PurchaseKey, Registration,
    Role, User, UserId,
};
pub use page::{Page, PageRequest};
pub use postgres::{
    Batched, Batching, Closing, Discarded, OutOfRotation, PgStore, PgStoreBuilder, PoolStatus,
    Position, Reads, ReplicaStatus, Session, StatementMode,
};
pub use repo::{CarRepo, UserRepo};
pub use store::{IsolationLevel, Running, Store, StoreExt, Transaction, Tx, TxOptions};

// The code in the README is compiled and run.
#[cfg(all(doctest, feature = "contract"))]
#[doc = include_str!("../README.md")]
struct Readme;
