//! Against servers that know no more of the protocol than it takes to be asked.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::postgres::target::Target;

const SHARE: Duration = Duration::from_millis(600);

/// No more than this passes where nobody is silent.
const AT_ONCE: Duration = Duration::from_millis(300);

/// What a server does when it is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Right,
    ReadOnly,
    Silent,
}

const OK: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
const DONE: &[u8] = b"C\0\0\0\x07DO\0Z\0\0\0\x05I";
const REFUSED: &[u8] = b"E\0\0\0\x1cSERROR\0C25006\0Mstandby\0\0Z\0\0\0\x05I";

#[derive(Clone, Default)]
struct Server {
    port: u16,
    kind: Arc<AtomicU8>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn start(kind: Kind) -> Server {
        Server::start_at((Ipv4Addr::LOCALHOST, 0).into(), kind).await
    }

    async fn start_at(at: SocketAddr, kind: Kind) -> Server {
        let listener = TcpListener::bind(at).await.unwrap();
        let server = Server {
            port: listener.local_addr().unwrap().port(),
            ..Server::default()
        };
        server.becomes(kind);
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.asked.fetch_add(1, SeqCst);
                let kind = Arc::clone(&serving.kind);
                // The client may go away at any moment.
                tokio::spawn(async move { serve(stream, &kind).await.ok() });
            }
        });
        server
    }

    fn becomes(&self, kind: Kind) {
        self.kind.store(kind as u8, SeqCst);
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    fn config(&self, host: &str) -> Config {
        let mut config = Config::new();
        config.host(host).port(self.port).user("anna");
        config.ssl_mode(tokio_postgres::config::SslMode::Disable);
        config
    }
}

async fn serve(mut stream: TcpStream, kind: &AtomicU8) -> std::io::Result<()> {
    let is = |wanted: Kind| kind.load(SeqCst) == wanted as u8;
    let length = stream.read_u32().await?;
    stream.read_exact(&mut vec![0; length as usize - 4]).await?;
    if is(Kind::Silent) {
        return std::future::pending().await;
    }
    stream.write_all(OK).await?;
    while stream.read_u8().await? == b'Q' {
        let length = stream.read_u32().await?;
        stream.read_exact(&mut vec![0; length as usize - 4]).await?;
        let answer = if is(Kind::Right) { DONE } else { REFUSED };
        stream.write_all(answer).await?;
    }
    Ok(())
}

fn plain() -> Connector {
    let target = Target::from_url("postgresql://localhost/?sslmode=disable");
    Connector::new(&target.unwrap()).unwrap()
}

fn dial(servers: &[&Server], wanted: SessionAttrs) -> Dial {
    let hosts: Vec<Config> = servers.iter().map(|one| one.config("127.0.0.1")).collect();
    let limit = SHARE * u32::try_from(hosts.len()).unwrap();
    Dial::new(hosts, plain(), wanted, false, limit)
}

/// How long it takes until there is an answer.
async fn timed(dial: &Dial) -> (Driver<Dialled>, Duration) {
    let started = Instant::now();
    let ended = timeout(SHARE * 20, dial.connect()).await;
    (ended.expect("an answer"), started.elapsed())
}

#[track_caller]
fn is_read_only(dialled: Driver<Dialled>) {
    let error = dialled.map(drop).expect_err("no server takes writes");
    assert_eq!(error.code().map(|code| code.code()), Some("25006"));
}

/// Another address of this machine; other systems have one.
#[cfg(target_os = "linux")]
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[tokio::test]
async fn a_silent_host_costs_its_share_once() {
    let (silent, right) = (
        Server::start(Kind::Silent).await,
        Server::start(Kind::Right).await,
    );
    let dial = dial(&[&silent, &right], SessionAttrs::Any);
    let (dialled, took) = timed(&dial).await;
    assert!(dialled.is_ok() && took >= SHARE, "{took:?}");
    for _ in 0..3 {
        let (dialled, took) = timed(&dial).await;
        assert!(dialled.is_ok() && took < AT_ONCE, "{took:?}");
    }
    assert_eq!((silent.asked(), right.asked()), (1, 4));
}

/// A call that ends before the share is over has learned as much.
#[tokio::test]
async fn a_host_that_outlasts_its_caller_is_asked_last() {
    let (silent, right) = (
        Server::start(Kind::Silent).await,
        Server::start(Kind::Right).await,
    );
    let dial = dial(&[&silent, &right], SessionAttrs::ReadWrite);
    for (patience, found) in [(10, false), (260, false), (600, true)] {
        let ended = timeout(Duration::from_millis(patience), dial.connect()).await;
        assert_eq!(ended.is_ok_and(|dialled| dialled.is_ok()), found);
    }
    assert_eq!((silent.asked(), right.asked()), (2, 1));
}

