//! A competitor in a process of its own, so that its processor time and memory are its own. It is
//! asked through its input and answers on its output, a line of JSON each; it ends when the input
//! does.

use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

use crate::check::check;
use crate::peer::{
    Competitor, Peer, bare::Bare, diesel::Diesel, motorpool::Motorpool, sea_orm::SeaOrm,
    sqlx::Sqlx, sqlx::SqlxValues,
};
use crate::work::{Sample, Turn, turn};

#[derive(Serialize, Deserialize)]
enum Request {
    /// To the database at this URL. It has a password, which is why it is not an argument.
    Connect(String),
    /// New names begin with this.
    Check(String),
    Turn(Turn),
}

type Answer = Result<Option<Sample>, String>;

/// The other end, in the process that measures.
pub struct Contender {
    pub competitor: Competitor,
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Contender {
    pub fn start(competitor: Competitor, url: &str) -> Result<Contender> {
        let name = serde_json::to_string(&competitor)?;
        let mut process = Command::new(std::env::current_exe()?)
            .args(["contend", &name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().context("stdout")?;
        let mut contender = Contender {
            competitor,
            input: process.stdin.take(),
            output: BufReader::new(output),
            process,
        };
        contender.ask(&Request::Connect(url.to_owned()))?;
        Ok(contender)
    }

    pub fn check(&mut self) -> Result<()> {
        let prefix = format!("check-{}", self.process.id());
        self.ask(&Request::Check(prefix)).map(drop)
    }

    pub fn turn(&mut self, turn: &Turn) -> Result<Sample> {
        let sample = self.ask(&Request::Turn(turn.clone()))?;
        sample.context("a turn gives a sample")
    }

    fn ask(&mut self, request: &Request) -> Result<Option<Sample>> {
        let title = self.competitor.title();
        let input = self.input.as_mut().context("closed")?;
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        let mut answer = String::new();
        input
            .write_all(line.as_bytes())
            .and_then(|()| self.output.read_line(&mut answer))
            .with_context(|| format!("the process of {title}"))?;
        let answer: Answer = serde_json::from_str(&answer)
            .with_context(|| format!("the process of {title} has ended"))?;
        answer.map_err(|error| anyhow!("{title}: {error}"))
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        self.input = None;
        // It has nothing to do any more but to end.
        let _ = self.process.wait();
    }
}

/// The process itself.
pub fn contend(name: &str) -> Result<()> {
    let competitor: Competitor = serde_json::from_str(name)?;
    let checks = competitor.checks();
    match competitor {
        Competitor::Motorpool => serve::<Motorpool>(checks),
        Competitor::Bare => serve::<Bare>(checks),
        Competitor::Sqlx | Competitor::SqlxDefaults => serve::<Sqlx>(checks),
        Competitor::SqlxValues => serve::<SqlxValues>(checks),
        Competitor::Diesel | Competitor::DieselDefaults => serve::<Diesel>(checks),
        Competitor::SeaOrm | Competitor::SeaOrmDefaults => serve::<SeaOrm>(checks),
    }
}

fn serve<P: Peer>(checks: bool) -> Result<()> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut peer: Option<Arc<P>> = None;
    for line in stdin().lock().lines() {
        let answer = answer(&runtime, &mut peer, &line?, checks);
        let answer: Answer = answer.map_err(|error| format!("{error:#}"));
        let mut line = serde_json::to_string(&answer)?;
        line.push('\n');
        stdout().lock().write_all(line.as_bytes())?;
    }
    Ok(())
}

fn answer<P: Peer>(
    runtime: &Runtime,
    peer: &mut Option<Arc<P>>,
    line: &str,
    checks: bool,
) -> Result<Option<Sample>> {
    match (serde_json::from_str(line)?, &peer) {
        (Request::Connect(url), _) => {
            // On a worker, as a service does: some libraries start tasks.
            let connected = runtime.spawn(async move { P::connect(&url, checks).await });
            *peer = Some(Arc::new(runtime.block_on(connected)??));
            Ok(None)
        }
        (Request::Check(prefix), Some(peer)) => {
            runtime.block_on(check(&**peer, &prefix)).map(|()| None)
        }
        (Request::Turn(request), Some(peer)) => runtime.block_on(turn(peer, &request)).map(Some),
        (_, None) => Err(anyhow!("not connected")),
    }
}
