//! Many calls about cars as one statement.

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::keys::Keys;
use super::{Kind, LOCK_PATIENCE};
use crate::error::Result;
use crate::model::{Car, CarId, NewCar, UserId};
use crate::postgres::cars;
use crate::postgres::error::no_row;
use crate::postgres::lease::Lease;
use crate::postgres::row;
use crate::postgres::statement::{Params, Statement};

const GET_MANY: Statement =
    Statement::read("SELECT id, model, owner_id FROM cars WHERE id = ANY ($1)")
        .takes(&[Type::INT8_ARRAY]);

// Without an order, which is cheaper to make for the few cars of each owner afterwards.
const OWNED_BY_ANY: Statement =
    Statement::read("SELECT id, model, owner_id FROM cars WHERE owner_id = ANY ($1)")
        .takes(&[Type::INT8_ARRAY]);

// Purchases without keys. One whose owner is not there, or is held by somebody else, is left out, so
// this waits for nobody. The owners are locked against deletion, so the foreign key has nothing to
// refuse.
const BUY_BATCH: Statement = Statement::write(
    "INSERT INTO cars (model, owner_id)
    SELECT i.model, u.id
    FROM unnest($1::text[], $2::bigint[]) AS i (model, owner_id)
        JOIN users u ON u.id = i.owner_id
    FOR KEY SHARE OF u SKIP LOCKED
    RETURNING id, owner_id, model",
)
.takes(&[Type::TEXT_ARRAY, Type::INT8_ARRAY]);

// Purchases with keys, each key once and in rising order, so that two batches meet the same keys in
// the same order. A key that a concurrent transaction has just used makes the constraint refuse the
// whole statement, and a lock that is not to be had soon ends it; then each call goes alone.
const BUY_BATCH_WITH_KEYS: Statement = Statement::write(
    "WITH patience AS MATERIALIZED (
        SELECT set_config('lock_timeout', $4, true)
    ), held AS MATERIALIZED (
        SELECT id, owner_id, purchase_key, model FROM cars WHERE purchase_key = ANY ($3::uuid[])
    ), owner AS MATERIALIZED (
        SELECT id FROM users WHERE id = ANY ($2::bigint[]) FOR KEY SHARE SKIP LOCKED
    ), bought AS (
        INSERT INTO cars (model, owner_id, purchase_key)
        SELECT i.model, i.owner_id, i.key
        FROM patience, unnest($1::text[], $2::bigint[], $3::uuid[]) AS i (model, owner_id, key)
        WHERE i.owner_id IN (SELECT id FROM owner)
            AND i.key NOT IN (SELECT purchase_key FROM held)
        RETURNING id, owner_id, purchase_key, model
    )
    SELECT id, owner_id, purchase_key, model FROM held
    UNION ALL
    SELECT id, owner_id, purchase_key, model FROM bought",
)
.takes(&[
    Type::TEXT_ARRAY,
    Type::INT8_ARRAY,
    Type::UUID_ARRAY,
    Type::TEXT,
]);

/// `CarRepo::get`.
pub(in crate::postgres) struct CarById;

impl Kind for CarById {
    type Call = i64;
    type Answer = Option<Car>;
    const WRITES: bool = false;

    async fn run(lease: &mut Lease, calls: Vec<i64>) -> Result<Vec<Option<Self::Answer>>> {
        let keys = Keys::new(calls.into_iter());
        let rows = lease.query(&GET_MANY, &[keys.distinct()]).await?;
        let mut answers = vec![Some(None); keys.distinct().len()];
        for row in &rows {
            let car = cars::car(row)?;
            let place = keys.find(&car.id.get());
            if let Some(answer) = place.and_then(|place| answers.get_mut(place)) {
                *answer = Some(Some(car));
            }
        }
        Ok(keys.deal(answers, Clone::clone))
    }
}

/// `CarRepo::owned_by`.
pub(in crate::postgres) struct OwnedBy;

impl Kind for OwnedBy {
    type Call = i64;
    type Answer = Vec<Car>;
    const WRITES: bool = false;

