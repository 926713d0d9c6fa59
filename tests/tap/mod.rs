//! What goes over the wire to a server, and what stands in front of one.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_postgres::config::Host;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::authority::Identity;
use crate::fake::acceptor;

/// Passes everything on, and keeps the first bytes of each client.
pub struct Tap {
    pub port: u16,
    firsts: Arc<Mutex<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
}

/// The question for TLS and a little of what comes after the answer.
const FIRST: usize = 12;

impl Tap {
    /// In front of a server on this port of 127.0.0.1.
    pub async fn start(server: u16) -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let firsts = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let task = tokio::spawn({
            let firsts = Arc::clone(&firsts);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(pass(client, server, Arc::clone(&firsts)));
                }
            }
        });
        Tap { port, firsts, task }
    }

    /// What each client that has said something began with.
    pub fn connections(&self) -> Vec<Vec<u8>> {
        self.firsts.lock().unwrap().clone()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut client: TcpStream, server: u16, firsts: Arc<Mutex<Vec<Vec<u8>>>>) -> Option<()> {
    let mut server = TcpStream::connect(("127.0.0.1", server)).await.ok()?;
    let mut first = Vec::new();
    let (mut buffer, mut answer) = ([0; 4096], [0; 1]);
    while first.len() < FIRST {
        tokio::select! {
            read = client.read(&mut buffer) => {
                let count = read.ok().filter(|count| *count > 0)?;
                first.extend_from_slice(&buffer[..count]);
                if first.len() >= FIRST {
                    // Before the server can act on it.
                    firsts.lock().unwrap().push(first[..FIRST].to_vec());
                }
                server.write_all(&buffer[..count]).await.ok()?;
            }
            read = server.read(&mut answer) => {
                read.ok().filter(|count| *count > 0)?;
                client.write_all(&answer).await.ok()?;
            }
        }
    }
    copy_bidirectional(&mut client, &mut server).await.ok()?;
    Some(())
}

/// Speaks TLS from the first byte on, and passes what is inside to a server's socket.
pub struct Terminator {
    pub port: u16,
    protocols: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Terminator {
    /// In front of the database at this URL.
    pub async fn start(url: &str, identity: &Identity) -> Terminator {
        let config: tokio_postgres::Config = url.parse().unwrap();
        let Host::Unix(dir) = &config.get_hosts()[0] else {
            panic!("a socket");
        };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let socket: PathBuf = dir.join(format!(".s.PGSQL.{port}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = acceptor(identity, &[&TLS13, &TLS12]);
        let protocols = Arc::<Mutex<Vec<String>>>::default();
        let task = tokio::spawn({
            let protocols = Arc::clone(&protocols);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let (acceptor, socket) = (acceptor.clone(), socket.clone());
                    let protocols = Arc::clone(&protocols);
                    tokio::spawn(async move {
                        let mut client = acceptor.accept(client).await.ok()?;
                        let protocol = client.get_ref().1.alpn_protocol().unwrap_or_default();
                        let protocol = String::from_utf8_lossy(protocol).into_owned();
                        protocols.lock().unwrap().push(protocol);
                        let mut server = UnixStream::connect(socket).await.ok()?;
                        copy_bidirectional(&mut client, &mut server).await.ok()
                    });
                }
            }
        });
        Terminator {
            port,
            protocols,
            task,
        }
    }

    /// What each client wanted to speak.
    pub fn protocols(&self) -> Vec<String> {
        self.protocols.lock().unwrap().clone()
    }
}

impl Drop for Terminator {
    fn drop(&mut self) {
        self.task.abort();
    }
}
