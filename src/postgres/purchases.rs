//! Many purchases: all of them are stored, or the first bad one is named and none is.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::bulk::{self, Bulk, Statements};
use super::error;
use super::executor::Executor;
use super::row;
use super::statement::Statement;
use crate::error::{Error, Result};
use crate::model::{Car, CarId, NewCar};

// For items without keys, as near to a plain insert as it can be. Parameters: models, owners, the
// same owners each once, and whether to store anything.
//
// The answer is one row: the new ids, and the owners that there are not. If there are such, nothing
// is stored. The owners are locked against deletion, in the order of their ids, so the foreign key
// has nothing to refuse. They are looked up by `NOT IN`, because that is hashed whatever the planner
// thinks of the size of the arrays. The items come in their order without being sorted.
const BUY_MANY: Statement = Statement::write(
    "WITH owner AS MATERIALIZED (
        SELECT id FROM users WHERE id = ANY ($3::bigint[]) ORDER BY id FOR KEY SHARE
    ), unknown AS MATERIALIZED (
        SELECT o.id FROM unnest($3::bigint[]) AS o (id) WHERE o.id NOT IN (SELECT id FROM owner)
    ), bought AS (
        INSERT INTO cars (model, owner_id)
        SELECT i.model, i.owner_id
        FROM unnest($1::text[], $2::bigint[])
            WITH ORDINALITY AS i (model, owner_id, position)
        WHERE $4 AND NOT EXISTS (SELECT FROM unknown)
        ORDER BY i.position
        RETURNING id
    )
    SELECT (SELECT array_agg(id) FROM bought), (SELECT array_agg(id) FROM unknown)",
)
.takes(&[
    Type::TEXT_ARRAY,
    Type::INT8_ARRAY,
    Type::INT8_ARRAY,
    Type::BOOL,
]);

// For items of which some have keys. Parameters: models, owners, keys, the places of the items, and
// whether to store anything. A key comes once.
//
// The answer is one row for each car: with its place where that is known, with its key where it
// has one, and for the new ones without a key just the id; those rise in the order of the items.
// Or it is one row for the first bad item: its place, and whether its key is the reason.
// Nothing is stored when there is a bad item. Should a concurrent transaction use one of the keys
// for something else after this one looked, the statement fails as a whole (22012), and looking
// again names the item.
const BUY_MANY_WITH_KEYS: Statement = Statement::refusable_write(
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
)
.takes(&[
    Type::TEXT_ARRAY,
    Type::INT8_ARRAY,
    Type::UUID_ARRAY,
    Type::INT8_ARRAY,
    Type::BOOL,
]);

/// How often a call that lost a race for a key looks again. The second time the other purchase is
/// there to be seen, unless it is deleted and made again at just that moment.
const ATTEMPTS: usize = 5;

/// The items of a call. Those that are sent have places: all but those that repeat an earlier key.
pub(super) struct Purchases<'a> {
    new: &'a [NewCar],
    /// The place of each key.
    places: HashMap<Uuid, usize>,
    /// The first item that uses an earlier item's key for something else.
    reused: Option<usize>,
    // By place.
    indexes: Vec<usize>,
    models: Vec<&'a str>,
    owners: Vec<i64>,
    keys: Vec<Option<Uuid>>,
}

impl<'a> Purchases<'a> {
    pub(super) fn new(new: &'a [NewCar]) -> Self {
        let mut purchases = Purchases {
            new,
            places: HashMap::new(),
            reused: None,
            indexes: Vec::with_capacity(new.len()),
            models: Vec::with_capacity(new.len()),
            owners: Vec::with_capacity(new.len()),
            keys: Vec::with_capacity(new.len()),
        };
        for (index, car) in new.iter().enumerate() {
            let place = purchases.indexes.len();
            let key = car.purchase_key().map(|key| key.get());
            if let Some(key) = key {
                let first = *purchases.places.entry(key).or_insert(place);
                if first != place {
                    if !same(car, purchases.item(first)) {
                        // What comes after it cannot be the first bad item.
                        purchases.reused = Some(index);
                        break;
                    }
                    continue;
                }
            }
            purchases.indexes.push(index);
            purchases.models.push(car.model());
            purchases.owners.push(car.owner_id().get());
            purchases.keys.push(key);
        }
        purchases
    }

    /// Stores them.
    pub(super) async fn buy(&self, executor: &Executor) -> Result<Vec<Car>> {
        match self.new.is_empty() {
            true => executor.without_asking(Vec::new()).await,
            false => bulk::run(executor, self).await,
        }
    }

