//! What a server needs of the operating system, without a line of unsafe code: accounts, processes,
//! signals.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, thread};

const POLL: Duration = Duration::from_millis(5);

/// Whom the server runs as. Postgres refuses to run as root.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// Nobody but ourselves, unless we are root.
    pub fn for_servers() -> Result<Option<Account>, String> {
        let id = |arguments: &[&str]| -> Option<u32> {
            output("id", arguments)?.to_str()?.trim().parse().ok()
        };
        if id(&["-u"]) != Some(0) {
            return Ok(None);
        }
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| {
                let (uid, gid) = (id(&["-u", name])?, id(&["-g", name])?);
                Some(Some(Account { uid, gid }))
            })
            .ok_or("Postgres does not run as root, and there is no user postgres or nobody".into())
    }
}

/// A command that leaves our own settings of Postgres and of the language behind.
pub fn command(program: &str, account: Option<Account>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C").current_dir("/");
    if let Some(Account { uid, gid }) = account {
        command.uid(uid).gid(gid);
    }
    command
}

/// What a program wrote, if it is there and succeeded.
pub fn output(program: &str, arguments: &[&str]) -> Option<OsString> {
    use std::os::unix::ffi::OsStringExt;
    let output = Command::new(program).args(arguments).output().ok()?;
    let success = output.status.success();
    success.then(|| OsString::from_vec(output.stdout))
}

pub struct Process {
    pub pid: u32,
    pub parent: u32,
    pub state: char,
}

/// Every process that is alive. A zombie is not.
pub fn all_processes() -> Result<Vec<Process>, String> {
    let parse = |pid: &str, parent: &str, state: &str| {
        Some(Process {
            pid: pid.parse().ok()?,
            parent: parent.parse().ok()?,
            state: state.chars().next()?,
        })
    };
    let mut all = Vec::new();
    if Path::new("/proc/self/stat").exists() {
        for entry in fs::read_dir("/proc")
            .map_err(|e| format!("/proc: {e}"))?
            .flatten()
        {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // The name in the brackets may hold anything.
            let mut fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
            let (state, parent) = (fields.next(), fields.next());
            let pid = entry.file_name();
            all.extend(parse(
                &pid.to_string_lossy(),
                parent.unwrap_or(""),
                state.unwrap_or(""),
            ));
        }
    } else {
        let list = output("ps", &["-A", "-o", "pid=", "-o", "ppid=", "-o", "stat="]);
        let list = list.ok_or("ps failed")?;
        for line in list.to_string_lossy().lines() {
            if let [pid, parent, state] = line.split_whitespace().collect::<Vec<_>>()[..] {
                all.extend(parse(pid, parent, state));
            }
        }
    }
    all.retain(|process| process.state != 'Z');
    Ok(all)
}

/// Sends a signal through the shell: Rust's standard library knows only KILL.
pub fn signal(name: &str, pids: &[u32]) -> Result<(), String> {
    if pids.is_empty() {
        return Ok(());
    }
    let status = Command::new("sh")
        .args(["-c", r#"kill -s "$@" 2>/dev/null"#, "sh", name])
        .args(pids.iter().map(u32::to_string))
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("the signal {name} could not be sent")),
    }
}

pub fn wait_until(
    otherwise: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool, String>,
) -> Result<(), String> {
    let end = Instant::now() + limit;
    while !condition()? {
        if Instant::now() > end {
            return Err(otherwise.into());
        }
        thread::sleep(POLL);
    }
    Ok(())
}

pub fn free_port() -> Result<u16, String> {
    let port = |listener: TcpListener| Ok(listener.local_addr()?.port());
    let bound = TcpListener::bind("127.0.0.1:0").and_then(port);
    bound.map_err(|e| format!("no free port: {e}"))
}

pub fn random_hex() -> Result<String, String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|e| format!("/dev/urandom: {e}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub fn percent_encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}
