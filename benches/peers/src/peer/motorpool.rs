//! This crate as its users get it.

use anyhow::Result;
use motorpool::{
    Car, Error, NewCar, NewUser, PgStore, Registration, Store, StoreExt, User, UserId,
};

use super::{Peer, Purchase};

pub struct Motorpool(PgStore);

impl Peer for Motorpool {
    async fn connect(url: &str, _: bool) -> Result<Self> {
        Ok(Motorpool(PgStore::builder(url)?.build().await?))
    }

    async fn get_by_username(&self, name: &str) -> Result<Option<User>> {
        Ok(self.0.users().get_by_username(name).await?)
    }

    async fn owned_by(&self, owner: i64) -> Result<Vec<Car>> {
        Ok(self.0.cars().owned_by(UserId::new(owner)).await?)
    }

    async fn register(&self, name: &str) -> Result<Registration> {
        Ok(self.0.users().register(&NewUser::new(name)?).await?)
    }

    async fn buy(&self, model: &str, owner: i64) -> Result<Option<Car>> {
        let new = NewCar::new(model, UserId::new(owner))?;
        match self.0.cars().buy(&new).await {
            Ok(car) => Ok(Some(car)),
            Err(Error::UnknownOwner { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn buy_many(&self, cars: &[Purchase]) -> Result<Vec<Car>> {
        let new = cars
            .iter()
            .map(|car| NewCar::new(car.model.as_str(), UserId::new(car.owner)))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(self.0.cars().buy_many(&new).await?)
    }

    async fn register_and_buy(&self, name: &str, models: [&str; 3]) -> Result<User> {
        let new = NewUser::new(name)?;
        let user = self.0.transaction(|tx| {
            let new = &new;
            async move {
                let user = tx.users().register(new).await?.into_user();
                for model in models {
                    tx.cars().buy(&NewCar::new(model, user.id)?).await?;
                }
                Ok::<_, Error>(user)
            }
        });
        Ok(user.await?)
    }
}
