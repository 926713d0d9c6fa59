//! Rebuilds the crate when a migration is added or changed: the macro that embeds them does not
//! say what it read.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
