//! diesel-async: reads and the many rows in the DSL. The statements that the DSL cannot say are
//! query fragments of their own, the documented way to extend Diesel: unlike `sql_query` they are
//! prepared once.

use anyhow::{Context, Result};
use chrono::NaiveDate;
use deadpool_postgres::QueueMode;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Bool, Date, Text};
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use motorpool::{Registration, User};

use super::{POOL, Peer, Purchase, ROWS_IN_ONE_STATEMENT};
use crate::sql;

diesel::table! {
    users (id) {
        id -> BigInt,
        username -> Varchar,
        created_at -> Date,
        role -> Varchar,
    }
}

diesel::table! {
    cars (id) {
        id -> BigInt,
        model -> Varchar,
        owner_id -> BigInt,
    }
}

pub struct Diesel(Pool<AsyncPgConnection>);

#[derive(FromSqlRow)]
struct Role(motorpool::Role);

impl FromSql<Text, Pg> for Role {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(Role(std::str::from_utf8(value.as_bytes())?.parse()?))
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = users, check_for_backend(Pg))]
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

#[derive(Queryable, Selectable)]
#[diesel(table_name = cars, check_for_backend(Pg))]
struct CarRow {
    id: i64,
    model: String,
    owner_id: i64,
}

impl From<CarRow> for motorpool::Car {
    fn from(row: CarRow) -> motorpool::Car {
        super::car(row.id, row.model, row.owner_id)
    }
}

#[derive(Insertable)]
#[diesel(table_name = cars)]
struct NewCar<'a> {
    model: &'a str,
    owner_id: i64,
}

struct Register<'a> {
    username: &'a str,
    created_at: NaiveDate,
    role: &'a str,
}

struct Buy<'a> {
    model: &'a str,
    owner: i64,
}

impl QueryId for Register<'_> {
    type QueryId = Register<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl QueryId for Buy<'_> {
    type QueryId = Buy<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for Register<'_> {
    type SqlType = (BigInt, Text, Date, Text, Bool);
}

impl Query for Buy<'_> {
    type SqlType = (BigInt, Text, BigInt);
}

impl QueryFragment<Pg> for Register<'_> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        walk(sql::REGISTER, out, |number, out| match number {
            1 => out.push_bind_param::<Text, _>(&self.username),
            2 => out.push_bind_param::<Date, _>(&self.created_at),
            _ => out.push_bind_param::<Text, _>(&self.role),
        })
    }
}

impl QueryFragment<Pg> for Buy<'_> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        walk(sql::BUY, out, |number, out| match number {
            1 => out.push_bind_param::<Text, _>(&self.model),
            _ => out.push_bind_param::<BigInt, _>(&self.owner),
        })
    }
}

/// Pushes a text, and a parameter wherever one stands in it. Diesel numbers them anew, so one that
/// comes twice is sent twice. Numbers have one digit here.
fn walk<'b>(
    sql: &'static str,
    mut out: AstPass<'_, 'b, Pg>,
    mut bind: impl FnMut(u8, &mut AstPass<'_, 'b, Pg>) -> QueryResult<()>,
) -> QueryResult<()> {
    let mut pieces = sql.split('$');
    out.push_sql(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (number, text) = piece.split_at(1);
        bind(number.as_bytes()[0] - b'0', &mut out)?;
        out.push_sql(text);
    }
    Ok(())
}

async fn register(connection: &mut AsyncPgConnection, username: &str) -> Result<Registration> {
    let register = Register {
        username,
        created_at: super::today(),
        role: motorpool::Role::Employee.as_str(),
    };
    let (id, name, date, role, created): (i64, String, NaiveDate, Role, bool) =
        register.get_result(connection).await?;
    let user = super::user(id, name, date, role.0);
    Ok(super::registration(user, created))
}

async fn buy(
    connection: &mut AsyncPgConnection,
    model: &str,
    owner: i64,
) -> Result<Option<motorpool::Car>> {
    let buy = Buy { model, owner };
    let row: Option<CarRow> = buy.get_result(connection).await.optional()?;
    Ok(row.map(Into::into))
}

impl Peer for Diesel {
    async fn connect(url: &str, checks: bool) -> Result<Self> {
        let mut config = ManagerConfig::default();
        let mut order = QueueMode::default();
        if !checks {
            config.recycling_method = RecyclingMethod::Fast;
            // A lone caller stays on a connection that is warm.
            order = QueueMode::Lifo;
        }
        let manager = AsyncDieselConnectionManager::new_with_config(url, config);
        let pool = Pool::builder(manager).max_size(POOL).queue_mode(order);
        let pool = pool.build()?;
        drop(pool.get().await?);
        Ok(Diesel(pool))
    }

    async fn get_by_username(&self, name: &str) -> Result<Option<User>> {
        let mut connection = self.0.get().await?;
        let row = users::table
            .filter(users::username.eq(name))
            .select(UserRow::as_select())
            .get_result(&mut connection)
            .await
            .optional()?;
        Ok(row.map(User::from))
    }

    async fn owned_by(&self, owner: i64) -> Result<Vec<motorpool::Car>> {
        let mut connection = self.0.get().await?;
        let rows: Vec<CarRow> = cars::table
            .filter(cars::owner_id.eq(owner))
            .order(cars::id)
            .select(CarRow::as_select())
            .load(&mut connection)
            .await?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    async fn register(&self, name: &str) -> Result<Registration> {
        register(&mut *self.0.get().await?, name).await
    }

    async fn buy(&self, model: &str, owner: i64) -> Result<Option<motorpool::Car>> {
        buy(&mut *self.0.get().await?, model, owner).await
    }

    async fn buy_many(&self, cars: &[Purchase]) -> Result<Vec<motorpool::Car>> {
        let mut connection = self.0.get().await?;
        let bought = connection.transaction::<_, anyhow::Error, _>(async |connection| {
            let mut bought = Vec::with_capacity(cars.len());
            for chunk in cars.chunks(ROWS_IN_ONE_STATEMENT) {
                let values: Vec<NewCar<'_>> = chunk
                    .iter()
                    .map(|car| NewCar {
                        model: &car.model,
                        owner_id: car.owner,
                    })
                    .collect();
                let rows: Vec<CarRow> = diesel::insert_into(cars::table)
                    .values(&values)
                    .returning(CarRow::as_returning())
                    .get_results(connection)
                    .await?;
                bought.extend(rows.into_iter().map(motorpool::Car::from));
            }
            Ok(bought)
        });
        bought.await
    }

    async fn register_and_buy(&self, name: &str, models: [&str; 3]) -> Result<User> {
        let mut connection = self.0.get().await?;
        let user = connection.transaction::<_, anyhow::Error, _>(async |connection| {
            let user = register(connection, name).await?.into_user();
            for model in models {
                let car = buy(connection, model, user.id.get()).await?;
                car.context("the owner is there")?;
            }
            Ok(user)
        });
        user.await
    }
}
