//! Many purchases as one statement: all of them are stored, or the first bad one is named and none
//! is.

use std::collections::HashMap;

use uuid::Uuid;

use super::executor::{Deadline, Executor};
use super::row;
use super::statement::Statement;
use crate::error::{Error, Result};
use crate::model::{Car, CarId, NewCar};

// Parameters: models, owners, keys, the positions of the items, and whether to store anything. A
// key comes once.
//
// The answer is one row for each car: with its position where that is known, with its key where it
// has one, and for the new ones without a key just the id; those rise in the order of the items.
// Or it is one row for the first bad item: its position, and whether its key is the reason.
// Nothing is stored when there is a bad item. Should a concurrent transaction use one of the keys
// for something else after this one looked, the statement fails as a whole (22012), and looking
// again names the item.
//
// Owners are locked in the order of their ids. They are looked up by `NOT IN`, because that is
// hashed whatever the planner thinks of the size of the arrays.
const BUY_MANY: Statement = Statement::refusable_write(
    "WITH owner AS MATERIALIZED (
        SELECT id FROM users WHERE id = ANY ($2::bigint[]) ORDER BY id FOR KEY SHARE
    ), input AS MATERIALIZED (
        SELECT i.model, i.owner_id, i.key, i.position, h.id AS held,
            h.model = i.model AND h.owner_id = i.owner_id AS same
        FROM unnest($1::text[], $2::bigint[], $3::uuid[], $4::bigint[])
            AS i (model, owner_id, key, position)
        LEFT JOIN cars h ON h.purchase_key = i.key
    ), bad AS MATERIALIZED (
        SELECT position, held IS NOT NULL AS reused FROM input
        WHERE CASE WHEN held IS NULL THEN owner_id NOT IN (SELECT id FROM owner) ELSE NOT same END
        ORDER BY position LIMIT 1
    ), fresh AS MATERIALIZED (
        SELECT model, owner_id, key, position FROM input
        WHERE $5 AND held IS NULL AND NOT EXISTS (SELECT FROM bad)
    ), bought AS (
        INSERT INTO cars (model, owner_id, purchase_key)
        SELECT model, owner_id, key FROM fresh ORDER BY position
        ON CONFLICT (purchase_key) DO UPDATE SET purchase_key = EXCLUDED.purchase_key
            WHERE cars.model = EXCLUDED.model AND cars.owner_id = EXCLUDED.owner_id
        RETURNING id, purchase_key
    )
    SELECT position, NULL::uuid AS key, NULL::bigint AS id, reused FROM bad
    UNION ALL
    SELECT position, NULL, held, NULL FROM input
    WHERE held IS NOT NULL AND NOT EXISTS (SELECT FROM bad)
    UNION ALL
    SELECT NULL, purchase_key, id, NULL FROM bought
    UNION ALL
    SELECT NULL, NULL, NULL, 1 / (count(*) = (SELECT count(*) FROM fresh))::int = 1 FROM bought",
);

/// How often a call that lost a race for a key looks again. The second time the other purchase is
/// there to be seen, unless it is deleted and made again at just that moment.
const ATTEMPTS: usize = 5;

/// The items of a call, without those that repeat an earlier key.
pub(super) struct Purchases<'a> {
    new: &'a [NewCar],
    first: HashMap<Uuid, usize>,
    /// The first item that uses an earlier item's key for something else.
    reused: Option<usize>,
    models: Vec<&'a str>,
    owners: Vec<i64>,
    keys: Vec<Option<Uuid>>,
    positions: Vec<i64>,
}

impl<'a> Purchases<'a> {
    pub(super) fn new(new: &'a [NewCar]) -> Self {
        let mut purchases = Purchases {
            new,
            first: HashMap::new(),
            reused: None,
            models: Vec::with_capacity(new.len()),
            owners: Vec::with_capacity(new.len()),
            keys: Vec::with_capacity(new.len()),
            positions: Vec::with_capacity(new.len()),
        };
        for (index, car) in new.iter().enumerate() {
            let key = car.purchase_key().map(|key| key.get());
            if let Some(key) = key {
                let first = *purchases.first.entry(key).or_insert(index);
                if first != index {
                    if !same(car, new.get(first)) {
                        // What comes after it cannot be the first bad item.
                        purchases.reused = Some(index);
                        break;
                    }
                    continue;
                }
            }
            purchases.models.push(car.model());
            purchases.owners.push(car.owner_id().get());
            purchases.keys.push(key);
            purchases.positions.push(position(index));
        }
        purchases
    }

    /// Stores them.
    pub(super) async fn buy(&self, executor: &Executor) -> Result<Vec<Car>> {
        if self.new.is_empty() {
            return Ok(Vec::new());
        }
        let deadline = executor.deadline();
        let mut attempt = 1;
        loop {
            match self.try_buy(executor, deadline).await {
                Err(Error::Database(failure))
                    if failure.sqlstate() == Some("22012") && attempt < ATTEMPTS =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn try_buy(&self, executor: &Executor, deadline: Deadline) -> Result<Vec<Car>> {
        let store = self.reused.is_none();
        let rows = executor
            .query_by(
                deadline,
                &BUY_MANY,
                &[
                    &self.models,
                    &self.owners,
                    &self.keys,
                    &self.positions,
                    &store,
                ],
            )
            .await?;
        let mut by_position = HashMap::new();
        let mut by_key = HashMap::with_capacity(self.first.len());
        let mut in_order = Vec::with_capacity(rows.len());
        for row in &rows {
            let position: Option<i64> = row::computed(row, 0)?;
            let key: Option<Uuid> = row::computed(row, 1)?;
            match (position, key, row::computed::<Option<i64>>(row, 2)?) {
                (Some(position), _, None) => {
                    return Err(self.bad(position, row::computed(row, 3)?));
                }
                (Some(position), _, Some(id)) => drop(by_position.insert(position, id)),
                (None, Some(key), Some(id)) => drop(by_key.insert(key, id)),
                (None, None, Some(id)) => in_order.push(id),
                (None, _, None) => {}
            }
        }
        if let Some(index) = self.reused {
            return Err(Error::PurchaseKeyReused { index: Some(index) });
        }
        in_order.sort_unstable();
        let mut in_order = in_order.into_iter();
        let car = |new: &NewCar| {
            let id = match new.purchase_key().map(|key| key.get()) {
                None => in_order.next(),
                Some(key) => by_key.get(&key).copied().or_else(|| {
                    let first = self.first.get(&key)?;
                    by_position.get(&position(*first)).copied()
                }),
            };
            let id = id.ok_or_else(super::error::no_row)?;
            Ok(new.with_id(CarId::new(id)))
        };
        self.new.iter().map(car).collect()
    }

    fn bad(&self, position: i64, reused: bool) -> Error {
        let index = usize::try_from(position).ok();
        let item = index.and_then(|index| self.new.get(index));
        match item {
            Some(item) if !reused => Error::UnknownOwner {
                owner: item.owner_id(),
                index,
            },
            _ => Error::PurchaseKeyReused { index },
        }
    }
}

/// Whether two purchases with one key are the same.
fn same(car: &NewCar, other: Option<&NewCar>) -> bool {
    other.is_some_and(|other| car.model() == other.model() && car.owner_id() == other.owner_id())
}

/// An index as the database counts. A slice has at most `isize::MAX` items.
fn position(index: usize) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}
