//! The contract in words: what every store promises, whatever it is made of. The module `contract`
//! (feature `contract`) holds the same promises as tests.
//!
//! What holds for every method:
//!
//! - Input is checked before any I/O ([`Error::Invalid`](crate::Error::Invalid)).
//! - An id or name that nothing has is an ordinary answer or a typed error, never a failure of the
//!   database: 0, negative numbers and both ends of `i64` included.
//! - Every method but the streams is one round trip to the server. Through a connection that has
//!   not run the statement yet, preparing it is another one, once. In a transaction a refused
//!   `rename`, `delete` or `buy_many` can be another one, to undo it, and so is `BEGIN` before a
//!   write that comes first, unless that is `register` or `buy` and no pooler is in between (see
//!   [`Store::begin`](crate::Store::begin)).
//! - `register_many` and `buy_many` send 100 000 items in one statement. More of them are one
//!   statement for every 100 000, and two round trips around them: a transaction of their own, or
//!   inside one a savepoint. All of them together have the time of one call, 10 s by default, which
//!   is not enough for a million: give the store a longer `call_timeout` and, if it sets one, a
//!   longer `statement_timeout`. If the answer to that commit is lost the error is
//!   [`CommitUnknown`](crate::Error::CommitUnknown). A call so long that is refused may leave a gap
//!   in the ids, and one whose answer cannot be read ([`Decode`](crate::Error::Decode)) has stored
//!   nothing. In a transaction, calls through clones of its handle wait until it is over.
//! - Under load, calls outside transactions that would wait for a connection may go to the server
//!   together. Nobody can tell from the answers: each call sees what was acknowledged before it
//!   began, and has its own answer, errors and limits.
//! - Outside a transaction every call is one of its own, stored completely or not at all. If it
//!   gives way to another transaction it is run again, a few times. Calls of `register_many` and
//!   `buy_many` on one store are then run again one at a time, so that those with the same items in
//!   different orders do not deadlock again and again.
//! - A typed error of the domain leaves a transaction usable.
//! - Reading is lenient: what an older program stored, against the rules for new names, is
//!   returned as it is.
//! - Besides the errors named at a method, every call may give those of the connection:
//!   [`Timeout`](crate::Error::Timeout), [`PoolExhausted`](crate::Error::PoolExhausted),
//!   [`Unavailable`](crate::Error::Unavailable), [`Conflict`](crate::Error::Conflict),
//!   [`Decode`](crate::Error::Decode), [`Database`](crate::Error::Database), and in a
//!   transaction [`TransactionClosed`](crate::Error::TransactionClosed).

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::error::Result;
use crate::model::{Car, CarId, NewCar, NewUser, Registration, Role, User, UserId};
use crate::page::{Page, PageRequest};