#[tokio::test]
async fn a_host_that_answers_again_is_silent_no_more() {
    let (first, second) = (
        Server::start(Kind::Silent).await,
        Server::start(Kind::Right).await,
    );
    let dial = dial(&[&first, &second], SessionAttrs::ReadWrite);
    assert!(timed(&dial).await.0.is_ok());
    second.becomes(Kind::ReadOnly);
    let (dialled, took) = timed(&dial).await;
    is_read_only(dialled);
    // The last host has no more than its share either.
    assert!((SHARE..SHARE * 2).contains(&took), "{took:?}");
    first.becomes(Kind::Right);
    assert!(timed(&dial).await.0.is_ok());
    let asked = second.asked();
    assert!(timed(&dial).await.0.is_ok());
    assert_eq!(second.asked(), asked, "it was right, and is first again");
}

#[tokio::test]
async fn one_at_a_time_waits_for_a_silent_host() {
    let (silent, other) = (
        Server::start(Kind::Silent).await,
        Server::start(Kind::ReadOnly).await,
    );
    let dial = Arc::new(dial(&[&silent, &other], SessionAttrs::ReadWrite));
    let (dialled, took) = timed(&dial).await;
    is_read_only(dialled);
    assert!(took >= SHARE, "{took:?}");

    let waiting = Arc::clone(&dial);
    let waiting = tokio::spawn(async move { timed(&waiting).await });
    while silent.asked() < 2 {
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        let (dialled, took) = timed(&dial).await;
        is_read_only(dialled);
        assert!(took < AT_ONCE, "{took:?}");
    }
    other.becomes(Kind::Right);
    let (dialled, took) = timed(&dial).await;
    assert!(dialled.is_ok() && took < AT_ONCE, "{took:?}");
    assert_eq!(silent.asked(), 2);
    // And the one who waited gets an answer too.
    let (dialled, took) = waiting.await.unwrap();
    is_read_only(dialled);
    assert!(took < SHARE * 2, "{took:?}");
    other.becomes(Kind::ReadOnly);
    is_read_only(timed(&dial).await.0);
    assert_eq!(silent.asked(), 3, "whoever comes later asks again");
}

#[tokio::test]
async fn without_another_answer_everybody_waits_for_a_silent_host() {
    let silent = [
        Server::start(Kind::Silent).await,
        Server::start(Kind::Silent).await,
    ];
    let dial = dial(&[&silent[0], &silent[1]], SessionAttrs::Any);
    for _ in 0..2 {
        assert!(timeout(SHARE * 2, dial.connect()).await.is_err());
    }
    assert_eq!(silent[0].asked() + silent[1].asked(), 4);
    silent[1].becomes(Kind::Right);
    assert!(timed(&dial).await.0.is_ok());
}

/// The first of two addresses says nothing, or is that of a standby.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn each_address_of_a_name_has_a_part_of_the_share() {
    for kind in [Kind::Silent, Kind::ReadOnly] {
        let right = Server::start(Kind::Right).await;
        let other = Server::start_at((OTHER, right.port).into(), kind).await;
        let names: LookUp = |name| {
            assert_eq!(name, "garage");
            let found = [OTHER, OTHER, Ipv4Addr::LOCALHOST].map(IpAddr::V4).to_vec();
            Box::pin(async { found })
        };
        let hosts = vec![right.config("garage")];
        let dial = Dial::with_names(hosts, plain(), SessionAttrs::ReadWrite, false, SHARE, names);
        let (dialled, took) = timed(&dial).await;
        assert!(dialled.is_ok());
        assert_eq!(took >= SHARE / 2, kind == Kind::Silent, "{took:?}");
        assert!(took < SHARE, "{took:?}");
        // The one that was right is asked first from then on.
        let (dialled, took) = timed(&dial).await;
        assert!(dialled.is_ok() && took < AT_ONCE, "{took:?}");
        assert_eq!((other.asked(), right.asked()), (1, 2));
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn connections_are_spread_over_the_addresses_of_a_name() {
    const CONNECTIONS: usize = 40;
    for wanted in [SessionAttrs::Any, SessionAttrs::Standby] {
        let one = Server::start(Kind::Right).await;
        let other = Server::start_at((OTHER, one.port).into(), Kind::Right).await;
        let names: LookUp = |_| {
            let found = [OTHER, Ipv4Addr::LOCALHOST].map(IpAddr::V4).to_vec();
            Box::pin(async { found })
        };
        let hosts = vec![one.config("garage")];
        let dial = Dial::with_names(hosts, plain(), wanted, true, SHARE, names);
        for _ in 0..CONNECTIONS {
            dial.connect().await.unwrap();
        }
        // All of them at one is one chance in 2^39.
        assert!(one.asked() > 0 && other.asked() > 0);
        assert_eq!(one.asked() + other.asked(), CONNECTIONS);
    }
}
