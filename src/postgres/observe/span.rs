//! The span of a call, and the warnings.

use std::time::Duration;

use tracing::field::Empty;
use tracing::{Span, warn};

use super::End;
use super::figures::Figures;
use super::operation::Operation;
use super::server::{Host, Server};
use crate::postgres::shared::Shared;

/// Opens it. `database`: where its name is known from. `server`: where the call goes, if that is
/// known at its start.
pub(super) fn open(operation: Operation, database: &Server, server: Option<&Server>) -> Span {
    // Nothing of this is evaluated unless somebody listens.
    tracing::info_span!(
        target: "motorpool",
        "motorpool.call",
        otel.name = operation.names().summary,
        otel.kind = "client",
        otel.status_code = Empty,
        db.system.name = "postgresql",
        db.namespace = database.namespace(),
        db.collection.name = operation.names().collection,
        db.operation.name = operation.names().operation,
        db.query.summary = operation.names().summary,
        db.operation.batch.size = Empty,
        db.response.status_code = Empty,
        "error.type" = Empty,
        server.address = address(server),
        server.port = port(server),
        motorpool.wait_seconds = Empty,
        motorpool.execution_seconds = Empty,
        motorpool.retries = Empty,
    )
}

/// Writes down how the call ended. `server`: where it went, if that was not known before.
pub(super) fn close(
    span: &Span,
    figures: &Figures,
    took: Duration,
    end: End<'_>,
    server: Option<&Server>,
) {
    if span.is_disabled() {
        return;
    }
    if server.is_some() {
        span.record("server.address", address(server));
        span.record("server.port", port(server));
    }
    if figures.batch > 0 {
        span.record("db.operation.batch.size", figures.batch);
    }
    if figures.retries > 0 {
        span.record("motorpool.retries", figures.retries);
    }
    let waited = figures.waited.unwrap_or_default();
    let executed = took.saturating_sub(waited);
    span.record("motorpool.wait_seconds", waited.as_secs_f64());
    span.record("motorpool.execution_seconds", executed.as_secs_f64());
    span.record("error.type", end.kind());
    span.record("db.response.status_code", end.sqlstate());
    if end.is_fault() {
        span.record("otel.status_code", "ERROR");
    }
}

fn address(server: Option<&Server>) -> Option<&str> {
    server?.host().map(|host| host.address.as_str())
}

fn port(server: Option<&Server>) -> Option<u16> {
    server?.host().and_then(|host: &Host| host.port)
}

/// The call had to wait for long.
pub(super) fn warn_of_wait(operation: Operation, figures: &Figures, shared: &Shared) {
    let pool = shared.pool.status();
    warn!(
        target: "motorpool",
        { "db.operation.name" = operation.names().operation,
        "db.collection.name" = operation.names().collection,
        waited = ?figures.waited.unwrap_or_default(),
        "pool.max" = pool.max_size,
        "pool.size" = pool.size,
        "pool.idle" = pool.available,
        "pool.waiting" = pool.waiting },
        "a call waited long for a connection"
    );
}

/// The call took long.
pub(super) fn warn_of_call(operation: Operation, figures: &Figures, took: Duration, end: End<'_>) {
    let waited = figures.waited.unwrap_or_default();
    warn!(
        target: "motorpool",
        { "db.operation.name" = operation.names().operation,
        "db.collection.name" = operation.names().collection,
        took = ?took,
        waited = ?waited,
        executed = ?took.saturating_sub(waited),
        batch = (figures.batch > 0).then_some(figures.batch),
        "error.type" = end.kind() },
        "a call was slow"
    );
}
