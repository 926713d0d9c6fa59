//! A closure in a transaction, as a future.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::{Store, Tx, TxOptions};
use crate::error::{Error, Result};

/// The future of [`StoreExt::transaction`](super::StoreExt::transaction).
///
/// A type of its own instead of an `async fn`: the compiler cannot prove the latter `Send` when
/// the closure borrows, so it could not be spawned. This is `Send` when the closure, its future
/// and its result are.
#[must_use = "futures do nothing unless awaited"]
pub struct Running<'a, S: ?Sized, T, E, F, Fut> {
    store: &'a S,
    options: TxOptions,
    attempt: u32,
    f: F,
    state: State<'a, T, E, Fut>,
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

enum State<'a, T, E, Fut> {
    Begin,
    Beginning(Boxed<'a, Result<Tx>>),
    Working(Pin<Box<Fut>>, Tx),
    Committing(Boxed<'static, Result<()>>, Tx, T),
    RollingBack(Boxed<'static, Result<()>>, Tx, E),
    Pausing(Boxed<'static, ()>),
    Done,
}

// Nothing in it is pinned in place: the closure is only called, and what is polled is boxed.
impl<S: ?Sized, T, E, F, Fut> Unpin for Running<'_, S, T, E, F, Fut> {}

impl<'a, S: ?Sized, T, E, F, Fut> Running<'a, S, T, E, F, Fut> {
    pub(super) fn new(store: &'a S, options: TxOptions, f: F) -> Self {
        Running {
            store,
            options,
            attempt: 1,
            f,
            state: State::Begin,
        }
    }

    /// What comes after an attempt that failed: another one, or the error.
    fn after_failure(&mut self, error: E, gave_way: bool) -> Result<State<'a, T, E, Fut>, E> {
        match self.options.pause_after(self.attempt) {
            Some(pause) if gave_way => {
                let attempt = self.attempt;
                tracing::debug!(attempt, "the transaction gave way and is run again");
                #[cfg(feature = "metrics")]
                metrics::counter!("motorpool.retries", "db.operation.name" => "transaction")
                    .increment(1);
                self.attempt += 1;
                Ok(State::Pausing(Box::pin(tokio::time::sleep(pause))))
            }
            _ => Err(error),
        }
    }
}

impl<S, T, E, F, Fut> Future for Running<'_, S, T, E, F, Fut>
where
    S: Store + ?Sized,
    F: FnMut(Tx) -> Fut,
    Fut: Future<Output = Result<T, E>>,
    E: From<Error>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T, E>> {
        let this = self.get_mut();
        loop {
            let next = match &mut this.state {
                State::Begin => State::Beginning(this.store.begin(this.options.clone())),
                State::Beginning(begin) => match ready!(begin.as_mut().poll(cx)) {
                    Ok(tx) => State::Working(Box::pin((this.f)(tx.clone())), tx),
                    Err(error) => return this.done(Err(error.into())),
                },
                State::Working(work, tx) => {
                    let result = ready!(work.as_mut().poll(cx));
                    let (tx, inner) = (tx.clone(), Arc::clone(&tx.inner));
                    match result {
                        Ok(value) => {
                            let commit = async move { inner.commit().await };
                            State::Committing(Box::pin(commit), tx, value)
                        }
                        Err(error) => {
                            let rollback = async move { inner.rollback().await };
                            State::RollingBack(Box::pin(rollback), tx, error)
                        }
                    }
                }
                State::Committing(commit, ..) => {
                    let committed = ready!(commit.as_mut().poll(cx));
                    let State::Committing(_, tx, value) = this.take() else {
                        return Poll::Pending;
                    };
                    match committed {
                        Ok(()) => return this.done(Ok(value)),
                        Err(error) => {
                            let gave_way = error.is_retryable() && tx.inner.gave_way();
                            match this.after_failure(error.into(), gave_way) {
                                Ok(next) => next,
                                Err(error) => return this.done(Err(error)),
                            }
                        }
                    }
                }
                State::RollingBack(rollback, ..) => {
                    // The closure's error is the one to tell; a rollback that fails leaves nothing
                    // stored either.
                    let _ = ready!(rollback.as_mut().poll(cx));
                    let State::RollingBack(_, tx, error) = this.take() else {
                        return Poll::Pending;
                    };
                    match this.after_failure(error, tx.inner.gave_way()) {
                        Ok(next) => next,
                        Err(error) => return this.done(Err(error)),
                    }
                }
                State::Pausing(pause) => {
                    ready!(pause.as_mut().poll(cx));
                    State::Begin
                }
                // Polled again after its end, against the rules of futures.
                State::Done => return Poll::Pending,
            };
            this.state = next;
        }
    }
}

impl<'a, S: ?Sized, T, E, F, Fut> Running<'a, S, T, E, F, Fut> {
    fn take(&mut self) -> State<'a, T, E, Fut> {
        std::mem::replace(&mut self.state, State::Done)
    }

    fn done(&mut self, result: Result<T, E>) -> Poll<Result<T, E>> {
        self.state = State::Done;
        Poll::Ready(result)
    }
}

impl<S: ?Sized, T, E, F, Fut> fmt::Debug for Running<'_, S, T, E, F, Fut> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