    async fn run(lease: &mut Lease, calls: Vec<i64>) -> Result<Vec<Option<Self::Answer>>> {
        let keys = Keys::new(calls.into_iter());
        let rows = lease.query(&OWNED_BY_ANY, &[keys.distinct()]).await?;
        let mut answers = vec![Some(Vec::new()); keys.distinct().len()];
        for row in &rows {
            let car = cars::car(row)?;
            let place = keys.find(&car.owner_id.get());
            if let Some(Some(answer)) = place.and_then(|place| answers.get_mut(place)) {
                answer.push(car);
            }
        }
        for cars in answers.iter_mut().flatten() {
            cars.sort_unstable_by_key(|car| car.id);
        }
        Ok(keys.deal(answers, Clone::clone))
    }
}

/// `CarRepo::buy` without a key.
pub(in crate::postgres) struct Buy;

impl Kind for Buy {
    type Call = NewCar;
    type Answer = Car;
    const WRITES: bool = true;

    async fn run(lease: &mut Lease, calls: Vec<NewCar>) -> Result<Vec<Option<Car>>> {
        // Purchases of one model by one owner are all the same: it does not matter which of them
        // gets which car.
        fn what(new: &NewCar) -> (i64, &str) {
            (new.owner_id().get(), new.model())
        }
        let mut order: Vec<usize> = (0..calls.len()).collect();
        order.sort_unstable_by_key(|call| calls.get(*call).map(what));
        let (owners, models): (Vec<i64>, Vec<&str>) = order
            .iter()
            .filter_map(|call| calls.get(*call).map(what))
            .unzip();
        let rows = lease.query(&BUY_BATCH, &[&models, &owners]).await?;
        let mut stored = Vec::with_capacity(rows.len());
        for row in &rows {
            let owner: i64 = row::computed(row, 1)?;
            let model: &str = row::computed(row, 2)?;
            stored.push(((owner, model), row::computed::<i64>(row, 0)?));
        }
        stored.sort_unstable();
        let mut stored = stored.into_iter().peekable();
        let mut answers = vec![None; calls.len()];
        for call in &order {
            if let (Some(new), Some(answer)) = (calls.get(*call), answers.get_mut(*call)) {
                let own = stored.next_if(|(bought, _)| *bought == what(new));
                *answer = own.map(|(_, id)| new.with_id(CarId::new(id)));
            }
        }
        match stored.next() {
            None => Ok(answers),
            // What is stored and has no buyer must not be bought again.
            Some(_) => Err(no_row()),
        }
    }
}

/// `CarRepo::buy` with a key. The answer is the car that is stored for the key; whether it is the
/// one asked for is for the caller to see.
pub(in crate::postgres) struct BuyWithKey;

impl Kind for BuyWithKey {
    type Call = (NewCar, Uuid);
    type Answer = Car;
    const WRITES: bool = true;

    async fn run(lease: &mut Lease, calls: Vec<(NewCar, Uuid)>) -> Result<Vec<Option<Car>>> {
        let keys = Keys::new(calls.iter().map(|(_, key)| *key));
        // The first with each key is the one that is sent.
        let mut first: Vec<Option<&NewCar>> = vec![None; keys.distinct().len()];
        for (new, key) in &calls {
            if let Some(first) = keys.find(key).and_then(|place| first.get_mut(place)) {
                first.get_or_insert(new);
            }
        }
        let models: Vec<&str> = first.iter().flatten().map(|new| new.model()).collect();
        let owners: Vec<i64> = (first.iter().flatten())
            .map(|new| new.owner_id().get())
            .collect();
        let params: &Params<'_> = &[&models, &owners, keys.distinct(), &LOCK_PATIENCE];
        let rows = lease.query(&BUY_BATCH_WITH_KEYS, params).await?;
        let mut answers = vec![None; keys.distinct().len()];
        for row in &rows {
            let key = row::computed(row, 2)?;
            if let Some(answer) = keys.find(&key).and_then(|place| answers.get_mut(place)) {
                *answer = Some(Car {
                    id: CarId::new(row::computed(row, 0)?),
                    owner_id: UserId::new(row::computed(row, 1)?),
                    model: row::computed(row, 3)?,
                });
            }
        }
        // A key whose first purchase is not stored is free for another one: those who use it go
        // alone. If it is stored, the car is the answer to all of them.
        Ok(keys.deal(answers, Clone::clone))
    }
}
