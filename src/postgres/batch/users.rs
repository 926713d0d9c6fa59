//! Many calls about users as one statement.

use super::keys::Keys;
use super::{Kind, LOCK_PATIENCE};
use crate::error::Result;
use crate::model::{NewUser, Registration, User};
use crate::postgres::lease::Lease;
use crate::postgres::statement::Statement;
use crate::postgres::users::{self, GET_MANY};

const GET_BY_USERNAMES: Statement =
    Statement::read("SELECT id, username, created_at, role FROM users WHERE username = ANY ($1)");

// As for one: nothing is inserted when the name was taken at the start, and one that a concurrent
// transaction has just stored is found by the no-op update. The names come once and in rising
// order, so that two batches meet the same names in the same order. A lock that is not to be had
// soon ends the statement; the setting ends with it.
const REGISTER_BATCH: Statement = Statement::write(
    "WITH patience AS MATERIALIZED (
        SELECT set_config('lock_timeout', $4, true)
    ), existing AS MATERIALIZED (
        SELECT id, username, created_at, role FROM users WHERE username = ANY ($1)
    ), stored AS (
        INSERT INTO users (username, created_at, role)
        SELECT i.username, i.created_at, i.role
        FROM patience, unnest($1::text[], $2::date[], $3::text[])
            AS i (username, created_at, role)
        WHERE i.username NOT IN (SELECT username FROM existing)
        ON CONFLICT (username) DO UPDATE SET username = EXCLUDED.username
        RETURNING id, username, created_at, role, xmax = 0 AS created
    )
    SELECT id, username, created_at, role, created FROM stored
    UNION ALL
    SELECT id, username, created_at, role, false FROM existing",
);

/// `UserRepo::get`.
pub(in crate::postgres) struct UserById;

impl Kind for UserById {
    type Call = i64;
    type Answer = Option<User>;
    const WRITES: bool = false;

    async fn run(lease: &mut Lease, calls: Vec<i64>) -> Result<Vec<Option<Self::Answer>>> {
        let keys = Keys::new(calls.into_iter());
        let rows = lease.query(&GET_MANY, &[keys.distinct()]).await?;
        let mut answers = vec![Some(None); keys.distinct().len()];
        for row in &rows {
            // A row that cannot be read is the affair of who asked for it.
            let (id, user) = (users::id(row)?, users::user(row).ok());
            if let Some(answer) = keys.find(&id).and_then(|place| answers.get_mut(place)) {
                *answer = user.map(Some);
            }
        }
        Ok(keys.deal(answers, Clone::clone))
    }
}

/// `UserRepo::get_by_username`.
pub(in crate::postgres) struct UserByName;

impl Kind for UserByName {
    type Call = String;
    type Answer = Option<User>;
    const WRITES: bool = false;

    async fn run(lease: &mut Lease, calls: Vec<String>) -> Result<Vec<Option<Self::Answer>>> {
        let keys = Keys::new(calls.iter().map(String::as_str));
        let rows = lease.query(&GET_BY_USERNAMES, &[keys.distinct()]).await?;
        let mut answers = vec![Some(None); keys.distinct().len()];
        for row in &rows {
            let (name, user) = (users::username(row)?, users::user(row).ok());
            if let Some(answer) = keys.find(&name).and_then(|place| answers.get_mut(place)) {
                *answer = user.map(Some);
            }
        }
        Ok(keys.deal(answers, Clone::clone))
    }
}

/// `UserRepo::register`.
pub(in crate::postgres) struct Register;

impl Kind for Register {
    type Call = NewUser;
    type Answer = Registration;
    const WRITES: bool = true;

    async fn run(lease: &mut Lease, calls: Vec<NewUser>) -> Result<Vec<Option<Registration>>> {
        let keys = Keys::new(calls.iter().map(NewUser::username));
        // The first of each name is the one that counts.
        let mut first = vec![None; keys.distinct().len()];
        for new in &calls {
            let place = keys.find(&new.username());
            if let Some(first) = place.and_then(|place| first.get_mut(place)) {
                first.get_or_insert(new);
            }
        }
        let dates: Vec<_> = first.iter().flatten().map(|new| new.date()).collect();
        let roles: Vec<_> = first.iter().flatten().map(|new| new.role_text()).collect();
        let rows = lease
            .query(
                &REGISTER_BATCH,
                &[keys.distinct(), &dates, &roles, &LOCK_PATIENCE],
            )
            .await?;
        let mut answers = vec![None; keys.distinct().len()];
        for row in &rows {
            let name = users::username(row)?;
            if let Some(answer) = keys.find(&name).and_then(|place| answers.get_mut(place)) {
                // One that was stored and cannot be read would be found as existing if its call
                // went alone; but what was stored is what this crate has just sent.
                *answer = users::registration(row).ok();
            }
        }
        Ok(keys.deal(answers, |first| {
            Registration::Existing(first.user().clone())
        }))
    }
}
