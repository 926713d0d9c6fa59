//! The figures of a run as a table.

use std::fmt::Write;

use chrono::Utc;

use crate::Arguments;
use crate::load::Op;
use crate::rounds::{BOTH, Turn};
use crate::service::Contender;

pub fn markdown(arguments: &Arguments, server: &str, turns: &[Turn]) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let fsync = if arguments.fsync { "on" } else { "off" };
    let mut text = format!(
        "Run on {}: {cores} cores for load, service and server together, {server}, fsync {fsync}; \
         {} rounds, turns of {} s{}.\n\n",
        Utc::now().date_naive(),
        arguments.rounds,
        arguments.seconds,
        match arguments.limits {
            true => "; calls by hand are limited in time too",
            false => "",
        }
    );
    text.push_str(
        "| request | connections | motorpool, requests/s | by hand | ratio | p50 / p99 in ms | by hand \
         | CPU in µs a request: service, Postgres, load | by hand |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for op in arguments.ops() {
        for &connections in &arguments.connections {
            let row = Row {
                turns,
                op,
                connections,
            };
            let [motorpool, by_hand] = BOTH.map(|contender| row.median(contender, throughput));
            let _ = writeln!(
                text,
                "| {} | {connections} | {motorpool:.0} | {by_hand:.0} | {:.2} | {} | {} | {} | {} |",
                op.title(),
                row.ratio(),
                row.latency(BOTH[0]),
                row.latency(BOTH[1]),
                row.cpu(BOTH[0]),
                row.cpu(BOTH[1]),
            );
        }
    }
    text
}

fn throughput(turn: &Turn) -> Option<f64> {
    Some(turn.sample.requests as f64 / turn.sample.seconds)
}

/// The turns of both at one request and number of connections.
struct Row<'a> {
    turns: &'a [Turn],
    op: Op,
    connections: usize,
}

impl Row<'_> {
    /// The median of the rounds, or not a number where nothing is known.
    fn median(&self, contender: Contender, of: impl Fn(&Turn) -> Option<f64>) -> f64 {
        let here = |turn: &&Turn| {
            turn.op == self.op
                && turn.connections == self.connections
                && turn.contender == contender
        };
        median(self.turns.iter().filter(here).filter_map(of).collect())
    }

    /// The median of the ratios within each round.
    fn ratio(&self) -> f64 {
        let rounds = self.turns.iter().map(|turn| turn.round).max().unwrap_or(0);
        let in_round = |round| {
            let of = |contender| {
                self.median(contender, |turn| {
                    throughput(turn).filter(|_| turn.round == round)
                })
            };
            of(BOTH[0]) / of(BOTH[1])
        };
        median((0..=rounds).map(in_round).collect())
    }

    fn latency(&self, contender: Contender) -> String {
        let ms = |micros: u32| Some(f64::from(micros) / 1000.0);
        let p50 = self.median(contender, |turn| ms(turn.sample.p50_micros));
        let p99 = self.median(contender, |turn| ms(turn.sample.p99_micros));
        format!("{p50:.2} / {p99:.2}")
    }

    fn cpu(&self, contender: Contender) -> String {
        let micros = |seconds: Option<f64>, turn: &Turn| {
            Some(seconds? * 1e6 / turn.sample.requests.max(1) as f64)
        };
        // The first two have worked through the warm-up as well.
        let share = |turn: &Turn| turn.sample.seconds / (turn.sample.seconds + 0.3);
        let service = |turn: &Turn| micros(turn.service_cpu, turn).map(|cpu| cpu * share(turn));
        let server = |turn: &Turn| micros(turn.server_cpu, turn).map(|cpu| cpu * share(turn));
        let load = |turn: &Turn| micros(turn.sample.cpu_seconds, turn);
        let (service, server) = (
            self.median(contender, service),
            self.median(contender, server),
        );
        let load = self.median(contender, load);
        format!("{service:.0}, {server:.0}, {load:.0}")
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[length / 2],
        length => (values[length / 2 - 1] + values[length / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_median_lies_in_the_middle() {
        assert_eq!(super::median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(super::median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(super::median(vec![]).is_nan());
    }
}
