//! A private Postgres server that is thrown away. Included by the tests and by the examples.
//!
//! Everything of it lives in one directory. A watcher, a small shell script, makes that directory
//! before anything else is started, and waits for the end of a pipe that this process holds. The
//! pipe ends when the [`Server`] is dropped, and just as well on a panic, Ctrl-C or `kill -9`; then
//! the watcher stops what runs and removes the directory.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each program that includes the file uses a part of it"
)]

mod binaries;
mod programs;
mod system;

use std::env;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use system::{
    Account, all_processes, command, free_port, percent_encode, random_hex, signal, wait_until,
};

/// The name of the superuser.
pub const USER: &str = "postgres";

const TO_START: Duration = Duration::from_secs(60);
const TO_STOP: Duration = Duration::from_secs(30);

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Listen on 127.0.0.1 too, on a port that was free a moment ago. Else only the socket in the
    /// server's own directory is there, which nobody can collide with.
    pub tcp: bool,
    pub max_connections: u32,
    /// Write through to the disk, as a real server does. Without it everything is faster, and only
    /// a crash of the machine could harm the data.
    pub fsync: bool,
    /// More settings, as in postgresql.conf.
    pub settings: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            tcp: false,
            max_connections: 400,
            fsync: false,
            settings: Vec::new(),
        }
    }
}

/// A running server. Dropped, it is stopped and its directory removed.
#[derive(Debug)]
pub struct Server {
    bin: PathBuf,
    options: Options,
    account: Option<Account>,
    dir: PathBuf,
    port: u16,
    password: String,
    /// What makes the data at first, then the postmaster.
    process: Option<Child>,
    paused: Vec<u32>,
    watcher: Child,
    pipe: Option<ChildStdin>,
}

impl Server {
    /// Starts a server and waits until it takes connections. Blocks.
    ///
    /// # Errors
    /// A sentence that says what is missing, or what the server wrote last.
    pub fn start(options: Options) -> Result<Server, String> {
        Server::make(options, None)
    }

