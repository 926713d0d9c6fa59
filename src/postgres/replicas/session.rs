//! A session: what it reads is never older than what it has written.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::log::Log;
use super::position::Position;
use super::repos::Routed;
use super::state::State;
use crate::error::{CommitOutcome, CommitToken, Result};
use crate::postgres::{PgStore, transaction};
use crate::repo::{CarRepo, UserRepo};
use crate::store::{Store, Transaction, Tx, TxOptions};

/// Reads what it has written, on a store with replicas: a read waits until a replica has replayed
/// the session's last write, for up to [`replica_wait`](crate::PgStoreBuilder::replica_wait), and
/// then goes to the primary. Made by [`PgStore::session`].
///
/// It is a [`Store`] like the one that it was made of, and clones share it: one for each request,
/// or for each user. What others write is seen at some time, as on the store itself.
///
/// A write costs one round trip, as on the store: how far the primary's log is is asked in the same
/// flight, behind the write or the commit. So does a read, which is sent to a replica with the
/// question how far that one is, in front of it, unless that is known; only if it is not far enough
/// there is more to do.
///
/// A write that may have happened or not (a [`Timeout`](crate::Error::Timeout), a connection that was
/// lost, a [`CommitUnknown`](crate::Error::CommitUnknown), a call that was dropped) may take effect for as
/// long as the server may be at it: `statement_timeout`, and 5 s. For so long the session
/// reads from the primary, and the first read after it finds out from where on replicas will do.
///
/// After a failover, positions of the old timeline are compared with nothing: the first read goes
/// to the new primary, and the session goes on from there. If the primary had lost writes in it,
/// nobody can read them any more.
///
/// On a store without replicas it reads from the primary like everybody else, and asks and
/// remembers nothing.
///
/// ```no_run
/// # async fn example(store: motorpool::PgStore) -> motorpool::Result<()> {
/// use motorpool::{NewUser, Position, Store};
///
/// let session = store.session();
/// let ada = session.users().register(&NewUser::new("Ada")?).await?.into_user();
/// assert!(session.users().get(ada.id).await?.is_some());
/// // For the next request of the same user, which may reach another process.
/// let cookie = session.position().to_string();
///
/// let session = store.session_at(cookie.parse()?);
/// assert!(session.users().get(ada.id).await?.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Session {
    store: PgStore,
    /// Where there are replicas.
    routed: Option<Routed>,
    state: Arc<State>,
}

impl Session {
    pub(in crate::postgres) fn new(store: &PgStore, position: Position) -> Self {
        let state = Arc::new(State::default());
        let routed = store.routed.as_ref().map(|routed| {
            routed.route.replicas.log.want();
            Routed {
                route: routed.route.clone().of(&state),
            }
        });
        let session = Session {
            store: store.clone(),
            routed,
            state,
        };
        session.observe(position);
        session
    }

    /// How far it has written, for [`PgStore::session_at`] in this or another process. On a store
    /// without replicas it is what the session was given: such a store notes no positions.
    ///
    /// ```
    /// # fn example(session: motorpool::Session) {
    /// // For a cookie: at most 34 characters, digits, `a` to `f` and `-`.
    /// let cookie = session.position().to_string();
    /// # }
    /// ```
    pub fn position(&self) -> Position {
        self.state.position()
    }

    /// From now on reads are not older than this position either.
    ///
    /// ```
    /// # fn example(session: motorpool::Session, message: &str) -> motorpool::Result<()> {
    /// // Another process has written something and says so: from here on it is seen.
    /// session.observe(message.parse()?);
    /// # Ok(()) }
    /// ```
    pub fn observe(&self, position: Position) {
        self.state.observe(position);
    }
}

#[async_trait]
impl Store for Session {
    fn users(&self) -> &dyn UserRepo {
        match &self.routed {
            Some(routed) => routed,
            None => self.store.users(),
        }
    }

    fn cars(&self) -> &dyn CarRepo {
        match &self.routed {
            Some(routed) => routed,
            None => self.store.cars(),
        }
    }

    async fn begin(&self, options: TxOptions) -> Result<Tx> {
        let Some(routed) = &self.routed else {
            return self.store.begin(options).await;
        };
        let inner = transaction::begin(&self.store.shared, &options).await?;
        Ok(Tx::new(Noted {
            inner,
            log: Arc::clone(&routed.route.replicas.log),
            doubt: routed.route.replicas.doubt,
            state: Arc::clone(&self.state),
        }))
    }

    async fn commit_outcome(&self, token: &CommitToken) -> Result<CommitOutcome> {
        self.store.commit_outcome(token).await
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}

/// A transaction whose commit the session remembers.
struct Noted<T> {
    inner: T,
    log: Arc<Log>,
    doubt: Duration,
    state: Arc<State>,
}

#[async_trait]
impl<T: Transaction> Transaction for Noted<T> {
    fn users(&self) -> &dyn UserRepo {
        self.inner.users()
    }

    fn cars(&self) -> &dyn CarRepo {
        self.inner.cars()
    }

    async fn commit(&self) -> Result<()> {
        let commit = self.inner.commit();
        self.state.write(&self.log, self.doubt, commit).await
    }

    async fn rollback(&self) -> Result<()> {
        self.inner.rollback().await
    }

    async fn savepoint(&self) -> Result<u32> {
        self.inner.savepoint().await
    }

    async fn release(&self, savepoint: u32) -> Result<()> {
        self.inner.release(savepoint).await
    }

    async fn rollback_to(&self, savepoint: u32) -> Result<()> {
        self.inner.rollback_to(savepoint).await
    }

    fn gave_way(&self) -> bool {
        self.inner.gave_way()
    }
}
