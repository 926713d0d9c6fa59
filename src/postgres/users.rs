//! Users: the SQL, the decoding of a row, and the repository over both.

use std::pin::pin;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::error;
use super::executor::Executor;
use super::export;
use super::observe::Operation;
use super::registrations::Registrations;
use super::row::{self, Columns};
use super::statement::{Params, Statement};
use crate::error::{Error, Result};
use crate::model::{Field, NewUser, Registration, Role, User, UserId, check_name, storable};
use crate::page::{Page, PageRequest};
use crate::repo::UserRepo;

/// The repository, on the pool or in a transaction.
#[derive(Clone)]
pub(super) struct PgUsers {
    executor: Executor,
}

impl PgUsers {
    pub(super) fn new(executor: Executor) -> Self {
        PgUsers { executor }
    }
}

// Nothing is inserted, and no id used up, when the name was taken at the start. A name that a
// concurrent transaction has just stored is found by the no-op update, in the same round trip. The
// two are told apart by xmax: a row that was just inserted has none, one that was updated carries
// the lock that the update took.
pub(super) const REGISTER: Statement = Statement::write(
    "WITH existing AS (
        SELECT id, username, created_at, role FROM users WHERE username = $1
    ), stored AS (
        INSERT INTO users (username, created_at, role)
        SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM existing)
        ON CONFLICT (username) DO UPDATE SET username = EXCLUDED.username
        RETURNING id, username, created_at, role, xmax = 0 AS created
    )
    SELECT id, username, created_at, role, created FROM stored
    UNION ALL
    SELECT id, username, created_at, role, false FROM existing",
)
.first(
    "WITH existing AS (
        SELECT id, username, created_at, role FROM users WHERE username = $1
    ), stored AS (
        INSERT INTO users (username, created_at, role)
        SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM existing)
            AND current_setting('motorpool.begun')::boolean
        ON CONFLICT (username) DO UPDATE SET username = EXCLUDED.username
        RETURNING id, username, created_at, role, xmax = 0 AS created
    )
    SELECT id, username, created_at, role, created,
        pg_current_xact_id_if_assigned()::text::bigint FROM stored
    UNION ALL
    SELECT id, username, created_at, role, false, NULL::bigint FROM existing",
)
.takes(&[Type::TEXT, Type::DATE, Type::VARCHAR]);

// The same for many. Each name comes once; ids rise in the order given. The names are looked up one
// by one: where thousands are compared with a whole array, the planner may read the whole table.
const REGISTER_MANY: Statement = Statement::write(
    "WITH existing AS (
        SELECT u.id, u.username, u.created_at, u.role
        FROM unnest($1::text[]) AS i (username), LATERAL (
            SELECT id, username, created_at, role FROM users WHERE username = i.username LIMIT 1
        ) u
    ), stored AS (
        INSERT INTO users (username, created_at, role)
        SELECT i.username, i.created_at, i.role
        FROM unnest($1::text[], $2::date[], $3::text[])
            WITH ORDINALITY AS i (username, created_at, role, position)
        WHERE NOT EXISTS (SELECT FROM users u WHERE u.username = i.username)
        ORDER BY i.position
        ON CONFLICT (username) DO UPDATE SET username = EXCLUDED.username
        RETURNING id, username, created_at, role, xmax = 0 AS created
    )
    SELECT id, username, created_at, role, created FROM stored
    UNION ALL
    SELECT id, username, created_at, role, false FROM existing",
)
.takes(&[Type::TEXT_ARRAY, Type::DATE_ARRAY, Type::TEXT_ARRAY]);

const GET: Statement =
    Statement::read("SELECT id, username, created_at, role FROM users WHERE id = $1")
        .takes(&[Type::INT8]);

pub(super) const GET_MANY: Statement = Statement::read(
    "SELECT id, username, created_at, role FROM users WHERE id = ANY ($1) ORDER BY id",
)
.takes(&[Type::INT8_ARRAY]);

const GET_BY_USERNAME: Statement =
    Statement::read("SELECT id, username, created_at, role FROM users WHERE username = $1")
        .takes(&[Type::TEXT]);

pub(super) const LIST: Statement = Statement::read(
    "SELECT id, username, created_at, role FROM users WHERE id >= $1 ORDER BY id LIMIT $2",
)
.takes(&[Type::INT8, Type::INT8]);

