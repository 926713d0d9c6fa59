//! Every call there is, and what it leaves in the tables.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::TryStreamExt;
use motorpool::{
    CarId, CommitToken, Error, NewCar, NewUser, PageRequest, PgStore, Result, Role, Store,
    StoreExt, Tx, TxOptions, UserId,
};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::polls::{Ended, Work};

/// The rows of one call's own.
#[derive(Clone, Debug)]
pub struct Tag {
    pub name: String,
    /// A user without cars.
    pub user: UserId,
    /// A car owned by `from`.
    pub car: CarId,
    pub from: UserId,
    pub to: UserId,
    pub url: String,
}

impl Tag {
    pub async fn new(client: &Client, name: String, owners: [UserId; 2], url: &str) -> Tag {
        let sql = "WITH u AS (
                INSERT INTO users (username) VALUES ($1 || ' user') RETURNING id
            ), c AS (
                INSERT INTO cars (model, owner_id) VALUES ($1 || ' car', $2) RETURNING id
            )
            SELECT u.id, c.id FROM u, c";
        let row = client.query_one(sql, &[&name, &owners[0].get()]).await;
        let row = row.unwrap();
        Tag {
            name,
            user: UserId::new(row.get(0)),
            car: CarId::new(row.get(1)),
            from: owners[0],
            to: owners[1],
            url: url.into(),
        }
    }

    fn named(&self, what: &str) -> String {
        format!("{} {what}", self.name)
    }

    pub fn new_user(&self, what: &str) -> NewUser {
        NewUser::new(self.named(what)).unwrap()
    }

    fn new_users(&self) -> Vec<NewUser> {
        MANY.map(|what| self.new_user(what)).into()
    }

    fn new_car(&self, what: &str) -> NewCar {
        NewCar::new(self.named(what), self.from).unwrap()
    }

    fn new_cars(&self) -> Vec<NewCar> {
        MANY.map(|what| self.new_car(what)).into()
    }

    fn new_car_with_a_key(&self, what: &str) -> NewCar {
        let new = self.new_car(what);
        let key = Uuid::new_v5(&Uuid::NAMESPACE_OID, new.model().as_bytes());
        new.key(key.into())
    }

    fn new_cars_with_keys(&self) -> Vec<NewCar> {
        MANY.map(|what| self.new_car_with_a_key(what)).into()
    }
}

const MANY: [&str; 3] = ["one", "two", "three"];

/// What a call leaves in the tables.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effect {
    Nothing,
    User,
    Users,
    Role,
    Name,
    NoUser,
    Car,
    Cars,
    Owner,
    NoCar,
    /// A user and a car, in a transaction.
    Both,
}

/// What can be said about the effect of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Told {
    /// It was acknowledged.
    Stored,
    /// Nothing was sent, or the transaction around it was not committed.
    NotStored,
    /// It was dropped while it was under way: all of it, or nothing.
    Either,
}

impl Told {
    pub fn by(ended: &Ended) -> Told {
        match ended {
            Ended::Done(Ok(())) => Told::Stored,
            Ended::Done(Err(error)) => panic!("{error:?}"),
            Ended::Dropped { polls: 0 } => Told::NotStored,
            Ended::Dropped { .. } | Ended::Stuck => Told::Either,
        }
    }
}

/// What is stored. Whoever finds the rows of a call takes them out, so that what nobody has stored
/// is left.
#[derive(Debug)]
pub struct Rows {
    pub users: BTreeMap<String, String>,
    pub cars: BTreeMap<String, Vec<i64>>,
}

impl Rows {
    pub async fn read(client: &Client) -> Rows {
        let users = client.query("SELECT username, role FROM users", &[]).await;
        let users = users.unwrap();
        let users = users.iter().map(|row| (row.get(0), row.get(1)));
        let mut rows = Rows {
            users: users.collect(),
            cars: BTreeMap::new(),
        };
        let cars = client.query("SELECT model, owner_id FROM cars", &[]).await;
        for row in cars.unwrap() {
            rows.cars.entry(row.get(0)).or_default().push(row.get(1));
        }
        rows
    }

