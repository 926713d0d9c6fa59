//! What every connection goes through before a word is said on it: the question for TLS, the
//! handshake, and the guard that keeps the password from being sent in clear.
//!
//! The driver is told that TLS begins at once. So it asks nothing itself and leaves the socket to
//! the [`Connector`], which hands back a guarded stream, encrypted or not. Sockets of the machine
//! do not come here: nobody listens on them, and libpq has no TLS on them either.

#[cfg(feature = "tls")]
mod credentials;
mod guard;
mod patient;
mod refusal;
mod route;
#[cfg(feature = "tls")]
mod verifier;

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::Socket;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

#[cfg(feature = "tls")]
use self::credentials::Credentials;
use self::guard::{Channel, Guard};
pub(super) use self::patient::Patient;
use self::refusal::Refusal;
pub(super) use self::refusal::reason;
pub(crate) use self::route::CancelRoute;
use super::target::{Negotiation, SslMode, Target, Tls};
#[cfg(not(feature = "tls"))]
use crate::error::Error;
use crate::error::{Result, Source};

/// How the connections of one store are made safe.
#[derive(Clone)]
pub(super) struct Connector(Arc<Inner>);

struct Inner {
    tls: Tls,
    /// The hosts that are not on this machine, by the names that the driver has for them.
    distant: Vec<String>,
    #[cfg(feature = "tls")]
    credentials: Option<Credentials>,
    warned: AtomicBool,
}

impl Connector {
    /// # Errors
    /// `Config` for a certificate or a key that cannot be read, or, without the feature `tls`, for
    /// anything that needs TLS.
    pub(super) fn new(target: &Target) -> Result<Connector> {
        let tls = target.tls.clone();
        #[cfg(not(feature = "tls"))]
        if target.needs_tls() {
            return Err(Error::Config {
                reason: "the URL asks for TLS, which needs the feature `tls` of motorpool".into(),
            });
        }
        Ok(Connector(Arc::new(Inner {
            distant: target.distant(),
            #[cfg(feature = "tls")]
            credentials: match tls.is_off() || target.has_only_sockets() {
                true => None,
                false => Some(Credentials::new(&tls)?),
            },
            tls,
            warned: AtomicBool::new(false),
        })))
    }
}

impl Inner {
    /// Once for a store: each of its connections would say the same.
    fn warn(&self) {
        if !self.warned.swap(true, Relaxed) {
            tracing::warn!("connections to a host that is not this machine are not encrypted");
        }
    }
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Guard<Channel>;
    type TlsConnect = Handshake;
    type Error = Infallible;

    fn make_tls_connect(&mut self, host: &str) -> Result<Handshake, Infallible> {
        Ok(Handshake {
            of: Arc::clone(&self.0),
            host: host.to_owned(),
        })
    }
}

/// One connection about to be made.
pub(super) struct Handshake {
    of: Arc<Inner>,
    host: String,
}

impl TlsConnect<Socket> for Handshake {
    type Stream = Guard<Channel>;
    type Error = Source;
    type Future = Pin<Box<dyn Future<Output = Result<Guard<Channel>, Source>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(self.run(socket))
    }
}

impl Handshake {
    async fn run(self, mut socket: Socket) -> Result<Guard<Channel>, Source> {
        let Handshake { of, host } = self;
        let distant = of.distant.contains(&host);
        let mode = of.tls.mode(distant);
        let encrypted = match (mode, of.tls.negotiation) {
            (SslMode::Disable, _) => false,
            _ if cfg!(not(feature = "tls")) => false,
            (_, Negotiation::Direct) => true,
            (_, Negotiation::Postgres) => has_tls(&mut socket).await?,
        };
        if encrypted {
            return encrypt(&of, host, socket).await;
        }
        if mode >= SslMode::Require {
            return Err(Refusal::NoTls.into());
        }
        if distant {
            of.warn();
        }
        // Who says that a connection within the machine is not to be encrypted knows what is said
        // on it.
        let clear = !distant && of.tls.is_off();
        Ok(Guard::new(Channel::Plain(socket), clear))
    }
}

#[cfg(feature = "tls")]
async fn encrypt(of: &Arc<Inner>, host: String, socket: Socket) -> Result<Guard<Channel>, Source> {
    let files = Arc::clone(of);
    // Files, even small ones, can be on a disk that has gone to sleep.
    let current =
        tokio::task::spawn_blocking(move || files.credentials.as_ref().map(Credentials::current));
    let Some(mut current) = current.await? else {
        return Err(Refusal::NoTls.into());
    };
    let name = credentials::name(&host, of.tls.wants_name())?;
    let stream = match MakeTlsConnect::<Socket>::make_tls_connect(&mut current, &name) {
        Ok(connect) => connect.connect(socket).await,
        Err(never) => match never {},
    };
    let direct = of.tls.negotiation == Negotiation::Direct;
    let stream = stream.map_err(|error| refusal::of_handshake(error, direct))?;
    Ok(Guard::new(
        Channel::Tls(Box::new(stream)),
        of.tls.verifies(),
    ))
}

#[cfg(not(feature = "tls"))]
async fn encrypt(_: &Arc<Inner>, _: String, _: Socket) -> Result<Guard<Channel>, Source> {
    Err(Refusal::NoTls.into())
}

/// Asks the server whether it has TLS.
async fn has_tls(socket: &mut Socket) -> Result<bool, Source> {
    socket.write_all(&QUESTION).await?;
    let mut answer = [0];
    socket.read_exact(&mut answer).await?;
    match answer {
        [b'S'] => Ok(true),
        [b'N'] => Ok(false),
        // An error of the server, or something that is no Postgres. What it says is not to be
        // believed: anybody in between could say it.
        _ => Err(Refusal::NoAnswer.into()),
    }
}

/// Its length, and the number that stands for the question.
const QUESTION: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("tls", &self.0.tls)
            .finish_non_exhaustive()
    }
}

/// Finds an error of this kind inside an error of the operating system, where the driver has put
/// it.
fn inside<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    error.downcast_ref().or_else(|| {
        let io: &io::Error = error.downcast_ref()?;
        io.get_ref()?.downcast_ref()
    })
}
