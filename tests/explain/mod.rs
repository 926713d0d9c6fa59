//! Plans of prepared statements, as trees.

#![allow(unreachable_pub, reason = "a module of a test program")]

pub mod lines;

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;
use tokio_postgres::{Client, SimpleQueryMessage};

/// How the server makes a plan of a prepared statement. It does the second at first, and later
/// whichever looks cheaper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Once for all values.
    Generic,
    /// For the values at hand.
    Custom,
}

pub const MODES: [Mode; 2] = [Mode::Generic, Mode::Custom];

/// A statement that was prepared, as the server shows it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text {
    pub sql: String,
    /// The types of its parameters, with commas between.
    types: String,
}

impl Text {
    /// What the session of this client has prepared.
    pub async fn prepared(client: &Client) -> BTreeSet<Text> {
        let sql = "SELECT statement, array_to_string(parameter_types, ',') \
                   FROM pg_prepared_statements";
        let rows = client.simple_query(sql).await.unwrap();
        let text = |row| match row {
            SimpleQueryMessage::Row(row) => Some(Text {
                sql: row.get(0).unwrap().into(),
                types: row.get(1).unwrap().into(),
            }),
            _ => None,
        };
        rows.into_iter().filter_map(text).collect()
    }

    /// The plan with these values.
    pub async fn plan(&self, client: &Client, mode: Mode, values: &[String]) -> Plan {
        self.explain(client, "", mode, values).await
    }

    /// The plan after it was run, with the pages that it touched. Only for what changes nothing.
    pub async fn run(&self, client: &Client, mode: Mode, values: &[String]) -> Plan {
        let options = "ANALYZE, BUFFERS, TIMING off, SUMMARY off, ";
        self.explain(client, options, mode, values).await
    }

    async fn explain(&self, client: &Client, options: &str, mode: Mode, values: &[String]) -> Plan {
        let Text { sql, types } = self;
        let types = match types.as_str() {
            "" => String::new(),
            types => format!("({types})"),
        };
        let quoted = |value: &String| format!("'{}'", value.replace('\'', "''"));
        let values: Vec<String> = values.iter().map(quoted).collect();
        let values = match values[..] {
            [] => String::new(),
            _ => format!("({})", values.join(", ")),
        };
        let mode = match mode {
            Mode::Generic => "force_generic_plan",
            Mode::Custom => "force_custom_plan",
        };
        let all = format!(
            "SET plan_cache_mode = {mode};
             PREPARE explained {types} AS {sql};
             EXPLAIN ({options}FORMAT JSON) EXECUTE explained {values};
             DEALLOCATE explained"
        );
        let answer = client.simple_query(&all).await;
        let answer = answer.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
        let json = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let mut json: Value = serde_json::from_str(json.unwrap()).unwrap();
        Plan(json[0]["Plan"].take())
    }
}

/// The uppermost node of a plan.
pub struct Plan(Value);

/// As JSON, without the values in it, which can be long.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in format!("{:#}", self.0).lines() {
            writeln!(f, "{}", line.chars().take(120).collect::<String>())?;
        }
        Ok(())
    }
}

/// How a node reads a table.
pub enum Access {
    /// Those rows that an index names for a condition.
    Index(String),
    /// All rows of the table, also when an index gives them in its order.
    Full(String),
}

impl Plan {
    pub fn cost(&self) -> f64 {
        self.0["Total Cost"].as_f64().unwrap()
    }

    /// The pages that were touched, in memory or not. Only of a plan that was run.
    pub fn pages(&self) -> u64 {
        let blocks = |kind: &str| self.0[kind].as_u64().unwrap();
        blocks("Shared Hit Blocks") + blocks("Shared Read Blocks")
    }

    /// How the tables are read.
    pub fn accesses(&self) -> Vec<Access> {
        let mut found = Vec::new();
        for node in nodes(&self.0) {
            let kind = node["Node Type"].as_str().unwrap();
            let text = |key: &str| node[key].as_str().unwrap_or("?").to_owned();
            let access = match kind {
                "Index Scan" | "Index Only Scan" | "Bitmap Index Scan" => {
                    match node.get("Index Cond") {
                        Some(_) => Access::Index(text("Index Name")),
                        None => Access::Full(text("Index Name")),
                    }
                }
                // What is below it says which rows.
                "Bitmap Heap Scan" | "ModifyTable" => continue,
                _ if node.get("Relation Name").is_some() => Access::Full(text("Relation Name")),
                _ => continue,
            };
            found.push(access);
        }
        found
    }

    /// Whether anything is sorted, in memory or not.
    pub fn sorts(&self) -> bool {
        let mut all = nodes(&self.0).into_iter();
        all.any(|node| node["Node Type"].as_str().unwrap().ends_with("Sort"))
    }
}

/// The node and all below it.
fn nodes(node: &Value) -> Vec<&Value> {
    let below = node["Plans"].as_array().into_iter().flatten();
    let mut all = vec![node];
    all.extend(below.flat_map(nodes));
    all
}
