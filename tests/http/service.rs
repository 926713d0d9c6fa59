//! The service as a process.

#![allow(unreachable_pub, reason = "a module of a test program")]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};

use super::client::Client;

/// How long it may take to end, beyond what it waits for.
const TO_END: Duration = Duration::from_secs(20);

/// A running service, which does not outlast its test.
pub struct Service {
    process: Child,
    pub address: SocketAddr,
    log: Option<JoinHandle<String>>,
}

/// What is left of a service that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub log: String,
}

/// The program. It is built together with the tests.
pub fn program() -> Command {
    let test = std::env::current_exe().unwrap();
    let target: PathBuf = test.ancestors().nth(2).unwrap().into();
    let mut command = Command::new(target.join("examples/axum_service"));
    command.env_remove("DATABASE_URL").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Service {
    /// Without a database.
    pub fn in_memory(arguments: &[&str]) -> Service {
        let mut command = program();
        command.arg("--memory");
        Service::start(command, arguments)
    }

    /// On the database of this URL, which nobody shall see in a list of processes.
    pub fn on(url: &str, arguments: &[&str]) -> Service {
        let mut command = program();
        command.env("DATABASE_URL", url);
        Service::start(command, arguments)
    }

    fn start(mut command: Command, arguments: &[&str]) -> Service {
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        let mut process = command.spawn().unwrap();
        let mut log = process.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            log.read_to_string(&mut text).unwrap();
            text
        });
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on http://");
        let Some(address) = address else {
            let _ = process.kill();
            panic!("the service did not start: {line}{}", log.join().unwrap());
        };
        Service {
            address: address.parse().unwrap(),
            process,
            log: Some(log),
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await.unwrap()
    }

    /// Sends it the signal to end.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.process.id()).unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> Ended {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(started.elapsed() < TO_END, "the service did not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let log = self.log.take().unwrap().join().unwrap();
        Ended { status, log }
    }

    pub async fn stop(self) -> Ended {
        self.terminate();
        let ended = self.ended().await;
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        ended
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Lets this process, and those that it starts, have a few thousand files open: many shells allow
/// one thousand.
pub fn allow_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(4096, |most| most.min(4096));
    if limit.current.is_some_and(|now| now < wanted) {
        limit.current = Some(wanted);
        setrlimit(Resource::Nofile, limit).unwrap();
    }
}
