//! The figures as tables.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use chrono::Utc;

use crate::op::Op;
use crate::peer::Competitor;
use crate::reference;
use crate::results::Results;

/// A run that is over.
pub struct Run<'a> {
    pub results: &'a Results,
    pub competitors: Vec<Competitor>,
    pub tasks: &'a [usize],
    pub seconds: f64,
    pub fsync: bool,
    /// No core went idle.
    pub awake: bool,
    /// How many turns saw no call end.
    pub stalled: usize,
    pub server: String,
}

/// The crates whose versions belong to the figures.
const CRATES: [&str; 7] = [
    "motorpool",
    "tokio-postgres",
    "deadpool-postgres",
    "sqlx",
    "diesel",
    "diesel-async",
    "sea-orm",
];

const NOTHING: &str = "–";

impl Run<'_> {
    pub fn markdown(&self) -> String {
        let mut text = self.circumstances();
        let results = self.results;
        let bare = Competitor::Bare.title();
        let heading = "Throughput: calls in a second, for `buy_many` cars in a second";
        self.table(&mut text, heading, true, |at, title| {
            results.throughput(at, title).map(digits)
        });
        self.table(
            &mut text,
            "Throughput in relation to bare",
            true,
            |at, title| results.ratio(at, title, bare).map(|r| format!("{r:.2}")),
        );
        self.against_the_best(&mut text);
        let heading = "Latency in milliseconds: p50 / p99 of a call";
        self.table(&mut text, heading, true, |at, title| {
            let (p50, p99) = (0.5, 0.99);
            let latency = |quantile| results.latency(at, title, quantile);
            let ms = |micros: u64| digits(micros as f64 / 1000.0);
            Some(format!("{} / {}", ms(latency(p50)?), ms(latency(p99)?)))
        });
        let heading = "Processor time of the client: seconds for 1000 calls, for `buy_many` for \
                       1000 cars";
        self.table(&mut text, heading, false, |at, title| {
            let decimals = if at.0.many().is_some() { 4 } else { 3 };
            results
                .cpu(at, title)
                .map(|cpu| format!("{cpu:.decimals$}"))
        });
        self.memory(&mut text);
        text
    }

    /// When, where and with what.
    fn circumstances(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let (date, rounds) = (Utc::now().date_naive(), self.results.rounds());
        let versions: Vec<String> = CRATES
            .iter()
            .filter_map(|name| Some(format!("{name} {}", version(name)?)))
            .collect();
        let fsync = if self.fsync { "on" } else { "off" };
        let awake = if self.awake { ", no core idle" } else { "" };
        format!(
            "Run on {date}: {cores} cores for client and server together, {}, fsync {fsync}{awake}; \
             {rounds} rounds, turns of {} s, {} of them without the end of a call; {}.\n",
            self.server,
            self.seconds,
            self.stalled,
            versions.join(", ")
        )
    }

    /// A column for each competitor, a row for each operation and number of tasks.
    fn table(
        &self,
        text: &mut String,
        heading: &str,
        references: bool,
        cell: impl Fn((Op, usize), &str) -> Option<String>,
    ) {
        let mut titles: Vec<&str> = self.competitors.iter().map(|c| c.title()).collect();
        if references {
            titles.extend([reference::PGBENCH, reference::COPY]);
        }
        // Nobody needs a column without a figure.
        titles.retain(|title| self.results.measured().any(|at| cell(at, title).is_some()));
        let _ = writeln!(text, "\n### {heading}\n");
        let _ = writeln!(text, "| operation | tasks | {} |", titles.join(" | "));
        let _ = writeln!(text, "|---|--:|{}", "--:|".repeat(titles.len()));
        for at in self.results.measured() {
            let value = |title: &&str| cell(at, title).unwrap_or_else(|| NOTHING.into());
            let cells: Vec<String> = titles.iter().map(value).collect();
            let (op, tasks) = (at.0.title(), at.1);
            let _ = writeln!(text, "| {op} | {tasks} | {} |", cells.join(" | "));
        }
    }

    /// The crate beside whoever else is the fastest at it.
    fn against_the_best(&self, text: &mut String) {
        let crate_itself = Competitor::Motorpool.title();
        let others = || self.competitors.iter().map(|c| c.title());
        let best = |at| {
            let measured = others()
                .filter(|title| *title != crate_itself)
                .filter_map(|title| Some((title, self.results.throughput(at, title)?)));
            let (title, _) = measured.max_by(|a, b| a.1.total_cmp(&b.1))?;
            let ratio = self.results.ratio(at, crate_itself, title)?;
            Some(format!("{ratio:.2} ({title})"))
        };
        let _ = writeln!(
            text,
            "\n### motorpool in relation to the best of the others\n"
        );
        let tasks: Vec<String> = self
            .tasks
            .iter()
            .map(|n| {
                if *n == 1 {
                    "1 task".into()
                } else {
                    format!("{n} tasks")
                }
            })
            .collect();
        let _ = writeln!(text, "| operation | {} |", tasks.join(" | "));
        let _ = writeln!(text, "|---|{}", "--:|".repeat(tasks.len()));
        let mut ops: Vec<Op> = self.results.measured().map(|(op, _)| op).collect();
        ops.dedup();
        for op in ops {
            let cell = |tasks: &usize| best((op, *tasks)).unwrap_or_else(|| NOTHING.into());
            let cells: Vec<String> = self.tasks.iter().map(cell).collect();
            let _ = writeln!(text, "| {} | {} |", op.title(), cells.join(" | "));
        }
    }

    fn memory(&self, text: &mut String) {
        let _ = writeln!(text, "\n### Peak memory of the client's process in MiB\n");
        let _ = writeln!(
            text,
            "| | single calls | and 10 000 cars | and 100 000 cars |"
        );
        let _ = writeln!(text, "|---|--:|--:|--:|");
        for title in self.competitors.iter().map(|c| c.title()) {
            let peak = |wanted: &dyn Fn(Op) -> bool| {
                let kib = self.results.peak(title, wanted);
                kib.map_or(NOTHING.into(), |kib| digits(kib as f64 / 1024.0))
            };
            // Of everything up to an operation, if that was measured.
            let until = |last: Op| match self.results.measured().any(|(op, _)| op == last) {
                true => peak(&|op| op <= last),
                false => NOTHING.into(),
            };
            let cells = [
                peak(&|op| op.many().is_none()),
                until(Op::BuyMany10k),
                until(Op::BuyMany100k),
            ];
            let _ = writeln!(text, "| {title} | {} |", cells.join(" | "));
        }
    }
}

