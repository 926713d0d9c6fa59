//! The figures that a host collects, through the facade of the crate `metrics`: whatever recorder
//! it has installed gets them, and without one nothing is done.
//!
//! Names and units are OpenTelemetry's where these have any
//! (<https://opentelemetry.io/docs/specs/semconv/db/database-metrics/>), the others begin with
//! `motorpool`.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use deadpool_postgres::WeakPool;
use metrics::{Key, Label, Level, Metadata, Unit, counter, gauge, histogram, with_recorder};

use super::End;
use super::figures::Figures;
use super::operation::Operation;
use super::server::Server;
use crate::postgres::batch::Batches;
use crate::postgres::shared::Shared;

const DURATION: &str = "db.client.operation.duration";
const WAIT: &str = "db.client.connection.wait_time";
const TIMEOUTS: &str = "db.client.connection.timeouts";
const CONNECTIONS: &str = "db.client.connection.count";
const STATE: &str = "db.client.connection.state";
const MAX: &str = "db.client.connection.max";
const PENDING: &str = "db.client.connection.pending_requests";
const DISCARDS: &str = "motorpool.connection.discards";
const BATCH: &str = "motorpool.batch.size";
const RETRIES: &str = "motorpool.retries";
const READS: &str = "motorpool.reads";

const POOL: &str = "db.client.connection.pool.name";

/// How often the state of a pool is published.
const PERIOD: Duration = Duration::from_secs(1);

/// What nearly every call is counted under. Made once, because the labels would have to be put
/// together for each call.
#[derive(Default)]
pub(super) struct Keys(OnceLock<Made>);

struct Made {
    /// Of a call that was answered, for each operation.
    answered: Vec<Key>,
    wait: Key,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    fn made(&self, server: &Server) -> &Made {
        let key = |operation: &Operation| Key::from_parts(DURATION, labels(*operation, server));
        self.0.get_or_init(|| Made {
            answered: Operation::ALL.iter().map(key).collect(),
            wait: Key::from_parts(WAIT, vec![Label::new(POOL, server.name())]),
        })
    }
}

/// Of a call that was answered. Of several hosts none is named: which one is the primary changes.
fn labels(operation: Operation, server: &Server) -> Vec<Label> {
    let names = operation.names();
    let mut labels = vec![
        Label::from_static_parts("db.system.name", "postgresql"),
        Label::from_static_parts("db.operation.name", names.operation),
    ];
    if let Some(collection) = names.collection {
        labels.push(Label::from_static_parts("db.collection.name", collection));
    }
    if let Some(namespace) = server.namespace() {
        labels.push(Label::new("db.namespace", namespace.to_owned()));
    }
    if let Some(host) = server.only_host() {
        labels.push(Label::new("server.address", host.address.clone()));
        if let Some(port) = host.port {
            labels.push(Label::new("server.port", port.to_string()));
        }
    }
    labels
}

/// A call has ended.
pub(super) fn call(
    operation: Operation,
    server: &Server,
    figures: &Figures,
    took: Duration,
    end: End<'_>,
) {
    let keys = server.keys.made(server);
    match end.kind() {
        None => {
            if let Some(key) = keys.answered.get(operation as usize) {
                sample(key, took);
            }
        }
        Some(kind) => {
            let mut labels = labels(operation, server);
            labels.push(Label::new("error.type", kind.to_owned()));
            if let Some(sqlstate) = end.sqlstate() {
                labels.push(Label::new("db.response.status_code", sqlstate.to_owned()));
            }
            sample(&Key::from_parts(DURATION, labels), took);
        }
    }
    if let Some(waited) = figures.waited {
        sample(&keys.wait, waited);
    }
    if end.is_without_connection() {
        counter!(TIMEOUTS, POOL => server.name()).increment(1);
    }
    if figures.retries > 0 {
        let operation = operation.names().operation;
        counter!(RETRIES, "db.operation.name" => operation).increment(figures.retries.into());
    }
}

fn sample(key: &Key, time: Duration) {
    static METADATA: Metadata<'static> = Metadata::new("motorpool", Level::INFO, None);
    with_recorder(|recorder| {
        let histogram = recorder.register_histogram(key, &METADATA);
        histogram.record(time.as_secs_f64());
    });
}

/// So many calls go to the server together.
pub(in crate::postgres) fn batch(server: &Server, calls: usize) {
    // Far fewer than 2^52.
    histogram!(BATCH, POOL => server.name()).record(calls as f64);
}

/// A connection leaves the pool.
pub(in crate::postgres) fn discarded(server: &Server, reason: &'static str) {
    counter!(DISCARDS, POOL => server.name(), "reason" => reason).increment(1);
}

/// A read was answered, where there are replicas: by one of them or by the primary.
pub(in crate::postgres) fn read(by_replica: bool) {
    let by = match by_replica {
        true => "replica",
        false => "primary",
    };
    counter!(READS, "motorpool.server.role" => by).increment(1);
}

/// Publishes the state of a pool every second, as long as it lives.
pub(in crate::postgres) fn publish(shared: &Shared) {
    describe();
    let batches = shared.batches.as_ref().map(Arc::downgrade);
    let (pool, server) = (shared.pool.weak(), Arc::clone(&shared.health.server));
    tokio::spawn(publish_all(pool, batches, server));
}

async fn publish_all(pool: WeakPool, batches: Option<Weak<Batches>>, server: Arc<Server>) {
    let mut next = tokio::time::interval(PERIOD);
    loop {
        next.tick().await;
        let status = pool.upgrade().map(|pool| pool.status());
        let batches = batches.as_ref().and_then(Weak::upgrade);
        let in_queue = batches.map_or(0, |batches| batches.waiting());
        let (max, size, idle, waiting) = status.as_ref().map_or((0, 0, 0, 0), |status| {
            let waiting = status.waiting + in_queue;
            (status.max_size, status.size, status.available, waiting)
        });
        let used = size.saturating_sub(idle);
        let name = server.name();
        gauge!(CONNECTIONS, POOL => name.clone(), STATE => "idle").set(idle as f64);
        gauge!(CONNECTIONS, POOL => name.clone(), STATE => "used").set(used as f64);
        gauge!(MAX, POOL => name.clone()).set(max as f64);
        gauge!(PENDING, POOL => name).set(waiting as f64);
        if status.is_none() {
            return;
        }
    }
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_histogram!(DURATION, Unit::Seconds, "how long a call took");
    describe_histogram!(
        WAIT,
        Unit::Seconds,
        "how long a call waited for a connection"
    );
    describe_counter!(TIMEOUTS, "calls that got no connection in time");
    describe_gauge!(CONNECTIONS, "connections, by state");
    describe_gauge!(MAX, "connections that there can be");
    describe_gauge!(
        PENDING,
        "calls that wait for a connection, or to go with others"
    );
    describe_counter!(DISCARDS, "connections that left the pool, by reason");
    describe_histogram!(BATCH, "calls that went to the server together");
    describe_counter!(
        RETRIES,
        "times that something was run again, because it gave way"
    );
    describe_counter!(READS, "reads, by what answered them");
}
