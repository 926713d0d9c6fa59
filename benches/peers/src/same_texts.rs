//! The statements are copies. This is what notices that the originals have changed.

use std::fs;

use crate::sql;

#[test]
fn the_crate_sends_the_same_texts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../src/postgres");
    let sources: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok())
        .collect();
    for text in [sql::GET_BY_USERNAME, sql::OWNED_BY, sql::REGISTER, sql::BUY] {
        let quoted = format!("\"{text}\"");
        let found = sources.iter().any(|source| source.contains(&quoted));
        assert!(found, "not in src/postgres any more:\n{text}");
    }
}
