//! A private PgBouncer before a private server. Its socket, settings and log are in the server's
//! directory, so no port is taken and nothing of it is left when the server is gone. A shell holds
//! it and stops it when this process ends, however it ends.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]
#![allow(clippy::duplicate_mod, reason = "the server keeps this file to itself")]

#[path = "server/system.rs"]
mod system;

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;
use std::{env, fs};

use system::{Account, command, percent_encode, wait_until};

use crate::support::server::{Server, USER};

/// How it is set up. What is not said here is as PgBouncer has it.
#[derive(Clone, Debug)]
pub struct Options {
    pub mode: &'static str,
    /// Connections to the server, for each database.
    pub size: u32,
    pub round_robin: bool,
    /// Startup parameters that are dropped; others than PgBouncer knows are refused.
    pub ignored: &'static str,
    /// Users and their passwords. None: anybody may log in.
    pub users: &'static [(&'static str, &'static str)],
}

impl Options {
    /// In transaction mode, with so many connections to the server.
    pub fn transactions(size: u32) -> Options {
        Options {
            mode: "transaction",
            size,
            round_robin: false,
            ignored: "",
            users: &[],
        }
    }

    pub fn sessions(size: u32) -> Options {
        Options {
            mode: "session",
            ..Options::transactions(size)
        }
    }
}

/// Dropped, it is stopped.
#[derive(Debug)]
pub struct PgBouncer {
    shell: Child,
    pipe: Option<ChildStdin>,
    dir: PathBuf,
    port: u16,
}

/// Starts a program and stops it at the end of the shell's input.
const HOLD: &str = r#"trap '' HUP INT PIPE QUIT TERM
"$@" </dev/null >/dev/null 2>&1 &
read -r end
kill -s TERM $!
wait"#;

const LIMIT: Duration = Duration::from_secs(20);

impl PgBouncer {
    /// Starts it and waits until it takes connections. Blocks.
    ///
    /// # Panics
    /// When it is not installed, or does not start.
    pub fn start(server: &Server, options: &Options) -> PgBouncer {
        // What tells the sockets in the directory apart. The server's own is 5432.
        static PORT: AtomicU16 = AtomicU16::new(6432);
        let (dir, port) = (server.dir().to_owned(), PORT.fetch_add(1, Relaxed));
        let ini = dir.join(format!("pgbouncer-{port}.ini"));
        let log = dir.join(format!("pgbouncer-{port}.log"));
        let users = dir.join(format!("pgbouncer-{port}.users"));
        let lines =
            (options.users.iter()).map(|(name, password)| format!("\"{name}\" \"{password}\"\n"));
        fs::write(&users, lines.collect::<String>()).expect("the users are written");
        let auth = if options.users.is_empty() {
            "any"
        } else {
            "scram-sha-256"
        };
        let (host, password) = (dir.display(), server.password());
        let text = format!(
            "[databases]
            * = host={host} port={server_port} user={USER} password={password}
            [pgbouncer]
            unix_socket_dir = {host}
            listen_port = {port}
            auth_type = {auth}
            auth_file = {users}
            pool_mode = {mode}
            default_pool_size = {size}
            server_round_robin = {round_robin}
            ignore_startup_parameters = {ignored}
            max_client_conn = 1000
            server_login_retry = 1
            logfile = {log}\n",
            server_port = server.port(),
            users = users.display(),
            mode = options.mode,
            size = options.size,
            round_robin = u8::from(options.round_robin),
            ignored = options.ignored,
            log = log.display(),
        );
        let text: Vec<&str> = text.lines().map(str::trim_start).collect();
        fs::write(&ini, text.join("\n") + "\n").expect("the settings are written");
        let account = Account::for_servers().expect("an account");
        let mut shell = command("sh", account)
            .args(["-c", HOLD, "motorpool-pgbouncer"])
            .arg(find())
            .arg(&ini)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a shell starts");
        let pipe = shell.stdin.take();
        let bouncer = PgBouncer {
            shell,
            pipe,
            dir,
            port,
        };
        let socket = bouncer.dir.join(format!(".s.PGSQL.{port}"));
        let ready = wait_until("PgBouncer did not start", LIMIT, || {
            Ok(UnixStream::connect(&socket).is_ok())
        });
        if let Err(error) = ready {
            panic!("{error}: {}", fs::read_to_string(&log).unwrap_or_default());
        }
        bouncer
    }

    /// The URL of a database through it.
    pub fn url(&self, database: &str) -> String {
        self.url_as(USER, database)
    }

    /// The same for somebody else: a name, or a name and a password.
    pub fn url_as(&self, user: &str, database: &str) -> String {
        let host = percent_encode(&self.dir.to_string_lossy());
        format!("postgresql://{user}@{host}:{}/{database}", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.pipe = None;
        let _ = self.shell.wait();
    }
}

/// The program, which Debian keeps where only root looks.
fn find() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"].map(PathBuf::from))
        .map(|dir| dir.join("pgbouncer"))
        .find(|path| Path::is_file(path));
    found.expect("PgBouncer was not found: install it (`apt-get install pgbouncer`)")
}
