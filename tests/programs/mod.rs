//! The programs that an operator has: psql and pg_dump, from where the server's are, and the
//! example `migrate`.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]
#![allow(
    clippy::duplicate_mod,
    reason = "the server keeps these files to itself"
)]

#[path = "../support/server/binaries.rs"]
mod binaries;
#[path = "../support/server/system.rs"]
mod system;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The original's database: 100 users and 300 cars.
pub const FLASK: &str = include_str!("../data/flask_db.sql");

/// A program from beside the server, or, where only the server is there, from the PATH.
fn postgres(program: &str) -> Command {
    let beside = binaries::find().map(|directory| directory.join(program));
    let path = beside.ok().filter(|path| path.exists());
    let path = path.unwrap_or_else(|| program.into());
    system::command(path.to_str().unwrap(), None)
}

/// Runs a script in psql until its first error, and gives what it printed.
pub fn psql(url: &str, script: &str) -> String {
    let mut psql = postgres("psql");
    psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url]);
    run(psql, script).unwrap_or_else(|error| panic!("psql: {error}"))
}

/// What psql says when a script fails.
pub fn psql_error(url: &str, script: &str) -> String {
    let mut psql = postgres("psql");
    psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url]);
    run(psql, script).expect_err("psql succeeded")
}

/// The database as a script that makes it again.
pub fn dump(url: &str) -> String {
    dump_with(url, &[])
}

pub fn dump_with(url: &str, arguments: &[&str]) -> String {
    let mut dump = postgres("pg_dump");
    dump.args(["-d", url]).args(arguments);
    without_key(&run(dump, "").unwrap_or_else(|error| panic!("pg_dump: {error}")))
}

/// Roles, their settings and memberships.
pub fn dump_roles(url: &str) -> String {
    let mut dump = postgres("pg_dumpall");
    dump.args(["--globals-only", "-d", url]);
    without_key(&run(dump, "").unwrap_or_else(|error| panic!("pg_dumpall: {error}")))
}

/// Newer versions begin and end with a random key, each time another one.
fn without_key(dump: &str) -> String {
    let is_key = |line: &&str| line.starts_with("\\restrict") || line.starts_with("\\unrestrict");
    let lines: Vec<_> = dump.lines().filter(|line| !is_key(line)).collect();
    lines.join("\n")
}

fn run(mut command: Command, input: &str) -> Result<String, String> {
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| {
        let program = command.get_program();
        panic!("{program:?}: {error}; install PostgreSQL's client programs")
    });
    let mut stdin = child.stdin.take().unwrap();
    // A program that has failed does not read to the end.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    match output.status.success() {
        true => Ok(text(output.stdout)),
        false => Err(text(output.stderr)),
    }
}

/// The example as a process. It is built together with the tests.
pub fn migrate(url: &str, arguments: &[&str]) -> Command {
    let test = std::env::current_exe().unwrap();
    let target: PathBuf = test.ancestors().nth(2).unwrap().into();
    let mut command = Command::new(target.join("examples/migrate"));
    command.arg("--url").arg(url).args(arguments);
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a process ended with: its code, and what it wrote.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub error: String,
}

pub fn end(child: Child) -> Ended {
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        error: String::from_utf8(output.stderr).unwrap(),
    }
}
