//! The run: both services are up all the time, and take turns. Only one of them has work.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::Arguments;
use crate::database::Database;
use crate::load::{Op, Sample, receive};
use crate::service::Contender;
use crate::usage::{cpu_seconds, cpu_seconds_of_family};

/// The two, in the order of the table.
pub const BOTH: [Contender; 2] = [Contender::Motorpool, Contender::ByHand];

/// One turn.
#[derive(Debug)]
pub struct Turn {
    pub op: Op,
    pub connections: usize,
    pub round: usize,
    pub contender: Contender,
    pub sample: Sample,
    /// Processor time of the service and of Postgres, the warm-up included.
    pub service_cpu: Option<f64>,
    pub server_cpu: Option<f64>,
}

/// A service in a process of its own, which ends with its input.
struct Service {
    process: Child,
    address: SocketAddr,
}

impl Service {
    fn start(contender: Contender, limits: bool, url: &str) -> Result<Service> {
        let name = match contender {
            Contender::Motorpool => "motorpool",
            Contender::ByHand => "by-hand",
        };
        let mut process = Command::new(std::env::current_exe()?)
            .args(["serve", name])
            .args(limits.then_some("--limits"))
            .env("DATABASE_URL", url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = process.stdout.take().context("stdout")?;
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().parse();
        let address = address.with_context(|| format!("{name} did not start"))?;
        Ok(Service { process, address })
    }

    /// The answers to a few requests, without what differs each time: dates, and the id of a car
    /// that is new.
    async fn answers(&self) -> Result<Vec<String>> {
        let mut stream = TcpStream::connect(self.address).await?;
        let mut answers = Vec::new();
        for (op, id) in [
            (Op::User, 1),
            (Op::User, 77),
            (Op::Cars, 9),
            (Op::User, -1),
            (Op::Buy, -1),
            (Op::Buy, 9),
        ] {
            let mut request = Vec::new();
            op.request(id, &mut request)?;
            stream.write_all(&request).await?;
            let mut answer = Vec::new();
            receive(&mut stream, &mut answer).await?;
            let answer = String::from_utf8(answer)?;
            let lines = answer.lines().filter(|line| !line.starts_with("date:"));
            let mut answer = lines.collect::<Vec<_>>().join("\n");
            if let (Op::Buy, Some((head, body))) = (op, answer.split_once("\n\n")) {
                let mut body: Value =
                    serde_json::from_str(if body.is_empty() { "null" } else { body })?;
                let id = body.get_mut("id").map(Value::take);
                ensure!(id.is_none_or(|id| id.is_u64()), "no id: {answer}");
                answer = format!("{head}\n\n{body}");
            }
            answers.push(answer);
        }
        Ok(answers)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

pub async fn run(arguments: &Arguments, database: &Database) -> Result<Vec<Turn>> {
    let url = database.url();
    let services = BOTH.map(|contender| Service::start(contender, arguments.limits, &url));
    let [motorpool, by_hand] = services;
    let services = [motorpool?, by_hand?];
    let one = services[0].answers().await?;
    database.reset().await?;
    let other = services[1].answers().await?;
    database.reset().await?;
    ensure!(one == other, "they answer differently: {one:#?} {other:#?}");
    let mut turns = Vec::new();
    for round in 0..arguments.rounds {
        let mut block = 0;
        for op in arguments.ops() {
            for &connections in &arguments.connections {
                let (now, rounds) = (round + 1, arguments.rounds);
                eprintln!("round {now} of {rounds}: {}, {connections}", op.title());
                // Each begins equally often, if the number of rounds is even.
                let first = (round + block) % 2;
                for index in [first, 1 - first] {
                    let seed = turns.len() as u64 + 1;
                    let service = &services[index];
                    let process = service.process.id().to_string();
                    let postgres = database.server.pid().context("the server")?;
                    let before = (cpu_seconds(&process), cpu_seconds_of_family(postgres));
                    let sample = load(arguments, service, op, connections, seed)?;
                    let after = (cpu_seconds(&process), cpu_seconds_of_family(postgres));
                    let spent = |after: Option<f64>, before| Some(after? - before?);
                    turns.push(Turn {
                        op,
                        connections,
                        round,
                        contender: BOTH[index],
                        sample,
                        service_cpu: spent(after.0, before.0),
                        server_cpu: spent(after.1, before.1),
                    });
                    // Each finds the tables as they were.
                    if op == Op::Buy {
                        database.reset().await?;
                    }
                }
                block += 1;
            }
        }
    }
    Ok(turns)
}

fn load(
    arguments: &Arguments,
    service: &Service,
    op: Op,
    connections: usize,
    seed: u64,
) -> Result<Sample> {
    let op = clap::ValueEnum::to_possible_value(&op).context("a name")?;
    let output = Command::new(std::env::current_exe()?)
        .args(["load", "--address", &service.address.to_string()])
        .args([
            "--op",
            op.get_name(),
            "--connections",
            &connections.to_string(),
        ])
        .args(["--seconds", &arguments.seconds.to_string()])
        .args(["--seed", &seed.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "the load has failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}