/// Users. [The module](self) says what holds for every method.
///
/// ```
/// # #[cfg(feature = "memory")] {
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// use motorpool::{Error, MemoryStore, NewUser, Registration, Role, Store};
///
/// let store = MemoryStore::new();
/// let users = store.users();
/// let ada = users.register(&NewUser::new("Ada")?).await?.into_user();
/// let again = users.register(&NewUser::new("Ada")?.role(Role::Teacher)).await?;
/// assert_eq!(again, Registration::Existing(ada.clone()));
///
/// let ada = users.set_role(ada.id, Role::Teacher).await?;
/// assert_eq!(users.get_by_username("Ada").await?, Some(ada.clone()));
/// assert!(users.delete(ada.id).await?);
/// let gone = users.rename(ada.id, "Grace").await;
/// assert!(matches!(gone, Err(Error::UserNotFound { id }) if id == ada.id));
/// # Ok::<(), motorpool::Error>(())
/// # })?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait UserRepo: Send + Sync {
    /// Registers a user unless the name is taken; then the stored user is returned unchanged,
    /// whatever role and date the new one had, and no id is used up.
    ///
    /// Of any number of callers at once with one name, exactly one gets
    /// [`Registration::Created`]. One that loses such a race may leave a gap in the ids, and so may
    /// calls that went to the server together with it.
    ///
    /// ```
    /// # async fn example(users: &dyn motorpool::UserRepo) -> motorpool::Result<()> {
    /// # use motorpool::{NewUser, Registration};
    /// match users.register(&NewUser::new("Ada")?).await? {
    ///     Registration::Created(user) => println!("welcome, user {}", user.id),
    ///     Registration::Existing(user) => println!("welcome back, user {}", user.id),
    /// }
    /// # Ok(()) }
    /// ```
    async fn register(&self, new: &NewUser) -> Result<Registration>;

    /// Registers many, all or nothing, and answers in the order given; the ids of those created
    /// rise in that order. A name that comes twice is `Created` at its first place and `Existing`
    /// at the others.
    ///
    /// ```
    /// # async fn example(users: &dyn motorpool::UserRepo) -> motorpool::Result<()> {
    /// # use motorpool::NewUser;
    /// let new = [NewUser::new("Ada")?, NewUser::new("Grace")?];
    /// let created = users.register_many(&new).await?.iter().filter(|user| user.is_created()).count();
    /// # Ok(()) }
    /// ```
    async fn register_many(&self, new: &[NewUser]) -> Result<Vec<Registration>>;

    /// The user with this id.
    ///
    /// ```
    /// # async fn example(users: &dyn motorpool::UserRepo) -> motorpool::Result<()> {
    /// # use motorpool::UserId;
    /// let user = users.get(UserId::new(7)).await?;
    /// # Ok(()) }
    /// ```
    async fn get(&self, id: UserId) -> Result<Option<User>>;

    /// The users with these ids, each once, in order of id. Unknown ids are left out.
    ///
    /// ```
    /// # async fn example(users: &dyn motorpool::UserRepo) -> motorpool::Result<()> {
    /// # use motorpool::UserId;
    /// let known = users.get_many(&[UserId::new(7), UserId::new(8)]).await?;
    /// # Ok(()) }
    /// ```
    async fn get_many(&self, ids: &[UserId]) -> Result<Vec<User>>;

    /// The user of exactly this name. A name that no user can have is `None`. (Only in a transaction
    /// on a database that is not in UTF8 it can be an error, which ends the transaction, that the
    /// database has no characters for the name.)
    ///
    /// ```
    /// # async fn example(users: &dyn motorpool::UserRepo) -> motorpool::Result<()> {
    /// let ada = users.get_by_username("Ada").await?;
    /// # Ok(()) }
    /// ```
    async fn get_by_username(&self, username: &str) -> Result<Option<User>>;

    /// A page of all users, in order of id. A walk over the pages gives every user once that was
    /// there all the time, whatever is added or deleted meanwhile.
    ///
    /// ```
    /// # async fn example(users: &dyn motorpool::UserRepo) -> motorpool::Result<()> {
    /// # use motorpool::PageRequest;
    /// let mut page = users.list(PageRequest::first(100)?).await?;
    /// while let Some(next) = page.next {
    ///     page = users.list(PageRequest::first(100)?.after(next)).await?;
    /// }
    /// # Ok(()) }
    /// ```
    async fn list(&self, page: PageRequest<UserId>) -> Result<Page<User, UserId>>;

    /// All users, in order of id and in constant memory: for exports.
    ///
    /// It gives every user once that was there all the time, whatever is added or deleted
    /// meanwhile. Users that are changed meanwhile are given as they were at some moment in
    /// between; for one moment for all of them, call it in a transaction that is
    /// [`RepeatableRead`](crate::IsolationLevel::RepeatableRead).
    ///
    /// Nothing is sent before the stream is polled. Then it is one round trip for each chunk of
    /// some thousand users, each with all the time that a call has, and between two of them no
    /// connection is held (but that of the transaction it is called in), however long the caller
    /// takes. A stream can be dropped at any time.
    ///
    /// The type is that of the crate `futures-util` 0.3, whose `TryStreamExt` has the method
    /// `try_next`; [`BoxStream`] names it as well.
    ///
    /// ```
    /// # #[cfg(feature = "memory")] {
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # runtime.block_on(async {
    /// use futures_util::TryStreamExt;
    /// use motorpool::{MemoryStore, NewUser, Store};
    ///
    /// let store = MemoryStore::new();
    /// store.users().register(&NewUser::new("Ada")?).await?;
    /// let mut users = store.users().stream();
    /// while let Some(user) = users.try_next().await? {
    ///     println!("{},{}", user.id, user.username);
    /// }
    /// # Ok::<(), motorpool::Error>(())
    /// # })?;
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A store that does not implement it reads pages of 1000 by [`list`](Self::list).
    ///
    /// # Errors
    /// Those of the connection. The stream ends with the first one.
    fn stream(&self) -> BoxStream<'_, Result<User>> {
        Page::walk(|page| self.list(page))
    }

    /// Changes the role and returns the user as it is then.
    ///
    /// ```
    /// # async fn example(users: &dyn motorpool::UserRepo) -> motorpool::Result<()> {
    /// # use motorpool::{Role, UserId};
    /// let teacher = users.set_role(UserId::new(7), Role::Teacher).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`UserNotFound`](crate::Error::UserNotFound)
    async fn set_role(&self, id: UserId, role: Role) -> Result<User>;

    /// Changes the name and returns the user as it is then. To its own name: nothing changes.
    ///
    /// ```
    /// # async fn example(users: &dyn motorpool::UserRepo) -> motorpool::Result<()> {
    /// # use motorpool::{Error, UserId};
    /// match users.rename(UserId::new(7), "Grace").await {
    ///     Err(Error::UsernameTaken) => println!("somebody else is Grace"),
    ///     renamed => println!("{}", renamed?),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`UserNotFound`](crate::Error::UserNotFound);
    /// [`UsernameTaken`](crate::Error::UsernameTaken) if another user has the name.
    async fn rename(&self, id: UserId, username: &str) -> Result<User>;

    /// Deletes a user without cars. `false`: there was none with this id.
    ///
    /// ```
    /// # async fn example(users: &dyn motorpool::UserRepo) -> motorpool::Result<()> {
    /// # use motorpool::{Error, UserId};
    /// match users.delete(UserId::new(7)).await {
    ///     Err(Error::UserOwnsCars { id }) => println!("user {id} has to sell first"),
    ///     deleted => println!("there was one: {}", deleted?),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`UserOwnsCars`](crate::Error::UserOwnsCars)
    async fn delete(&self, id: UserId) -> Result<bool>;

    /// How many users there are. Reads all of them: linear in their number.
    ///
    /// ```
    /// # async fn example(users: &dyn motorpool::UserRepo) -> motorpool::Result<()> {
    /// let number: u64 = users.count().await?;
    /// # Ok(()) }
    /// ```
    async fn count(&self) -> Result<u64>;
}

