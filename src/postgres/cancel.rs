//! Telling the server, or the pooler before it, that nobody waits for a statement any more.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{CancelToken, Config};

use super::tls::{CancelRoute, Connector as Tls, Patient};

/// How a request to cancel reaches the server.
#[derive(Clone)]
pub(super) enum Way {
    /// As the driver does it: it asks at the address of the connection and is gone.
    Direct(CancelRoute),
    /// Perhaps through a pooler. PgBouncer 1.18 to 1.19.0 end with all their connections when whoever
    /// asks is gone before the request is passed on, so this waits for that. A server that is asked
    /// itself lets nobody wait.
    Pooler(Pooler),
    /// Through a pooler whose address is not known, so not at all.
    Nowhere,
}

/// Where a pooler is.
#[derive(Clone)]
pub(super) enum Pooler {
    /// Where the connection went, and as well kept.
    Same(Tls),
    /// At one of these, of which some are sockets of this machine. The driver does not say which of
    /// them a connection went to, and over a socket it does not wait.
    OneOf(Arc<[Config]>),
}

impl Pooler {
    pub(super) fn at(hosts: Vec<Config>, tls: &Tls) -> Pooler {
        match hosts.iter().any(in_clear) {
            true => Pooler::OneOf(hosts.into()),
            false => Pooler::Same(tls.clone()),
        }
    }

    /// Whether it is where the connection went, and nobody else is asked.
    pub(super) fn is_known(&self) -> bool {
        match self {
            Pooler::Same(_) => true,
            Pooler::OneOf(hosts) => hosts.len() == 1,
        }
    }

    async fn ask(self, token: CancelToken) {
        match self {
            Pooler::Same(tls) => drop(token.cancel_query(Patient(tls)).await),
            // Only the one that gave the key knows it.
            Pooler::OneOf(hosts) => {
                join_all(hosts.iter().map(|host| ask(host, &token))).await;
            }
        }
    }
}

/// A socket of this machine, or a host where nothing is encrypted.
fn in_clear(host: &Config) -> bool {
    matches!(host.get_ssl_mode(), SslMode::Disable)
}

/// How long a pooler may take to pass a request on, which is what PgBouncer gives itself.
const LIMIT: Duration = Duration::from_secs(10);

impl Way {
    /// Asks once. It has no answer but what the statement then ends with.
    pub(super) async fn cancel(&self, token: &CancelToken) {
        match self {
            Way::Direct(route) => drop(route.cancel(token).await),
            Way::Pooler(pooler) => {
                let Ok(runtime) = Handle::try_current() else {
                    return;
                };
                // A task, which goes on when the caller loses patience.
                let ask = pooler.clone().ask(token.clone());
                let asking = runtime.spawn(timeout(LIMIT, ask));
                let _ = asking.await;
            }
            Way::Nowhere => {}
        }
    }
}

async fn ask(host: &Config, token: &CancelToken) {
    let port = host.get_ports().first().copied().unwrap_or(5432);
    let name = match (host.get_hostaddrs().first(), host.get_hosts().first()) {
        (Some(address), _) => address.to_string(),
        (None, Some(Host::Tcp(name))) => name.clone(),
        #[cfg(unix)]
        (None, Some(Host::Unix(folder))) => {
            let socket = folder.join(format!(".s.PGSQL.{port}"));
            if let Ok(stream) = tokio::net::UnixStream::connect(socket).await {
                ask_on(stream, token).await;
            }
            return;
        }
        _ => return,
    };
    let Ok(addresses) = lookup_host((name.as_str(), port)).await else {
        return;
    };
    let ask = async |address| {
        if let Ok(stream) = TcpStream::connect(address).await {
            ask_on(stream, token).await;
        }
    };
    join_all(addresses.map(ask)).await;
}

async fn ask_on(mut stream: impl AsyncRead + AsyncWrite + Unpin, token: &CancelToken) {
    if token
        .cancel_query_raw(KeptOpen(&mut stream), InClear)
        .await
        .is_ok()
    {
        // Nothing is said; the end of the stream is the answer.
        let _ = stream.read(&mut [0]).await;
    }
}

/// The driver is told that every connection begins with TLS. Here it gets the stream as it is.
pub(super) struct InClear;

impl<'a, S: AsyncRead + AsyncWrite + Unpin> TlsConnect<KeptOpen<'a, S>> for InClear {
    type Stream = KeptOpen<'a, S>;
    type Error = Infallible;
    type Future = Ready<Result<KeptOpen<'a, S>, Infallible>>;

    fn connect(self, stream: KeptOpen<'a, S>) -> Self::Future {
        ready(Ok(stream))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for KeptOpen<'_, S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

/// A stream that the driver cannot shut down.
pub(super) struct KeptOpen<'a, S>(pub(super) &'a mut S);

impl<S: AsyncRead + Unpin> AsyncRead for KeptOpen<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for KeptOpen<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
