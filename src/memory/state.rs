//! The rows and what each operation does to them: plain functions, without locks or transactions.
//!
//! An operation makes all its checks before its first change, so one that fails has changed
//! nothing and used up no id.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::atomic::{AtomicI64, Ordering};

use crate::error::{Error, Result};
use crate::model::{Car, CarId, NewCar, NewUser, PurchaseKey, Registration, Role, User, UserId};
use crate::page::{Page, PageRequest};

/// Hands out ids. It stands outside [`State`] because a rollback does not give ids back, as with
/// the sequences of a database.
#[derive(Debug)]
pub(super) struct Ids {
    user: AtomicI64,
    car: AtomicI64,
}

impl Default for Ids {
    fn default() -> Self {
        Ids {
            user: AtomicI64::new(1),
            car: AtomicI64::new(1),
        }
    }
}

impl Ids {
    // Only the holder of the writer lock asks for ids, so the order needs no help from here.
    fn next_user(&self) -> UserId {
        UserId::new(self.user.fetch_add(1, Ordering::Relaxed))
    }

    fn next_car(&self) -> CarId {
        CarId::new(self.car.fetch_add(1, Ordering::Relaxed))
    }
}

#[derive(Clone)]
struct StoredCar {
    car: Car,
    key: Option<PurchaseKey>,
}

/// All rows, with an index for each way to find them.
#[derive(Clone, Default)]
pub(super) struct State {
    users: BTreeMap<UserId, User>,
    names: BTreeMap<String, UserId>,
    cars: BTreeMap<CarId, StoredCar>,
    keys: BTreeMap<PurchaseKey, CarId>,
    owned: BTreeSet<(UserId, CarId)>,
    version: u64,
}

