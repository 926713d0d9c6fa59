//! What an operator sees of the replicas.

use std::time::Duration;

/// One replica of a store at one moment. Part of [`PoolStatus`](crate::PoolStatus).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicaStatus {
    /// Which one: in the order of the calls of
    /// [`PgStoreBuilder::replica`](crate::PgStoreBuilder::replica), counted from 0.
    pub number: usize,
    /// Why it is not read from. `None`: it is.
    pub out: Option<OutOfRotation>,
    /// How old what it shows is at most, as far as the looks of the store can tell, which come four
    /// times a second. `None` where it cannot be told: it does not answer, or has another history.
    pub lag: Option<Duration>,
    /// How many reads it has answered since the start.
    pub reads: u64,
    /// How many connections there are to it, in use and idle.
    pub size: usize,
}

/// Why a replica is not read from. It is looked at all the same, and comes back by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutOfRotation {
    /// It does not answer, refuses connections, or has broken one.
    Unreachable,
    /// What it shows is older than [`replica_lag`](crate::PgStoreBuilder::replica_lag).
    Lagging,
    /// It is no standby any more.
    Promoted,
    /// It follows another timeline than the primary is on: the history before a failover, or not
    /// yet the one after it.
    OtherTimeline,
}

/// Where the reads of a store with replicas went since its start. Part of
/// [`PoolStatus`](crate::PoolStatus). Reads inside transactions are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reads {
    /// To a replica.
    pub replicas: u64,
    /// To the primary.
    pub primary: u64,
    /// How many of those to the primary were of a session that had waited for a replica for all of
    /// [`replica_wait`](crate::PgStoreBuilder::replica_wait).
    pub overdue: u64,
}
