//! The programs that a server consists of: `initdb` or `pg_basebackup`, which make its data, and
//! then `postgres`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::system::{Account, command, wait_until};
use super::{Server, TO_START, USER};

impl Server {
    /// Makes the data directory.
    pub(super) fn init(&mut self) -> Result<(), String> {
        let password_file = self.dir.join("password");
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&password_file)
            .and_then(|mut file| file.write_all(self.password.as_bytes()));
        written.map_err(|e| format!("{}: {e}", password_file.display()))?;
        if let Some(Account { uid, gid }) = self.account {
            chown(&password_file, Some(uid), Some(gid)).map_err(|e| format!("chown: {e}"))?;
        }
        let data = self.data_dir();
        self.run("initdb", |command| {
            command.args(["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]);
            command.args(["--no-sync", "--username", USER]);
            command.arg("--pwfile").arg(&password_file);
            command.arg("--pgdata").arg(data);
        })
    }

    /// Makes the data directory a copy of a running server's, which will be followed.
    pub(super) fn copy(&mut self, primary: &Server) -> Result<(), String> {
        let data = self.data_dir();
        self.run("pg_basebackup", |command| {
            // It is written into the copy's settings, with the rest of where to follow.
            command.env("PGPASSWORD", &primary.password);
            command.arg("--host").arg(&primary.dir);
            command.args(["--port", &primary.port.to_string(), "--username", USER]);
            command.arg("--pgdata").arg(data);
            command.args(["--checkpoint=fast", "--wal-method=stream"]);
            command.args(["--no-sync", "--no-manifest", "--write-recovery-conf"]);
        })
    }

    /// Removes the data directory of a server that has ended.
    pub(super) fn clear(&mut self) -> Result<(), String> {
        let pid_file = self.data_dir().join("postmaster.pid");
        let text = fs::read_to_string(pid_file).unwrap_or_default();
        // One that was killed leaves a piece of shared memory, whose number stands there.
        if let Some(id) = (text.lines().nth(6)).and_then(|line| line.split_whitespace().last()) {
            let ended = command("ipcrm", self.account).args(["-m", id]).status();
            ended.map_err(|e| format!("ipcrm: {e}"))?;
        }
        let data = self.data_dir();
        fs::remove_dir_all(&data).map_err(|e| format!("{}: {e}", data.display()))
    }

    /// Runs a program to its end.
    fn run(&mut self, program: &str, set: impl FnOnce(&mut Command)) -> Result<(), String> {
        self.process = Some(self.spawn(program, set)?);
        let mut status = None;
        wait_until(&format!("{program} did not end in time"), TO_START, || {
            status = self.exit_status()?;
            Ok(status.is_some())
        })?;
        self.process = None;
        match status {
            Some(status) if status.success() => Ok(()),
            _ => Err(self.failed(program)),
        }
    }

    /// Starts the server in its data directory.
    pub(super) fn launch(&mut self) -> Result<(), String> {
        let fsync = if self.options.fsync { "on" } else { "off" };
        let listen = if self.options.tcp { "127.0.0.1" } else { "" };
        let child = self.spawn("postgres", |command| {
            command.arg("-D").arg(self.data_dir());
            command.arg("-k").arg(&self.dir);
            let mut set = |name: &str, value: &str| {
                command.arg("-c").arg(format!("{name}={value}"));
            };
            set("port", &self.port.to_string());
            set("listen_addresses", listen);
            set("max_connections", &self.options.max_connections.to_string());
            set("fsync", fsync);
            set("full_page_writes", fsync);
            set("shared_buffers", "64MB");
            set("timezone", "UTC");
            set("log_timezone", "UTC");
            // In the data directory, so that a crash leaves nothing in /dev/shm.
            set("dynamic_shared_memory_type", "mmap");
            for (name, value) in &self.options.settings {
                set(name, value);
            }
        })?;
        let pid = child.id().to_string();
        self.process = Some(child);
        let pid_file = self.data_dir().join("postmaster.pid");
        let mut ended = false;
        wait_until("postgres was not ready in time", TO_START, || {
            ended = self.exit_status()?.is_some();
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            let mut lines = text.lines();
            // A server that was killed has left such a file too.
            let ours = lines.next() == Some(&pid);
            Ok(ended || ours && lines.nth(6).is_some_and(|l| l.trim_end() == "ready"))
        })?;
        if ended {
            return Err(self.failed("postgres"));
        }
        Ok(())
    }

    /// Starts a program of Postgres, in a process group of its own whose number the watcher knows
    /// before the program runs. Once the watcher has begun to clean up, nothing starts any more.
    fn spawn(&self, program: &str, set: impl FnOnce(&mut Command)) -> Result<Child, String> {
        let path = self.bin.join(program);
        let mut command = command("sh", self.account);
        command.args(["-c", r#": >"$0/running/${1##*/}.$$" && exec "$@""#]);
        command.arg(&self.dir).arg(&path);
        set(&mut command);
        let log = |path| OpenOptions::new().create(true).append(true).open(path);
        log(self.log_path())
            .and_then(|log| {
                command.stdin(Stdio::null());
                command.stdout(log.try_clone()?).stderr(log);
                command.process_group(0).spawn()
            })
            .map_err(|e| format!("{}: {e}", path.display()))
    }

    /// How the process ended, if it has.
    fn exit_status(&mut self) -> Result<Option<ExitStatus>, String> {
        let Some(child) = &mut self.process else {
            return Err("the server is not running".into());
        };
        let pid = child.id();
        let status = child.try_wait().map_err(|e| format!("wait: {e}"))?;
        if status.is_some() {
            self.forget(pid);
        }
        Ok(status)
    }

    /// Keeps the watcher from ever signalling somebody who got the number next.
    pub(super) fn forget(&self, pid: u32) {
        for program in ["initdb", "pg_basebackup", "postgres"] {
            let _ = fs::remove_file(self.dir.join(format!("running/{program}.{pid}")));
        }
    }

    /// Says what a program that ended wrote last.
    fn failed(&mut self, program: &str) -> String {
        self.process = None;
        let log = fs::read(self.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(15)..];
        format!("{program} failed:\n{}", last.join("\n"))
    }
}