    /// Starts a standby of a running server, with that one's users and passwords, and waits until
    /// it takes connections. Blocks. The options that a standby must share have to be the same.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn start_standby(options: Options, primary: &Server) -> Result<Server, String> {
        Server::make(options, Some(primary))
    }

    fn make(options: Options, primary: Option<&Server>) -> Result<Server, String> {
        let bin = binaries::find()?;
        let account = Account::for_servers()?;
        let (watcher, pipe, dir) = watch(account)?;
        let password = match primary {
            Some(primary) => primary.password.clone(),
            None => random_hex()?,
        };
        let mut server = Server {
            bin,
            options,
            account,
            dir,
            port: 5432,
            password,
            process: None,
            paused: Vec::new(),
            watcher,
            pipe: Some(pipe),
        };
        match primary {
            Some(primary) => server.copy(primary)?,
            None => server.init()?,
        }
        let mut tries = if server.options.tcp { 5 } else { 1 };
        loop {
            if server.options.tcp {
                server.port = free_port()?;
            }
            tries -= 1;
            match server.launch() {
                // Somebody else may have taken the port.
                Err(_) if tries > 0 => {}
                result => return result.map(|()| server),
            }
        }
    }

    /// Stops the server and removes everything. What dropping it does too.
    pub fn stop(self) {}

    /// The URL of a database, through the socket.
    pub fn url(&self, database: &str) -> String {
        self.url_at(&self.dir.to_string_lossy(), database)
    }

    /// The URL of a database, through TCP. Of use only with [`Options::tcp`].
    pub fn tcp_url(&self, database: &str) -> String {
        self.url_at("127.0.0.1", database)
    }

    fn url_at(&self, host: &str, database: &str) -> String {
        let (host, database) = (percent_encode(host), percent_encode(database));
        let Server { password, port, .. } = self;
        format!("postgresql://{USER}:{password}@{host}:{port}/{database}")
    }

    /// The directory of the socket, and of everything else.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub fn bin_dir(&self) -> &Path {
        &self.bin
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn password(&self) -> &str {
        &self.password
    }

    /// The postmaster, unless it was killed.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// The watcher, which outlives this process by a moment.
    pub fn watcher_pid(&self) -> u32 {
        self.watcher.id()
    }

    /// Ends the server as a crash does, and waits until none of its processes is left.
    pub fn kill(&mut self) -> Result<(), String> {
        // Stopped first: then the list of its children is complete.
        self.pause()?;
        let children = std::mem::take(&mut self.paused);
        let Some(mut postmaster) = self.process.take() else {
            return Ok(());
        };
        signal("KILL", &[postmaster.id()])?;
        postmaster.wait().map_err(|e| format!("postgres: {e}"))?;
        self.forget(postmaster.id());
        // They would notice by themselves, but only once they have nothing else to do.
        let _ = signal("KILL", &children);
        let gone = || all_processes().map(|all| !all.iter().any(|p| children.contains(&p.pid)));
        wait_until("the server's processes did not end", TO_STOP, gone)
    }

    /// Ends the server as its operator does, and waits for that. Its clients are sent away.
    pub fn shut_down(&mut self) -> Result<(), String> {
        let Some(mut postmaster) = self.process.take() else {
            return Ok(());
        };
        signal("INT", &[postmaster.id()])?;
        postmaster.wait().map_err(|e| format!("postgres: {e}"))?;
        self.forget(postmaster.id());
        Ok(())
    }

    /// Starts a server again that has ended: the same data, socket and port.
    pub fn start_again(&mut self) -> Result<(), String> {
        match self.process {
            Some(_) => Err("the server is running".into()),
            None => self.launch(),
        }
    }

    /// Starts a server again that has ended, as a standby with a fresh copy of a running server's
    /// data: the same socket and port. Blocks.
    pub fn follow_afresh(&mut self, primary: &Server) -> Result<(), String> {
        if self.process.is_some() {
            return Err("the server is running".into());
        }
        self.clear()?;
        self.password.clone_from(&primary.password);
        self.copy(primary)?;
        self.launch()
    }

    /// Freezes the server with all its processes: connections stay open, nothing answers.
    pub fn pause(&mut self) -> Result<(), String> {
        let Some(postmaster) = self.pid() else {
            return Err("the server is not running".into());
        };
        self.freeze(postmaster)?;
        // Now that it can start no others.
        let children: Vec<u32> = all_processes()?
            .into_iter()
            .filter(|p| p.parent == postmaster)
            .map(|p| p.pid)
            .collect();
        self.paused.extend(&children);
        signal("STOP", &children)
    }

    fn freeze(&mut self, pid: u32) -> Result<(), String> {
        self.paused = vec![pid];
        signal("STOP", &[pid])?;
        let stopped = || {
            let all = all_processes()?;
            Ok(!all.iter().any(|p| p.pid == pid && p.state != 'T'))
        };
        wait_until("the server could not be paused", TO_STOP, stopped)
    }

    /// Lets a paused server go on.
    pub fn resume(&mut self) -> Result<(), String> {
        let mut paused = std::mem::take(&mut self.paused);
        // One that was about to end when it was to be paused is not there any more.
        let all = all_processes()?;
        paused.retain(|pid| all.iter().any(|process| process.pid == *pid));
        signal("CONT", &paused)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.resume();
        self.pipe = None;
        let _ = wait_until("", TO_STOP, || {
            // Reaped here, or it would stay in the watcher's eyes.
            if let Some(child) = &mut self.process {
                let _ = child.try_wait();
            }
            Ok(!matches!(self.watcher.try_wait(), Ok(None)))
        });
    }
}

/// Starts the watcher, in a process group of its own so that Ctrl-C does not reach it.
fn watch(account: Option<Account>) -> Result<(Child, ChildStdin, PathBuf), String> {
    // The second choice is for a first one that the account cannot use, or whose path is longer
    // than a socket's may be.
    for parent in [env::temp_dir(), PathBuf::from("/tmp")] {
        let dir = parent.join(format!("motorpool-{}", &random_hex()?[..12]));
        if dir.as_os_str().len() > 80 {
            continue;
        }
        let mut child = command("sh", account)
            .args(["-c", include_str!("watcher.sh"), "motorpool-watcher"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|e| format!("sh: {e}"))?;
        let mut answer = [0];
        let made = child.stdout.take().map(|mut out| out.read(&mut answer));
        match (made, child.stdin.take()) {
            (Some(Ok(1)), Some(pipe)) => return Ok((child, pipe, dir)),
            _ => child.wait().map_err(|e| format!("sh: {e}"))?,
        };
    }
    Err("no directory for a Postgres server could be made in the temporary folder".into())
}
