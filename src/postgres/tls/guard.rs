//! Keeps the password from being sent in clear.
//!
//! The driver gives the password to any server that asks for it. The question has to come through
//! here first, and where the answer could be read by others the connection ends with an error
//! instead, before the driver has seen the whole question.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
#[cfg(feature = "tls")]
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::tls::{ChannelBinding, TlsStream};

use super::refusal::Refusal;

/// What the bytes go through.
pub(in crate::postgres) enum Channel {
    Plain(Socket),
    #[cfg(feature = "tls")]
    Tls(Box<Encrypted>),
}

#[cfg(feature = "tls")]
pub(super) type Encrypted =
    <tokio_postgres_rustls::MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// A channel whose incoming messages are looked at until the server has accepted the user.
pub(in crate::postgres) struct Guard<C> {
    channel: C,
    /// `None` from then on, and where any question may be answered.
    watch: Option<Watch>,
}

impl<C> Guard<C> {
    /// `clear`: whether the password may be sent as it is.
    pub(super) fn new(channel: C, clear: bool) -> Self {
        let watch = (!clear).then(Watch::default);
        Guard { channel, watch }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Guard<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(watch) = &mut this.watch else {
            return Pin::new(&mut this.channel).poll_read(cx, buf);
        };
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.channel).poll_read(cx, buf))?;
        match watch.look_at(buf.filled().get(before..).unwrap_or_default()) {
            Ok(false) => {}
            Ok(true) => this.watch = None,
            Err(refusal) => {
                buf.set_filled(before);
                return Poll::Ready(Err(io::Error::other(refusal)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Guard<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.channel).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_shutdown(cx)
    }
}

impl TlsStream for Guard<Channel> {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.channel {
            Channel::Plain(_) => ChannelBinding::none(),
            #[cfg(feature = "tls")]
            Channel::Tls(stream) => stream.channel_binding(),
        }
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Channel::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            #[cfg(feature = "tls")]
            Channel::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Channel::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            #[cfg(feature = "tls")]
            Channel::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Channel::Plain(socket) => Pin::new(socket).poll_flush(cx),
            #[cfg(feature = "tls")]
            Channel::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Channel::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            #[cfg(feature = "tls")]
            Channel::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Reads the server's messages as far as it has to: a letter, a length, and of those about
/// authentication the number behind it.
#[derive(Default)]
struct Watch {
    head: [u8; 9],
    known: usize,
    /// How much of the message is still to come and of no interest.
    rest: usize,
}

const ACCEPTED: u32 = 0;
const CLEARTEXT_PASSWORD: u32 = 3;

impl Watch {
    /// Whether the server has accepted the user.
    fn look_at(&mut self, bytes: &[u8]) -> Result<bool, Refusal> {
        for &byte in bytes {
            if self.rest > 0 {
                self.rest -= 1;
                continue;
            }
            if let Some(place) = self.head.get_mut(self.known) {
                *place = byte;
                self.known += 1;
            }
            let (length, counted) = match *self.head.get(..self.known).unwrap_or_default() {
                [b'R', a, b, c, d, e, f, g, h] => {
                    match u32::from_be_bytes([e, f, g, h]) {
                        ACCEPTED => return Ok(true),
                        CLEARTEXT_PASSWORD => return Err(Refusal::Cleartext),
                        _ => {}
                    }
                    (u32::from_be_bytes([a, b, c, d]), 8)
                }
                [kind, a, b, c, d] if kind != b'R' => (u32::from_be_bytes([a, b, c, d]), 4),
                _ => continue,
            };
            // The length counts itself.
            let rest = length.checked_sub(counted).ok_or(Refusal::NoMessage)?;
            self.rest = usize::try_from(rest).map_err(|_| Refusal::NoMessage)?;
            self.known = 0;
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("short");
        [&[kind][..], &length.to_be_bytes(), body].concat()
    }

    fn authentication(number: u32, more: &[u8]) -> Vec<u8> {
        message(b'R', &[&number.to_be_bytes()[..], more].concat())
    }

    /// What is seen when the bytes come in two pieces, for every place where they can be cut.
    fn seen(bytes: &[u8]) -> Result<bool, String> {
        let whole = Watch::default().look_at(bytes);
        let whole = whole.map_err(|refusal| refusal.to_string());
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let mut watch = Watch::default();
            let pieces = match watch.look_at(first) {
                Ok(false) => watch.look_at(second),
                ended => ended,
            };
            let pieces = pieces.map_err(|refusal| refusal.to_string());
            assert_eq!(pieces, whole, "cut at {cut}");
        }
        whole
    }

    #[test]
    fn the_question_is_found_wherever_it_stands() {
        let refused = Err(Refusal::Cleartext.to_string());
        let asked = authentication(3, b"");
        assert_eq!(seen(&asked), refused);
        let notice = message(b'N', b"SNOTICE\0\0");
        assert_eq!(seen(&[notice, asked.clone()].concat()), refused);
        let scram = authentication(10, b"SCRAM-SHA-256\0\0");
        assert_eq!(seen(&[scram, asked.clone()].concat()), refused);
        // What only looks like it stands inside another message.
        assert_eq!(seen(&message(b'E', &asked)), Ok(false));
        assert_eq!(seen(&authentication(12, &asked)), Ok(false));
        // One that is longer than it should be.
        assert_eq!(seen(&authentication(3, b"more")), refused);
    }

    #[test]
    fn nothing_is_looked_at_once_the_user_is_accepted() {
        let accepted = authentication(0, b"");
        assert_eq!(seen(&accepted), Ok(true));
        let asked = authentication(3, b"");
        assert_eq!(seen(&[accepted, asked].concat()), Ok(true));
        assert_eq!(seen(&authentication(5, b"salt")), Ok(false));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let refused = Err(Refusal::NoMessage.to_string());
        assert_eq!(seen(b"S\0\0\0\x03"), refused);
        assert_eq!(seen(b"R\0\0\0\x04\0\0\0\x05"), refused);
    }

    #[tokio::test]
    async fn the_question_does_not_reach_the_reader() {
        let (mut server, client) = duplex(64);
        let mut guard = Guard::new(client, false);
        let asked = authentication(3, b"");
        server.write_all(&asked).await.expect("written");
        let error = guard.read(&mut [0; 64]).await.expect_err("refused");
        assert_eq!(error.to_string(), Refusal::Cleartext.to_string());
        // Where it may be answered it does.
        let (mut server, client) = duplex(64);
        let mut guard = Guard::new(client, true);
        server.write_all(&asked).await.expect("written");
        let mut read = [0; 64];
        assert_eq!(guard.read(&mut read).await.expect("read"), asked.len());
    }
}
