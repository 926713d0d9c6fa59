//! The driver under a pool, with queries as a service would write them itself. A purchase is a plain
//! INSERT, less than what the crate does: there are no keys, and a failed one uses an id up.

use std::time::Duration;

use anyhow::Result;
use deadpool_postgres::{Manager, ManagerConfig, Pool, QueueMode, RecyclingMethod};
use motorpool::{Car, CarId, User, UserId};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{NoTls, Row};

use crate::service::Backend;

const USER: &str = "SELECT id, username, created_at, role FROM users WHERE username = $1";
const CARS: &str = "SELECT id, model, owner_id FROM cars WHERE owner_id = $1 ORDER BY id";
const BUY: &str =
    "INSERT INTO cars (model, owner_id) VALUES ($1, $2) RETURNING id, model, owner_id";

/// What a call of the crate has.
const LIMIT: Duration = Duration::from_secs(10);

pub struct ByHand {
    pool: Pool,
    /// How long a call may take.
    limit: Option<Duration>,
}

impl ByHand {
    async fn in_time<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        match self.limit {
            Some(limit) => timeout(limit, call).await?,
            None => call.await,
        }
    }
}

fn user(row: &Row) -> Result<User> {
    let role: &str = row.try_get(3)?;
    Ok(User {
        id: UserId::new(row.try_get(0)?),
        username: row.try_get(1)?,
        created_at: row.try_get(2)?,
        role: role.parse()?,
    })
}

fn car(row: &Row) -> Result<Car> {
    Ok(Car {
        id: CarId::new(row.try_get(0)?),
        model: row.try_get(1)?,
        owner_id: UserId::new(row.try_get(2)?),
    })
}

impl Backend for ByHand {
    async fn connect(url: &str, limits: bool) -> Result<Self> {
        let config = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_config(url.parse()?, NoTls, config);
        let pool = Pool::builder(manager)
            // As many as the crate has.
            .max_size(16)
            // The crate's order too: a lone caller stays on a connection that is warm.
            .queue_mode(QueueMode::Lifo)
            .build()?;
        drop(pool.get().await?);
        let limit = limits.then_some(LIMIT);
        Ok(ByHand { pool, limit })
    }

    async fn user(&self, name: &str) -> Result<Option<User>> {
        let call = async {
            let client = self.pool.get().await?;
            let statement = client.prepare_cached(USER).await?;
            let row = client.query_opt(&statement, &[&name]).await?;
            row.as_ref().map(user).transpose()
        };
        self.in_time(call).await
    }

    async fn cars(&self, owner: i64) -> Result<Vec<Car>> {
        let call = async {
            let client = self.pool.get().await?;
            let statement = client.prepare_cached(CARS).await?;
            let rows = client.query(&statement, &[&owner]).await?;
            rows.iter().map(car).collect()
        };
        self.in_time(call).await
    }

    async fn buy(&self, model: &str, owner: i64) -> Result<Option<Car>> {
        let call = async {
            let client = self.pool.get().await?;
            let statement = client.prepare_cached(BUY).await?;
            match client.query_one(&statement, &[&model, &owner]).await {
                Ok(row) => car(&row).map(Some),
                Err(error) if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        self.in_time(call).await
    }
}
