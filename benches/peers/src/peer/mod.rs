//! The competitors: one trait, one file for each library.

pub mod bare;
pub mod diesel;
pub mod motorpool;
pub mod sea_orm;
pub mod sqlx;

use ::motorpool::{Car, CarId, Registration, Role, User, UserId};
use anyhow::Result;
use chrono::{NaiveDate, Utc};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::op::Op;

/// The size of every pool. It is what the crate has by default.
pub const POOL: usize = 16;

/// Statements of the protocol take this many parameters at most; a row of a purchase has two.
pub const ROWS_IN_ONE_STATEMENT: usize = 65_535 / 2;

/// Who is measured.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
pub enum Competitor {
    Motorpool,
    Bare,
    Sqlx,
    /// `buy_many` by `QueryBuilder::push_values` where `Sqlx` takes `unnest`.
    SqlxValues,
    Diesel,
    SeaOrm,
    SqlxDefaults,
    DieselDefaults,
    SeaOrmDefaults,
}

impl Competitor {
    pub const fn title(self) -> &'static str {
        match self {
            Competitor::Motorpool => "motorpool",
            Competitor::Bare => "bare",
            Competitor::Sqlx => "sqlx",
            Competitor::SqlxValues => "sqlx, values",
            Competitor::Diesel => "diesel",
            Competitor::SeaOrm => "sea-orm",
            Competitor::SqlxDefaults => "sqlx, defaults",
            Competitor::DieselDefaults => "diesel, defaults",
            Competitor::SeaOrmDefaults => "sea-orm, defaults",
        }
    }

    /// Whether it keeps its library's check of a connection before each use.
    pub const fn checks(self) -> bool {
        matches!(
            self,
            Competitor::SqlxDefaults | Competitor::DieselDefaults | Competitor::SeaOrmDefaults
        )
    }

    /// Whether it takes part in an operation.
    pub const fn does(self, op: Op) -> bool {
        !matches!(self, Competitor::SqlxValues) || op.many().is_some()
    }
}

/// A car to buy, as the service has it before it calls a library.
pub struct Purchase {
    pub model: String,
    pub owner: i64,
}

/// The work, the same for all. Answers are the crate's own structs.
pub trait Peer: Sized + Send + Sync + 'static {
    fn connect(url: &str, checks: bool) -> impl Future<Output = Result<Self>> + Send;

    fn get_by_username(&self, name: &str) -> impl Future<Output = Result<Option<User>>> + Send;

    fn owned_by(&self, owner: i64) -> impl Future<Output = Result<Vec<Car>>> + Send;

    /// An employee, registered today. A name that is taken gives the stored user and uses no id.
    fn register(&self, name: &str) -> impl Future<Output = Result<Registration>> + Send;

    /// `None`: there is no such owner.
    fn buy(&self, model: &str, owner: i64) -> impl Future<Output = Result<Option<Car>>> + Send;

    /// In the order given, all or nothing.
    fn buy_many(&self, cars: &[Purchase]) -> impl Future<Output = Result<Vec<Car>>> + Send;

    /// One transaction: registers the user, who then buys the cars.
    fn register_and_buy(
        &self,
        name: &str,
        models: [&str; 3],
    ) -> impl Future<Output = Result<User>> + Send;
}

fn today() -> NaiveDate {
    Utc::now().date_naive()
}

fn user(id: i64, username: String, created_at: NaiveDate, role: Role) -> User {
    User {
        id: UserId::new(id),
        username,
        created_at,
        role,
    }
}

fn car(id: i64, model: String, owner: i64) -> Car {
    Car {
        id: CarId::new(id),
        model,
        owner_id: UserId::new(owner),
    }
}

fn registration(user: User, created: bool) -> Registration {
    match created {
        true => Registration::Created(user),
        false => Registration::Existing(user),
    }
}
