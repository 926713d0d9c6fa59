//! The migrations as they are embedded: what each does, and how it is undone.

use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

use crate::error::{Error, Result};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The table of what has been applied, in refinery's form. Not refinery's own name for it, which
/// may be the host's.
pub(super) const HISTORY: &str = "motorpool_schema_history";

/// Makes the history where none is in sight, beside the tables if there are any. Every column of it
/// is refinery's.
pub(super) const CREATE_HISTORY: &str = "DO $history$
BEGIN
    IF to_regclass('motorpool_schema_history') IS NULL THEN
        EXECUTE format('CREATE TABLE %smotorpool_schema_history (
            version INT4 PRIMARY KEY,
            name VARCHAR(255),
            applied_on VARCHAR(255),
            checksum VARCHAR(255)
        )', (SELECT relnamespace::regnamespace || '.' FROM pg_class WHERE oid = to_regclass('users')));
    END IF;
END
$history$";

/// The first line of a migration that cannot run in a transaction. One that was interrupted is run
/// again from its start, so its statements must bear that: `CREATE INDEX CONCURRENTLY IF NOT EXISTS`.
const NO_TRANSACTION: &str = "-- no transaction";

/// The start of a line of an undo file that says what it would lose: a name, a colon, and the
/// statement that counts it.
const LOSES: &str = "-- loses ";

/// One migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) version: u32,
    pub(super) name: String,
    pub(super) sql: String,
    pub(super) checksum: String,
    pub(super) undo: Option<String>,
}

/// Something that an undo would lose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) what: String,
    pub(super) count: String,
}

impl Step {
    /// From the name and the text of a file, `V3__some_words` or `U3__some_words`.
    pub(super) fn parse(name: &str, sql: &str) -> Result<Step> {
        let migration = refinery::Migration::unapplied(name, sql);
        migration
            .map(|migration| Step::new(&migration))
            .map_err(|error| Error::Migration {
                reason: error.to_string(),
                source: None,
            })
    }

    fn new(migration: &refinery::Migration) -> Step {
        // Of 32 or 64 bits: which is up to all who use refinery in one program.
        let version = i32::try_from(i64::from(migration.version())).unwrap_or(0);
        let (name, sql) = (migration.name(), migration.sql().unwrap_or_default());
        Step {
            version: version.max(0).cast_unsigned(),
            name: name.to_owned(),
            sql: sql.to_owned(),
            checksum: checksum(name, version, sql),
            undo: None,
        }
    }

    /// The name of its file.
    pub(super) fn file(&self) -> String {
        format!("V{}__{}", self.version, self.name)
    }

    /// Whether it runs in a transaction, together with its row in the history.
    pub(super) fn in_transaction(&self) -> bool {
        self.sql.lines().next().map(str::trim) != Some(NO_TRANSACTION)
    }

    /// Its statements, for a migration that runs outside a transaction: each ends with a semicolon
    /// at the end of a line.
    pub(super) fn statements(&self) -> Vec<&str> {
        let statements = self.sql.split_inclusive(";\n").map(str::trim);
        let is_code = |line: &str| !line.is_empty() && !line.starts_with("--");
        statements
            .filter(|text| text.lines().map(str::trim).any(is_code))
            .collect()
    }

    /// What its undo would lose.
    pub(super) fn losses(&self) -> Vec<Loss> {
        let undo = self.undo.as_deref().unwrap_or_default();
        let lines = undo.lines().filter_map(|line| line.strip_prefix(LOSES));
        lines
            .filter_map(|line| line.split_once(": "))
            .map(|(what, count)| Loss {
                what: what.to_owned(),
                count: count.to_owned(),
            })
            .collect()
    }
}

/// What refinery makes of a version of 32 bits. Its own would be another one in a program where some
/// crate turns `int8-versions` on.
fn checksum(name: &str, version: i32, sql: &str) -> String {
    let mut hasher = SipHasher13::new();
    name.hash(&mut hasher);
    version.hash(&mut hasher);
    sql.hash(&mut hasher);
    hasher.finish().to_string()
}

/// All migrations of this version of the crate, in order.
pub(super) fn embedded() -> Vec<Step> {
    let runner = embedded::migrations::runner();
    let (mut steps, mut undos) = (Vec::new(), Vec::new());
    for migration in runner.get_migrations() {
        // Its text form is the name of its file.
        match migration.to_string().starts_with('V') {
            true => steps.push(Step::new(migration)),
            false => undos.push(Step::new(migration)),
        }
    }
    steps.sort_by_key(|step| step.version);
    for undo in undos {
        if let Some(step) = steps.iter_mut().find(|step| step.version == undo.version) {
            step.undo = Some(undo.sql);
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The files of a folder below `migrations`, with their texts.
    fn files(folder: &str) -> BTreeSet<(String, String)> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        std::fs::read_dir(directory)
            .expect("the directory")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.is_file())
            .map(|path| {
                let name = path.file_name().expect("a name").to_string_lossy();
                let text = std::fs::read_to_string(&path).expect("a text");
                (name.into_owned(), text)
            })
            .collect()
    }

    // A file whose name has one underscore, or a hyphen, would be passed over in silence.
    #[test]
    fn every_file_is_embedded() {
        let steps = embedded();
        let up = steps
            .iter()
            .map(|s| (format!("{}.sql", s.file()), s.sql.clone()));
        assert_eq!(files("migrations"), up.collect());
        let undo = |s: &Step| (format!("U{}__{}.sql", s.version, s.name), s.undo.clone());
        let undo = steps.iter().map(undo);
        let undo = undo.map(|(file, text)| (file, text.expect("every migration has an undo")));
        assert_eq!(files("migrations/undo"), undo.collect());
        assert_eq!(steps.len(), 2);
        assert!(steps.iter().all(|step| !step.sql.contains('\r')));
    }

    #[test]
    fn checksums_are_those_of_refinery() {
        for step in embedded() {
            let migration = refinery::Migration::unapplied(&step.file(), &step.sql);
            let theirs = migration.expect("a migration").checksum().to_string();
            assert_eq!(step.checksum, theirs, "{}", step.file());
        }
    }

    #[test]
    fn statements_end_at_the_end_of_a_line() {
        let sql = "-- no transaction\nSELECT ';' AS a;\n\n-- a word\nSELECT\n    2;\n-- the end\n";
        let step = Step::parse("V7__some_words", sql).expect("a migration");
        assert!(!step.in_transaction());
        assert_eq!(step.file(), "V7__some_words");
        let statements = step.statements();
        assert_eq!(statements.len(), 2);
        assert!(statements[0].ends_with("SELECT ';' AS a;"));
        assert!(statements[1].ends_with("SELECT\n    2;"));
    }

    #[test]
    fn an_undo_says_what_it_loses() {
        let steps = embedded();
        let losses: Vec<_> = steps.iter().flat_map(Step::losses).collect();
        let names: Vec<_> = losses.iter().map(|loss| loss.what.as_str()).collect();
        assert_eq!(names, ["users", "cars", "cars.purchase_key"]);
    }
}
