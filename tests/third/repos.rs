//! The repositories: what each call reads or writes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use async_trait::async_trait;
use motorpool::{
    BoxStream, Car, CarId, CarRepo, NewCar, NewUser, Page, PageRequest, Registration, Result, Role,
    User, UserId, UserRepo,
};

use super::Session;

#[async_trait]
impl UserRepo for Session {
    async fn register(&self, new: &NewUser) -> Result<Registration> {
        new.check()?;
        self.write(|rows| Ok(rows.register(new)))
    }

    async fn register_many(&self, new: &[NewUser]) -> Result<Vec<Registration>> {
        NewUser::check_all(new)?;
        self.write(|rows| Ok(new.iter().map(|new| rows.register(new)).collect()))
    }

    async fn get(&self, id: UserId) -> Result<Option<User>> {
        self.read(|rows| rows.users.get(&id).cloned())
    }

    async fn get_many(&self, ids: &[UserId]) -> Result<Vec<User>> {
        let ids: BTreeSet<_> = ids.iter().collect();
        self.read(|rows| {
            let users = ids.iter().filter_map(|id| rows.users.get(id));
            users.cloned().collect()
        })
    }

    async fn get_by_username(&self, username: &str) -> Result<Option<User>> {
        self.read(|rows| rows.named(username).cloned())
    }

    async fn list(&self, page: PageRequest<UserId>) -> Result<Page<User, UserId>> {
        let start = page.start().map_or(Unbounded, |id| Excluded(*id));
        self.read(|rows| {
            let users = rows.users.range((start, Unbounded)).map(|(_, user)| user);
            let users = users.take(page.limit() + 1).cloned().collect();
            Page::cut(users, &page, |user| user.id)
        })
    }

    async fn set_role(&self, id: UserId, role: Role) -> Result<User> {
        self.write(|rows| rows.edit(id, |user| user.role = role))
    }

    async fn rename(&self, id: UserId, username: &str) -> Result<User> {
        NewUser::new(username)?;
        self.write(|rows| rows.edit(id, |user| user.username = username.into()))
    }

    async fn delete(&self, id: UserId) -> Result<bool> {
        self.write(|rows| rows.delete_user(id))
    }

    async fn count(&self) -> Result<u64> {
        self.read(|rows| rows.users.len() as u64)
    }
}

#[async_trait]
impl CarRepo for Session {
    async fn buy(&self, new: &NewCar) -> Result<Car> {
        self.write(|rows| rows.buy(new, None))
    }

    async fn buy_many(&self, new: &[NewCar]) -> Result<Vec<Car>> {
        let new = new.iter().enumerate();
        self.write(|rows| new.map(|(index, new)| rows.buy(new, Some(index))).collect())
    }

    async fn get(&self, id: CarId) -> Result<Option<Car>> {
        self.read(|rows| rows.cars.get(&id).map(|(car, _)| car.clone()))
    }

    async fn owned_by(&self, owner: UserId) -> Result<Vec<Car>> {
        self.read(|rows| rows.owned_by(owner).cloned().collect())
    }

    async fn owned_by_many(&self, owners: &[UserId]) -> Result<BTreeMap<UserId, Vec<Car>>> {
        let mut owned: BTreeMap<_, _> = owners.iter().map(|owner| (*owner, Vec::new())).collect();
        self.read(|rows| {
            for (car, _) in rows.cars.values() {
                owned
                    .entry(car.owner_id)
                    .and_modify(|cars| cars.push(car.clone()));
            }
            owned
        })
    }

    async fn list_owned_by(
        &self,
        owner: UserId,
        page: PageRequest<CarId>,
    ) -> Result<Page<Car, CarId>> {
        self.read(|rows| {
            let cars = rows
                .owned_by(owner)
                .filter(|car| page.start() < Some(&car.id));
            Page::cut(
                cars.take(page.limit() + 1).cloned().collect(),
                &page,
                |car| car.id,
            )
        })
    }

    fn stream(&self) -> BoxStream<'_, Result<Car>> {
        Page::walk(async |page: PageRequest<CarId>| {
            let start = page.start().map_or(Unbounded, |id| Excluded(*id));
            self.read(|rows| {
                let cars = rows.cars.range((start, Unbounded)).take(page.limit() + 1);
                Page::cut(
                    cars.map(|(_, (car, _))| car.clone()).collect(),
                    &page,
                    |car| car.id,
                )
            })
        })
    }

    async fn transfer(&self, id: CarId, from: UserId, to: UserId) -> Result<Car> {
        self.write(|rows| rows.transfer(id, from, to))
    }

    async fn delete(&self, id: CarId) -> Result<bool> {
        self.write(|rows| Ok(rows.cars.remove(&id).is_some()))
    }

    async fn count(&self) -> Result<u64> {
        self.read(|rows| rows.cars.len() as u64)
    }
}
