//! A store whose calls find all lanes taken, so that each goes out in a batch.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::{Object, Timeouts};
use futures_util::FutureExt;
use futures_util::stream::BoxStream;
use motorpool::{
    Batching, Car, CarId, CarRepo, NewCar, NewUser, Page, PageRequest, PgStore, Registration,
    Result, Role, Store, Tx, TxOptions, User, UserId, UserRepo,
};
use tokio::sync::Mutex;

/// The fewest lanes and the smallest batches.
pub fn tiny() -> Batching {
    let mut batching = Batching::default();
    if let Batching::On { lanes, max_batch } = &mut batching {
        (*lanes, *max_batch) = (1, 2);
    }
    batching
}

/// Over a store with one lane of each kind.
///
/// A call that comes alone is made to wait: all connections that there are at the moment are
/// taken, another call like it gets the lane and waits for a connection, and when the call itself
/// waits for the lane the other one goes away, which has sent nothing. Calls that come together
/// meet each other anyway.
pub struct Busy {
    store: PgStore,
    under_way: AtomicUsize,
    /// Whoever makes a call wait.
    alone: Mutex<()>,
    lone: AtomicU64,
    forced: AtomicU64,
}

/// Counts those who are under way.
struct Guest<'a>(&'a AtomicUsize);

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Busy {
    pub fn new(store: PgStore) -> Busy {
        Busy {
            store,
            under_way: AtomicUsize::new(0),
            alone: Mutex::default(),
            lone: AtomicU64::new(0),
            forced: AtomicU64::new(0),
        }
    }

    /// How many calls were made to wait.
    pub fn forced(&self) -> u64 {
        self.forced.load(SeqCst)
    }

    /// How many calls came alone, but for those that were answered without the server.
    pub fn lone(&self) -> u64 {
        self.lone.load(SeqCst)
    }

    fn enter(&self) -> (Guest<'_>, bool) {
        let before = self.under_way.fetch_add(1, SeqCst);
        (Guest(&self.under_way), before == 0)
    }

    async fn idle_connections(&self) -> Vec<Object> {
        let at_once = Timeouts {
            wait: Some(Duration::ZERO),
            create: None,
            recycle: None,
        };
        let mut taken = Vec::new();
        while let Ok(object) = self.store.pool().timeout_get(&at_once).await {
            taken.push(object);
        }
        taken
    }

    async fn make<T>(
        &self,
        call: impl Fn() -> Pin<Box<dyn Future<Output = Result<T>> + Send>> + Sync,
    ) -> Result<T> {
        let (_guest, alone) = self.enter();
        if !alone {
            return call().await;
        }
        let taking = self.alone.lock().await;
        let taken = self.idle_connections().await;
        let waiting = self.store.pool().status().waiting;
        let mut other = call();
        // Refused input, say.
        if let Some(answer) = (&mut other).now_or_never() {
            return answer;
        }
        self.lone.fetch_add(1, SeqCst);
        if self.store.pool().status().waiting == waiting || taken.is_empty() {
            // It is on its way.
            drop((taken, taking));
            return other.await;
        }
        let mut own = call();
        if let Some(answer) = (&mut own).now_or_never() {
            return answer;
        }
        drop(other);
        drop((taken, taking));
        self.forced.fetch_add(1, SeqCst);
        own.await
    }
}

#[async_trait]
impl Store for Busy {
    fn users(&self) -> &dyn UserRepo {
        self
    }

    fn cars(&self) -> &dyn CarRepo {
        self
    }

    async fn begin(&self, options: TxOptions) -> Result<Tx> {
        let (_guest, _) = self.enter();
        self.store.begin(options).await
    }
}

#[async_trait]
impl UserRepo for Busy {
    async fn register(&self, new: &NewUser) -> Result<Registration> {
        let call = || {
            let (store, new) = (self.store.clone(), new.clone());
            async move { store.users().register(&new).await }.boxed()
        };
        self.make(call).await
    }

    async fn register_many(&self, new: &[NewUser]) -> Result<Vec<Registration>> {
        let (_guest, _) = self.enter();
        self.store.users().register_many(new).await
    }

    async fn get(&self, id: UserId) -> Result<Option<User>> {
        let call = || {
            let store = self.store.clone();
            async move { store.users().get(id).await }.boxed()
        };
        self.make(call).await
    }

    async fn get_many(&self, ids: &[UserId]) -> Result<Vec<User>> {
        let (_guest, _) = self.enter();
        self.store.users().get_many(ids).await
    }

    async fn get_by_username(&self, username: &str) -> Result<Option<User>> {
        let call = || {
            let (store, username) = (self.store.clone(), username.to_owned());
            async move { store.users().get_by_username(&username).await }.boxed()
        };
        self.make(call).await
    }

    async fn list(&self, page: PageRequest<UserId>) -> Result<Page<User, UserId>> {
        let (_guest, _) = self.enter();
        self.store.users().list(page).await
    }

    fn stream(&self) -> BoxStream<'_, Result<User>> {
        self.store.users().stream()
    }

    async fn set_role(&self, id: UserId, role: Role) -> Result<User> {
        let (_guest, _) = self.enter();
        self.store.users().set_role(id, role).await
    }

    async fn rename(&self, id: UserId, username: &str) -> Result<User> {
        let (_guest, _) = self.enter();
        self.store.users().rename(id, username).await
    }

    async fn delete(&self, id: UserId) -> Result<bool> {
        let (_guest, _) = self.enter();
        self.store.users().delete(id).await
    }

    async fn count(&self) -> Result<u64> {
        let (_guest, _) = self.enter();
        self.store.users().count().await
    }
}

#[async_trait]
impl CarRepo for Busy {
    async fn buy(&self, new: &NewCar) -> Result<Car> {
        let call = || {
            let (store, new) = (self.store.clone(), new.clone());
            async move { store.cars().buy(&new).await }.boxed()
        };
        self.make(call).await
    }

    async fn buy_many(&self, new: &[NewCar]) -> Result<Vec<Car>> {
        let (_guest, _) = self.enter();
        self.store.cars().buy_many(new).await
    }

    async fn get(&self, id: CarId) -> Result<Option<Car>> {
        let call = || {
            let store = self.store.clone();
            async move { store.cars().get(id).await }.boxed()
        };
        self.make(call).await
    }

    async fn owned_by(&self, owner: UserId) -> Result<Vec<Car>> {
        let call = || {
            let store = self.store.clone();
            async move { store.cars().owned_by(owner).await }.boxed()
        };
        self.make(call).await
    }

    async fn owned_by_many(&self, owners: &[UserId]) -> Result<BTreeMap<UserId, Vec<Car>>> {
        let (_guest, _) = self.enter();
        self.store.cars().owned_by_many(owners).await
    }

    async fn list_owned_by(
        &self,
        owner: UserId,
        page: PageRequest<CarId>,
    ) -> Result<Page<Car, CarId>> {
        let (_guest, _) = self.enter();
        self.store.cars().list_owned_by(owner, page).await
    }

    fn stream(&self) -> BoxStream<'_, Result<Car>> {
        self.store.cars().stream()
    }

    async fn transfer(&self, id: CarId, from: UserId, to: UserId) -> Result<Car> {
        let (_guest, _) = self.enter();
        self.store.cars().transfer(id, from, to).await
    }

    async fn delete(&self, id: CarId) -> Result<bool> {
        let (_guest, _) = self.enter();
        self.store.cars().delete(id).await
    }

    async fn count(&self) -> Result<u64> {
        let (_guest, _) = self.enter();
        self.store.cars().count().await
    }
}
