//! What a host sees of a call: a span, warnings when it is slow, and figures.
//!
//! A call is wrapped where its repository begins it ([`Observed`]), and says nothing itself. What
//! the rooms below find out on its behalf, how long it waited and how many went together, they note
//! in the [`figures`] of the call that is being polled on their thread. A call that is made inside
//! another one belongs to that: a read that is tried on a replica and then on the primary is one.
//!
//! Names are those of OpenTelemetry's conventions for databases
//! (<https://opentelemetry.io/docs/specs/semconv/db/>, 1.33) where these have one. No parameter of
//! a statement is among them.

mod end;
pub(super) mod figures;
#[cfg_attr(not(feature = "metrics"), path = "unmetered.rs")]
mod meters;
mod operation;
mod server;
mod span;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tracing::Span;

use self::end::End;
use self::figures::Figures;
pub(super) use self::meters::{batch, discarded, publish, read};
pub(super) use self::operation::Operation;
pub(super) use self::server::{Host, Server};
use super::shared::Shared;
use crate::error::{Error, Result};

/// From when on a call is warned about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slow {
    /// The call altogether.
    pub(super) call: Duration,
    /// What it waited for a connection.
    pub(super) acquire: Duration,
}

impl Default for Slow {
    fn default() -> Self {
        Slow {
            call: Duration::from_secs(1),
            acquire: Duration::from_secs(2),
        }
    }
}

/// A call that is observed. Its work stays where it is: a future of some size, which would be moved
/// twice on its way in here.
pub(super) struct Observed<'a, 'w, F> {
    /// `None` inside another call.
    call: Option<Call<'a>>,
    work: Pin<&'w mut F>,
}

/// Observes a call on this store, from now on.
pub(super) fn call<'a, 'w, F>(
    shared: &'a Shared,
    operation: Operation,
    work: Pin<&'w mut F>,
) -> Observed<'a, 'w, F> {
    Observed {
        call: Call::new(shared, operation, None),
        work,
    }
}

/// The same for a call that may run on a replica: one of these.
pub(super) fn routed_call<'a, 'w, F>(
    primary: &'a Shared,
    replicas: &'a [Arc<Shared>],
    operation: Operation,
    work: Pin<&'w mut F>,
) -> Observed<'a, 'w, F> {
    Observed {
        call: Call::new(primary, operation, Some(replicas)),
        work,
    }
}

impl<T, F: Future<Output = Result<T>>> Future for Observed<'_, '_, F> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let work = this.work.as_mut();
        let Some(call) = &mut this.call else {
            return work.poll(cx);
        };
        let ended = {
            let _span = call.span.enter();
            let _current = figures::lend(&mut call.figures);
            work.poll(cx)
        };
        if let Poll::Ready(result) = &ended {
            call.end(result.as_ref().err());
        }
        ended
    }
}

/// A call that is under way.
struct Call<'a> {
    shared: &'a Shared,
    /// Where it may run besides.
    replicas: Option<&'a [Arc<Shared>]>,
    operation: Operation,
    span: Span,
    figures: Figures,
    ended: bool,
}

impl<'a> Call<'a> {
    fn new(
        shared: &'a Shared,
        operation: Operation,
        replicas: Option<&'a [Arc<Shared>]>,
    ) -> Option<Self> {
        // Which server it is will be known later.
        let server = replicas.is_none().then_some(&*shared.health.server);
        (!figures::is_inside()).then(|| Call {
            shared,
            replicas,
            operation,
            span: span::open(operation, &shared.health.server, server),
            figures: Figures::new(Instant::now()),
            ended: false,
        })
    }

    fn end(&mut self, error: Option<&Error>) {
        self.note(error.map_or(End::Answered, End::Failed));
    }

    fn note(&mut self, end: End<'_>) {
        self.ended = true;
        self.figures.end();
        let took = self.figures.started.elapsed();
        let server = self.server();
        span::close(
            &self.span,
            &self.figures,
            took,
            end,
            self.replicas.and(Some(server)),
        );
        meters::call(self.operation, server, &self.figures, took, end);
        let slow = self.shared.limits.slow;
        if self
            .figures
            .waited
            .is_some_and(|waited| waited >= slow.acquire)
        {
            let _span = self.span.enter();
            span::warn_of_wait(self.operation, &self.figures, self.shared);
        }
        if took >= slow.call {
            let _span = self.span.enter();
            span::warn_of_call(self.operation, &self.figures, took, end);
        }
    }

    /// The server that answered, or the last one that was asked.
    fn server(&self) -> &'a Server {
        let replica = self.figures.replica.zip(self.replicas);
        let shared = replica.and_then(|(number, replicas)| replicas.get(usize::from(number)));
        let shared = shared.map_or(self.shared, |shared| shared);
        &shared.health.server
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.note(End::Dropped);
        }
    }
}
