//! Processor time, as Linux tells it. Elsewhere nothing is known.

use std::fs;

/// User and system time of all threads of a process, or of "self". Linux counts in hundredths of a
/// second.
pub fn cpu_seconds(process: &str) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(ticks(&stat)? as f64 / 100.0)
}

fn ticks(stat: &str) -> Option<u64> {
    // The name in the brackets may hold anything.
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// The same of a process and all its children, the ended ones included.
pub fn cpu_seconds_of_family(parent: u32) -> Option<f64> {
    let mut all = 0;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(1);
        let of = fields.next().and_then(|of| of.parse::<u32>().ok());
        let itself = entry.file_name().to_string_lossy() == parent.to_string();
        if itself {
            // The children that it has waited for.
            let ended = fields.skip(11).take(2);
            all += ended
                .filter_map(|ticks| ticks.parse::<u64>().ok())
                .sum::<u64>();
        }
        if itself || of == Some(parent) {
            all += ticks(&stat)?;
        }
    }
    Some(all as f64 / 100.0)
}
