//! Many calls about users as one statement.

use tokio_postgres::types::Type;

use super::keys::Keys;
use super::{Kind, LOCK_PATIENCE};
use crate::error::Result;
use crate::model::{NewUser, Registration, User, UserId};
use crate::postgres::error::no_row;
use crate::postgres::lease::Lease;
use crate::postgres::row;
use crate::postgres::statement::Statement;
use crate::postgres::users::{self, GET_MANY};

// Each row says which name it is the answer to, and the name is not sent back.
const GET_BY_USERNAMES: Statement = Statement::read(
    "SELECT u.id, u.created_at, u.role, i.position
    FROM unnest($1::text[]) WITH ORDINALITY AS i (username, position)
        JOIN users u ON u.username = i.username",
)
.takes(&[Type::TEXT_ARRAY]);

// As for one, nothing is inserted when the name was taken at the start. A name that a concurrent
// transaction has just stored makes the constraint refuse the whole statement, and a lock that is
// not to be had soon ends it; then each call goes alone, by the statement that can deal with it.
// (One that could here costs twice as much.) The setting ends with the statement. The names come
// once and in rising order, so that two batches meet the same names in the same order.
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
        RETURNING id, username
    )
    SELECT id, username, created_at, role, false FROM existing
    UNION ALL
    SELECT id, username, NULL, NULL, true FROM stored",
)
.takes(&[
    Type::TEXT_ARRAY,
    Type::DATE_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT,
]);

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
            let place = row::place(row, 3)?;
            let (Some(answer), Some(name)) = (answers.get_mut(place), keys.distinct().get(place))
            else {
                return Err(no_row());
            };
            // A row that cannot be read is the affair of who asked for it.
            *answer = users::named(row, name).ok().map(Some);
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
            let (id, name) = (users::id(row)?, users::username(row)?);
            let place = keys.find(&name).ok_or_else(no_row)?;
            let created = row::computed(row, 4)?;
            if let (Some(answer), Some(Some(new))) = (answers.get_mut(place), first.get(place)) {
                *answer = match created {
                    true => Some(Registration::Created(new.with_id(UserId::new(id)))),
                    // One that cannot be read is the affair of who asks for it.
                    false => users::user(row).ok().map(Registration::Existing),
                };
            }
        }
        Ok(keys.deal(answers, |first| {
            Registration::Existing(first.user().clone())
        }))
    }
}
