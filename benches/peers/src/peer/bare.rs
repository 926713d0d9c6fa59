//! The driver under a plain pool, by hand: what the crate could be at best without batching.

use anyhow::{Context, Result};
use deadpool_postgres::{GenericClient, Manager, ManagerConfig, Pool, QueueMode, RecyclingMethod};
use motorpool::{Car, Registration, Role, User};
use tokio_postgres::{NoTls, Row};

use super::{POOL, Peer, Purchase};
use crate::sql;

pub struct Bare(Pool);

fn user(row: &Row) -> Result<User> {
    let role: &str = row.try_get(3)?;
    Ok(super::user(
        row.try_get(0)?,
        row.try_get(1)?,
        row.try_get(2)?,
        role.parse()?,
    ))
}

fn car(row: &Row) -> Result<Car> {
    Ok(super::car(
        row.try_get(0)?,
        row.try_get(1)?,
        row.try_get(2)?,
    ))
}

async fn register(client: &impl GenericClient, name: &str) -> Result<Registration> {
    let statement = client.prepare_cached(sql::REGISTER).await?;
    let (today, role) = (super::today(), Role::Employee.as_str());
    let row = client
        .query_one(&statement, &[&name, &today, &role])
        .await?;
    Ok(super::registration(user(&row)?, row.try_get(4)?))
}

async fn buy(client: &impl GenericClient, model: &str, owner: i64) -> Result<Option<Car>> {
    let statement = client.prepare_cached(sql::BUY).await?;
    let row = client.query_opt(&statement, &[&model, &owner]).await?;
    row.as_ref().map(car).transpose()
}

impl Peer for Bare {
    async fn connect(url: &str, _: bool) -> Result<Self> {
        let config = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_config(url.parse()?, NoTls, config);
        let pool = Pool::builder(manager)
            .max_size(POOL)
            // As the crate does: a lone caller stays on a connection that is warm.
            .queue_mode(QueueMode::Lifo)
            .build()?;
        drop(pool.get().await?);
        Ok(Bare(pool))
    }

    async fn get_by_username(&self, name: &str) -> Result<Option<User>> {
        let client = self.0.get().await?;
        let statement = client.prepare_cached(sql::GET_BY_USERNAME).await?;
        let row = client.query_opt(&statement, &[&name]).await?;
        row.as_ref().map(user).transpose()
    }

    async fn owned_by(&self, owner: i64) -> Result<Vec<Car>> {
        let client = self.0.get().await?;
        let statement = client.prepare_cached(sql::OWNED_BY).await?;
        let rows = client.query(&statement, &[&owner]).await?;
        rows.iter().map(car).collect()
    }

    async fn register(&self, name: &str) -> Result<Registration> {
        register(&self.0.get().await?, name).await
    }

    async fn buy(&self, model: &str, owner: i64) -> Result<Option<Car>> {
        buy(&self.0.get().await?, model, owner).await
    }

    async fn buy_many(&self, cars: &[Purchase]) -> Result<Vec<Car>> {
        let models: Vec<&str> = cars.iter().map(|car| car.model.as_str()).collect();
        let owners: Vec<i64> = cars.iter().map(|car| car.owner).collect();
        let client = self.0.get().await?;
        let statement = client.prepare_cached(sql::BUY_MANY).await?;
        let rows = client.query(&statement, &[&models, &owners]).await?;
        rows.iter().map(car).collect()
    }

    async fn register_and_buy(&self, name: &str, models: [&str; 3]) -> Result<User> {
        let mut client = self.0.get().await?;
        let transaction = client.transaction().await?;
        let user = register(&transaction, name).await?.into_user();
        for model in models {
            let car = buy(&transaction, model, user.id.get()).await?;
            car.context("the owner is there")?;
        }
        transaction.commit().await?;
        Ok(user)
    }
}