    /// How many of the users with these names there were.
    pub fn take_users(&mut self, tag: &Tag, names: &[&str]) -> usize {
        let there = |name: &&&str| self.users.remove(&tag.named(name)).is_some();
        names.iter().filter(there).count()
    }

    fn take_cars(&mut self, tag: &Tag, names: &[&str]) -> usize {
        let there = |name: &&str| self.cars.remove(&tag.named(name)).unwrap_or_default().len();
        names.iter().map(there).sum()
    }

    /// Whether the effect is there: whole or not at all.
    pub fn take(&mut self, tag: &Tag, effect: Effect) -> bool {
        let user = self.users.remove(&tag.named("user"));
        let renamed = self.take_users(tag, &["renamed"]);
        let car = self.cars.remove(&tag.named("car"));
        if !matches!(effect, Effect::Role | Effect::Name | Effect::NoUser) {
            assert_eq!(user.as_deref(), Some("employee"), "{tag:?}");
        }
        if !matches!(effect, Effect::Owner | Effect::NoCar) {
            assert_eq!(car, Some(vec![tag.from.get()]), "{tag:?}");
        }
        let (found, whole) = match effect {
            Effect::Nothing => (0, 1),
            Effect::User => (self.take_users(tag, &["new"]), 1),
            Effect::Users => (self.take_users(tag, &MANY), 3),
            Effect::Role => (usize::from(user.as_deref() == Some("student")), 1),
            Effect::Name => {
                assert_eq!(usize::from(user.is_some()) + renamed, 1, "{tag:?}");
                (renamed, 1)
            }
            Effect::NoUser => (usize::from(user.is_none()), 1),
            Effect::Car => (self.take_cars(tag, &["new"]), 1),
            Effect::Cars => (self.take_cars(tag, &MANY), 3),
            Effect::Owner => (usize::from(car == Some(vec![tag.to.get()])), 1),
            Effect::NoCar => (usize::from(car.is_none()), 1),
            Effect::Both => {
                let cars = self.take_cars(tag, &["new"]);
                (self.take_users(tag, &["new"]) + cars, 2)
            }
        };
        assert!(found == 0 || found == whole, "{found} of {whole}: {tag:?}");
        found == whole
    }
}

/// One call.
pub struct Call {
    pub name: &'static str,
    pub effect: Effect,
    pub run: Run,
}

/// How it is made.
#[derive(Clone, Copy)]
pub enum Run {
    /// A method of a repository, outside a transaction or in one.
    Method(fn(Arc<dyn Store>, Tag) -> Work),
    /// A method of the store, which uses the tables or does not.
    Store(fn(PgStore, Tag) -> Work, bool),
    /// A method of a transaction that goes on after it.
    Inside(fn(Tx, Tag) -> Work),
    /// The end of a transaction that has stored a user.
    End(fn(Tx) -> Work),
}

const fn method(name: &'static str, effect: Effect, run: fn(Arc<dyn Store>, Tag) -> Work) -> Call {
    let run = Run::Method(run);
    Call { name, effect, run }
}

macro_rules! work {
    ($call:expr) => {
        Box::pin(async move { $call.await.map(drop) })
    };
}

const PAGE: &str = "a valid limit";

