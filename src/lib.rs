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
//!   module `testing` (the same feature) makes it, or any other store, fail where a test wants it
//!   to; the module `contract` (feature `contract`) holds the promises as tests for any other store.
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
//!
//! # Pages
//!
//! The [cookbook](docs::cookbook) has ways to do what services do. The [error pages](docs::errors)
//! say what was stored and what to do. [From Flask](docs::from_flask) is for who has the original
//! application. The [README](docs::readme) has the limits and their defaults, encryption, failover
//! and poolers; [other engines](docs::engines) are a page of their own.
//!
//! # When not to use it
//!
//! - For other tables. It knows users and cars and their columns; another column is a change of
//!   this crate. It is not an ORM and builds no queries.
//! - For queries that are not among its [methods](repo): searching, sorting by name, joins, reports.
//!   [Own SQL](docs::cookbook#own-sql-next-to-it) can stand next to it, but not in a transaction
//!   of it.
//! - For transactions that wait: each holds a connection and the locks of its rows until it ends.
//!   And for those that reach over more than one database.
//! - Without Postgres, or on CockroachDB or YugabyteDB, where its promises
//!   [do not hold](docs::engines).
//! - Without tokio. There is no blocking form.
//! - For speed alone where there is little traffic. A lone call costs about what the bare driver costs, 0.76
//!   to 1.09 times its throughput in the last run; it is under load that calls go to the server together.
//! - As a history of who owned what. A transfer overwrites the owner.
//! - As something that never changes: this is version 0.1, and names may change with the next one.
//!
//! # The way of a call
//!
//! ```text
//!  store.users().register(&new)
//!        │ is the input in order?          no: Invalid; nothing is sent
//!        ▼
//!  is a lane of this kind free? ─── no ──► waits for one, and goes out together with all
//!        │ yes                             others that wait, as one statement
//!        ▼                                                  │
//!  a connection of the pool ◄───────────────────────────────┘
//!        │                                 none in time: PoolExhausted, Unavailable; nothing is sent
//!        ▼
//!  one prepared statement, one round trip
//!        │                                 no answer: Timeout, ConnectionLost; a write may have
//!        ▼                                 happened, and the statement is cancelled
//!  a row ──► User, Car                     a rule refused: a typed error; nothing is stored
//! ```
//!
//! One deadline covers all of it. In a transaction there is no lane: its statements run on its
//! connection, one after the other. With replicas a read asks the least busy one that is fresh enough.
//!
//! # What is promised, and how it was counted
//!
//! | promise | counted in the last full run |
//! |---|---|
//! | Both stores keep one contract. | 141 rules, over sockets, TCP, TLS and PgBouncer; 256 random histories side by side, no difference |
//! | `commit` is `Ok` only if everything is stored. | the connection cut around COMMIT 500 times: 0 `Ok` without the row |
//! | What was acknowledged survives a crash. | `kill -9` of the server 50 times, 12 624 writes: 0 lost, 0 doubled |
//! | A store goes on with the new primary. | killed 50 times and stopped 20 times, 497 445 writes: 0 lost, 0 doubled |
//! | A dropped call leaves nothing behind. | 2 126 drops, one at every poll of every call: 0 open transactions, 0 slots lost |
//! | Every call ends in its time. | black holes, 64 callers: within 8 ms of the limit |
//! | Any number of processes can migrate at once. | 8 on each of 50 databases: 400 of 400 ended well |
//! | A session reads what it has written. | 10 000 reads and writes over replicas that stand still: none older |
//! | No error and no log line holds a password. | every way to fail that we know of: found 0 times |
//!
//! How each was counted is in [the README](docs::readme#how-it-is-tested).

#[cfg(feature = "contract")]
pub mod contract;
// The pages of `docs/` are documentation, and where their code has the features that it needs it is
// compiled and run.
#[cfg(any(doc, doctest))]
#[cfg(any(not(doctest), all(feature = "contract", feature = "serde")))]
pub mod docs;
mod error;
#[cfg(feature = "memory")]
mod memory;
mod migrate;
mod model;
mod page;
mod postgres;
pub mod repo;
pub mod store;
#[cfg(feature = "memory")]
pub mod testing;

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
