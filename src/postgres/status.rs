//! What a store looks like at one moment.

use super::PgStore;
use super::batch::Batched;
use super::health::Discarded;
use super::replicas::{Reads, ReplicaStatus};

/// The connections of a [`PgStore`] at one moment: those to the server, or where there are
/// [replicas](crate::PgStoreBuilder::replica) to the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatus {
    /// The most that there can be. 0 when the store is closed.
    pub max: usize,
    /// How many there are, in use and idle.
    pub size: usize,
    /// How many of them are idle.
    pub idle: usize,
    /// How many calls wait for one, or to [go out together](crate::Batching) with others.
    pub waiting: usize,
    /// How many left the pool, and why.
    pub discarded: Discarded,
    /// How many calls went to the server together, since the start.
    pub batched: Batched,
    /// The replicas, in the order of their numbers.
    pub replicas: Vec<ReplicaStatus>,
    /// Where reads went, where there are replicas.
    pub reads: Reads,
}

impl PgStore {
    /// What the pool looks like at this moment, and how many connections left it since the start.
    ///
    /// ```no_run
    /// # fn example(store: motorpool::PgStore) {
    /// let status = store.status();
    /// println!("{} of {} connections are in use", status.size - status.idle, status.max);
    /// println!("{} calls wait, {} connections were lost", status.waiting, status.discarded.lost);
    /// for replica in status.replicas.iter().filter(|replica| replica.out.is_some()) {
    ///     println!("replica {} is out: {:?}", replica.number, replica.out);
    /// }
    /// # }
    /// ```
    pub fn status(&self) -> PoolStatus {
        let pool = self.shared.pool.status();
        let replicas = self.replicas().map(|replicas| replicas.status());
        let (replicas, reads) = replicas.unwrap_or_default();
        PoolStatus {
            max: pool.max_size,
            size: pool.size,
            idle: pool.available,
            waiting: pool.waiting
                + (self.shared.batches.as_ref()).map_or(0, |batches| batches.waiting()),
            discarded: self.shared.health.discarded(),
            batched: (self.shared.batches.as_ref())
                .map(|batches| batches.sent())
                .unwrap_or_default(),
            replicas,
            reads,
        }
    }
}
