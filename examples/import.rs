//! Imports purchases from a CSV file with the columns username, role, registered_on, model.
//!
//! ```sh
//! cargo run --example import -- tests/data/purchases.csv --url postgresql://localhost/motorpool
//! ```
//!
//! Can be repeated: what a run before has stored is found again, by its purchase key.

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use chrono::NaiveDate;
use clap::Parser;
use indicatif::ProgressBar;
use motorpool::{CarId, Error, NewCar, NewUser, PurchaseKey, Role, Store, UserId};
use uuid::Uuid;

const COLUMNS: [&str; 4] = ["username", "role", "registered_on", "model"];

/// So many lines are stored together.
const BATCH: usize = 100;

/// Imports purchases: registers the owners and buys the cars.
///
/// A line that cannot be used is reported, and the others are stored; then the exit code is 1.
#[derive(Parser)]
struct Arguments {
    /// A CSV file with the columns username, role, registered_on (as 2026-01-31), model
    file: PathBuf,
    /// The database to import into. Without it, a Postgres server that lives as long as the
    /// program, to try it out
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    url: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every line could be used.
async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let name = arguments.file.display();
    let bytes = std::fs::read(&arguments.file).with_context(|| format!("cannot read {name}"))?;
    let (purchases, bad) = parse(&bytes).with_context(|| format!("cannot use {name}"))?;

    let opened = common::open(arguments.url.as_deref()).await?;
    let mut import = Import::new(&*opened.store, purchases.len());
    for (line, reason) in bad {
        import.report(line, &reason);
    }
    let result = import.run(&purchases).await;
    let bad = import.bad;
    opened.close();
    result.map(|()| bad == 0)
}

/// A line that can be stored.
struct Purchase {
    line: usize,
    user: NewUser,
    model: String,
    key: PurchaseKey,
}

/// A line that cannot, by its number and with the reason.
type Bad = (usize, String);

/// Reads the lines one by one, so that a quotation mark that is not closed spoils its own line and
/// not the rest of the file. No name may contain a line break, so no good line is cut in two.
fn parse(bytes: &[u8]) -> anyhow::Result<(Vec<Purchase>, Vec<Bad>)> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut lines = (1..)
        .zip(bytes.split(|byte| *byte == b'\n'))
        .map(|(number, line)| (number, line.strip_suffix(b"\r").unwrap_or(line)));
    let header = lines.next().and_then(|(_, line)| fields(line).ok());
    ensure!(
        header.is_some_and(|header| header.iter().eq(COLUMNS)),
        "the first line has to be {}",
        COLUMNS.join(",")
    );
    let (mut purchases, mut bad) = (Vec::new(), Vec::new());
    let mut seen = HashMap::new();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let count = seen.entry(line).or_insert(0_u32);
        match purchase(number, line, *count) {
            Ok(purchase) => purchases.push(purchase),
            Err(reason) => bad.push((number, format!("{reason:#}"))),
        }
        *count += 1;
    }
    Ok((purchases, bad))
}

fn purchase(number: usize, line: &[u8], seen_before: u32) -> anyhow::Result<Purchase> {
    let record = fields(line)?;
    let fields: Vec<&str> = record.iter().collect();
    let [username, role, date, model] = fields[..] else {
        anyhow::bail!("it has {} columns, not {}", fields.len(), COLUMNS.len());
    };
    let date: NaiveDate = date
        .parse()
        .ok()
        .context("registered_on is not a date like 2026-01-31")?;
    let user = NewUser::new(username)?
        .role(role.parse::<Role>()?)
        .created_at(date);
    user.check()?;
    // Checks the model. Whose car it is turns out when the owner is registered.
    NewCar::new(model, UserId::new(0))?;
    Ok(Purchase {
        line: number,
        user,
        model: model.to_owned(),
        key: key(line, seen_before),
    })
}

fn fields(line: &[u8]) -> anyhow::Result<csv::StringRecord> {
    let line = std::str::from_utf8(line).context("it is not UTF-8")?;
    ensure!(
        line.matches('"').count() % 2 == 0,
        "a quotation mark is not closed"
    );
    let mut record = csv::StringRecord::new();
    csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(line.as_bytes())
        .read_record(&mut record)?;
    Ok(record)
}

