//! Measures one HTTP service over motorpool and over queries by hand. See benches/README.md.

mod by_hand;
#[path = "../../peers/src/database.rs"]
mod database;
mod load;
mod motor;
mod report;
mod rounds;
#[path = "../../peers/src/seed.rs"]
#[allow(dead_code, reason = "the other benchmark uses more of it")]
mod seed;
#[path = "../../../tests/support/server/mod.rs"]
mod server;
mod service;
mod usage;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use crate::database::Database;
use crate::load::{Load, Op};
use crate::service::Contender;

/// Measures an HTTP service over motorpool beside the same one over queries by hand, on a throwaway
/// server.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Hidden>,
    /// How often both take a turn at everything. Fewer than 5 are a look, not a result, and with an
    /// odd number one of them begins once more.
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// How long a turn is, after a warm-up of 0.3 s.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// How many connections to the service there are, each with one request under way.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 256])]
    connections: Vec<usize>,
    /// Only these requests.
    #[arg(long, value_delimiter = ',')]
    ops: Vec<Op>,
    /// End the calls by hand after 10 s, as those of the crate are.
    #[arg(long)]
    limits: bool,
    /// Let the server write through to the disk at each commit.
    #[arg(long)]
    fsync: bool,
}

#[derive(Debug, Subcommand)]
enum Hidden {
    /// The service.
    #[command(hide = true)]
    Serve {
        contender: Contender,
        #[arg(long)]
        limits: bool,
    },
    /// One turn of load.
    #[command(hide = true)]
    Load(Load),
}

impl Arguments {
    fn ops(&self) -> Vec<Op> {
        let all = <Op as clap::ValueEnum>::value_variants();
        let wanted = |op: &&Op| self.ops.is_empty() || self.ops.contains(op);
        all.iter().filter(wanted).copied().collect()
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(Hidden::Serve { contender, limits }) => return service::serve(*contender, *limits),
        Some(Hidden::Load(turn)) => return load::load(turn),
        None => {}
    }
    ensure!(arguments.rounds > 0, "--rounds: from 1");
    ensure!(arguments.seconds > 0.0, "--seconds: more than 0");
    ensure!(!arguments.connections.contains(&0), "--connections: from 1");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(&arguments))
}

async fn measure(arguments: &Arguments) -> Result<()> {
    eprintln!("starting a server and seeding it");
    let database = Database::start(arguments.fsync).await?;
    let results = rounds::run(arguments, &database).await?;
    let version = database.version().await?;
    print!("{}", report::markdown(arguments, &version, &results));
    Ok(())
}