impl State {
    /// Rises with every change: two states of one store with the same version are equal.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn register(&mut self, new: &NewUser, ids: &Ids) -> Registration {
        let stored = self.user_by_name(new.username());
        if let Some(user) = stored {
            return Registration::Existing(user);
        }
        let user = new.with_id(ids.next_user());
        self.names.insert(user.username.clone(), user.id);
        self.users.insert(user.id, user.clone());
        self.version += 1;
        Registration::Created(user)
    }

    pub(super) fn user(&self, id: UserId) -> Option<User> {
        self.users.get(&id).cloned()
    }

    pub(super) fn users(&self, ids: &[UserId]) -> Vec<User> {
        let ids: BTreeSet<_> = ids.iter().copied().collect();
        ids.into_iter().filter_map(|id| self.user(id)).collect()
    }

    pub(super) fn user_by_name(&self, username: &str) -> Option<User> {
        self.names.get(username).and_then(|id| self.user(*id))
    }

    pub(super) fn list_users(&self, page: &PageRequest<UserId>) -> Page<User, UserId> {
        let start = page.start().map_or(Unbounded, |id| Excluded(*id));
        let rows = self.users.range((start, Unbounded)).map(|(_, user)| user);
        let rows = rows.take(page.limit() + 1).cloned().collect();
        Page::cut(rows, page, |user| user.id)
    }

    pub(super) fn set_role(&mut self, id: UserId, role: Role) -> Result<User> {
        let user = self.users.get_mut(&id).ok_or(Error::UserNotFound { id })?;
        user.role = role;
        self.version += 1;
        Ok(user.clone())
    }

    pub(super) fn rename(&mut self, id: UserId, username: &str) -> Result<User> {
        let user = self.users.get_mut(&id).ok_or(Error::UserNotFound { id })?;
        match self.names.get(username) {
            Some(holder) if *holder == id => return Ok(user.clone()),
            Some(_) => return Err(Error::UsernameTaken),
            None => {}
        }
        self.names.remove(&user.username);
        self.names.insert(username.to_owned(), id);
        username.clone_into(&mut user.username);
        self.version += 1;
        Ok(user.clone())
    }

    pub(super) fn delete_user(&mut self, id: UserId) -> Result<bool> {
        if self.ids_owned_by(id, None).next().is_some() {
            return Err(Error::UserOwnsCars { id });
        }
        let Some(user) = self.users.remove(&id) else {
            return Ok(false);
        };
        self.names.remove(&user.username);
        self.version += 1;
        Ok(true)
    }

    pub(super) fn count_users(&self) -> usize {
        self.users.len()
    }

    pub(super) fn buy(&mut self, new: &NewCar, ids: &Ids) -> Result<Car> {
        self.check_purchase(new, None, None)?;
        Ok(self.store_purchase(new, ids))
    }

    pub(super) fn buy_many(&mut self, new: &[NewCar], ids: &Ids) -> Result<Vec<Car>> {
        let mut earlier = BTreeMap::new();
        for (index, item) in new.iter().enumerate() {
            let same_key = item.purchase_key().and_then(|key| earlier.get(&key));
            self.check_purchase(item, same_key.copied(), Some(index))?;
            if let Some(key) = item.purchase_key() {
                earlier.insert(key, item);
            }
        }
        Ok(new.iter().map(|n| self.store_purchase(n, ids)).collect())
    }

    /// Whether `new` may be stored, given the item before it in the same call that has its key.
    fn check_purchase(
        &self,
        new: &NewCar,
        same_key: Option<&NewCar>,
        index: Option<usize>,
    ) -> Result<()> {
        let stored = self.car_of_key(new);
        let repeats_stored = stored.map(|car| new.describes(car));
        let repeats_earlier = same_key
            .map(|earlier| earlier.model() == new.model() && earlier.owner_id() == new.owner_id());
        match repeats_stored.or(repeats_earlier) {
            Some(true) => Ok(()),
            Some(false) => Err(Error::PurchaseKeyReused { index }),
            None if self.users.contains_key(&new.owner_id()) => Ok(()),
            None => Err(Error::UnknownOwner {
                owner: new.owner_id(),
                index,
            }),
        }
    }

    /// Stores a purchase that has been checked, or finds the one it repeats.
    fn store_purchase(&mut self, new: &NewCar, ids: &Ids) -> Car {
        if let Some(car) = self.car_of_key(new) {
            return car.clone();
        }
        let car = new.with_id(ids.next_car());
        let key = new.purchase_key();
        if let Some(key) = key {
            self.keys.insert(key, car.id);
        }
        self.owned.insert((car.owner_id, car.id));
        let stored = StoredCar {
            car: car.clone(),
            key,
        };
        self.cars.insert(car.id, stored);
        self.version += 1;
        car
    }

    fn car_of_key(&self, new: &NewCar) -> Option<&Car> {
        let id = self.keys.get(&new.purchase_key()?)?;
        self.cars.get(id).map(|stored| &stored.car)
    }

    pub(super) fn car(&self, id: CarId) -> Option<Car> {
        self.cars.get(&id).map(|stored| stored.car.clone())
    }

    /// The cars of a user after a given one, in order of id.
    fn ids_owned_by(&self, owner: UserId, after: Option<CarId>) -> impl Iterator<Item = CarId> {
        let start = match after {
            Some(id) => Excluded((owner, id)),
            None => Included((owner, CarId::new(i64::MIN))),
        };
        let end = Included((owner, CarId::new(i64::MAX)));
        self.owned.range((start, end)).map(|(_, id)| *id)
    }

    pub(super) fn owned_by(&self, owner: UserId) -> Vec<Car> {
        self.ids_owned_by(owner, None)
            .filter_map(|id| self.car(id))
            .collect()
    }

    pub(super) fn owned_by_many(&self, owners: &[UserId]) -> BTreeMap<UserId, Vec<Car>> {
        let owners: BTreeSet<_> = owners.iter().copied().collect();
        owners
            .into_iter()
            .map(|owner| (owner, self.owned_by(owner)))
            .collect()
    }

    pub(super) fn list_owned_by(
        &self,
        owner: UserId,
        page: &PageRequest<CarId>,
    ) -> Page<Car, CarId> {
        let ids = self.ids_owned_by(owner, page.start().copied());
        let rows = ids.take(page.limit() + 1).filter_map(|id| self.car(id));
        Page::cut(rows.collect(), page, |car| car.id)
    }

    pub(super) fn list_cars(&self, page: &PageRequest<CarId>) -> Page<Car, CarId> {
        let start = page.start().map_or(Unbounded, |id| Excluded(*id));
        let rows = self.cars.range((start, Unbounded));
        let rows = rows.take(page.limit() + 1);
        Page::cut(
            rows.map(|(_, row)| row.car.clone()).collect(),
            page,
            |car| car.id,
        )
    }

    pub(super) fn transfer(&mut self, id: CarId, from: UserId, to: UserId) -> Result<Car> {
        let stored = self.cars.get_mut(&id).ok_or(Error::CarNotFound { id })?;
        if stored.car.owner_id != from {
            return Err(Error::NotOwner { car: id, from });
        }
        if !self.users.contains_key(&to) {
            return Err(Error::UnknownOwner {
                owner: to,
                index: None,
            });
        }
        stored.car.owner_id = to;
        self.owned.remove(&(from, id));
        self.owned.insert((to, id));
        self.version += 1;
        Ok(stored.car.clone())
    }

    pub(super) fn delete_car(&mut self, id: CarId) -> bool {
        let Some(StoredCar { car, key }) = self.cars.remove(&id) else {
            return false;
        };
        self.owned.remove(&(car.owner_id, id));
        if let Some(key) = key {
            self.keys.remove(&key);
        }
        self.version += 1;
        true
    }

    pub(super) fn count_cars(&self) -> usize {
        self.cars.len()
    }
}
