//! The way of a cancel request: the one that the connection itself went.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use deadpool_postgres::{Pool, WeakPool};
use tokio_postgres::{CancelToken, Error, NoTls};

use super::{Connector, Inner};

/// How a cancel request gets to the server of a connection. The address is in the request.
#[derive(Clone)]
pub(crate) struct CancelRoute(Option<Connector>);

impl CancelRoute {
    /// The one of the connections that a store makes.
    pub(in crate::postgres) fn of_store(connector: &Connector) -> CancelRoute {
        CancelRoute(Some(connector.clone()))
    }

    /// A host made the connection, and how it verified its server is not known. The request goes
    /// over TLS where the connection did, to whoever is there: it holds nothing but the right to
    /// stop one statement.
    pub(in crate::postgres) fn of_host() -> CancelRoute {
        CancelRoute(None)
    }

    /// The route of the connections of this pool.
    pub(crate) fn of(pool: &Pool) -> CancelRoute {
        let pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        let known = pools.iter().find(|(other, _)| {
            let other = other.upgrade();
            other.is_some_and(|other| std::ptr::eq(other.manager(), pool.manager()))
        });
        let connector = known.and_then(|(_, connector)| connector.upgrade());
        CancelRoute(connector.map(Connector))
    }

    /// Remembers what makes the connections of this pool: a migrator is given a pool and nothing
    /// else.
    pub(in crate::postgres) fn remember(pool: &Pool, connector: &Connector) {
        let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|(_, connector)| connector.strong_count() > 0);
        pools.push((pool.weak(), Arc::downgrade(&connector.0)));
    }

    pub(crate) async fn cancel(&self, token: &CancelToken) -> Result<(), Error> {
        match &self.0 {
            Some(connector) => token.cancel_query(connector.clone()).await,
            None => {
                #[cfg(feature = "tls")]
                if let Some(connector) = super::credentials::anyone()
                    && token.cancel_query(connector).await.is_ok()
                {
                    return Ok(());
                }
                // The connection is perhaps not encrypted, though its server could. Where it has to
                // be, the driver refuses.
                token.cancel_query(NoTls).await
            }
        }
    }
}

/// The pools of all stores of the process. There are few, and only migrators ask.
static POOLS: Mutex<Vec<(WeakPool, Weak<Inner>)>> = Mutex::new(Vec::new());
