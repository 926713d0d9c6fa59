//! The repositories, once for the store and its transactions: they differ only in how a statement
//! comes by a [`State`].

use std::collections::BTreeMap;
use std::future::Future;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use super::state::{Ids, State};
use crate::error::Result;
use crate::model::{
    Car, CarId, Field, NewCar, NewUser, Registration, Role, User, UserId, check_name,
};
use crate::page::{Page, PageRequest};
use crate::repo::{CarRepo, UserRepo};

/// Runs one statement.
pub(super) trait Run: Send + Sync {
    /// With the rows as they are to be seen.
    fn read<T: Send>(
        &self,
        statement: impl FnOnce(&State) -> T + Send,
    ) -> impl Future<Output = Result<T>> + Send;

    /// With the rows to change. A statement that fails has changed nothing.
    fn write<T: Send>(
        &self,
        statement: impl FnOnce(&mut State, &Ids) -> Result<T> + Send,
    ) -> impl Future<Output = Result<T>> + Send;
}

/// Both repositories over a [`Run`]. A type of its own, so that the store itself has no method
/// `get` that could mean a user or a car.
#[derive(Clone, Default)]
pub(super) struct Repos<R>(pub(super) R);

#[async_trait]
impl<R: Run> UserRepo for Repos<R> {
    async fn register(&self, new: &NewUser) -> Result<Registration> {
        new.check()?;
        self.0
            .write(|state, ids| Ok(state.register(new, ids)))
            .await
    }

    async fn register_many(&self, new: &[NewUser]) -> Result<Vec<Registration>> {
        NewUser::check_all(new)?;
        if new.is_empty() {
            return self.0.read(|_| Vec::new()).await;
        }
        self.0
            .write(|state, ids| Ok(new.iter().map(|n| state.register(n, ids)).collect()))
            .await
    }

    async fn get(&self, id: UserId) -> Result<Option<User>> {
        self.0.read(|state| state.user(id)).await
    }

    async fn get_many(&self, ids: &[UserId]) -> Result<Vec<User>> {
        self.0.read(|state| state.users(ids)).await
    }

    async fn get_by_username(&self, username: &str) -> Result<Option<User>> {
        self.0.read(|state| state.user_by_name(username)).await
    }

    async fn list(&self, page: PageRequest<UserId>) -> Result<Page<User, UserId>> {
        self.0.read(|state| state.list_users(&page)).await
    }

    async fn set_role(&self, id: UserId, role: Role) -> Result<User> {
        self.0.write(|state, _| state.set_role(id, role)).await
    }

    async fn rename(&self, id: UserId, username: &str) -> Result<User> {
        check_name(Field::Username, username)?;
        self.0.write(|state, _| state.rename(id, username)).await
    }

    async fn delete(&self, id: UserId) -> Result<bool> {
        self.0.write(|state, _| state.delete_user(id)).await
    }

    async fn count(&self) -> Result<u64> {
        self.0.read(|state| state.count_users() as u64).await
    }
}

#[async_trait]
impl<R: Run> CarRepo for Repos<R> {
    async fn buy(&self, new: &NewCar) -> Result<Car> {
        self.0.write(|state, ids| state.buy(new, ids)).await
    }

    async fn buy_many(&self, new: &[NewCar]) -> Result<Vec<Car>> {
        if new.is_empty() {
            return self.0.read(|_| Vec::new()).await;
        }
        self.0.write(|state, ids| state.buy_many(new, ids)).await
    }

    async fn get(&self, id: CarId) -> Result<Option<Car>> {
        self.0.read(|state| state.car(id)).await
    }

    async fn owned_by(&self, owner: UserId) -> Result<Vec<Car>> {
        self.0.read(|state| state.owned_by(owner)).await
    }

    async fn owned_by_many(&self, owners: &[UserId]) -> Result<BTreeMap<UserId, Vec<Car>>> {
        self.0.read(|state| state.owned_by_many(owners)).await
    }

    async fn list_owned_by(
        &self,
        owner: UserId,
        page: PageRequest<CarId>,
    ) -> Result<Page<Car, CarId>> {
        self.0.read(|state| state.list_owned_by(owner, &page)).await
    }

    fn stream(&self) -> BoxStream<'_, Result<Car>> {
        Page::walk(|page| self.0.read(move |state| state.list_cars(&page)))
    }

    async fn transfer(&self, id: CarId, from: UserId, to: UserId) -> Result<Car> {
        self.0.write(|state, _| state.transfer(id, from, to)).await
    }

    async fn delete(&self, id: CarId) -> Result<bool> {
        self.0.write(|state, _| Ok(state.delete_car(id))).await
    }

    async fn count(&self) -> Result<u64> {
        self.0.read(|state| state.count_cars() as u64).await
    }
}
