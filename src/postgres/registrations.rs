//! Many registrations: each name is sent once.

use std::collections::HashMap;

use chrono::NaiveDate;
use tokio_postgres::Row;

use super::bulk::{self, Bulk, Statements};
use super::error;
use super::executor::Executor;
use super::statement::Statement;
use crate::error::Result;
use crate::model::{NewUser, Registration};

/// The items of a call. The first one of each name has a place and is sent.
pub(super) struct Registrations<'a> {
    new: &'a [NewUser],
    /// Takes names, dates and roles.
    statement: &'static Statement,
    decode: fn(&Row) -> Result<Registration>,
    /// The place of each name.
    places: HashMap<&'a str, usize>,
    // By place.
    indexes: Vec<usize>,
    names: Vec<&'a str>,
    dates: Vec<NaiveDate>,
    roles: Vec<&'static str>,
}

impl<'a> Registrations<'a> {
    pub(super) fn new(
        new: &'a [NewUser],
        statement: &'static Statement,
        decode: fn(&Row) -> Result<Registration>,
    ) -> Self {
        let mut registrations = Registrations {
            new,
            statement,
            decode,
            places: HashMap::with_capacity(new.len()),
            indexes: Vec::with_capacity(new.len()),
            names: Vec::with_capacity(new.len()),
            dates: Vec::with_capacity(new.len()),
            roles: Vec::with_capacity(new.len()),
        };
        for (index, user) in new.iter().enumerate() {
            let place = registrations.indexes.len();
            let first = registrations.places.entry(user.username()).or_insert(place);
            if *first == place {
                registrations.indexes.push(index);
                registrations.names.push(user.username());
                registrations.dates.push(user.date());
                registrations.roles.push(user.role_text());
            }
        }
        registrations
    }

    /// Stores them.
    pub(super) async fn register(&self, executor: &Executor) -> Result<Vec<Registration>> {
        match self.new.is_empty() {
            true => executor.without_asking(Vec::new()).await,
            false => bulk::run(executor, self).await,
        }
    }

    /// The answer for every item, out of those at the places.
    fn answers(&self, mut found: Vec<Option<Registration>>) -> Result<Vec<Registration>> {
        let mut answers: Vec<Registration> = Vec::with_capacity(self.new.len());
        for (index, user) in self.new.iter().enumerate() {
            let place = self.places.get(user.username()).copied();
            let first = place.and_then(|place| self.indexes.get(place).copied());
            let answer = match first.filter(|first| *first != index) {
                // The first of a name is the one that counts.
                Some(first) => answers
                    .get(first)
                    .map(|first| Registration::Existing(first.user().clone())),
                None => place.and_then(|place| found.get_mut(place)?.take()),
            };
            answers.push(answer.ok_or_else(error::no_row)?);
        }
        Ok(answers)
    }
}

impl Bulk for Registrations<'_> {
    type Answer = Vec<Registration>;

    fn items(&self) -> usize {
        self.names.len()
    }

    async fn send(&self, on: &mut Statements<'_>) -> Result<Vec<Registration>> {
        let mut found = vec![None; self.names.len()];
        for piece in bulk::pieces(self.items()) {
            let names = &self.names[piece.clone()];
            let (dates, roles) = (&self.dates[piece.clone()], &self.roles[piece]);
            for row in &on.query(self.statement, &[&names, &dates, &roles]).await? {
                let registration = (self.decode)(row)?;
                let place = self.places.get(registration.user().username.as_str());
                if let Some(slot) = place.and_then(|place| found.get_mut(*place)) {
                    *slot = Some(registration);
                }
            }
        }
        self.answers(found)
    }
}
