//! A connection that has left the pool with a statement on it that nobody waits for.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::cancel::Way;
use super::health::Health;
use super::tls::CancelRoute;

/// How many times a statement that nobody waits for is cancelled before its connection is closed
/// over it, and the first pause between, which doubles. More than once, because a cancel request
/// that overtakes its statement has no effect; not often, because a server that is silent finds
/// them all when it is back.
const CANCEL_TIMES: u32 = 5;
const CANCEL_PAUSE: Duration = Duration::from_millis(50);

/// Ends a connection whose statement nobody waits for: the statement is cancelled until it has
/// stopped, then the connection is closed. Its slot in the pool is free already. `until_then` is
/// dropped after that.
pub(super) fn abandon(client: ClientWrapper, way: Way, until_then: impl Send + 'static) {
    let Ok(runtime) = Handle::try_current() else {
        return;
    };
    runtime.spawn(async move {
        let cancel = client.cancel_token();
        // Answered once the statement before it is over.
        let mut quiet = pin!(client.simple_query(""));
        let mut pause = CANCEL_PAUSE;
        let mut asking = None;
        for _ in 0..CANCEL_TIMES {
            // Not again while the last request is on its way.
            let ask = asking.get_or_insert_with(|| Box::pin(way.cancel(&cancel)));
            if timeout(pause, ask).await.is_ok() {
                asking = None;
            }
            if timeout(pause, &mut quiet).await.is_ok() {
                break;
            }
            pause *= 2;
        }
        drop(until_then);
    });
}

/// [`abandon`] for a connection that leads to the server itself.
pub(crate) fn abandon_direct(client: ClientWrapper, route: CancelRoute) {
    abandon(client, Way::Direct(route), ());
}

/// A connection that has left the pool with a statement on it. It is in use until that has ended, so
/// that whoever closes the store waits for it.
pub(super) struct Unquiet(Arc<Health>);

impl Unquiet {
    pub(super) fn new(health: &Arc<Health>) -> Self {
        health.lend();
        Unquiet(Arc::clone(health))
    }
}

impl Drop for Unquiet {
    fn drop(&mut self) {
        self.0.take_back();
    }
}
