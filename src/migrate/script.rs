//! Migrations as a script, for an administrator who runs it by other means.

use std::fmt::Write;
use std::time::Duration;

use super::apply::{ANALYZE, note};
use super::grants::GRANTS;
use super::session::{LOCK, lock_or_fail, settings};
use super::status::STRANGER;
use super::step::{CREATE_HISTORY, HISTORY, Step};

/// What runs these steps on a database at the version `from`.
pub(super) fn script<'a>(
    steps: impl Iterator<Item = &'a Step>,
    from: u32,
    lock_timeout: Duration,
) -> String {
    let now = "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let mut script = format!(
        "-- To be run with the first error as its end (psql -v ON_ERROR_STOP=1), as the role and\n\
         -- with the search path of the migrator, on a connection of its own: not through a pooler\n\
         -- in transaction mode.\n\
         {};\n\
         {};\n\n{CREATE_HISTORY};\n",
        lock_or_fail(),
        settings(lock_timeout)
    );
    let mut before = from;
    for step in steps {
        let (begin, commit) = match step.in_transaction() {
            true => ("BEGIN;\n", "COMMIT;\n"),
            false => ("", ""),
        };
        let (file, sql, note) = (step.file(), step.sql.trim(), note(step, now));
        // Writing to a string does not fail.
        let guard = at_version_or_fail(before);
        let _ = write!(
            script,
            "\n-- {file}\n{begin}{guard};\n{sql}\n{note};\n{commit}"
        );
        before = step.version;
    }
    let _ = write!(
        script,
        "\n{GRANTS};\n{ANALYZE};\nSELECT pg_advisory_unlock({LOCK});\n"
    );
    script
}

/// Fails on a database that is not at the version that a migration in a script is for, and while
/// another migrator works: whoever runs the script may have run over an error before.
fn at_version_or_fail(version: u32) -> String {
    format!(
        "DO $$
DECLARE
    at int;
    stranger text := ({STRANGER});
BEGIN
    IF stranger IS NOT NULL THEN
        RAISE 'the history of the migrations belongs to the role %', stranger;
    END IF;
    SELECT coalesce(max(version), 0) INTO at FROM {history};
    IF NOT pg_try_advisory_xact_lock({LOCK}) THEN
        RAISE 'another migrator is at work';
    ELSIF at <> {version} THEN
        RAISE 'the database is at version %, and this migration is for version {version}', at;
    ELSIF at = 0 AND coalesce(to_regclass('users'), to_regclass('cars')) IS NOT NULL THEN
        RAISE 'the database has tables that motorpool did not make';
    END IF;
END
$$",
        history = HISTORY
    )
}
