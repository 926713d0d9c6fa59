//! Measures motorpool beside what a service would use instead. See benches/README.md.

mod awake;
mod check;
mod child;
mod database;
mod op;
mod peer;
mod plot;
mod reference;
mod report;
mod results;
mod rounds;
mod seed;
#[path = "../../../tests/support/server/mod.rs"]
mod server;
mod sql;
mod usage;
mod work;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use crate::awake::Awake;
use crate::database::Database;
use crate::op::Op;
use crate::peer::Competitor;
use crate::report::Run;

/// Measures motorpool beside the libraries that a service would use instead, on a throwaway server.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Hidden>,
    /// How often everybody takes a turn at everything. Fewer than 5 are a look, not a result.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a turn is, after a warm-up of 0.2 s.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How many tasks call at once. buy_many is measured with one.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    tasks: Vec<usize>,
    /// Only these operations.
    #[arg(long, value_delimiter = ',')]
    ops: Vec<Op>,
    /// Only these competitors.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Competitor>,
    /// Also sqlx, diesel-async and SeaORM as they come, with a check of the connection before each
    /// use.
    #[arg(long)]
    defaults: bool,
    /// Let the server write through to the disk at each commit.
    #[arg(long)]
    fsync: bool,
    /// Let no core go idle, by a loop of the lowest priority on each (Linux). For one task: without
    /// it the time to wake a core up is a part of every figure.
    #[arg(long)]
    awake: bool,
    /// Where the tables and the plot go.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/out"))]
    out: PathBuf,
    /// Also put them into benches/README.md.
    #[arg(long)]
    readme: bool,
}

#[derive(Debug, Subcommand)]
enum Hidden {
    /// One competitor, asked by the process that measures.
    #[command(hide = true)]
    Contend { name: String },
    /// A loop that keeps a core awake.
    #[command(hide = true)]
    Spin,
}

impl Arguments {
    fn ops(&self) -> Vec<Op> {
        let all = <Op as clap::ValueEnum>::value_variants();
        let wanted = |op: &&Op| self.ops.is_empty() || self.ops.contains(op);
        all.iter().filter(wanted).copied().collect()
    }

    fn competitors(&self) -> Vec<Competitor> {
        let all = <Competitor as clap::ValueEnum>::value_variants();
        let wanted = |one: &&Competitor| match self.only.is_empty() {
            true => self.defaults || !one.checks(),
            false => self.only.contains(one) || self.defaults && one.checks(),
        };
        all.iter().filter(wanted).copied().collect()
    }
}

fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    match &arguments.command {
        Some(Hidden::Contend { name }) => return child::contend(name),
        Some(Hidden::Spin) => return awake::spin(),
        None => {}
    }
    arguments.tasks.sort_unstable();
    arguments.tasks.dedup();
    ensure!(
        arguments.tasks.first().is_some_and(|tasks| *tasks > 0),
        "--tasks: from 1"
    );
    ensure!(arguments.seconds > 0.0, "--seconds: more than 0");
    ensure!(arguments.rounds > 0, "--rounds: from 1");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(&arguments))
}

async fn measure(arguments: &Arguments) -> Result<()> {
    eprintln!("starting a server and seeding it");
    let database = Database::start(arguments.fsync).await?;
    let awake = arguments.awake.then(Awake::keep).transpose()?;
    let results = rounds::run(arguments, &database).await?;
    drop(awake);
    let run = Run {
        stalled: results.stalled()?,
        results: &results,
        competitors: arguments.competitors(),
        tasks: &arguments.tasks,
        seconds: arguments.seconds,
        fsync: arguments.fsync,
        awake: arguments.awake,
        server: database.version().await?,
    };
    let (tables, plot) = (run.markdown(), plot::svg(&run)?);
    fs::create_dir_all(&arguments.out).with_context(|| arguments.out.display().to_string())?;
    fs::write(arguments.out.join("results.md"), &tables)?;
    fs::write(arguments.out.join("throughput.svg"), &plot)?;
    if arguments.readme {
        report::into_readme(&tables, &plot)?;
    }
    println!("{tables}");
    eprintln!("written to {}", arguments.out.display());
    Ok(())
}
