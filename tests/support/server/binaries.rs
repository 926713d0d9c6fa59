//! Where the programs of a Postgres server are.

use std::path::PathBuf;
use std::{env, fs};

use super::system::output;

/// The directory with `initdb` and `postgres`.
pub fn find() -> Result<PathBuf, String> {
    let complete = |dir: &PathBuf| dir.join("initdb").is_file() && dir.join("postgres").is_file();
    if let Some(dir) = env::var_os("PG_BINDIR").map(PathBuf::from) {
        return match complete(&dir) {
            true => Ok(dir),
            false => Err(format!(
                "PG_BINDIR is {}, which has no initdb and postgres.",
                dir.display()
            )),
        };
    }
    let configured = output("pg_config", &["--bindir"])
        .map(|dir| PathBuf::from(dir.to_string_lossy().trim_end().to_owned()));
    let path = env::var_os("PATH").unwrap_or_default();
    configured
        .into_iter()
        .chain(env::split_paths(&path))
        .chain(installed_versions())
        .find(complete)
        .ok_or_else(|| {
            "No PostgreSQL server was found: install PostgreSQL 14 or newer, or set PG_BINDIR to \
             the directory of its initdb, or DATABASE_URL to a server that runs."
                .to_owned()
        })
}

/// Where the packages of Debian, PGDG, Homebrew and Postgres.app put a version, the newest first.
fn installed_versions() -> Vec<PathBuf> {
    let places = [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
        ("/Applications/Postgres.app/Contents/Versions", ""),
    ];
    let mut found: Vec<(f64, PathBuf)> = Vec::new();
    for (parent, prefix) in places {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(Ok(version)) = name.strip_prefix(prefix).map(str::parse) {
                found.push((version, entry.path().join("bin")));
            }
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.into_iter().map(|(_, dir)| dir).collect()
}
