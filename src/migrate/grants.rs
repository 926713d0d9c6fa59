//! What the role of an application may do: work with the rows of the tables and read the history,
//! nothing else. Ids are handed out by the tables, so it may not choose them.

use super::session::{Session, value};
use crate::error::Result;

/// The setting of a database that names the role, quoted as in SQL. [`provision`](super::provision)
/// sets it if it may, which takes a superuser. Else the comment of the schema names it,
/// `motorpool.app_role = garage_app`.
pub(super) const APP_ROLE: &str = "motorpool.app_role";

/// The name of that role in SQL.
macro_rules! app_role {
    () => {
        "coalesce(
        (parse_ident(nullif(current_setting('motorpool.app_role', true), '')))[1],
        substring(
            obj_description(to_regnamespace(quote_ident(current_schema())), 'pg_namespace')
            FROM '^motorpool.app_role = (.+)$'
        )
    )"
    };
}

/// The grants to that role, where the database has one. A new column that the application writes
/// is added here. In a database that is not fully migrated some tables and columns are missing;
/// what is there is granted, the history above all. A dump that was restored without its roles names
/// one that does not exist, which is a warning.
pub(super) const GRANTS: &str = concat!(
    "DO $grants$
DECLARE
    app text := ",
    app_role!(),
    ";
    rights text;
BEGIN
    IF app <> '' AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = app) THEN
        RAISE WARNING 'there is no role %, so nothing was granted to it', app;
    ELSIF app <> '' THEN
        FOREACH rights IN ARRAY ARRAY[
            'SELECT ON motorpool_schema_history',
            'SELECT, DELETE, INSERT (username, created_at, role), UPDATE (username, role) ON users',
            'SELECT, DELETE, INSERT (model, owner_id), UPDATE (owner_id) ON cars',
            'INSERT (purchase_key), UPDATE (purchase_key) ON cars',
            'USAGE ON SEQUENCE users_id_seq, cars_id_seq'
        ] LOOP
            BEGIN
                EXECUTE format('GRANT %s TO %I', rights, app);
            EXCEPTION WHEN undefined_table OR undefined_column THEN NULL;
            END;
        END LOOP;
    END IF;
END
$grants$"
);

/// The role, if there is none of its name.
const MISSING: &str = concat!(
    "SELECT app FROM ",
    app_role!(),
    " AS app
    WHERE app <> '' AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = app)"
);

/// Grants to the application's role, where the database has one, what it needs of the tables.
pub(super) async fn grant(session: &Session) -> Result<()> {
    let what = "granting to the application's role";
    session.batch(what, GRANTS).await?;
    for row in &session.query(what, MISSING).await? {
        let role: &str = value(row, 0)?;
        tracing::warn!(
            role,
            "the application's role does not exist; nothing was granted to it"
        );
    }
    Ok(())
}
