//! A relay between a store and its server that fails the way a network does.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

mod seen;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use seen::{Messages, Seen};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// What happens to the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// They stay in the relay, in both directions, and nothing is closed. New connections are
    /// taken and get no answer. All of it goes on when the mode is `Pass` again.
    Hole,
    /// Every connection is reset, also each new one.
    Reset,
}

/// Where a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Nothing of COMMIT reaches the server.
    Before,
    /// Only this many bytes of it do.
    Inside(usize),
    /// All of it does, and nothing is read back.
    After,
    /// The server has answered; this many bytes of the answer reach the client.
    Answer(usize),
    /// The client is cut off at once, and COMMIT reaches the server a moment later.
    Late,
}

#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub at: Point,
    /// With a reset, where the kind of socket knows one.
    pub abrupt: bool,
}

/// The length of the answer to COMMIT: its tag, and that the server is ready.
pub const ANSWER: usize = 12 + 6;

/// For how long a late COMMIT is held back.
const LATE: Duration = Duration::from_millis(50);

#[derive(Clone, Copy)]
struct State {
    mode: Mode,
    /// For connections with a lower number it is a hole for ever.
    dead_before: u64,
    /// Those with a lower number are reset.
    cut_before: u64,
    /// How long an answer takes.
    delay: Duration,
}

struct Shared {
    server: Config,
    state: watch::Sender<State>,
    accepted: AtomicU64,
    plan: Mutex<Option<Cut>>,
    seen: Seen,
}

