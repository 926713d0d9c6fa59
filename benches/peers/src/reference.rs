//! Postgres's own programs on the same work, each as a process: how fast the server is for a client
//! that costs next to nothing.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::check::purchases;
use crate::seed;
use crate::server::{Server, USER};
use crate::work::Sample;

pub const PGBENCH: &str = "pgbench";
pub const COPY: &str = "psql \\copy";

/// The numbers of clients that pgbench is run with.
pub const CLIENTS: [usize; 2] = [1, 16];

/// `get_by_username` by a random seeded name. pgbench has numbers only, so the server puts the name
/// together.
pub fn pgbench(server: &Server, clients: usize, seconds: f64) -> Result<Sample> {
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("hit.sql");
    let users = seed::USERS;
    let sql = crate::sql::GET_BY_USERNAME.replace("$1", "'user-' || :id");
    fs::write(&script, format!("\\set id random(1, {users})\n{sql};\n"))?;
    let threads = clients.min(2);
    let whole_seconds = seconds.ceil().max(1.0);
    let output = run(program(server, "pgbench")
        .args(["--no-vacuum", "--protocol=prepared"])
        .args([format!("--client={clients}"), format!("--jobs={threads}")])
        .arg(format!("--time={whole_seconds}"))
        .arg("--file")
        .arg(&script))?;
    let transactions: f64 = number_after(&output, "tps = ")?;
    Ok(Sample {
        calls: (transactions * whole_seconds) as u64,
        seconds: whole_seconds,
        ..Sample::default()
    })
}

/// The same cars as those of `buy_many`, from a file. psql itself takes the time of the command,
/// so its start is not in it. The ids do not come back.
pub fn copy(server: &Server, number: usize, turn: usize) -> Result<Sample> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("cars.tsv");
    let rows: String = purchases(number, &mut (turn as u64 + 1))
        .iter()
        .map(|car| format!("{}\t{}\n", car.model, car.owner))
        .collect();
    fs::write(&file, rows)?;
    let copy = format!("\\copy cars (model, owner_id) from '{}'", file.display());
    let output = run(program(server, "psql")
        .args([
            "--no-psqlrc",
            "--set=ON_ERROR_STOP=1",
            "--command=\\timing on",
        ])
        .arg(format!("--command={copy}")))?;
    ensure!(output.contains(&format!("COPY {number}")), "{output}");
    let milliseconds: f64 = number_after(&output, "Time: ")?;
    Ok(Sample {
        calls: 1,
        seconds: milliseconds / 1000.0,
        latencies: vec![((milliseconds * 1000.0) as u64, 1)],
        ..Sample::default()
    })
}

fn program(server: &Server, name: &str) -> Command {
    let mut command = Command::new(server.bin_dir().join(name));
    command
        .env("LC_ALL", "C")
        .env("PGHOST", server.dir())
        .env("PGPORT", server.port().to_string())
        .env("PGUSER", USER)
        .env("PGPASSWORD", server.password())
        .env("PGDATABASE", "postgres");
    command
}

fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_owned();
    let output = command
        .output()
        .with_context(|| program.display().to_string())?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {errors}", program.display());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn number_after(text: &str, label: &str) -> Result<f64> {
    let found = text.split(label).nth(1).and_then(|rest| {
        let number = rest.split_whitespace().next()?;
        number.parse().ok()
    });
    found.with_context(|| format!("no {label:?} in: {text}"))
}
