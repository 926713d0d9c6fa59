//! sqlx: `query_as` throughout.

use anyhow::{Context, Result};
use chrono::NaiveDate;
use motorpool::{Car, Registration, User};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgConnectOptions, PgExecutor, PgPool, PgPoolOptions, PgTypeInfo, PgValueRef};
use sqlx::{ConnectOptions, Decode, FromRow, Postgres, QueryBuilder, Type};

use super::{POOL, Peer, Purchase, ROWS_IN_ONE_STATEMENT};
use crate::sql;

pub struct Sqlx(PgPool);

/// The same with the other way to insert many rows.
pub struct SqlxValues(Sqlx);

struct Role(motorpool::Role);

impl Type<Postgres> for Role {
    fn type_info() -> PgTypeInfo {
        <str as Type<Postgres>>::type_info()
    }

    fn compatible(ty: &PgTypeInfo) -> bool {
        <str as Type<Postgres>>::compatible(ty)
    }
}

impl<'r> Decode<'r, Postgres> for Role {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let text = <&str as Decode<Postgres>>::decode(value)?;
        Ok(Role(text.parse()?))
    }
}

#[derive(FromRow)]
struct UserRow {
    id: i64,
    username: String,
    created_at: NaiveDate,
    role: Role,
}

impl From<UserRow> for User {
    fn from(row: UserRow) -> User {
        super::user(row.id, row.username, row.created_at, row.role.0)
    }
}

#[derive(FromRow)]
struct RegistrationRow {
    #[sqlx(flatten)]
    user: UserRow,
    created: bool,
}

#[derive(FromRow)]
struct CarRow {
    id: i64,
    model: String,
    owner_id: i64,
}

impl From<CarRow> for Car {
    fn from(row: CarRow) -> Car {
        super::car(row.id, row.model, row.owner_id)
    }
}

async fn register(executor: impl PgExecutor<'_>, name: &str) -> Result<Registration> {
    let row: RegistrationRow = sqlx::query_as(sql::REGISTER)
        .bind(name)
        .bind(super::today())
        .bind(motorpool::Role::Employee.as_str())
        .fetch_one(executor)
        .await?;
    Ok(super::registration(row.user.into(), row.created))
}

async fn buy(executor: impl PgExecutor<'_>, model: &str, owner: i64) -> Result<Option<Car>> {
    let row: Option<CarRow> = sqlx::query_as(sql::BUY)
        .bind(model)
        .bind(owner)
        .fetch_optional(executor)
        .await?;
    Ok(row.map(Car::from))
}

impl Peer for Sqlx {
    async fn connect(url: &str, checks: bool) -> Result<Self> {
        let mut options: PgConnectOptions = url.parse()?;
        let mut pool = PgPoolOptions::new().max_connections(POOL as u32);
        if !checks {
            options = options.disable_statement_logging();
            pool = pool.test_before_acquire(false);
        }
        Ok(Sqlx(pool.connect_with(options).await?))
    }

    async fn get_by_username(&self, name: &str) -> Result<Option<User>> {
        let row: Option<UserRow> = sqlx::query_as(sql::GET_BY_USERNAME)
            .bind(name)
            .fetch_optional(&self.0)
            .await?;
        Ok(row.map(User::from))
    }

    async fn owned_by(&self, owner: i64) -> Result<Vec<Car>> {
        let rows: Vec<CarRow> = sqlx::query_as(sql::OWNED_BY)
            .bind(owner)
            .fetch_all(&self.0)
            .await?;
        Ok(rows.into_iter().map(Car::from).collect())
    }

    async fn register(&self, name: &str) -> Result<Registration> {
        register(&self.0, name).await
    }

    async fn buy(&self, model: &str, owner: i64) -> Result<Option<Car>> {
        buy(&self.0, model, owner).await
    }

    async fn buy_many(&self, cars: &[Purchase]) -> Result<Vec<Car>> {
        let models: Vec<&str> = cars.iter().map(|car| car.model.as_str()).collect();
        let owners: Vec<i64> = cars.iter().map(|car| car.owner).collect();
        let rows: Vec<CarRow> = sqlx::query_as(sql::BUY_MANY)
            .bind(models)
            .bind(owners)
            .fetch_all(&self.0)
            .await?;
        Ok(rows.into_iter().map(Car::from).collect())
    }

    async fn register_and_buy(&self, name: &str, models: [&str; 3]) -> Result<User> {
        let mut transaction = self.0.begin().await?;
        let user = register(&mut *transaction, name).await?.into_user();
        for model in models {
            let car = buy(&mut *transaction, model, user.id.get()).await?;
            car.context("the owner is there")?;
        }
        transaction.commit().await?;
        Ok(user)
    }
}

impl Peer for SqlxValues {
    async fn connect(url: &str, checks: bool) -> Result<Self> {
        Ok(SqlxValues(Sqlx::connect(url, checks).await?))
    }

    async fn get_by_username(&self, name: &str) -> Result<Option<User>> {
        self.0.get_by_username(name).await
    }

    async fn owned_by(&self, owner: i64) -> Result<Vec<Car>> {
        self.0.owned_by(owner).await
    }

    async fn register(&self, name: &str) -> Result<Registration> {
        self.0.register(name).await
    }

    async fn buy(&self, model: &str, owner: i64) -> Result<Option<Car>> {
        self.0.buy(model, owner).await
    }

    async fn buy_many(&self, cars: &[Purchase]) -> Result<Vec<Car>> {
        let mut bought = Vec::with_capacity(cars.len());
        let mut transaction = (self.0).0.begin().await?;
        for chunk in cars.chunks(ROWS_IN_ONE_STATEMENT) {
            let mut builder = QueryBuilder::<Postgres>::new("INSERT INTO cars (model, owner_id) ");
            builder.push_values(chunk, |mut row, car| {
                row.push_bind(car.model.as_str()).push_bind(car.owner);
            });
            builder.push(" RETURNING id, model, owner_id");
            // The text depends on the number of rows: not for the cache.
            let rows: Vec<CarRow> = builder
                .build_query_as()
                .persistent(false)
                .fetch_all(&mut *transaction)
                .await?;
            bought.extend(rows.into_iter().map(Car::from));
        }
        transaction.commit().await?;
        Ok(bought)
    }

    async fn register_and_buy(&self, name: &str, models: [&str; 3]) -> Result<User> {
        self.0.register_and_buy(name, models).await
    }
}
