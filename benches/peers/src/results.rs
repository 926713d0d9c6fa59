//! What the turns gave, and the figures that are made of it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

use crate::op::Op;
use crate::work::Sample;

/// The samples of one competitor, by round.
type Rounds = BTreeMap<usize, Sample>;

/// Everything measured: by operation and number of tasks, then by competitor.
#[derive(Default)]
pub struct Results {
    samples: BTreeMap<(Op, usize), BTreeMap<&'static str, Rounds>>,
}

impl Results {
    pub fn add(&mut self, op: Op, tasks: usize, title: &'static str, round: usize, sample: Sample) {
        let rounds = self.samples.entry((op, tasks)).or_default();
        rounds.entry(title).or_default().insert(round, sample);
    }

    /// How many turns passed without the end of a call: something held the machine up, or turns are
    /// too short.
    ///
    /// # Errors
    /// Somebody's turns at one thing were all like this, so there is nothing to report.
    pub fn stalled(&self) -> Result<usize> {
        let mut stalled = 0;
        for ((op, tasks), all) in &self.samples {
            for (title, rounds) in all {
                let empty = rounds.values().filter(|sample| sample.calls == 0).count();
                ensure!(
                    empty < rounds.len(),
                    "{title}: no call of {} with {tasks} tasks ended in any turn; give it more \
                     --seconds",
                    op.title()
                );
                stalled += empty;
            }
        }
        Ok(stalled)
    }

    /// What was measured, in order.
    pub fn measured(&self) -> impl Iterator<Item = (Op, usize)> {
        self.samples.keys().copied()
    }

    pub fn rounds(&self) -> usize {
        let all = self.samples.values().flat_map(BTreeMap::values);
        all.map(BTreeMap::len).max().unwrap_or(0)
    }

    fn of(&self, at: (Op, usize), title: &str) -> Option<&Rounds> {
        self.samples.get(&at)?.get(title)
    }

    /// Calls in a second, or cars in a second where one call buys many: the median of the rounds.
    pub fn throughput(&self, at: (Op, usize), title: &str) -> Option<f64> {
        let samples = self.of(at, title)?;
        median(samples.values().map(|sample| rate(at.0, sample)).collect())
    }

    /// The throughput in relation to another's: the median of the ratios within each round, so that
    /// what slows a whole round down counts for nothing.
    pub fn ratio(&self, at: (Op, usize), title: &str, to: &str) -> Option<f64> {
        let (one, other) = (self.of(at, title)?, self.of(at, to)?);
        let ratio = |(round, sample): (&usize, &Sample)| {
            let other = other.get(round).filter(|other| other.calls > 0)?;
            Some(rate(at.0, sample) / rate(at.0, other))
        };
        median(one.iter().filter_map(ratio).collect())
    }

    /// Microseconds that so large a part of the calls took at most.
    pub fn latency(&self, at: (Op, usize), title: &str, quantile: f64) -> Option<u64> {
        let mut all: Histogram<u64> = Histogram::new(2).ok()?;
        for sample in self.of(at, title)?.values() {
            for (value, count) in &sample.latencies {
                all.record_n(*value, *count).ok()?;
            }
        }
        (!all.is_empty()).then(|| all.value_at_quantile(quantile))
    }

    /// Seconds of processor time of the client in 1000 calls, or for 1000 cars.
    pub fn cpu(&self, at: (Op, usize), title: &str) -> Option<f64> {
        let (mut cpu, mut calls) = (0.0, 0);
        for sample in self.of(at, title)?.values() {
            cpu += sample.cpu_seconds?;
            calls += sample.calls;
        }
        let each = at.0.many().unwrap_or(1);
        Some(cpu * 1000.0 / (calls as f64 * each as f64))
    }

    /// KiB that the client had at most until the end of the first round's turns at these
    /// operations. Later rounds begin with what the earlier ones left.
    pub fn peak(&self, title: &str, ops: impl Fn(Op) -> bool) -> Option<u64> {
        let turns = self.samples.iter().filter(|((op, _), _)| ops(*op));
        turns
            .filter_map(|(_, all)| all.get(title)?.get(&0)?.peak_kib)
            .max()
    }
}

fn rate(op: Op, sample: &Sample) -> f64 {
    let each = op.many().unwrap_or(1);
    sample.calls as f64 * each as f64 / sample.seconds
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    Some(match values.len() % 2 {
        1 => upper,
        _ => (upper + values[values.len() / 2 - 1]) / 2.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(calls: u64) -> Sample {
        Sample {
            calls,
            seconds: 1.0,
            cpu_seconds: Some(0.5),
            latencies: vec![(10, calls)],
            ..Sample::default()
        }
    }

    #[test]
    fn a_slow_round_does_not_move_a_ratio() {
        let mut results = Results::default();
        for (round, (one, other)) in [(200, 100), (20, 10), (220, 100)].into_iter().enumerate() {
            results.add(Op::Buy, 1, "one", round, sample(one));
            results.add(Op::Buy, 1, "other", round, sample(other));
        }
        let at = (Op::Buy, 1);
        assert_eq!(results.throughput(at, "one"), Some(200.0));
        assert_eq!(results.ratio(at, "one", "other"), Some(2.0));
        assert_eq!(results.latency(at, "one", 0.99), Some(10));
        assert_eq!(results.cpu(at, "other"), Some(1.5 * 1000.0 / 210.0));
        assert_eq!(results.ratio(at, "one", "nobody"), None);
    }

    #[test]
    fn many_count_by_the_car() {
        let mut results = Results::default();
        results.add(Op::BuyMany10k, 1, "one", 0, sample(3));
        let at = (Op::BuyMany10k, 1);
        assert_eq!(results.throughput(at, "one"), Some(30_000.0));
    }

    #[test]
    fn turns_without_a_call_are_counted_and_refused_when_there_are_no_others() {
        let mut results = Results::default();
        results.add(Op::Buy, 1, "one", 0, sample(0));
        assert!(results.stalled().is_err());
        results.add(Op::Buy, 1, "one", 1, sample(5));
        assert_eq!(results.stalled().unwrap(), 1);
        results.add(Op::Buy, 1, "other", 0, sample(7));
        results.add(Op::Buy, 1, "other", 1, sample(10));
        let ratio = |one, other| results.ratio((Op::Buy, 1), one, other);
        assert_eq!(ratio("other", "one"), Some(2.0));
        assert_eq!(ratio("one", "other"), Some(0.25));
    }
}
