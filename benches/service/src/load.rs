//! The load: connections that are kept open, each with one request under way. It runs on one thread
//! in a process of its own, and does as little as it can for an answer: look at the status, count
//! the bytes.

use std::cell::RefCell;
use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};

use crate::seed;
use crate::usage::cpu_seconds;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Op {
    User,
    Cars,
    Buy,
}

impl Op {
    pub fn title(self) -> &'static str {
        match self {
            Op::User => "GET a user by name",
            Op::Cars => "GET the 3 cars of a user",
            Op::Buy => "POST a car",
        }
    }

    fn status(self) -> &'static [u8] {
        match self {
            Op::User | Op::Cars => b"HTTP/1.1 200",
            Op::Buy => b"HTTP/1.1 201",
        }
    }

    /// Writes the request about a user.
    pub fn request(self, id: i64, to: &mut Vec<u8>) -> std::io::Result<()> {
        match self {
            Op::User => write!(
                to,
                "GET /users/{} HTTP/1.1\r\nHost: bench\r\n\r\n",
                seed::username(id)
            ),
            Op::Cars => write!(to, "GET /users/{id}/cars HTTP/1.1\r\nHost: bench\r\n\r\n"),
            Op::Buy => write!(
                to,
                "POST /users/{id}/cars HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n\
                 Content-Length: 16\r\n\r\n{{\"model\":\"Golf\"}}",
            ),
        }
    }
}

/// One turn of it.
#[derive(Args, Clone, Debug)]
pub struct Load {
    #[arg(long)]
    pub address: SocketAddr,
    #[arg(long)]
    pub op: Op,
    #[arg(long)]
    pub connections: usize,
    #[arg(long)]
    pub seconds: f64,
    /// Another one gives other users.
    #[arg(long)]
    pub seed: u64,
}

/// What a turn gave.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    pub requests: usize,
    pub seconds: f64,
    pub p50_micros: u32,
    pub p99_micros: u32,
    /// Of the load itself.
    pub cpu_seconds: Option<f64>,
}

/// For connecting, and until both sides are warm.
const WARM_UP: Duration = Duration::from_millis(300);

/// The process. It prints its sample as a line of JSON.
pub fn load(turn: &Load) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let sample = LocalSet::new().block_on(&runtime, run(turn))?;
    println!("{}", serde_json::to_string(&sample)?);
    Ok(())
}

async fn run(turn: &Load) -> Result<Sample> {
    let begin = Instant::now() + WARM_UP;
    let end = begin + Duration::from_secs_f64(turn.seconds);
    let micros = Rc::new(RefCell::new(Vec::<u32>::with_capacity(1 << 20)));
    let workers: Vec<_> = (0..turn.connections)
        .map(|number| {
            let (turn, micros) = (turn.clone(), Rc::clone(&micros));
            spawn_local(async move { work(&turn, number, begin, end, &micros).await })
        })
        .collect();
    tokio::time::sleep_until(begin.into()).await;
    let cpu = cpu_seconds("self");
    tokio::time::sleep_until(end.into()).await;
    let spent = cpu_seconds("self")
        .zip(cpu)
        .map(|(after, before)| after - before);
    for worker in workers {
        worker.await??;
    }
    let mut micros = micros.take();
    micros.sort_unstable();
    let quantile = |of: f64| {
        let at = (micros.len() as f64 * of) as usize;
        micros.get(at).copied().unwrap_or(0)
    };
    Ok(Sample {
        requests: micros.len(),
        seconds: turn.seconds,
        p50_micros: quantile(0.5),
        p99_micros: quantile(0.99),
        cpu_seconds: spent,
    })
}

/// Counts the answers that came between the two moments.
async fn work(
    turn: &Load,
    number: usize,
    begin: Instant,
    end: Instant,
    micros: &RefCell<Vec<u32>>,
) -> Result<()> {
    let mut stream = TcpStream::connect(turn.address).await?;
    stream.set_nodelay(true)?;
    // Any number but 0 will do; these are far apart.
    let mut state = (turn.seed << 20 | number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let (mut request, mut answer) = (Vec::with_capacity(512), Vec::with_capacity(4096));
    loop {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let id = 1 + (state % seed::USERS.unsigned_abs()).cast_signed();
        request.clear();
        turn.op.request(id, &mut request)?;
        let started = Instant::now();
        stream.write_all(&request).await?;
        answer.clear();
        receive(&mut stream, &mut answer).await?;
        let now = Instant::now();
        ensure!(
            answer.starts_with(turn.op.status()),
            "another answer: {}",
            String::from_utf8_lossy(&answer)
        );
        if now >= end {
            return Ok(());
        }
        if now >= begin {
            let took = now - started;
            let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
            micros.borrow_mut().push(took);
        }
    }
}

/// Reads one whole answer.
pub async fn receive(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<()> {
    loop {
        ensure!(
            stream.read_buf(answer).await? > 0,
            "the connection was closed"
        );
        if whole(answer)? {
            return Ok(());
        }
    }
}

fn whole(answer: &[u8]) -> Result<bool> {
    let mut headers = [httparse::EMPTY_HEADER; 8];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = head.parse(answer)? else {
        return Ok(false);
    };
    let length = head.headers.iter().find(|h| h.name == "content-length");
    let length = length.context("an answer without a length")?.value;
    let length: usize = std::str::from_utf8(length)?.parse()?;
    Ok(answer.len() >= start + length)
}
