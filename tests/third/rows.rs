//! The rows, and what each call does to them.

use std::collections::BTreeMap;

use motorpool::{
    Car, CarId, Error, NewCar, NewUser, PurchaseKey, Registration, Result, User, UserId,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    pub users: BTreeMap<UserId, User>,
    names: BTreeMap<String, UserId>,
    pub cars: BTreeMap<CarId, (Car, Option<PurchaseKey>)>,
    last_user: i64,
    last_car: i64,
}

impl Rows {
    pub fn named(&self, name: &str) -> Option<&User> {
        self.users.get(self.names.get(name)?)
    }

    pub fn owned_by(&self, owner: UserId) -> impl Iterator<Item = &Car> {
        let cars = self.cars.values().map(|(car, _)| car);
        cars.filter(move |car| car.owner_id == owner)
    }

    pub fn register(&mut self, new: &NewUser) -> Registration {
        if let Some(user) = self.named(new.username()) {
            return Registration::Existing(user.clone());
        }
        self.last_user += 1;
        let user = new.with_id(UserId::new(self.last_user));
        self.names.insert(user.username.clone(), user.id);
        self.users.insert(user.id, user.clone());
        Registration::Created(user)
    }

    pub fn edit(&mut self, id: UserId, edit: impl FnOnce(&mut User)) -> Result<User> {
        let user = self.users.get_mut(&id).ok_or(Error::UserNotFound { id })?;
        self.names.remove(&user.username);
        edit(user);
        match self.names.insert(user.username.clone(), id) {
            Some(_) => Err(Error::UsernameTaken),
            None => Ok(user.clone()),
        }
    }

    pub fn delete_user(&mut self, id: UserId) -> Result<bool> {
        if self.owned_by(id).next().is_some() {
            return Err(Error::UserOwnsCars { id });
        }
        let user = self.users.remove(&id);
        let name = user.and_then(|user| self.names.remove(&user.username));
        Ok(name.is_some())
    }

    pub fn buy(&mut self, new: &NewCar, index: Option<usize>) -> Result<Car> {
        let (key, owner) = (new.purchase_key(), new.owner_id());
        let mut cars = self.cars.values();
        match key.and_then(|_| cars.find(|(_, other)| *other == key)) {
            Some((car, _)) if new.describes(car) => return Ok(car.clone()),
            Some(_) => return Err(Error::PurchaseKeyReused { index }),
            None if self.users.contains_key(&owner) => {}
            None => return Err(Error::UnknownOwner { owner, index }),
        }
        self.last_car += 1;
        let car = new.with_id(CarId::new(self.last_car));
        self.cars.insert(car.id, (car.clone(), key));
        Ok(car)
    }

    pub fn transfer(&mut self, id: CarId, from: UserId, owner: UserId) -> Result<Car> {
        let known = self.users.contains_key(&owner);
        let (car, _) = self.cars.get_mut(&id).ok_or(Error::CarNotFound { id })?;
        if car.owner_id != from {
            return Err(Error::NotOwner { car: id, from });
        }
        if !known {
            return Err(Error::UnknownOwner { owner, index: None });
        }
        car.owner_id = owner;
        Ok(car.clone())
    }
}