pub const CALLS: &[Call] = &[
    method("get", Effect::Nothing, |s, t| work!(s.users().get(t.user))),
    method("get_many", Effect::Nothing, |s, t| {
        work!(s.users().get_many(&[t.user, t.from]))
    }),
    method("get_by_username", Effect::Nothing, |s, t| {
        work!(s.users().get_by_username(&t.name))
    }),
    method("list", Effect::Nothing, |s, _| {
        work!(s.users().list(PageRequest::first(3).expect(PAGE)))
    }),
    method("stream", Effect::Nothing, |s, _| {
        work!(s.users().stream().try_collect::<Vec<_>>())
    }),
    method("count", Effect::Nothing, |s, _| work!(s.users().count())),
    method("register", Effect::User, |s, t| {
        work!(s.users().register(&t.new_user("new")))
    }),
    method("register_many", Effect::Users, |s, t| {
        work!(s.users().register_many(&t.new_users()))
    }),
    method("set_role", Effect::Role, |s, t| {
        work!(s.users().set_role(t.user, Role::Student))
    }),
    method("rename", Effect::Name, |s, t| {
        work!(s.users().rename(t.user, &t.named("renamed")))
    }),
    method("delete", Effect::NoUser, |s, t| {
        work!(s.users().delete(t.user))
    }),
    method("car get", Effect::Nothing, |s, t| {
        work!(s.cars().get(t.car))
    }),
    method("owned_by", Effect::Nothing, |s, t| {
        work!(s.cars().owned_by(t.from))
    }),
    method("owned_by_many", Effect::Nothing, |s, t| {
        work!(s.cars().owned_by_many(&[t.from, t.to]))
    }),
    method("list_owned_by", Effect::Nothing, |s, t| {
        work!(
            s.cars()
                .list_owned_by(t.from, PageRequest::first(3).expect(PAGE))
        )
    }),
    method("car stream", Effect::Nothing, |s, _| {
        work!(s.cars().stream().try_collect::<Vec<_>>())
    }),
    method("buy_many with keys", Effect::Cars, |s, t| {
        work!(s.cars().buy_many(&t.new_cars_with_keys()))
    }),
    method("car count", Effect::Nothing, |s, _| work!(s.cars().count())),
    method("buy", Effect::Car, |s, t| {
        work!(s.cars().buy(&t.new_car("new")))
    }),
    method("buy with a key", Effect::Car, |s, t| {
        work!(s.cars().buy(&t.new_car_with_a_key("new")))
    }),
    method("buy_many", Effect::Cars, |s, t| {
        work!(s.cars().buy_many(&t.new_cars()))
    }),
    method("transfer", Effect::Owner, |s, t| {
        work!(s.cars().transfer(t.car, t.from, t.to))
    }),
    method("car delete", Effect::NoCar, |s, t| {
        work!(s.cars().delete(t.car))
    }),
    Call {
        name: "begin",
        effect: Effect::Nothing,
        run: Run::Store(|s, _| work!(s.begin(TxOptions::new())), false),
    },
    Call {
        name: "transaction",
        effect: Effect::Both,
        run: Run::Store(|s, t| work!(s.transaction(|tx| both(tx, t.clone()))), true),
    },
    Call {
        name: "savepoint in a transaction",
        effect: Effect::Both,
        run: Run::Store(
            |s, t| {
                work!(s.transaction(|tx| {
                    let t = t.clone();
                    async move { tx.savepoint(|tx| both(tx, t)).await }
                }))
            },
            true,
        ),
    },
    Call {
        name: "ping",
        effect: Effect::Nothing,
        run: Run::Store(|s, _| work!(s.ping()), false),
    },
    Call {
        name: "migrate",
        effect: Effect::Nothing,
        run: Run::Store(|s, _| work!(s.migrate()), true),
    },
    Call {
        name: "commit_outcome",
        effect: Effect::Nothing,
        run: Run::Store(
            |s, _| work!(s.commit_outcome(&CommitToken::new(3, 0))),
            false,
        ),
    },
    Call {
        name: "connect",
        effect: Effect::Nothing,
        run: Run::Store(|_, t| work!(PgStore::connect(&t.url)), false),
    },
    Call {
        name: "savepoint",
        effect: Effect::Both,
        run: Run::Inside(|tx, t| work!(tx.savepoint(|tx| both(tx, t)))),
    },
    Call {
        name: "savepoint that is undone",
        effect: Effect::Nothing,
        run: Run::Inside(|tx, t| {
            Box::pin(async move {
                let undone = tx.savepoint(|tx| async move {
                    both(tx, t).await?;
                    Err::<(), _>(Error::UsernameTaken)
                });
                match undone.await {
                    Err(Error::UsernameTaken) => Ok(()),
                    other => other,
                }
            })
        }),
    },
    Call {
        name: "commit",
        effect: Effect::User,
        run: Run::End(|tx| work!(tx.commit())),
    },
    Call {
        name: "rollback",
        effect: Effect::Nothing,
        run: Run::End(|tx| work!(tx.rollback())),
    },
];

async fn both(tx: Tx, tag: Tag) -> Result<()> {
    let new = tag.new_user("new");
    let user = tx.users().register(&new).await?.into_user();
    let car = NewCar::new(tag.named("new"), user.id)?;
    tx.cars().buy(&car).await.map(drop)
}
