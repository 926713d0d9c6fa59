//! What a host sees of reads where there are replicas: one span a read, wherever it was tried, with
//! the server that answered; and what part of them the replicas served.
#![cfg(feature = "metrics")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/cluster.rs"]
mod cluster;
mod garage;
mod meter;
mod spans;

use std::time::{Duration, Instant};

use cluster::Cluster;
use garage::{car, is_back, is_out, replicated, user, with_replicas};
use meter::Meter;
use metrics::set_default_local_recorder;
use motorpool::{OutOfRotation, Store};
use spans::{Spans, Warning};

#[tokio::test]
async fn a_read_is_one_span_of_the_server_that_answered() {
    let cluster = Cluster::start(1, false).await;
    let ports = [0, 1].map(|number| cluster.node(number).port().to_string());
    let meter = Meter::default();
    let _guard = set_default_local_recorder(&meter);
    let store = with_replicas(&cluster).await.build().await.unwrap();
    let ada = user(&store, "Ada").await;
    car(&store, "Golf", ada).await;
    replicated(&cluster).await;
    let reads = |role: &str| {
        let told = meter.told(&format!("motorpool.reads{{motorpool.server.role={role}}}"));
        told.iter().sum::<f64>()
    };
    let spans = Spans::listen();

    // On the replica.
    for _ in 0..5 {
        store.users().get(ada).await.unwrap();
        let span = spans.take_one();
        assert_eq!(span.field("db.operation.name"), Some("get"));
        assert_eq!(span.field("server.port"), Some(&*ports[1]));
    }
    assert_eq!((reads("replica"), reads("primary")), (5.0, 0.0));

    // A write, and what is in a transaction, is the primary's.
    user(&store, "Bob").await;
    assert_eq!(spans.take_one().field("server.port"), Some(&*ports[0]));

    // A session's calls are one span each, whatever is asked along with them.
    let session = store.session();
    let eve = user(&session, "Eve").await;
    assert_eq!(spans.take_one().field("server.port"), Some(&*ports[0]));
    assert!(session.users().get(eve).await.unwrap().is_some());
    spans.take_one();
    let before = (reads("replica"), reads("primary"));
    assert_eq!(before.0 + before.1, 6.0);

    // Without the replica.
    cluster.node(1).kill9();
    is_out(&store, 0, OutOfRotation::Unreachable).await;
    spans.take();
    store.cars().owned_by(ada).await.unwrap();
    let span = spans.take_one();
    assert_eq!(span.field("db.operation.name"), Some("owned_by"));
    assert_eq!(span.field("server.port"), Some(&*ports[0]));
    assert_eq!(reads("primary"), before.1 + 1.0);
}

#[tokio::test]
async fn a_replica_that_never_answered_is_warned_about_once_with_the_cause() {
    let cluster = Cluster::start(1, false).await;
    cluster.node(1).kill9();
    let spans = Spans::listen();
    let store = with_replicas(&cluster).await.build().await.unwrap();
    let ada = user(&store, "Ada").await;
    // Some more looks.
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(1) {
        store.users().get(ada).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let about = |warnings: Vec<Warning>| {
        let about = |warning: &Warning| warning.fields.contains_key("replica");
        warnings.into_iter().filter(about).collect::<Vec<_>>()
    };
    let warnings = about(spans.warnings());
    let [warning] = &warnings[..] else {
        panic!("{warnings:#?}");
    };
    let field = |name: &str| warning.fields.get(name).map(String::as_str);
    assert_eq!(field("message"), Some("a replica is not read from"));
    assert_eq!(
        (field("replica"), field("reason")),
        (Some("0"), Some("Unreachable"))
    );
    let cause = "the database is unavailable: connection refused, nothing listens at the address";
    assert_eq!(field("error"), Some(cause));

    cluster.node(1).start_again();
    is_back(&store, 0).await;
    assert!(about(spans.warnings()).is_empty());

    // Noticed by a read or by a look, whichever comes first.
    cluster.node(1).kill9();
    while store.status().replicas[0].out.is_none() {
        store.users().get(ada).await.unwrap();
    }
    let warnings = about(spans.warnings());
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    let error = warnings[0].fields.get("error").map_or("", String::as_str);
    assert!(
        error.starts_with("the database is unavailable: "),
        "{error}"
    );
    store.close().await;
}
