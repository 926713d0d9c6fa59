//! A relay that passes everything on but one word, which the server gets misspelt.

#![allow(unreachable_pub, reason = "each test program has it for itself")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::relay::Relay;

pub struct Misspelt {
    pub url: String,
    count: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Misspelt {
    /// Before another relay.
    pub async fn start(relay: &Relay, word: &'static str) -> Misspelt {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = |url: &str| -> u16 {
            let (_, rest) = url.split_once("port=").unwrap();
            rest.split(' ').next().unwrap().parse().unwrap()
        };
        let (own, next) = (listener.local_addr().unwrap().port(), port(&relay.url()));
        let url = relay.url();
        let url = url.replace(&format!("port={next}"), &format!("port={own}"));
        let count = Arc::<AtomicUsize>::default();
        let task = tokio::spawn({
            let count = Arc::clone(&count);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let server = TcpStream::connect(("127.0.0.1", next)).await.unwrap();
                    tokio::spawn(pass(client, server, word, Arc::clone(&count)));
                }
            }
        });
        Misspelt { url, count, task }
    }

    /// How often the word came.
    pub fn count(&self) -> usize {
        self.count.load(SeqCst)
    }
}

impl Drop for Misspelt {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(client: TcpStream, server: TcpStream, word: &'static str, count: Arc<AtomicUsize>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            let bytes = &mut buffer[..length];
            let mut found = bytes.windows(word.len());
            if let Some(start) = found.position(|found| found == word.as_bytes()) {
                bytes[start + 3] = b'U';
                count.fetch_add(1, SeqCst);
            }
            if to_server.write_all(bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(up, async move {
        let _ = copy(&mut from_server, &mut to_client).await;
    });
}
