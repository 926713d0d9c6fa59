//! The repositories, once for the store and its transactions: every call goes past the faults.

use std::collections::BTreeMap;
use std::future::Future;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::Operation::{self, *};
use super::plan::{Plan, Strike, When};
use crate::error::Result;
use crate::model::{Car, CarId, NewCar, NewUser, Registration, Role, User, UserId};
use crate::page::{Page, PageRequest};
use crate::repo::{CarRepo, UserRepo};

/// The way to the repositories of the store inside.
pub(super) trait Way: Send + Sync {
    fn inner_users(&self) -> &dyn UserRepo;

    fn inner_cars(&self) -> &dyn CarRepo;

    fn plan(&self) -> &Plan;

    /// What a call meets on its way.
    fn strike(&self, strike: &Strike, now: When) -> impl Future<Output = Result<()>> + Send;

    /// Comes before a statement of the store inside, and may refuse it.
    fn statement(&self) -> Result<()>;
}

/// Makes a call, unless a fault comes in between.
pub(super) async fn call<W, T, Fut>(
    way: &W,
    operation: Operation,
    inner: impl FnOnce() -> Fut + Send,
) -> Result<T>
where
    W: Way,
    Fut: Future<Output = Result<T>> + Send,
{
    let strike = way.plan().next(operation);
    way.strike(&strike, When::Before).await?;
    way.statement()?;
    let answer = inner().await;
    way.strike(&strike, When::After).await?;
    answer
}

/// How far a stream has come.
enum Progress<'a, T, F> {
    Start(F),
    Open(BoxStream<'a, Result<T>>, Strike),
    Ended,
}

/// The same for a stream, whose answer is all of its items and its end.
fn stream_through<'a, W, T, F>(
    way: &'a W,
    operation: Operation,
    inner: F,
) -> BoxStream<'a, Result<T>>
where
    W: Way,
    T: Send + 'a,
    F: FnOnce() -> BoxStream<'a, Result<T>> + Send + 'a,
{
    let items = stream::unfold(Progress::Start(inner), move |progress| async move {
        let (mut items, strike) = match progress {
            Progress::Start(inner) => {
                let strike = way.plan().next(operation);
                match way.strike(&strike, When::Before).await {
                    Ok(()) => (inner(), strike),
                    Err(error) => return Some((Err(error), Progress::Ended)),
                }
            }
            Progress::Open(items, strike) => (items, strike),
            Progress::Ended => return None,
        };
        if let Err(error) = way.statement() {
            return Some((Err(error), Progress::Ended));
        }
        match items.next().await {
            Some(Ok(item)) => Some((Ok(item), Progress::Open(items, strike))),
            Some(Err(error)) => Some((Err(error), Progress::Ended)),
            None => match way.strike(&strike, When::After).await {
                Ok(()) => None,
                Err(error) => Some((Err(error), Progress::Ended)),
            },
        }
    });
    // One that is asked again after its end goes on saying so.
    items.fuse().boxed()
}

/// Both repositories. A type of its own, as in the store in memory.
pub(super) struct Repos<W>(pub(super) W);

#[async_trait]
impl<W: Way> UserRepo for Repos<W> {
    async fn register(&self, new: &NewUser) -> Result<Registration> {
        let users = self.0.inner_users();
        call(&self.0, Register, || users.register(new)).await
    }

    async fn register_many(&self, new: &[NewUser]) -> Result<Vec<Registration>> {
        let users = self.0.inner_users();
        call(&self.0, RegisterMany, || users.register_many(new)).await
    }

    async fn get(&self, id: UserId) -> Result<Option<User>> {
        let users = self.0.inner_users();
        call(&self.0, GetUser, || users.get(id)).await
    }

    async fn get_many(&self, ids: &[UserId]) -> Result<Vec<User>> {
        let users = self.0.inner_users();
        call(&self.0, GetUsers, || users.get_many(ids)).await
    }

    async fn get_by_username(&self, username: &str) -> Result<Option<User>> {
        let users = self.0.inner_users();
        call(&self.0, GetByUsername, || users.get_by_username(username)).await
    }

    async fn list(&self, page: PageRequest<UserId>) -> Result<Page<User, UserId>> {
        let users = self.0.inner_users();
        call(&self.0, ListUsers, || users.list(page)).await
    }

    fn stream(&self) -> BoxStream<'_, Result<User>> {
        let users = self.0.inner_users();
        stream_through(&self.0, StreamUsers, || users.stream())
    }

    async fn set_role(&self, id: UserId, role: Role) -> Result<User> {
        let users = self.0.inner_users();
        call(&self.0, SetRole, || users.set_role(id, role)).await
    }

    async fn rename(&self, id: UserId, username: &str) -> Result<User> {
        let users = self.0.inner_users();
        call(&self.0, Rename, || users.rename(id, username)).await
    }

    async fn delete(&self, id: UserId) -> Result<bool> {
        let users = self.0.inner_users();
        call(&self.0, DeleteUser, || users.delete(id)).await
    }

    async fn count(&self) -> Result<u64> {
        let users = self.0.inner_users();
        call(&self.0, CountUsers, || users.count()).await
    }
}

#[async_trait]
impl<W: Way> CarRepo for Repos<W> {
    async fn buy(&self, new: &NewCar) -> Result<Car> {
        let cars = self.0.inner_cars();
        call(&self.0, Buy, || cars.buy(new)).await
    }

    async fn buy_many(&self, new: &[NewCar]) -> Result<Vec<Car>> {
        let cars = self.0.inner_cars();
        call(&self.0, BuyMany, || cars.buy_many(new)).await
    }

    async fn get(&self, id: CarId) -> Result<Option<Car>> {
        let cars = self.0.inner_cars();
        call(&self.0, GetCar, || cars.get(id)).await
    }

    async fn owned_by(&self, owner: UserId) -> Result<Vec<Car>> {
        let cars = self.0.inner_cars();
        call(&self.0, OwnedBy, || cars.owned_by(owner)).await
    }

    async fn owned_by_many(&self, owners: &[UserId]) -> Result<BTreeMap<UserId, Vec<Car>>> {
        let cars = self.0.inner_cars();
        call(&self.0, OwnedByMany, || cars.owned_by_many(owners)).await
    }

    async fn list_owned_by(
        &self,
        owner: UserId,
        page: PageRequest<CarId>,
    ) -> Result<Page<Car, CarId>> {
        let cars = self.0.inner_cars();
        call(&self.0, ListOwnedBy, || cars.list_owned_by(owner, page)).await
    }

    fn stream(&self) -> BoxStream<'_, Result<Car>> {
        let cars = self.0.inner_cars();
        stream_through(&self.0, StreamCars, || cars.stream())
    }

    async fn transfer(&self, id: CarId, from: UserId, to: UserId) -> Result<Car> {
        let cars = self.0.inner_cars();
        call(&self.0, Transfer, || cars.transfer(id, from, to)).await
    }

    async fn delete(&self, id: CarId) -> Result<bool> {
        let cars = self.0.inner_cars();
        call(&self.0, DeleteCar, || cars.delete(id)).await
    }

    async fn count(&self) -> Result<u64> {
        let cars = self.0.inner_cars();
        call(&self.0, CountCars, || cars.count()).await
    }
}
