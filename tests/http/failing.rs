//! A store whose every call gives an error of the test's choice.

#![allow(unreachable_pub, reason = "a module of a test program")]

use std::collections::BTreeMap;

use async_trait::async_trait;
use motorpool::{
    Car, CarId, CarRepo, Error, NewCar, NewUser, Page, PageRequest, Registration, Result, Role,
    Store, Tx, TxOptions, User, UserId, UserRepo,
};

pub struct Failing(pub fn() -> Error);

#[async_trait]
impl Store for Failing {
    fn users(&self) -> &dyn UserRepo {
        self
    }

    fn cars(&self) -> &dyn CarRepo {
        self
    }

    async fn begin(&self, _: TxOptions) -> Result<Tx> {
        Err(self.0())
    }
}

#[async_trait]
impl UserRepo for Failing {
    async fn register(&self, _: &NewUser) -> Result<Registration> {
        Err(self.0())
    }

    async fn register_many(&self, _: &[NewUser]) -> Result<Vec<Registration>> {
        Err(self.0())
    }

    async fn get(&self, _: UserId) -> Result<Option<User>> {
        Err(self.0())
    }

    async fn get_many(&self, _: &[UserId]) -> Result<Vec<User>> {
        Err(self.0())
    }

    async fn get_by_username(&self, _: &str) -> Result<Option<User>> {
        Err(self.0())
    }

    async fn list(&self, _: PageRequest<UserId>) -> Result<Page<User, UserId>> {
        Err(self.0())
    }

    async fn set_role(&self, _: UserId, _: Role) -> Result<User> {
        Err(self.0())
    }

    async fn rename(&self, _: UserId, _: &str) -> Result<User> {
        Err(self.0())
    }

    async fn delete(&self, _: UserId) -> Result<bool> {
        Err(self.0())
    }

    async fn count(&self) -> Result<u64> {
        Err(self.0())
    }
}

#[async_trait]
impl CarRepo for Failing {
    async fn buy(&self, _: &NewCar) -> Result<Car> {
        Err(self.0())
    }

    async fn buy_many(&self, _: &[NewCar]) -> Result<Vec<Car>> {
        Err(self.0())
    }

    async fn get(&self, _: CarId) -> Result<Option<Car>> {
        Err(self.0())
    }

    async fn owned_by(&self, _: UserId) -> Result<Vec<Car>> {
        Err(self.0())
    }

    async fn owned_by_many(&self, _: &[UserId]) -> Result<BTreeMap<UserId, Vec<Car>>> {
        Err(self.0())
    }

    async fn list_owned_by(&self, _: UserId, _: PageRequest<CarId>) -> Result<Page<Car, CarId>> {
        Err(self.0())
    }

    async fn transfer(&self, _: CarId, _: UserId, _: UserId) -> Result<Car> {
        Err(self.0())
    }

    async fn delete(&self, _: CarId) -> Result<bool> {
        Err(self.0())
    }

    async fn count(&self) -> Result<u64> {
        Err(self.0())
    }
}
