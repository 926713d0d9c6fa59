//! A server that is up to no good: it asks for the password in clear and writes down all that it
//! is told.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ServerConfig, crypto::ring};

use crate::authority::Identity;

/// How it answers the question for TLS.
#[derive(Clone)]
pub enum Tls {
    /// It has none.
    No,
    /// With an error, as a server does that cannot start another process.
    Error,
    Yes(Identity),
    /// Only the older version.
    Old(Identity),
    /// It expects no question.
    Direct(Identity),
}

pub struct Fake {
    pub port: u16,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    handshakes: AtomicUsize,
    asked: AtomicUsize,
    bytes: Mutex<Vec<u8>>,
}

impl Fake {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start(tls: Tls) -> Fake {
        // On every address: one of them is taken for another machine.
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::<Seen>::default();
        let task = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    seen.connections.fetch_add(1, SeqCst);
                    tokio::spawn(serve(client, tls.clone(), Arc::clone(&seen)));
                }
            }
        });
        Fake { port, seen, task }
    }

    pub fn connections(&self) -> usize {
        self.seen.connections.load(SeqCst)
    }

    /// How many handshakes came to their end.
    pub fn handshakes(&self) -> usize {
        self.seen.handshakes.load(SeqCst)
    }

    /// How many times it has asked for the password.
    pub fn asked(&self) -> usize {
        self.seen.asked.load(SeqCst)
    }

    pub fn was_told(&self, text: &str) -> bool {
        let bytes = self.seen.bytes.lock().unwrap();
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const QUESTION: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const ASK: [u8; 9] = [b'R', 0, 0, 0, 8, 0, 0, 0, 3];

async fn serve(mut client: tokio::net::TcpStream, tls: Tls, seen: Arc<Seen>) {
    if let Tls::Direct(identity) = &tls {
        return encrypted(client, identity, &[&TLS13, &TLS12], &seen).await;
    }
    let mut first = [0; 8];
    if client.read_exact(&mut first).await.is_err() {
        return;
    }
    if first != QUESTION {
        return ask(client, &first, &seen).await;
    }
    let answer: &[u8] = match tls {
        Tls::No => b"N",
        Tls::Error => b"E\0\0\0\x2aSFATAL\0C53300\0Mcould not fork process\0\0",
        Tls::Yes(_) | Tls::Old(_) | Tls::Direct(_) => b"S",
    };
    let _ = client.write_all(answer).await;
    match &tls {
        Tls::No | Tls::Error => ask(client, &[], &seen).await,
        Tls::Old(identity) => encrypted(client, identity, &[&TLS12], &seen).await,
        Tls::Yes(identity) | Tls::Direct(identity) => {
            encrypted(client, identity, &[&TLS13, &TLS12], &seen).await;
        }
    }
}

async fn encrypted(
    client: tokio::net::TcpStream,
    identity: &Identity,
    versions: &[&'static rustls::SupportedProtocolVersion],
    seen: &Seen,
) {
    if let Ok(client) = acceptor(identity, versions).accept(client).await {
        seen.handshakes.fetch_add(1, SeqCst);
        ask(client, &[], seen).await;
    }
}

pub fn acceptor(
    identity: &Identity,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(versions).unwrap();
    let builder = builder.with_no_client_auth();
    let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
    // Anything else is refused.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Arc::new(config).into()
}

/// Reads whom the client wants to be, asks for the password, and writes down the rest. It asks
/// whatever it has read: a client that sends the password unasked would be found too.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(mut client: S, first: &[u8], seen: &Seen) {
    seen.bytes.lock().unwrap().extend_from_slice(first);
    let mut buffer = [0; 4096];
    let mut has_asked = false;
    while let Ok(count @ 1..) = client.read(&mut buffer).await {
        seen.bytes
            .lock()
            .unwrap()
            .extend_from_slice(&buffer[..count]);
        if !has_asked && client.write_all(&ASK).await.is_ok() {
            has_asked = true;
            let _ = client.flush().await;
            seen.asked.fetch_add(1, SeqCst);
        } else if has_asked {
            // What it wanted.
            return;
        }
    }
}
