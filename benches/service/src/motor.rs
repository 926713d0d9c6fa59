//! Over the crate, as a service holds it.

use std::sync::Arc;

use anyhow::Result;
use motorpool::{Car, Error, NewCar, PgStore, Store, User, UserId};

use crate::service::Backend;

pub struct Motor(Arc<dyn Store>);

impl Backend for Motor {
    async fn connect(url: &str, _: bool) -> Result<Self> {
        Ok(Motor(Arc::new(PgStore::connect(url).await?)))
    }

    async fn user(&self, name: &str) -> Result<Option<User>> {
        Ok(self.0.users().get_by_username(name).await?)
    }

    async fn cars(&self, owner: i64) -> Result<Vec<Car>> {
        Ok(self.0.cars().owned_by(UserId::new(owner)).await?)
    }

    async fn buy(&self, model: &str, owner: i64) -> Result<Option<Car>> {
        let new = NewCar::new(model, UserId::new(owner))?;
        match self.0.cars().buy(&new).await {
            Ok(car) => Ok(Some(car)),
            Err(Error::UnknownOwner { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
