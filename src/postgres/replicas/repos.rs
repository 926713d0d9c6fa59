//! The repositories of a store with replicas.

use std::collections::BTreeMap;
use std::pin::pin;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio_postgres::Row;

use super::route::Route;
use crate::error::Result;
use crate::model::{Car, CarId, NewCar, NewUser, Registration, Role, User, UserId};
use crate::page::{Page, PageRequest, walk};
use crate::postgres::cars::{self, PgCars};
use crate::postgres::export;
use crate::postgres::observe::Operation;
use crate::postgres::statement::Statement;
use crate::postgres::users::{self, PgUsers};
use crate::repo::{CarRepo, UserRepo};

/// Users and cars, each call on the server that it belongs to.
#[derive(Clone)]
pub(in crate::postgres) struct Routed {
    pub(in crate::postgres) route: Route,
}

impl Routed {
    fn users(&self) -> PgUsers {
        PgUsers::new(self.route.primary())
    }

    fn cars(&self) -> PgCars {
        PgCars::new(self.route.primary())
    }

    /// A write, and what its session remembers of it, are one call.
    async fn write<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let replicas = &self.route.replicas;
        match &self.route.session {
            Some(session) => {
                let write = pin!(session.write(&replicas.log, replicas.doubt, call));
                let primary = self.route.primary();
                primary.call(operation, write).await
            }
            None => call.await,
        }
    }

    /// Each chunk is a read of its own, and may come from another server.
    fn stream_of<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        statement: &'static Statement,
        decode: fn(&Row) -> Result<T>,
    ) -> BoxStream<'a, Result<T>> {
        walk(move |after| async move {
            let read = |on| async move { export::chunk(&on, statement, after).await };
            let (rows, next) = self.route.read(operation, read).await?;
            Ok((rows.into_iter().map(move |row| decode(&row)), next))
        })
    }
}

#[async_trait]
impl UserRepo for Routed {
    async fn register(&self, new: &NewUser) -> Result<Registration> {
        self.write(Operation::Register, self.users().register(new))
            .await
    }

    async fn register_many(&self, new: &[NewUser]) -> Result<Vec<Registration>> {
        self.write(Operation::RegisterMany, self.users().register_many(new))
            .await
    }

    async fn get(&self, id: UserId) -> Result<Option<User>> {
        let read = |on| async move { PgUsers::new(on).get(id).await };
        self.route.read(Operation::GetUser, read).await
    }

    async fn get_many(&self, ids: &[UserId]) -> Result<Vec<User>> {
        let read = |on| async move { PgUsers::new(on).get_many(ids).await };
        self.route.read(Operation::GetUsers, read).await
    }

    async fn get_by_username(&self, username: &str) -> Result<Option<User>> {
        let read = |on| async move { PgUsers::new(on).get_by_username(username).await };
        self.route.read(Operation::GetByUsername, read).await
    }

    async fn list(&self, page: PageRequest<UserId>) -> Result<Page<User, UserId>> {
        let read = |on| async move { PgUsers::new(on).list(page).await };
        self.route.read(Operation::ListUsers, read).await
    }

    fn stream(&self) -> BoxStream<'_, Result<User>> {
        self.stream_of(Operation::StreamUsers, &users::LIST, users::user)
    }

    async fn set_role(&self, id: UserId, role: Role) -> Result<User> {
        self.write(Operation::SetRole, self.users().set_role(id, role))
            .await
    }

    async fn rename(&self, id: UserId, username: &str) -> Result<User> {
        self.write(Operation::Rename, self.users().rename(id, username))
            .await
    }

    async fn delete(&self, id: UserId) -> Result<bool> {
        self.write(Operation::DeleteUser, self.users().delete(id))
            .await
    }

    async fn count(&self) -> Result<u64> {
        let read = |on| async move { PgUsers::new(on).count().await };
        self.route.read(Operation::CountUsers, read).await
    }
}

#[async_trait]
impl CarRepo for Routed {
    async fn buy(&self, new: &NewCar) -> Result<Car> {
        self.write(Operation::Buy, self.cars().buy(new)).await
    }

    async fn buy_many(&self, new: &[NewCar]) -> Result<Vec<Car>> {
        self.write(Operation::BuyMany, self.cars().buy_many(new))
            .await
    }

    async fn get(&self, id: CarId) -> Result<Option<Car>> {
        let read = |on| async move { PgCars::new(on).get(id).await };
        self.route.read(Operation::GetCar, read).await
    }

    async fn owned_by(&self, owner: UserId) -> Result<Vec<Car>> {
        let read = |on| async move { PgCars::new(on).owned_by(owner).await };
        self.route.read(Operation::OwnedBy, read).await
    }

    async fn owned_by_many(&self, owners: &[UserId]) -> Result<BTreeMap<UserId, Vec<Car>>> {
        let read = |on| async move { PgCars::new(on).owned_by_many(owners).await };
        self.route.read(Operation::OwnedByMany, read).await
    }

    async fn list_owned_by(
        &self,
        owner: UserId,
        page: PageRequest<CarId>,
    ) -> Result<Page<Car, CarId>> {
        let read = |on| async move { PgCars::new(on).list_owned_by(owner, page).await };
        self.route.read(Operation::ListOwnedBy, read).await
    }

    fn stream(&self) -> BoxStream<'_, Result<Car>> {
        self.stream_of(Operation::StreamCars, &cars::LIST, cars::car)
    }

    async fn transfer(&self, id: CarId, from: UserId, to: UserId) -> Result<Car> {
        self.write(Operation::Transfer, self.cars().transfer(id, from, to))
            .await
    }

    async fn delete(&self, id: CarId) -> Result<bool> {
        self.write(Operation::DeleteCar, self.cars().delete(id))
            .await
    }

    async fn count(&self) -> Result<u64> {
        let read = |on| async move { PgCars::new(on).count().await };
        self.route.read(Operation::CountCars, read).await
    }
}
