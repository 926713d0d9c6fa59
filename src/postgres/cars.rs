//! Cars: the SQL, the decoding of a row, and the repository over both.

use std::collections::BTreeMap;
use std::pin::pin;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::executor::Executor;
use super::export;
use super::observe::Operation;
use super::purchases::Purchases;
use super::row::{self, Columns};
use super::statement::{Params, Statement};
use crate::error::{Error, Result};
use crate::model::{Car, CarId, NewCar, UserId};
use crate::page::{Page, PageRequest};
use crate::repo::CarRepo;

/// The repository, on the pool or in a transaction.
#[derive(Clone)]
pub(super) struct PgCars {
    executor: Executor,
}

impl PgCars {
    pub(super) fn new(executor: Executor) -> Self {
        PgCars { executor }
    }
}

// The owner is locked against deletion, so the foreign key has nothing to refuse, and the id is
// taken from the sequence only when the purchase will be stored.
pub(super) const BUY: Statement = Statement::write(
    "INSERT INTO cars (model, owner_id)
    SELECT $1, id FROM users WHERE id = $2 FOR KEY SHARE
    RETURNING id, model, owner_id",
)
.first(
    "INSERT INTO cars (model, owner_id)
    SELECT $1, id FROM users WHERE id = $2
        AND current_setting('motorpool.begun')::boolean FOR KEY SHARE
    RETURNING id, model, owner_id, pg_current_xact_id_if_assigned()::text::bigint",
)
.takes(&[Type::VARCHAR, Type::INT8]);

// The same with a key. One that a concurrent transaction has just used is found by the no-op update,
// in the same round trip.
pub(super) const BUY_WITH_KEY: Statement = Statement::write(
    "WITH held AS (
        SELECT id, model, owner_id FROM cars WHERE purchase_key = $3
    ), owner AS (
        SELECT id FROM users WHERE id = $2 FOR KEY SHARE
    ), bought AS (
        INSERT INTO cars (model, owner_id, purchase_key)
        SELECT $1, id, $3 FROM owner WHERE NOT EXISTS (SELECT FROM held)
        ON CONFLICT (purchase_key) DO UPDATE SET purchase_key = EXCLUDED.purchase_key
        RETURNING id, model, owner_id
    )
    SELECT id, model, owner_id FROM held
    UNION ALL
    SELECT id, model, owner_id FROM bought",
)
.first(
    "WITH held AS (
        SELECT id, model, owner_id FROM cars WHERE purchase_key = $3
    ), owner AS (
        SELECT id FROM users WHERE id = $2 FOR KEY SHARE
    ), bought AS (
        INSERT INTO cars (model, owner_id, purchase_key)
        SELECT $1, id, $3 FROM owner WHERE NOT EXISTS (SELECT FROM held)
            AND current_setting('motorpool.begun')::boolean
        ON CONFLICT (purchase_key) DO UPDATE SET purchase_key = EXCLUDED.purchase_key
        RETURNING id, model, owner_id
    )
    SELECT id, model, owner_id, NULL::bigint FROM held
    UNION ALL
    SELECT id, model, owner_id, pg_current_xact_id_if_assigned()::text::bigint FROM bought",
)
.takes(&[Type::VARCHAR, Type::INT8, Type::UUID]);

const GET: Statement =
    Statement::read("SELECT id, model, owner_id FROM cars WHERE id = $1").takes(&[Type::INT8]);

pub(super) const LIST: Statement =
    Statement::read("SELECT id, model, owner_id FROM cars WHERE id >= $1 ORDER BY id LIMIT $2")
        .takes(&[Type::INT8, Type::INT8]);

const OWNED_BY: Statement =
    Statement::read("SELECT id, model, owner_id FROM cars WHERE owner_id = $1 ORDER BY id")
        .takes(&[Type::INT8]);

