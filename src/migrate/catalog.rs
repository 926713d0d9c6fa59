//! What Postgres's catalog says of some tables, as facts that can be compared.

use std::collections::BTreeMap;

use tokio_postgres::Transaction;

use super::session::{failed, value};
use crate::error::Result;

/// What is so (`column users.role: default`) and how (`'employee'::character varying`).
pub(super) type Facts = BTreeMap<String, String>;

/// How a fact about a CHECK constraint begins.
const CHECK: &str = "check ";

// $1: the schema. $2: the tables.
const FACTS: &str = "
WITH tables AS (
    SELECT oid, relname, relpersistence, relrowsecurity OR relforcerowsecurity AS row_security
    FROM pg_class
    WHERE relnamespace = $1::text::regnamespace AND relkind IN ('r', 'p') AND relname = ANY ($2)
), columns AS (
    SELECT 'column ' || t.relname || '.' || a.attname AS name, a.*, t.relname
    FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid
    WHERE a.attnum > 0 AND NOT a.attisdropped
), sequences AS (
    SELECT DISTINCT s.oid, s.relname
    FROM pg_class s JOIN pg_depend d ON s.relkind = 'S'
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = s.oid
        AND d.classid = 'pg_attrdef'::regclass
    JOIN pg_attrdef e ON e.oid = d.objid JOIN tables t ON t.oid = e.adrelid
)
SELECT 'table ' || relname, 'there' FROM tables
UNION ALL
SELECT 'table ' || relname || ': persistence', 'not kept through a crash' FROM tables
WHERE relpersistence <> 'p'
UNION ALL
SELECT 'table ' || relname || ': row security', 'on' FROM tables WHERE row_security
UNION ALL
SELECT 'rule ' || t.relname || '.' || r.rulename, 'there'
FROM tables t JOIN pg_rewrite r ON r.ev_class = t.oid
UNION ALL
SELECT 'trigger ' || t.relname || '.' || g.tgname, 'there'
FROM tables t JOIN pg_trigger g ON g.tgrelid = t.oid WHERE NOT g.tgisinternal
UNION ALL
SELECT DISTINCT 'constraint ' || c.conrelid::regclass::text || '.' || c.conname || ': enforced', 'not always'
FROM tables t JOIN pg_trigger g ON g.tgrelid = t.oid JOIN pg_constraint c ON c.oid = g.tgconstraint
WHERE g.tgisinternal AND g.tgenabled <> 'O'
UNION ALL
SELECT name || ': type', format_type(atttypid, atttypmod) FROM columns
UNION ALL
SELECT name || ': null', CASE WHEN attnotnull THEN 'refused' ELSE 'allowed' END FROM columns
UNION ALL
SELECT name || ': default', pg_get_expr(e.adbin, e.adrelid)
FROM columns c JOIN pg_attrdef e ON e.adrelid = c.attrelid AND e.adnum = c.attnum
UNION ALL
SELECT name || ': collation', n.collname FROM columns c JOIN pg_collation n ON n.oid = c.attcollation
WHERE n.collname <> 'default'
UNION ALL
SELECT name || ': generated', attidentity::text || attgenerated::text FROM columns
WHERE attidentity <> '' OR attgenerated <> ''
UNION ALL
SELECT 'constraint ' || t.relname || '.' || c.conname, pg_get_constraintdef(c.oid)
FROM tables t JOIN pg_constraint c ON c.conrelid = t.oid WHERE c.contype IN ('p', 'u', 'f', 'x')
UNION ALL
SELECT 'check ' || t.relname || '.' || c.conname, pg_get_expr(c.conbin, c.conrelid)
FROM tables t JOIN pg_constraint c ON c.conrelid = t.oid WHERE c.contype = 'c'
UNION ALL
SELECT 'validity of ' || t.relname || '.' || c.conname, 'existing rows were not looked at'
FROM tables t JOIN pg_constraint c ON c.conrelid = t.oid WHERE NOT c.convalidated
UNION ALL
SELECT 'inheritance of ' || t.relname || '.' || c.conname, 'none'
FROM tables t JOIN pg_constraint c ON c.conrelid = t.oid WHERE c.contype = 'c' AND c.connoinherit
UNION ALL
SELECT 'index ' || i.relname,
    replace(pg_get_indexdef(x.indexrelid), $1 || '.', '')
    || CASE WHEN x.indisvalid THEN '' ELSE ' (invalid)' END
