//! The public face of the crate, from rustdoc's JSON: as a listing, and whether it is shown in
//! examples.
//!
//! `api list JSON METADATA` prints the listing, with the features from cargo's metadata.
//! `api examples JSON EXCUSED` prints what has no example and no excuse, and every excuse for
//! nothing, and fails if there is any.

mod examples;
mod face;
mod listing;

use std::process::ExitCode;

use face::Face;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all is well.
fn run() -> Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["list", json, metadata] => {
            let features = listing::features(&std::fs::read_to_string(metadata)?)?;
            print!("{}", listing::listing(&Face::read(json)?, &features));
            Ok(true)
        }
        ["examples", json, excused] => {
            let excused = std::fs::read_to_string(excused)?;
            let findings = examples::findings(&Face::read(json)?, &excused)?;
            findings.iter().for_each(|finding| println!("{finding}"));
            Ok(findings.is_empty())
        }
        _ => Err("usage: api list JSON METADATA | api examples JSON EXCUSED".into()),
    }
}