// The owners are looked up one by one, which the OFFSET keeps: for thousands of them the planner may
// read the whole table instead.
const OWNED_BY_MANY: Statement = Statement::read(
    "SELECT c.id, c.model, c.owner_id
    FROM unnest($1::bigint[]) AS o (id), LATERAL (
        SELECT id, model, owner_id FROM cars WHERE owner_id = o.id OFFSET 0
    ) c
    ORDER BY c.owner_id, c.id",
)
.takes(&[Type::INT8_ARRAY]);

const LIST_OWNED_BY: Statement = Statement::read(
    "SELECT id, model, owner_id FROM cars WHERE owner_id = $1 AND id >= $2 ORDER BY id LIMIT $3",
)
.takes(&[Type::INT8, Type::INT8, Type::INT8]);

// The car is locked first, so its owner is the one at this moment, and the new owner is locked
// against deletion.
const TRANSFER: Statement = Statement::write(
    "WITH car AS MATERIALIZED (
        SELECT id, owner_id FROM cars WHERE id = $1 FOR UPDATE
    ), receiver AS MATERIALIZED (
        SELECT id FROM users WHERE id = $3 FOR KEY SHARE
    ), moved AS (
        UPDATE cars SET owner_id = receiver.id FROM car, receiver
        WHERE cars.id = car.id AND car.owner_id = $2
        RETURNING cars.id, cars.model, cars.owner_id
    )
    SELECT moved.id, moved.model, moved.owner_id, (SELECT owner_id FROM car)
    FROM (SELECT) one LEFT JOIN moved ON true",
)
.takes(&[Type::INT8, Type::INT8, Type::INT8]);

const DELETE: Statement =
    Statement::write("DELETE FROM cars WHERE id = $1 RETURNING id").takes(&[Type::INT8]);

const COUNT: Statement = Statement::read("SELECT count(*) FROM cars");

/// A row that begins with the columns id, model, owner_id.
pub(super) fn car(row: &Row) -> Result<Car> {
    let id: i64 = Columns::new(row, "cars", None).get(0, "id")?;
    let columns = Columns::new(row, "cars", Some(id));
    Ok(Car {
        id: CarId::new(id),
        model: columns.get(1, "model")?,
        owner_id: UserId::new(columns.get(2, "owner_id")?),
    })
}

fn cars(rows: &[Row]) -> Result<Vec<Car>> {
    rows.iter().map(car).collect()
}

#[async_trait]
impl CarRepo for PgCars {
    async fn buy(&self, new: &NewCar) -> Result<Car> {
        self.executor
            .call(
                Operation::Buy,
                pin!(async {
                    let owner = new.owner_id();
                    let key = new.purchase_key().map(|key| key.get());
                    let deadline = self.executor.deadline();
                    let alone = pin!(async {
                        let (model, owner_id) = (new.model(), owner.get());
                        let (statement, params): (_, &Params<'_>) = match &key {
                            None => (&BUY, &[&model, &owner_id]),
                            Some(key) => (&BUY_WITH_KEY, &[&model, &owner_id, key]),
                        };
                        let row = self.executor.query_opt_by(deadline, statement, params);
                        let row = row.await?;
                        car(&row.ok_or(Error::UnknownOwner { owner, index: None })?)
                    });
                    let car = match (self.executor.batches(), key) {
                        (Some(batches), None) => {
                            batches.buy.call(deadline, || new.clone(), alone).await?
                        }
                        (Some(batches), Some(key)) => {
                            let buy = &batches.buy_with_key;
                            buy.call(deadline, || (new.clone(), key), alone).await?
                        }
                        (None, _) => alone.await?,
                    };
                    match new.describes(&car) {
                        true => Ok(car),
                        false => Err(Error::PurchaseKeyReused { index: None }),
                    }
                }),
            )
            .await
    }

    async fn buy_many(&self, new: &[NewCar]) -> Result<Vec<Car>> {
        self.executor
            .call(
                Operation::BuyMany,
                pin!(async { Purchases::new(new).buy(&self.executor).await }),
            )
            .await
    }