FROM tables t JOIN pg_index x ON x.indrelid = t.oid JOIN pg_class i ON i.oid = x.indexrelid
UNION ALL
SELECT 'sequence ' || s.relname || ': type', format_type(q.seqtypid, NULL)
FROM sequences s JOIN pg_sequence q ON q.seqrelid = s.oid
UNION ALL
SELECT 'sequence ' || s.relname || ': range', format('%s to %s by %s%s', q.seqmin, q.seqmax,
    q.seqincrement, CASE WHEN q.seqcycle THEN ', cycling' ELSE '' END)
FROM sequences s JOIN pg_sequence q ON q.seqrelid = s.oid
UNION ALL
SELECT 'sequence ' || s.relname || ': owned by', coalesce((
    SELECT o.relname || '.' || a.attname
    FROM pg_depend d JOIN pg_class o ON o.oid = d.refobjid
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_class'::regclass AND d.objid = s.oid
        AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
), 'no column')
FROM sequences s";

/// Reads the facts about tables of a schema, which has to be in the search path. The schema's name
/// comes quoted, as the catalog would write it.
pub(super) async fn facts(
    transaction: &Transaction<'_>,
    schema: &str,
    tables: &[&str],
) -> Result<Facts> {
    let what = "reading the catalog";
    let rows = transaction.query(FACTS, &[&schema, &tables]).await;
    let rows = rows.map_err(failed(what))?;
    rows.iter()
        .map(|row| Ok((value(row, 0)?, value(row, 1)?)))
        .collect()
}

/// Brings CHECK expressions into the form that Postgres gives them when it has read its own form
/// of them often enough: a dump that is restored changes their spelling and not their meaning.
/// `scratch` is a schema with the tables, in which a constraint can be added.
pub(super) async fn settle(
    transaction: &mut Transaction<'_>,
    scratch: &str,
    facts: &mut Facts,
) -> Result<()> {
    for (name, expression) in facts {
        let of = name.strip_prefix(CHECK).and_then(|of| of.split_once('.'));
        let Some((table, _)) = of else {
            continue;
        };
        // It settles at the second form; a bound in case it never does.
        for _ in 0..5 {
            match respell(transaction, scratch, table, expression).await? {
                Some(next) if next != *expression => *expression = next,
                _ => break,
            }
        }
    }
    Ok(())
}

/// What Postgres makes of an expression. `None`: it cannot be a constraint of the scratch table,
/// because it speaks of a column that is not there.
async fn respell(
    transaction: &mut Transaction<'_>,
    scratch: &str,
    table: &str,
    expression: &str,
) -> Result<Option<String>> {
    let what = "comparing a CHECK constraint";
    let point = transaction.transaction().await.map_err(failed(what))?;
    let table = format!("{scratch}.{table}");
    let add = format!("ALTER TABLE {table} ADD CONSTRAINT motorpool_respelt CHECK ({expression})");
    let spelt = match point.batch_execute(&add).await {
        Ok(()) => {
            let read = "SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint \
                WHERE conname = 'motorpool_respelt' AND conrelid = $1::text::regclass";
            let row = point.query_one(read, &[&table]).await;
            Some(value(&row.map_err(failed(what))?, 0)?)
        }
        Err(_) => None,
    };
    point.rollback().await.map_err(failed(what))?;
    Ok(spelt)
}
