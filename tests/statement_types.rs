//! Every statement says of which types its parameters are, because one without a name is sent with
//! them. This is what notices that the server sees it another way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod support;

use std::fs;
use std::path::Path;

use support::with_database;
use tokio_postgres::types::{Kind, Type};

/// A statement in the source: its text and the types that it says it takes.
#[derive(Debug)]
struct Declared {
    sql: String,
    types: Vec<String>,
}

const MAKERS: [&str; 4] = [
    "Statement::read(",
    "Statement::write(",
    "Statement::refusable_write(",
    "\n.first(",
];

/// The statements in a file.
fn declared(source: &str) -> Vec<Declared> {
    let mut found = Vec::new();
    for maker in MAKERS {
        for (start, _) in source.match_indices(maker) {
            let rest = source[start + maker.len()..].trim_start();
            let text = rest.strip_prefix('"').expect("a plain text");
            let (sql, rest) = text.split_once('"').expect("the end of the text");
            assert!(!sql.contains('\\'), "{sql}");
            let (rest, _) = rest.split_once(';').expect("the end of the constant");
            let types = match rest.split_once(".takes(&[") {
                Some((_, list)) => list.split_once(']').expect("the end of the list").0,
                None => "",
            };
            let types = types.split(',').map(|name| name.trim().to_owned());
            found.push(Declared {
                sql: sql.into(),
                types: types.filter(|name| !name.is_empty()).collect(),
            });
        }
    }
    found
}

fn all_declared(folder: &Path) -> Vec<Declared> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(all_declared(&path)),
            false => found.extend(declared(&fs::read_to_string(path).unwrap())),
        }
    }
    found
}

/// The name of a type as the source has it.
fn constant(ty: &Type) -> String {
    match ty.kind() {
        Kind::Array(of) => format!("Type::{}_ARRAY", of.name().to_uppercase()),
        _ => format!("Type::{}", ty.name().to_uppercase()),
    }
}

#[tokio::test]
async fn the_types_of_parameters_are_those_that_the_server_finds() {
    let all = all_declared(Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/postgres"
    )));
    assert!(all.len() >= 37, "{}", all.len());
    with_database(async |database| {
        let client = database.client().await;
        for declared in &all {
            let prepared = client.prepare(&declared.sql).await;
            let prepared = prepared.unwrap_or_else(|error| panic!("{}: {error:?}", declared.sql));
            let types: Vec<_> = prepared.params().iter().map(constant).collect();
            assert_eq!(declared.types, types, "{}", declared.sql);
            // A result of any other type would have to be looked up, by a statement with a name.
            for column in prepared.columns() {
                let known = Type::from_oid(column.type_().oid());
                assert!(known.is_some(), "{}: {column:?}", declared.sql);
            }
        }
    })
    .await;
}