    async fn get(&self, id: CarId) -> Result<Option<Car>> {
        self.executor
            .call(
                Operation::GetCar,
                pin!(async {
                    let (id, deadline) = (id.get(), self.executor.deadline());
                    let alone = pin!(async {
                        let row = self.executor.query_opt_by(deadline, &GET, &[&id]).await?;
                        row.as_ref().map(car).transpose()
                    });
                    match self.executor.batches() {
                        Some(batches) => batches.car_by_id.call(deadline, || id, alone).await,
                        None => alone.await,
                    }
                }),
            )
            .await
    }

    async fn owned_by(&self, owner: UserId) -> Result<Vec<Car>> {
        self.executor
            .call(
                Operation::OwnedBy,
                pin!(async {
                    let (owner, deadline) = (owner.get(), self.executor.deadline());
                    let alone = pin!(async {
                        let params: &Params<'_> = &[&owner];
                        cars(&self.executor.query_by(deadline, &OWNED_BY, params).await?)
                    });
                    match self.executor.batches() {
                        Some(batches) => batches.owned_by.call(deadline, || owner, alone).await,
                        None => alone.await,
                    }
                }),
            )
            .await
    }

    async fn owned_by_many(&self, owners: &[UserId]) -> Result<BTreeMap<UserId, Vec<Car>>> {
        self.executor
            .call(
                Operation::OwnedByMany,
                pin!(async {
                    let mut owned: BTreeMap<_, Vec<_>> =
                        owners.iter().map(|owner| (*owner, Vec::new())).collect();
                    if owned.is_empty() {
                        return self.executor.without_asking(owned).await;
                    }
                    let ids: Vec<i64> = owned.keys().map(|owner| owner.get()).collect();
                    for row in &self.executor.query(&OWNED_BY_MANY, &[&ids]).await? {
                        let car = car(row)?;
                        owned.entry(car.owner_id).or_default().push(car);
                    }
                    Ok(owned)
                }),
            )
            .await
    }

    async fn list_owned_by(
        &self,
        owner: UserId,
        page: PageRequest<CarId>,
    ) -> Result<Page<Car, CarId>> {
        self.executor
            .call(
                Operation::ListOwnedBy,
                pin!(async {
                    let rows = match row::range(page.start().map(|id| id.get()), page.limit()) {
                        Some((first, limit)) => {
                            let params: &Params<'_> = &[&owner.get(), &first, &limit];
                            self.executor.query(&LIST_OWNED_BY, params).await?
                        }
                        None => self.executor.without_asking(Vec::new()).await?,
                    };
                    Ok(Page::cut(cars(&rows)?, &page, |car| car.id))
                }),
            )
            .await
    }

    fn stream(&self) -> BoxStream<'_, Result<Car>> {
        export::stream(&self.executor, Operation::StreamCars, &LIST, car)
    }

    async fn transfer(&self, id: CarId, from: UserId, to: UserId) -> Result<Car> {
        self.executor
            .call(
                Operation::Transfer,
                pin!(async {
                    let row = self
                        .executor
                        .query_one(&TRANSFER, &[&id.get(), &from.get(), &to.get()])
                        .await?;
                    if !row::is_missing(&row, 0) {
                        return car(&row);
                    }
                    match row::computed::<Option<i64>>(&row, 3)? {
                        None => Err(Error::CarNotFound { id }),
                        Some(owner) if owner != from.get() => {
                            Err(Error::NotOwner { car: id, from })
                        }
                        Some(_) => Err(Error::UnknownOwner {
                            owner: to,
                            index: None,
                        }),
                    }
                }),
            )
            .await
    }

    async fn delete(&self, id: CarId) -> Result<bool> {
        self.executor
            .call(
                Operation::DeleteCar,
                pin!(async {
                    let row = self.executor.query_opt(&DELETE, &[&id.get()]).await?;
                    Ok(row.is_some())
                }),
            )
            .await
    }

    async fn count(&self) -> Result<u64> {
        self.executor
            .call(
                Operation::CountCars,
                pin!(async { row::count(&self.executor.query_one(&COUNT, &[]).await?) }),
            )
            .await
    }
}
