//! Many calls about cars as one statement.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use uuid::Uuid;

use super::keys::Keys;
use super::{Kind, LOCK_PATIENCE};
use crate::error::Result;
use crate::model::{Car, CarId, NewCar, UserId};
use crate::postgres::cars::{self, OWNED_BY_MANY};
use crate::postgres::lease::Lease;
use crate::postgres::row;
use crate::postgres::statement::Statement;

const GET_MANY: Statement =
    Statement::read("SELECT id, model, owner_id FROM cars WHERE id = ANY ($1)");

// Purchases without keys come first, in the order of their owners; an owner that is not there, or
// that somebody else holds, is left out with its purchases. Then those with keys, each key once
// and in rising order. The answer is one row for each purchase that is stored: its id, its owner,
// and if it has a key that and the model.
//
// A key that somebody else is just using ends the statement if it is not free soon.
const BUY_BATCH: Statement = Statement::write(
    "WITH patience AS MATERIALIZED (
        SELECT set_config('lock_timeout', $4, true)
    ), owner AS MATERIALIZED (
        SELECT id FROM users WHERE id = ANY ($2::bigint[]) FOR KEY SHARE SKIP LOCKED
    ), held AS MATERIALIZED (
        SELECT id, model, owner_id, purchase_key FROM cars WHERE purchase_key = ANY ($3::uuid[])
    ), bought AS (
        INSERT INTO cars (model, owner_id, purchase_key)
        SELECT i.model, i.owner_id, i.key
        FROM patience, unnest($1::text[], $2::bigint[], $3::uuid[])
            WITH ORDINALITY AS i (model, owner_id, key, position)
        WHERE i.owner_id IN (SELECT id FROM owner)
            AND (i.key IS NULL OR i.key NOT IN (SELECT purchase_key FROM held))
        ORDER BY i.position
        ON CONFLICT (purchase_key) DO UPDATE SET purchase_key = EXCLUDED.purchase_key
        RETURNING id, owner_id, purchase_key,
            CASE WHEN purchase_key IS NOT NULL THEN model END AS model
    )
    SELECT id, owner_id, purchase_key, model FROM bought
    UNION ALL
    SELECT id, owner_id, purchase_key, model FROM held",
);

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
        let rows = lease.query(&OWNED_BY_MANY, &[keys.distinct()]).await?;
        let mut answers = vec![Some(Vec::new()); keys.distinct().len()];
        for row in &rows {
            let car = cars::car(row)?;
            let place = keys.find(&car.owner_id.get());
            if let Some(Some(answer)) = place.and_then(|place| answers.get_mut(place)) {
                answer.push(car);
            }
        }
        Ok(keys.deal(answers, Clone::clone))
    }
}

/// `CarRepo::buy`. The answer is the car that is stored, for its key if the purchase has one;
/// whether it is the one asked for is for the caller to see.
pub(in crate::postgres) struct Buy;

impl Kind for Buy {
    type Call = NewCar;
    type Answer = Car;
    const WRITES: bool = true;

    async fn run(lease: &mut Lease, calls: Vec<NewCar>) -> Result<Vec<Option<Car>>> {
        let plan = Plan::new(&calls);
        let rows = lease
            .query(
                &BUY_BATCH,
                &[&plan.models, &plan.owners, &plan.keys, &LOCK_PATIENCE],
            )
            .await?;
        let mut plain = Vec::with_capacity(plan.plain.len());
        let mut keyed = HashMap::with_capacity(plan.keyed.len());
        for row in &rows {
            let id = CarId::new(row::computed(row, 0)?);
            let owner = UserId::new(row::computed(row, 1)?);
            match row::computed::<Option<Uuid>>(row, 2)? {
                None => plain.push((id, owner)),
                Some(key) => {
                    let model = row::computed(row, 3)?;
                    keyed.insert(
                        key,
                        Car {
                            id,
                            model,
                            owner_id: owner,
                        },
                    );
                }
            }
        }
        // Ids rise in the order in which the purchases were sent.
        plain.sort_unstable();
        let mut stored = plain.into_iter().peekable();
        let mut answers = vec![None; calls.len()];
        for call in &plan.plain {
            let (Some(new), Some(answer)) = (calls.get(*call), answers.get_mut(*call)) else {
                continue;
            };
            // All purchases of an owner are stored, or none.
            if let Some((id, _)) = stored.next_if(|(_, owner)| *owner == new.owner_id()) {
                *answer = Some(new.with_id(id));
            }
        }
        for (call, key) in &plan.keyed {
            if let Some(answer) = answers.get_mut(*call) {
                *answer = keyed.get(key).cloned();
            }
        }
        Ok(answers)
    }
}

/// In which order some purchases are sent.
struct Plan<'a> {
    /// Those without a key, in the order in which they are sent.
    plain: Vec<usize>,
    /// Those with a key, and of those with the same key all that mean the same purchase.
    keyed: Vec<(usize, Uuid)>,
    models: Vec<&'a str>,
    owners: Vec<i64>,
    keys: Vec<Option<Uuid>>,
}

impl<'a> Plan<'a> {
    fn new(calls: &'a [NewCar]) -> Self {
        let (mut plain, mut keyed) = (Vec::with_capacity(calls.len()), Vec::new());
        let mut first = HashMap::new();
        let mut once = Vec::new();
        for (index, new) in calls.iter().enumerate() {
            let Some(key) = new.purchase_key().map(|key| key.get()) else {
                plain.push((new.owner_id(), index));
                continue;
            };
            match first.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(new);
                    once.push((key, new));
                    keyed.push((index, key));
                }
                Entry::Occupied(entry) if *entry.get() == new => keyed.push((index, key)),
                // It depends on how the other one ends.
                Entry::Occupied(_) => {}
            }
        }
        plain.sort_unstable();
        once.sort_unstable_by_key(|(key, _)| *key);
        let plain: Vec<usize> = plain.into_iter().map(|(_, index)| index).collect();
        let without = plain.iter().filter_map(|index| calls.get(*index));
        let sent = without.chain(once.into_iter().map(|(_, new)| new));
        let mut plan = Plan {
            plain: Vec::new(),
            keyed,
            models: Vec::with_capacity(calls.len()),
            owners: Vec::with_capacity(calls.len()),
            keys: Vec::with_capacity(calls.len()),
        };
        for new in sent {
            plan.models.push(new.model());
            plan.owners.push(new.owner_id().get());
            plan.keys.push(new.purchase_key().map(|key| key.get()));
        }
        plan.plain = plain;
        plan
    }
}
