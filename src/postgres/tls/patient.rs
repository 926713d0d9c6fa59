//! Requests to cancel for who has to wait until they were passed on.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

use super::guard::{Channel, Guard};
use super::{Connector, Handshake};
use crate::error::Source;

/// Makes connections of which the other side sees the end first: shut down, they wait until it has
/// closed them. The driver shuts the connection of a request down as soon as it is sent.
pub(in crate::postgres) struct Patient(pub(in crate::postgres) Connector);

impl MakeTlsConnect<Socket> for Patient {
    type Stream = UntilClosed;
    type TlsConnect = PatientHandshake;
    type Error = Infallible;

    fn make_tls_connect(&mut self, host: &str) -> Result<PatientHandshake, Infallible> {
        self.0.make_tls_connect(host).map(PatientHandshake)
    }
}

pub(in crate::postgres) struct PatientHandshake(Handshake);

impl TlsConnect<Socket> for PatientHandshake {
    type Stream = UntilClosed;
    type Error = Source;
    type Future = Pin<Box<dyn Future<Output = Result<UntilClosed, Source>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move { self.0.run(socket).await.map(UntilClosed) })
    }
}

pub(in crate::postgres) struct UntilClosed(Guard<Channel>);

impl AsyncRead for UntilClosed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for UntilClosed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut byte = [0];
            let mut into = ReadBuf::new(&mut byte);
            let read = ready!(Pin::new(&mut self.0).poll_read(cx, &mut into));
            // Nothing is said; the end of the stream is the answer.
            if read.is_err() || into.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl TlsStream for UntilClosed {
    fn channel_binding(&self) -> ChannelBinding {
        self.0.channel_binding()
    }
}