const SET_ROLE: Statement = Statement::write(
    "UPDATE users SET role = $2 WHERE id = $1 RETURNING id, username, created_at, role",
)
.takes(&[Type::INT8, Type::VARCHAR]);

// Looks before it writes, so that a taken name is an answer and not an error. Only a concurrent
// transaction can still make the constraint refuse it.
const RENAME: Statement = Statement::refusable_write(
    "WITH other AS (
        SELECT id FROM users WHERE username = $2 AND id <> $1
    ), renamed AS (
        UPDATE users SET username = $2
        WHERE id = $1 AND NOT EXISTS (SELECT FROM other)
        RETURNING id, username, created_at, role
    )
    SELECT r.id, r.username, r.created_at, r.role,
        EXISTS (SELECT FROM users WHERE id = $1) AND EXISTS (SELECT FROM other)
    FROM (SELECT) one LEFT JOIN renamed r ON true",
)
.takes(&[Type::INT8, Type::TEXT]);

const DELETE: Statement = Statement::refusable_write(
    "WITH owned AS (
        SELECT FROM cars WHERE owner_id = $1 LIMIT 1
    ), gone AS (
        DELETE FROM users WHERE id = $1 AND NOT EXISTS (SELECT FROM owned) RETURNING id
    )
    SELECT EXISTS (SELECT FROM gone), EXISTS (SELECT FROM owned)",
)
.takes(&[Type::INT8]);

const COUNT: Statement = Statement::read("SELECT count(*) FROM users");

/// The id in a row that begins with it.
pub(super) fn id(row: &Row) -> Result<i64> {
    Columns::new(row, "users", None).get(0, "id")
}

/// The name in a row that begins with id and username.
pub(super) fn username(row: &Row) -> Result<&str> {
    Columns::new(row, "users", None).get(1, "username")
}

/// A row that begins with the columns id, username, created_at, role.
pub(super) fn user(row: &Row) -> Result<User> {
    let id = id(row)?;
    let columns = Columns::new(row, "users", Some(id));
    let role: &str = columns.get(3, "role")?;
    Ok(User {
        id: UserId::new(id),
        username: columns.get(1, "username")?,
        created_at: columns.get(2, "created_at")?,
        role: columns.parse(role, "role")?,
    })
}

/// A row that begins with the columns id, created_at, role, of the user with this name.
pub(super) fn named(row: &Row, username: &str) -> Result<User> {
    let id = id(row)?;
    let columns = Columns::new(row, "users", Some(id));
    let role: &str = columns.get(2, "role")?;
    Ok(User {
        id: UserId::new(id),
        username: username.to_owned(),
        created_at: columns.get(1, "created_at")?,
        role: columns.parse(role, "role")?,
    })
}

/// A row of a user, with whether it is new in a fifth column.
pub(super) fn registration(row: &Row) -> Result<Registration> {
    let user = user(row)?;
    match row::computed(row, 4)? {
        true => Ok(Registration::Created(user)),
        false => Ok(Registration::Existing(user)),
    }
}

#[async_trait]
impl UserRepo for PgUsers {
    async fn register(&self, new: &NewUser) -> Result<Registration> {
        self.executor
            .call(
                Operation::Register,
                pin!(async {
                    new.check()?;
                    let deadline = self.executor.deadline();
                    let alone = pin!(async {
                        let params: &Params<'_> = &[&new.username(), &new.date(), &new.role_text()];
                        let row = self.executor.query_opt_by(deadline, &REGISTER, params);
                        registration(&row.await?.ok_or_else(error::no_row)?)
                    });
                    match self.executor.batches() {
                        Some(batches) => {
                            let register = &batches.register;
                            register.call(deadline, || new.clone(), alone).await
                        }
                        None => alone.await,
                    }
                }),
            )
            .await
    }

    async fn register_many(&self, new: &[NewUser]) -> Result<Vec<Registration>> {
        self.executor
            .call(
                Operation::RegisterMany,
                pin!(async {
                    NewUser::check_all(new)?;
                    Registrations::new(new, &REGISTER_MANY, registration)
                        .register(&self.executor)
                        .await
                }),
            )
            .await
    }

    async fn get(&self, id: UserId) -> Result<Option<User>> {
        self.executor
            .call(
                Operation::GetUser,
                pin!(async {
                    let (id, deadline) = (id.get(), self.executor.deadline());
                    let alone = pin!(async {
                        let row = self.executor.query_opt_by(deadline, &GET, &[&id]).await?;
                        row.as_ref().map(user).transpose()
                    });
                    match self.executor.batches() {
                        Some(batches) => batches.user_by_id.call(deadline, || id, alone).await,
                        None => alone.await,
                    }
                }),
            )
            .await
    }