/// Dropped, it resets what goes through it.
pub struct Relay {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start(url: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State {
            mode: Mode::Pass,
            dead_before: 0,
            cut_before: 0,
            delay: Duration::ZERO,
        };
        let shared = Arc::new(Shared {
            server: url.parse().unwrap(),
            state: watch::Sender::new(state),
            accepted: AtomicU64::new(0),
            plan: Mutex::default(),
            seen: Seen::default(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Relay { port, shared, task }
    }

    /// The same database, through the relay.
    pub fn url(&self) -> String {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
        let server = &self.shared.server;
        let mut url = format!("host=127.0.0.1 port={}", self.port);
        let password = server.get_password().map(String::from_utf8_lossy);
        for (key, value) in [
            ("user", server.get_user()),
            ("password", password.as_deref()),
            ("dbname", server.get_dbname()),
        ] {
            if let Some(value) = value {
                url.push_str(&format!(" {key}='{}'", quoted(value)));
            }
        }
        url
    }

    pub fn set(&self, mode: Mode) {
        self.shared.state.send_modify(|state| state.mode = mode);
    }

    /// The connections of this moment pass nothing any more, and are not closed either.
    pub fn lose_connections(&self) {
        let next = self.shared.accepted.load(SeqCst);
        self.shared
            .state
            .send_modify(|state| state.dead_before = next);
    }

    /// The connections of this moment are reset, and new ones can be made.
    pub fn cut_connections(&self) {
        let next = self.shared.accepted.load(SeqCst);
        self.shared
            .state
            .send_modify(|state| (state.mode, state.cut_before) = (Mode::Pass, next));
    }

    /// Each answer takes this much longer.
    pub fn delay(&self, delay: Duration) {
        self.shared.state.send_modify(|state| state.delay = delay);
    }

    /// The next COMMIT is cut.
    pub fn cut_next(&self, cut: Cut) {
        *self.shared.plan.lock().unwrap() = Some(cut);
    }

    /// How many connections have been made to it.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(SeqCst)
    }

    /// Whether a cut is still to come.
    pub fn is_armed(&self) -> bool {
        self.shared.plan.lock().unwrap().is_some()
    }

    /// What the clients have sent since the last time.
    pub fn flights(&self) -> Vec<String> {
        self.shared.seen.flights()
    }

    /// The length of the longest message that the clients have sent since the last time.
    pub fn longest(&self) -> usize {
        self.shared.seen.longest()
    }

    /// How many statements the clients have sent to be parsed with a name, and without one.
    pub fn parsed(&self) -> (usize, usize) {
        self.shared.seen.parsed()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        self.set(Mode::Reset);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let number = shared.accepted.fetch_add(1, SeqCst);
        let gate = Gate {
            state: shared.state.subscribe(),
            number,
        };
        tokio::spawn(Connection::serve(Arc::clone(&shared), gate, client));
    }
}

/// What lets bytes through.
#[derive(Clone)]
struct Gate {
    state: watch::Receiver<State>,
    number: u64,
}

impl Gate {
    /// Waits until it is open. False: the connection is to be reset.
    async fn open(&mut self) -> bool {
        let number = self.number;
        let decided = self.state.wait_for(|state| match state.mode {
            _ if number < state.cut_before => true,
            Mode::Pass => number >= state.dead_before,
            Mode::Hole => false,
            Mode::Reset => true,
        });
        let decided = decided.await;
        decided.is_ok_and(|state| state.mode == Mode::Pass && number >= state.cut_before)
    }

    async fn reset(&mut self) {
        let number = self.number;
        let reset = |state: &State| state.mode == Mode::Reset || number < state.cut_before;
        let _ = self.state.wait_for(reset).await;
    }
}

/// How a connection ends.
enum End {
    Closed,
    Reset,
    /// This is for the server, when the client is gone.
    Late(Vec<u8>),
}

impl Cut {
    fn end(self) -> End {
        match self.abrupt {
            true => End::Reset,
            false => End::Closed,
        }
    }
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {
    fn reset_when_dropped(&self) {}
}

impl Socket for UnixStream {}

impl Socket for TcpStream {
    fn reset_when_dropped(&self) {
        let _ = self.set_zero_linger();
    }
}

struct Connection {
    shared: Arc<Shared>,
    gate: Gate,
    /// The cut that waits for the server's answer.
    answer: Mutex<Option<(usize, Cut)>>,
}

impl Connection {
    async fn serve(shared: Arc<Shared>, mut gate: Gate, mut client: TcpStream) {
        let _ = client.set_nodelay(true);
        if !gate.open().await {
            return client.reset_when_dropped();
        }
        let Some(mut server) = connect(&shared.server).await else {
            return;
        };
        let connection = Connection {
            shared,
            gate,
            answer: Mutex::default(),
        };
        let mut reset = connection.gate.clone();
        let end = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = tokio::io::split(&mut server);
            tokio::select! {
                end = connection.up(from_client, to_server) => end,
                end = connection.down(from_server, to_client) => end,
                () = reset.reset() => End::Reset,
            }
        };
        match end {
            End::Closed => {}
            End::Reset => {
                client.reset_when_dropped();
                server.reset_when_dropped();
            }
            End::Late(commit) => {
                drop(client);
                tokio::time::sleep(LATE).await;
                let _ = server.write_all(&commit).await;
                let _ = server.read(&mut [0; ANSWER]).await;
            }
        }
    }

    /// From the client to the server.
    async fn up(&self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> End {
        let mut gate = self.gate.clone();
        let mut messages = Messages::default();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let count = from.read(&mut buffer).await.unwrap_or(0);
            if !gate.open().await {
                return End::Reset;
            }
            if count == 0 {
                return End::Closed;
            }
            messages.add(&buffer[..count]);
            while let Some(message) = messages.next() {
                self.shared.seen.message(&message);
                let cut = match message.starts_with(b"Q") && &message[5..] == b"COMMIT\0" {
                    true => self.shared.plan.lock().unwrap().take(),
                    false => None,
                };
                let (sent, end) = match cut.map(|cut| (cut.at, cut)) {
                    None => (message.len(), None),
                    Some((Point::Before, cut)) => (0, Some(cut.end())),
                    Some((Point::Inside(bytes), cut)) => (bytes, Some(cut.end())),
                    Some((Point::After, cut)) => (message.len(), Some(cut.end())),
                    Some((Point::Answer(bytes), cut)) => {
                        *self.answer.lock().unwrap() = Some((bytes, cut));
                        (message.len(), None)
                    }
                    Some((Point::Late, _)) => return End::Late(message),
                };
                if to.write_all(&message[..sent]).await.is_err() {
                    return End::Closed;
                }
                if let Some(end) = end {
                    return end;
                }
            }
        }
    }

    /// From the server to the client.
    async fn down(&self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> End {
        let mut gate = self.gate.clone();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let count = from.read(&mut buffer).await.unwrap_or(0);
            let delay = gate.state.borrow().delay;
            tokio::time::sleep(delay).await;
            if !gate.open().await {
                return End::Reset;
            }
            if count == 0 {
                return End::Closed;
            }
            let cut = self.answer.lock().unwrap().take();
            if let Some((bytes, cut)) = cut {
                let mut answer = buffer[..count].to_vec();
                while answer.len() < ANSWER && from.read_buf(&mut answer).await.is_ok_and(|n| n > 0)
                {
                }
                let _ = to.write_all(&answer[..bytes.min(answer.len())]).await;
                return cut.end();
            }
            // Before the client can send the next one.
            self.shared.seen.answer();
            if to.write_all(&buffer[..count]).await.is_err() {
                return End::Closed;
            }
        }
    }
}

async fn connect(server: &Config) -> Option<Box<dyn Socket>> {
    let port = server.get_ports().first().copied().unwrap_or(5432);
    let socket: Box<dyn Socket> = match server.get_hosts().first()? {
        Host::Tcp(host) => {
            let socket = TcpStream::connect((host.as_str(), port)).await.ok()?;
            socket.set_nodelay(true).ok()?;
            Box::new(socket)
        }
        Host::Unix(dir) => {
            let path: PathBuf = dir.join(format!(".s.PGSQL.{port}"));
            Box::new(UnixStream::connect(path).await.ok()?)
        }
    };
    Some(socket)
}