/// About three digits that mean something.
fn digits(value: f64) -> String {
    match value {
        1000.0.. => {
            let whole = format!("{value:.0}");
            let (thousands, rest) = whole.split_at(whole.len() - 3);
            format!("{thousands} {rest}")
        }
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// As it was built.
fn version(name: &str) -> Option<&'static str> {
    let lock = include_str!("../Cargo.lock");
    let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    rest.split('"').next()
}

/// Replaces the last run in the README.
pub fn into_readme(tables: &str, plot: &str) -> Result<()> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let path = folder.join("README.md");
    let old = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let new = replaced(&old, tables).context("benches/README.md has lost its markers")?;
    fs::write(folder.join("throughput.svg"), plot)?;
    fs::write(path, new)?;
    Ok(())
}

fn replaced(old: &str, tables: &str) -> Option<String> {
    const BEGIN: &str = "<!-- last run -->\n";
    const END: &str = "<!-- end of last run -->";
    let (before, rest) = old.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    let plot = "![Throughput over the number of tasks](throughput.svg)";
    Some(format!("{before}{BEGIN}\n{tables}\n{plot}\n\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_the_last_run_is_replaced() {
        let old = "one\n<!-- last run -->\nold\n<!-- end of last run -->\ntwo\n";
        let once = super::replaced(old, "new").unwrap();
        assert!(once.starts_with("one\n") && once.ends_with("-->\ntwo\n"));
        assert!(once.contains("new") && !once.contains("old"));
        assert_eq!(super::replaced(&once, "new").unwrap(), once);
        assert_eq!(super::replaced("no markers", "new"), None);
    }

    #[test]
    fn figures_have_three_digits() {
        let written = [51_234.6, 1000.0, 999.4, 12.34, 0.126].map(super::digits);
        assert_eq!(written, ["51 235", "1 000", "999", "12.3", "0.13"]);
    }

    #[test]
    fn every_version_is_known() {
        for name in super::CRATES {
            assert!(super::version(name).is_some(), "{name}");
        }
    }
}