    /// The item at a place.
    fn item(&self, place: usize) -> Option<&'a NewCar> {
        self.new.get(*self.indexes.get(place)?)
    }

    /// Stores those at some places and gives their ids.
    async fn send_piece(&self, on: &mut Statements<'_>, piece: Range<usize>) -> Result<Vec<i64>> {
        if self.keys[piece.clone()].iter().all(Option::is_none) {
            return self.without_keys(on, piece).await;
        }
        let mut attempt = 1;
        loop {
            match self.with_keys(on, piece.clone()).await {
                Err(Error::Database(failure))
                    if failure.sqlstate() == Some("22012") && attempt < ATTEMPTS =>
                {
                    attempt += 1;
                }
                ids => return ids,
            }
        }
    }

    async fn without_keys(&self, on: &mut Statements<'_>, piece: Range<usize>) -> Result<Vec<i64>> {
        let (models, owners) = (&self.models[piece.clone()], &self.owners[piece.clone()]);
        let mut distinct = owners.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let store = self.reused.is_none();
        let rows = on
            .query(&BUY_MANY, &[&models, &owners, &distinct, &store])
            .await?;
        let row = rows.first().ok_or_else(error::no_row)?;
        if let Some(unknown) = row::computed::<Option<Vec<i64>>>(row, 1)? {
            let unknown: HashSet<i64> = unknown.into_iter().collect();
            let first = owners.iter().position(|owner| unknown.contains(owner));
            return Err(self.bad(first.map(|offset| piece.start + offset), false));
        }
        let ids = row::computed::<Option<Vec<i64>>>(row, 0)?;
        let mut ids = ids.unwrap_or_default();
        ids.sort_unstable();
        Ok(ids)
    }

    async fn with_keys(&self, on: &mut Statements<'_>, piece: Range<usize>) -> Result<Vec<i64>> {
        let (models, owners) = (&self.models[piece.clone()], &self.owners[piece.clone()]);
        let keys = &self.keys[piece.clone()];
        let places: Vec<i64> = piece.clone().map(number).collect();
        let store = self.reused.is_none();
        let rows = on
            .query(
                &BUY_MANY_WITH_KEYS,
                &[&models, &owners, &keys, &places, &store],
            )
            .await?;
        let mut ids = vec![None; piece.len()];
        let mut in_order = Vec::with_capacity(rows.len());
        for row in &rows {
            let place: Option<i64> = row::computed(row, 0)?;
            let place = place.and_then(|place| usize::try_from(place).ok());
            let key: Option<Uuid> = row::computed(row, 1)?;
            let place_of_key = key.and_then(|key| self.places.get(&key).copied());
            match (place, row::computed::<Option<i64>>(row, 2)?) {
                (Some(_), None) => return Err(self.bad(place, row::computed(row, 3)?)),
                (None, Some(id)) if key.is_none() => in_order.push(id),
                (_, Some(id)) => {
                    let place = place.or(place_of_key);
                    let offset = place.and_then(|place| place.checked_sub(piece.start));
                    let slot = offset.and_then(|offset| ids.get_mut(offset));
                    *slot.ok_or_else(error::no_row)? = Some(id);
                }
                (None, None) => {}
            }
        }
        if !store {
            return Ok(Vec::new());
        }
        in_order.sort_unstable();
        let mut in_order = in_order.into_iter();
        let ids = ids.into_iter().zip(keys).map(|(id, key)| match key {
            None => in_order.next(),
            Some(_) => id,
        });
        ids.map(|id| id.ok_or_else(error::no_row)).collect()
    }

    /// The cars, whose ids stand at their places.
    fn cars(&self, ids: &[i64]) -> Result<Vec<Car>> {
        let mut next = 0;
        let car = |(index, new): (usize, &NewCar)| {
            let key = new.purchase_key().map(|key| key.get());
            let place = match self.indexes.get(next) {
                Some(own) if *own == index => {
                    next += 1;
                    Some(next - 1)
                }
                _ => key.and_then(|key| self.places.get(&key).copied()),
            };
            let id = place.and_then(|place| ids.get(place));
            let id = id.ok_or_else(error::no_row)?;
            Ok(new.with_id(CarId::new(*id)))
        };
        self.new.iter().enumerate().map(car).collect()
    }

    fn bad(&self, place: Option<usize>, reused: bool) -> Error {
        let index = place.and_then(|place| self.indexes.get(place).copied());
        match place.and_then(|place| self.item(place)) {
            Some(item) if !reused => Error::UnknownOwner {
                owner: item.owner_id(),
                index,
            },
            _ => Error::PurchaseKeyReused { index },
        }
    }
}

impl Bulk for Purchases<'_> {
    type Answer = Vec<Car>;

    fn items(&self) -> usize {
        self.indexes.len()
    }

    async fn send(&self, on: &mut Statements<'_>) -> Result<Vec<Car>> {
        let mut ids = Vec::with_capacity(self.items());
        for piece in bulk::pieces(self.items()) {
            ids.append(&mut self.send_piece(on, piece).await?);
        }
        match self.reused {
            Some(index) => Err(Error::PurchaseKeyReused { index: Some(index) }),
            None => self.cars(&ids),
        }
    }
}

/// Whether two purchases with one key are the same.
fn same(car: &NewCar, other: Option<&NewCar>) -> bool {
    other.is_some_and(|other| car.model() == other.model() && car.owner_id() == other.owner_id())
}

/// A place as the database counts. A slice has at most `isize::MAX` items.
fn number(place: usize) -> i64 {
    i64::try_from(place).unwrap_or(i64::MAX)
}