/// Cars. [The module](self) says what holds for every method.
///
/// ```
/// # #[cfg(feature = "memory")] {
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// use motorpool::{Error, MemoryStore, NewCar, NewUser, Store};
///
/// let store = MemoryStore::new();
/// let (users, cars) = (store.users(), store.cars());
/// let ada = users.register(&NewUser::new("Ada")?).await?.into_user();
/// let grace = users.register(&NewUser::new("Grace")?).await?.into_user();
/// let golf = cars.buy(&NewCar::new("Golf", ada.id)?).await?;
/// assert_eq!(cars.owned_by(ada.id).await?, [golf.clone()]);
///
/// cars.transfer(golf.id, ada.id, grace.id).await?;
/// let again = cars.transfer(golf.id, ada.id, grace.id).await;
/// assert!(matches!(again, Err(Error::NotOwner { .. })));
/// assert_eq!(cars.owned_by(ada.id).await?, []);
/// # Ok::<(), motorpool::Error>(())
/// # })?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait]
pub trait CarRepo: Send + Sync {
    /// Stores a purchase and returns the car. No id is used up by a purchase that fails or is a
    /// repetition.
    ///
    /// With a [`PurchaseKey`](crate::PurchaseKey) it can be repeated: the same key again returns
    /// the car it bought, as it is now, also to any number of callers at once (one that loses such
    /// a race may leave a gap in the ids). The key lives as long as
    /// its car: after [`delete`](Self::delete) it buys again, and after
    /// [`transfer`](Self::transfer) it counts as used by the new owner.
    ///
    /// ```
    /// # async fn example(cars: &dyn motorpool::CarRepo) -> motorpool::Result<()> {
    /// # use motorpool::{NewCar, PurchaseKey, UserId};
    /// // A key makes it safe to send the same purchase again, after a timeout for instance.
    /// let key: PurchaseKey = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse()?;
    /// let golf = cars.buy(&NewCar::new("Golf", UserId::new(7))?.key(key)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`UnknownOwner`](crate::Error::UnknownOwner);
    /// [`PurchaseKeyReused`](crate::Error::PurchaseKeyReused) if the car of that key has another
    /// model or owner (looked at first).
    async fn buy(&self, new: &NewCar) -> Result<Car>;

    /// Stores many purchases, all or nothing, and answers in the order given; the ids rise in that
    /// order. A key that comes twice with the same model and owner gives one car at both places.
    ///
    /// ```
    /// # async fn example(cars: &dyn motorpool::CarRepo) -> motorpool::Result<()> {
    /// # use motorpool::{Error, NewCar, UserId};
    /// let new = [NewCar::new("Golf", UserId::new(7))?, NewCar::new("Mini", UserId::new(8))?];
    /// match cars.buy_many(&new).await {
    ///     Err(Error::UnknownOwner { index, owner }) => println!("{index:?}: no user {owner}"),
    ///     bought => println!("{} cars", bought?.len()),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of [`buy`](Self::buy), with the index of the first item that is refused.
    async fn buy_many(&self, new: &[NewCar]) -> Result<Vec<Car>>;

