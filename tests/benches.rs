//! The benchmarks measure what the crate does: their statements are copies of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "../benches/peers/src/sql.rs"]
#[allow(dead_code, unreachable_pub, reason = "a module of a benchmark")]
mod sql;

use std::fs;

#[test]
fn the_crate_sends_the_texts_that_are_measured() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/postgres");
    let sources: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for text in [sql::GET_BY_USERNAME, sql::OWNED_BY, sql::REGISTER, sql::BUY] {
        let quoted = format!("\"{text}\"");
        let found = sources.iter().any(|source| source.contains(&quoted));
        assert!(found, "not in src/postgres any more:\n{text}");
    }
}