/// The key of a purchase: what the line says, and how many equal lines came before it, since who
/// buys two cars of a model has two equal lines. Lines can be added anywhere, or change places, and
/// the others keep their keys.
fn key(line: &[u8], seen_before: u32) -> PurchaseKey {
    const NAMESPACE: Uuid = Uuid::from_u128(0x6d1c_9b0e_42f7_4c58_9a53_e0b7_72d4_1f86);
    let name = [line, b"\n", seen_before.to_string().as_bytes()].concat();
    PurchaseKey::new(Uuid::new_v5(&NAMESPACE, &name))
}

/// An import under way.
struct Import<'a> {
    store: &'a dyn Store,
    /// Draws nothing unless it is on a terminal.
    bar: ProgressBar,
    /// Every user of the file, and whether it is new.
    users: BTreeMap<UserId, bool>,
    new_cars: usize,
    known_cars: usize,
    bad: usize,
}

impl<'a> Import<'a> {
    fn new(store: &'a dyn Store, purchases: usize) -> Self {
        Import {
            store,
            bar: ProgressBar::new(purchases as u64),
            users: BTreeMap::new(),
            new_cars: 0,
            known_cars: 0,
            bad: 0,
        }
    }

    fn report(&mut self, line: usize, reason: &str) {
        self.bad += 1;
        self.bar.suspend(|| eprintln!("line {line}: {reason}"));
    }

    async fn run(&mut self, purchases: &[Purchase]) -> anyhow::Result<()> {
        let mut done = 0;
        for batch in purchases.chunks(BATCH) {
            self.store(batch).await.with_context(|| {
                format!("stopped after {done} purchases; run it again to go on")
            })?;
            done += batch.len();
            self.bar.set_position(done as u64);
            if self.bar.is_hidden() {
                println!("{done} of {} purchases", purchases.len());
            }
        }
        self.bar.finish_and_clear();
        self.summary().await
    }

    async fn store(&mut self, batch: &[Purchase]) -> Result<(), Error> {
        let users: Vec<NewUser> = batch.iter().map(|p| p.user.clone()).collect();
        let registered = self.store.users().register_many(&users).await?;
        let owners: Vec<UserId> = registered.iter().map(|r| r.user().id).collect();
        for registration in &registered {
            let new = registration.is_created();
            self.users.entry(registration.user().id).or_insert(new);
        }

        let mut lines = Vec::new();
        let mut purchases = Vec::new();
        for (purchase, owner) in batch.iter().zip(&owners) {
            lines.push(purchase.line);
            purchases.push(NewCar::new(&purchase.model, *owner)?.key(purchase.key));
        }
        // A purchase that was made before gives the car that its owner has already.
        let owned = self.store.cars().owned_by_many(&owners).await?;
        let known: BTreeSet<CarId> = owned.values().flatten().map(|car| car.id).collect();
        let cars = loop {
            match self.store.cars().buy_many(&purchases).await {
                Err(Error::PurchaseKeyReused { index: Some(index) }) => {
                    purchases.remove(index);
                    let line = lines.remove(index);
                    self.report(line, "imported before, and the car has changed hands since");
                }
                result => break result?,
            }
        };
        let again = cars.iter().filter(|car| known.contains(&car.id)).count();
        self.known_cars += again;
        self.new_cars += cars.len() - again;
        Ok(())
    }

    async fn summary(&self) -> anyhow::Result<()> {
        let new_users = self.users.values().filter(|new| **new).count();
        println!(
            "{} users ({new_users} new, {} already there), {} cars ({} new, {} already there), \
             {} bad lines",
            self.users.len(),
            self.users.len() - new_users,
            self.new_cars + self.known_cars,
            self.new_cars,
            self.known_cars,
            self.bad
        );
        let users = self.store.users().count().await?;
        let cars = self.store.cars().count().await?;
        println!("The database has {users} users and {cars} cars now.");
        Ok(())
    }
}