    /// The car with this id.
    ///
    /// ```
    /// # async fn example(cars: &dyn motorpool::CarRepo) -> motorpool::Result<()> {
    /// # use motorpool::CarId;
    /// let car = cars.get(CarId::new(1)).await?;
    /// # Ok(()) }
    /// ```
    async fn get(&self, id: CarId) -> Result<Option<Car>>;

    /// All cars of a user in order of purchase (id). None for an unknown user.
    ///
    /// ```
    /// # async fn example(cars: &dyn motorpool::CarRepo) -> motorpool::Result<()> {
    /// # use motorpool::UserId;
    /// for car in cars.owned_by(UserId::new(7)).await? {
    ///     println!("{}: {}", car.id, car.model);
    /// }
    /// # Ok(()) }
    /// ```
    async fn owned_by(&self, owner: UserId) -> Result<Vec<Car>>;

    /// All cars of many users, each in order of purchase, in one round trip. Every owner asked for
    /// has an entry, if only an empty one.
    ///
    /// ```
    /// # async fn example(cars: &dyn motorpool::CarRepo) -> motorpool::Result<()> {
    /// # use motorpool::UserId;
    /// let owners = [UserId::new(7), UserId::new(8)];
    /// let by_owner = cars.owned_by_many(&owners).await?;
    /// assert_eq!(by_owner.len(), 2);
    /// # Ok(()) }
    /// ```
    async fn owned_by_many(&self, owners: &[UserId]) -> Result<BTreeMap<UserId, Vec<Car>>>;

    /// A page of the cars of a user, in order of purchase (id).
    ///
    /// ```
    /// # async fn example(cars: &dyn motorpool::CarRepo) -> motorpool::Result<()> {
    /// # use motorpool::{PageRequest, UserId};
    /// let ten = cars.list_owned_by(UserId::new(7), PageRequest::first(10)?).await?;
    /// # Ok(()) }
    /// ```
    async fn list_owned_by(
        &self,
        owner: UserId,
        page: PageRequest<CarId>,
    ) -> Result<Page<Car, CarId>>;

    /// All cars of all users, in order of id and in constant memory. What
    /// [`UserRepo::stream`] promises for users holds for them.
    ///
    /// A store that does not implement it gives one error, [`Config`](crate::Error::Config).
    ///
    /// ```
    /// # async fn example(cars: &dyn motorpool::CarRepo) -> motorpool::Result<()> {
    /// use futures_util::TryStreamExt;
    ///
    /// let mut all = cars.stream();
    /// while let Some(car) = all.try_next().await? {
    ///     println!("{},{},{}", car.id, car.model, car.owner_id);
    /// }
    /// # Ok(()) }
    /// ```
    fn stream(&self) -> BoxStream<'_, Result<Car>> {
        let missing = crate::Error::Config {
            reason: "this store cannot stream its cars".into(),
        };
        stream::iter([Err(missing)]).boxed()
    }

    /// Gives a car from one user to another and returns it as it is then. From a user to itself:
    /// nothing changes.
    ///
    /// ```
    /// # async fn example(cars: &dyn motorpool::CarRepo) -> motorpool::Result<()> {
    /// # use motorpool::{CarId, UserId};
    /// let (ada, grace) = (UserId::new(7), UserId::new(8));
    /// let car = cars.transfer(CarId::new(1), ada, grace).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// In this order: [`CarNotFound`](crate::Error::CarNotFound);
    /// [`NotOwner`](crate::Error::NotOwner) unless `from` owns it;
    /// [`UnknownOwner`](crate::Error::UnknownOwner) if there is no user `to`.
    async fn transfer(&self, id: CarId, from: UserId, to: UserId) -> Result<Car>;

    /// Deletes a car. `false`: there was none with this id.
    ///
    /// ```
    /// # async fn example(cars: &dyn motorpool::CarRepo) -> motorpool::Result<()> {
    /// # use motorpool::CarId;
    /// let was_there = cars.delete(CarId::new(1)).await?;
    /// # Ok(()) }
    /// ```
    async fn delete(&self, id: CarId) -> Result<bool>;

    /// How many cars there are. Reads all of them: linear in their number.
    ///
    /// ```
    /// # async fn example(cars: &dyn motorpool::CarRepo) -> motorpool::Result<()> {
    /// let number: u64 = cars.count().await?;
    /// # Ok(()) }
    /// ```
    async fn count(&self) -> Result<u64>;
}
