//! The end of a store.

use std::future::{Future, IntoFuture};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::timeout_at;

use super::deadline::after;
use super::replicas::Replicas;
use super::shared::Shared;

/// A store that is being closed. Made by [`PgStore::close`](super::PgStore::close), which has
/// already stopped new calls; to wait for the calls that are still running, await this.
pub struct Closing {
    shared: Arc<Shared>,
    replicas: Option<Arc<Replicas>>,
}

impl Closing {
    pub(super) fn start(shared: &Arc<Shared>, replicas: Option<&Arc<Replicas>>) -> Self {
        shared.stop_calls();
        if let Some(replicas) = replicas {
            replicas.stop();
        }
        Closing {
            shared: Arc::clone(shared),
            replicas: replicas.cloned(),
        }
    }

    /// Waits until every running call and transaction has ended and its connection is closed, but
    /// not longer than `limit`, and up to a second more in which servers are asked to stop what it
    /// cuts off. What still runs then loses its connection and gets
    /// [`Unavailable`](crate::Error::Unavailable); connections of a host's own pool are left to
    /// the host.
    ///
    /// Gives the number of connections that were still in use at the limit.
    ///
    /// ```no_run
    /// # async fn example(store: motorpool::PgStore) {
    /// let cut = store.close().within(std::time::Duration::from_secs(10)).await;
    /// println!("{cut} connections were still in use");
    /// # }
    /// ```
    pub async fn within(self, limit: Duration) -> usize {
        let end = after(Instant::now(), limit);
        let replicas = self.replicas.iter().flat_map(|replicas| replicas.pools());
        // At once, because what is cut at the end takes its time.
        let all = replicas.chain([&self.shared]);
        let busy = join_all(all.map(|pool| drained(pool, end))).await;
        busy.into_iter().sum()
    }
}

/// Waits until no connection of a pool is in use, or it is time, and closes them. Gives the number
/// of those that were still in use.
async fn drained(shared: &Shared, end: Instant) -> usize {
    let mut returned = pin!(shared.health.returned());
    loop {
        // Listens before it looks, so that nothing comes back unnoticed in between.
        returned.as_mut().enable();
        let busy = shared.health.on_loan();
        if busy == 0 || timeout_at(end.into(), returned.as_mut()).await.is_err() {
            shared.end_connections(busy > 0).await;
            return busy;
        }
        returned.set(shared.health.returned());
    }
}

impl IntoFuture for Closing {
    type Output = usize;
    type IntoFuture = Pin<Box<dyn Future<Output = usize> + Send>>;

    /// [`within`](Closing::within) the time that a call has.
    fn into_future(self) -> Self::IntoFuture {
        let limit = self.shared.limits.call;
        Box::pin(self.within(limit))
    }
}

impl std::fmt::Debug for Closing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Closing").finish_non_exhaustive()
    }
}
