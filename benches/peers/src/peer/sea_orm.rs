//! SeaORM: entities for reads and for the many rows, raw statements for the rest.

use anyhow::{Context, Result};
use motorpool::{Car, Registration, User};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend,
    EntityTrait, FromQueryResult, QueryFilter, QueryOrder, Statement, TransactionTrait,
};

use super::{POOL, Peer, Purchase, ROWS_IN_ONE_STATEMENT};
use crate::sql;

mod users {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "users")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub username: String,
        pub created_at: Date,
        pub role: Role,
    }

    #[derive(Clone, Debug, PartialEq, EnumIter, DeriveActiveEnum)]
    #[sea_orm(rs_type = "String", db_type = "String(StringLen::None)")]
    pub enum Role {
        #[sea_orm(string_value = "student")]
        Student,
        #[sea_orm(string_value = "teacher")]
        Teacher,
        #[sea_orm(string_value = "employee")]
        Employee,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

mod cars {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "cars")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub model: String,
        pub owner_id: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub struct SeaOrm(DatabaseConnection);

impl From<users::Model> for User {
    fn from(row: users::Model) -> User {
        let role = match row.role {
            users::Role::Student => motorpool::Role::Student,
            users::Role::Teacher => motorpool::Role::Teacher,
            users::Role::Employee => motorpool::Role::Employee,
        };
        super::user(row.id, row.username, row.created_at, role)
    }
}

impl From<cars::Model> for Car {
    fn from(row: cars::Model) -> Car {
        super::car(row.id, row.model, row.owner_id)
    }
}

async fn register(connection: &impl ConnectionTrait, name: &str) -> Result<Registration> {
    let values = [
        name.into(),
        super::today().into(),
        motorpool::Role::Employee.as_str().into(),
    ];
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql::REGISTER, values);
    let row = connection.query_one_raw(statement).await?;
    let row = row.context("register answers with a row")?;
    let user = users::Model::from_query_result(&row, "")?;
    Ok(super::registration(
        user.into(),
        row.try_get("", "created")?,
    ))
}

async fn buy(connection: &impl ConnectionTrait, model: &str, owner: i64) -> Result<Option<Car>> {
    let values = [model.into(), owner.into()];
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql::BUY, values);
    match connection.query_one_raw(statement).await? {
        Some(row) => Ok(Some(cars::Model::from_query_result(&row, "")?.into())),
        None => Ok(None),
    }
}

impl Peer for SeaOrm {
    async fn connect(url: &str, checks: bool) -> Result<Self> {
        let mut options = ConnectOptions::new(url);
        options.max_connections(POOL as u32);
        if !checks {
            options.sqlx_logging(false).test_before_acquire(false);
        }
        Ok(SeaOrm(Database::connect(options).await?))
    }

    async fn get_by_username(&self, name: &str) -> Result<Option<User>> {
        let row = users::Entity::find()
            .filter(users::Column::Username.eq(name))
            .one(&self.0)
            .await?;
        Ok(row.map(User::from))
    }

    async fn owned_by(&self, owner: i64) -> Result<Vec<Car>> {
        let rows = cars::Entity::find()
            .filter(cars::Column::OwnerId.eq(owner))
            .order_by_asc(cars::Column::Id)
            .all(&self.0)
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
        let mut bought = Vec::with_capacity(cars.len());
        let transaction = self.0.begin().await?;
        for chunk in cars.chunks(ROWS_IN_ONE_STATEMENT) {
            let new = chunk.iter().map(|car| cars::ActiveModel {
                id: NotSet,
                model: Set(car.model.clone()),
                owner_id: Set(car.owner),
            });
            let rows = cars::Entity::insert_many(new)
                .exec_with_returning(&transaction)
                .await?;
            bought.extend(rows.into_iter().map(Car::from));
        }
        transaction.commit().await?;
        Ok(bought)
    }

    async fn register_and_buy(&self, name: &str, models: [&str; 3]) -> Result<User> {
        let transaction = self.0.begin().await?;
        let user = register(&transaction, name).await?.into_user();
        for model in models {
            let car = buy(&transaction, model, user.id.get()).await?;
            car.context("the owner is there")?;
        }
        transaction.commit().await?;
        Ok(user)
    }
}