    async fn get_many(&self, ids: &[UserId]) -> Result<Vec<User>> {
        self.executor
            .call(
                Operation::GetUsers,
                pin!(async {
                    if ids.is_empty() {
                        return self.executor.without_asking(Vec::new()).await;
                    }
                    let ids: Vec<i64> = ids.iter().map(|id| id.get()).collect();
                    let rows = self.executor.query(&GET_MANY, &[&ids]).await?;
                    rows.iter().map(user).collect()
                }),
            )
            .await
    }

    async fn get_by_username(&self, username: &str) -> Result<Option<User>> {
        self.executor
            .call(
                Operation::GetByUsername,
                pin!(async {
                    if !storable(username) {
                        return self.executor.without_asking(None).await;
                    }
                    let deadline = self.executor.deadline();
                    let alone = pin!(async {
                        let params: &Params<'_> = &[&username];
                        let row = self
                            .executor
                            .query_opt_by(deadline, &GET_BY_USERNAME, params);
                        match row.await {
                            // In a transaction the refusal has ended that, which is no answer.
                            Err(error)
                                if error::has_no_characters(&error)
                                    && !self.executor.is_transaction() =>
                            {
                                Ok(None)
                            }
                            row => row?.as_ref().map(user).transpose(),
                        }
                    });
                    match self.executor.batches() {
                        Some(batches) => {
                            let by_name = &batches.user_by_name;
                            by_name.call(deadline, || username.to_owned(), alone).await
                        }
                        None => alone.await,
                    }
                }),
            )
            .await
    }

    async fn list(&self, page: PageRequest<UserId>) -> Result<Page<User, UserId>> {
        self.executor
            .call(
                Operation::ListUsers,
                pin!(async {
                    let rows = match row::range(page.start().map(|id| id.get()), page.limit()) {
                        Some((first, limit)) => {
                            self.executor.query(&LIST, &[&first, &limit]).await?
                        }
                        None => self.executor.without_asking(Vec::new()).await?,
                    };
                    let users = rows.iter().map(user).collect::<Result<Vec<_>>>()?;
                    Ok(Page::cut(users, &page, |user| user.id))
                }),
            )
            .await
    }

    fn stream(&self) -> BoxStream<'_, Result<User>> {
        export::stream(&self.executor, Operation::StreamUsers, &LIST, user)
    }

    async fn set_role(&self, id: UserId, role: Role) -> Result<User> {
        self.executor
            .call(
                Operation::SetRole,
                pin!(async {
                    let row = self
                        .executor
                        .query_opt(&SET_ROLE, &[&id.get(), &role.as_str()])
                        .await?;
                    user(&row.ok_or(Error::UserNotFound { id })?)
                }),
            )
            .await
    }

    async fn rename(&self, id: UserId, username: &str) -> Result<User> {
        self.executor
            .call(
                Operation::Rename,
                pin!(async {
                    check_name(Field::Username, username)?;
                    let row = self
                        .executor
                        .query_one(&RENAME, &[&id.get(), &username])
                        .await
                        .map_err(error::username_taken)?;
                    if row::computed(&row, 4)? {
                        return Err(Error::UsernameTaken);
                    }
                    match row::is_missing(&row, 0) {
                        true => Err(Error::UserNotFound { id }),
                        false => user(&row),
                    }
                }),
            )
            .await
    }

    async fn delete(&self, id: UserId) -> Result<bool> {
        self.executor
            .call(
                Operation::DeleteUser,
                pin!(async {
                    let row = self
                        .executor
                        .query_one(&DELETE, &[&id.get()])
                        .await
                        .map_err(|error| error::owns_cars(error, id))?;
                    let (gone, owned): (bool, bool) =
                        (row::computed(&row, 0)?, row::computed(&row, 1)?);
                    match owned && !gone {
                        true => Err(Error::UserOwnsCars { id }),
                        false => Ok(gone),
                    }
                }),
            )
            .await
    }

    async fn count(&self) -> Result<u64> {
        self.executor
            .call(
                Operation::CountUsers,
                pin!(async {
                    let row = self.executor.query_one(&COUNT, &[]).await?;
                    row::count(&row)
                }),
            )
            .await
    }
}
