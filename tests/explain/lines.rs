//! What each statement may do, and typical values for it. A new statement needs a line here.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::iter::repeat_n;

use tokio_postgres::Client;

use super::Text;

/// How many rows there are, and what is asked of them.
pub struct Scale {
    pub users: i64,
    pub cars: i64,
    /// The length of an array.
    pub arrays: &'static [usize],
    /// The number of a late page of users.
    pub late: i64,
}

/// One of so many cars belongs to the user with the most cars. The others are spread evenly.
pub const FLEET: i64 = 300;

/// That user.
pub const OWNER: i64 = 1;

/// The rows of a page of users.
pub const PAGE: i64 = 50;

/// Values of the rows, all over the tables.
pub struct Stored {
    ids: Vec<String>,
    names: Vec<String>,
    keys: Vec<String>,
}

impl Stored {
    pub async fn read(client: &Client, scale: &Scale) -> Stored {
        let length = scale.arrays.iter().max().unwrap();
        let some = async |column: &str, table: &str, rows: i64| {
            let sql = format!(
                "SELECT {column}::text FROM {table} WHERE id % {} = 0 ORDER BY {table}.id LIMIT {length}",
                rows / i64::try_from(*length).unwrap()
            );
            let rows = client.query(&sql, &[]).await.unwrap();
            let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            assert_eq!(found.len(), *length, "{sql}");
            found
        };
        Stored {
            ids: some("id", "users", scale.users).await,
            names: some("username", "users", scale.users).await,
            keys: some("purchase_key", "cars", scale.cars).await,
        }
    }

    fn id(&self) -> String {
        self.ids[0].clone()
    }

    fn name(&self) -> String {
        self.names[0].clone()
    }

    /// So many, from all over the table.
    fn array(values: &[String], length: usize) -> String {
        array(values.iter().step_by(values.len() / length))
    }

    /// Half of them are new.
    fn new_names(&self, length: usize) -> String {
        let names = self.names.iter().step_by(self.names.len() / length);
        let new = |(index, name)| match index % 2 {
            0 => format!("new {name}"),
            _ => String::clone(name),
        };
        array(names.enumerate().map(new))
    }
}

fn array<T: Display>(values: impl Iterator<Item = T>) -> String {
    let values: Vec<String> = values.map(|value| value.to_string()).collect();
    format!("{{{}}}", values.join(","))
}

/// The values of a statement. The number is for those that are arrays.
type Values = fn(&Stored, usize) -> Vec<String>;

/// What one statement may do.
pub struct Line {
    /// Of its text, and of no other one. A bar stands for either end.
    pub part: &'static str,
    /// The indexes by which it finds rows. It uses all of them.
    pub by: &'static [&'static str],
    /// Whether it has to read all of a table.
    pub full: bool,
    pub values: Values,
}

const fn by(part: &'static str, by: &'static [&'static str], values: Values) -> Line {
    let full = false;
    Line {
        part,
        by,
        full,
        values,
    }
}

const fn full(part: &'static str) -> Line {
    let (by, full, values): (_, _, Values) = (&[], true, |_, _| vec![]);
    Line {
        part,
        by,
        full,
        values,
    }
}

const USER: &str = "users_pkey";
const NAME: &str = "users_username_key";
const CAR: &str = "cars_pkey";
const KEY: &str = "cars_purchase_key_key";
const OWNED: &str = "cars_owner_id_id_idx";

pub const LIST: &str = "role FROM users WHERE id >= $1 ";
pub const LIST_OWNED_BY: &str = "FROM cars WHERE owner_id = $1 AND id >= $2 ";

macro_rules! values {
    ($($value:expr),*) => { vec![$($value.to_string()),*] };
}
pub(crate) use values;

pub const LINES: &[Line] = &[
    by("role FROM users WHERE id = $1|", &[USER], |s, _| {
        values![s.id()]
    }),
    by("role FROM users WHERE id = ANY ($1) ", &[USER], |s, n| {
        values![Stored::array(&s.ids, n)]
    }),
    by(
        "|SELECT id, username, created_at, role FROM users WHERE username = $1|",
        &[NAME],
        |s, _| values![s.name()],
    ),
    by(LIST, &[USER], |s, _| values![s.id(), PAGE + 1]),
    full("|SELECT count(*) FROM users|"),
    by(
        "SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM existing) ON CONFLICT ",
        &[NAME],
        |s, _| values![s.name(), DATE, ROLE],
    ),
    by(
        "SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM existing) AND current_setting",
        &[NAME],
        |s, _| values![s.name(), DATE, ROLE],
    ),
    by(
        "FROM unnest($1::text[], $2::date[], $3::text[])",
        &[NAME],
        |s, n| {
            values![
                s.new_names(n),
                array(repeat_n(DATE, n)),
                array(repeat_n(ROLE, n))
            ]
        },
    ),
    by(
        "JOIN users u ON u.username = i.username|",
        &[NAME],
        |s, n| values![Stored::array(&s.names, together(n))],
    ),
    by(
        "FROM patience, unnest($1::text[], $2::date[], $3::text[])",
        &[NAME],
        |s, n| {
            let n = together(n);
            values![
                s.new_names(n),
                array(repeat_n(DATE, n)),
                array(repeat_n(ROLE, n)),
                LOCK_TIMEOUT
            ]
        },
    ),
    by("|UPDATE users SET role = $2 ", &[USER], |s, _| {
        values![s.id(), ROLE]
    }),
    by("UPDATE users SET username = $2 ", &[USER, NAME], |s, _| {
        values![s.id(), "new"]
    }),
    by(
        "DELETE FROM users WHERE id = $1 ",
        &[USER, OWNED],
        |s, _| values![s.id()],
    ),
    by(
        "SELECT $1, id FROM users WHERE id = $2 FOR KEY SHARE ",
        &[USER],
        |s, _| values!["Golf", s.id()],
    ),
    by(
        "SELECT $1, id FROM users WHERE id = $2 AND current_setting",
        &[USER],
        |s, _| values!["Golf", s.id()],
    ),
    by(
        "SELECT $1, id, $3 FROM owner WHERE NOT EXISTS (SELECT FROM held) ON CONFLICT ",
        &[USER, KEY],
        |s, _| values!["Golf", s.id(), s.keys[0]],
    ),
    by(
        "SELECT $1, id, $3 FROM owner WHERE NOT EXISTS (SELECT FROM held) AND current_setting",
        &[USER, KEY],
        |s, _| values!["Golf", s.id(), s.keys[0]],
    ),
    by(
        "FROM unnest($1::text[], $2::bigint[], $3::uuid[], $4::bigint[])",
        &[USER, KEY],
        |s, n| {
            let models = array(repeat_n("Golf", n));
            let (owners, keys) = (Stored::array(&s.ids, n), Stored::array(&s.keys, n));
            values![models, owners, keys, array(0..n), true]
        },
    ),
    by(
        "unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS i (model, owner_id, position)",
        &[USER],
        |s, n| {
            let (models, owners) = (array(repeat_n("Golf", n)), Stored::array(&s.ids, n));
            values![models, owners, owners, true]
        },
    ),
    by("JOIN users u ON u.id = i.owner_id", &[USER], |s, n| {
        let n = together(n);
        values![array(repeat_n("Golf", n)), Stored::array(&s.ids, n)]
    }),
    by(
        "FROM patience, unnest($1::text[], $2::bigint[], $3::uuid[])",
        &[USER, KEY],
        |s, n| {
            let n = together(n);
            let models = array(repeat_n("Golf", n));
            let (owners, keys) = (Stored::array(&s.ids, n), Stored::array(&s.keys, n));
            values![models, owners, keys, LOCK_TIMEOUT]
        },
    ),
    by("owner_id FROM cars WHERE id = ANY ($1)|", &[CAR], |s, n| {
        values![Stored::array(&s.ids, together(n))]
    }),
    by("owner_id FROM cars WHERE id >= $1 ", &[CAR], |s, _| {
        values![s.id(), PAGE + 1]
    }),
    by("owner_id FROM cars WHERE id = $1|", &[CAR], |s, _| {
        values![s.id()]
    }),
    by("FROM cars WHERE owner_id = $1 ORDER ", &[OWNED], |s, _| {
        values![s.id()]
    }),
    by("FROM cars WHERE owner_id = ANY ($1)|", &[OWNED], |s, n| {
        values![Stored::array(&s.ids, together(n))]
    }),
    by("FROM cars WHERE owner_id = o.id ", &[OWNED], |s, n| {
        values![Stored::array(&s.ids, n)]
    }),
    by(LIST_OWNED_BY, &[OWNED], |_, _| {
        values![OWNER, i64::MIN, PAGE + 1]
    }),
    by(
        "UPDATE cars SET owner_id = receiver.id ",
        &[CAR, USER],
        |s, _| values![s.id(), OWNER, s.id()],
    ),
    by("|DELETE FROM cars WHERE id = $1 ", &[CAR], |s, _| {
        values![s.id()]
    }),
    full("|SELECT count(*) FROM cars|"),
    // Those that concern no table of ours.
    by("|SELECT 1|", &[], |_, _| vec![]),
    by(
        "|SELECT pg_current_xact_id_if_assigned()",
        &[],
        |_, _| vec![],
    ),
    by("stats_reset) * 1000000", &[], |_, _| vec![]),
    by("THEN pg_xact_status(", &[], |_, _| values![3]),
];

/// How many calls go out together at most.
fn together(length: usize) -> usize {
    length.min(1000)
}

const DATE: &str = "2026-01-01";
const LOCK_TIMEOUT: &str = "50";
const ROLE: &str = "student";

impl Line {
    pub fn is_of(&self, text: &Text) -> bool {
        let words: Vec<&str> = text.sql.split_whitespace().collect();
        format!("|{}|", words.join(" ")).contains(self.part)
    }
}

/// The one line for a text.
pub fn line_of(text: &Text) -> &'static Line {
    let found: Vec<&Line> = LINES.iter().filter(|line| line.is_of(text)).collect();
    let [line] = found[..] else {
        panic!("{} lines for: {}", found.len(), text.sql);
    };
    line
}

pub fn text_of<'a>(texts: &'a BTreeSet<Text>, part: &str) -> &'a Text {
    let mut found = texts.iter().filter(|text| line_of(text).part == part);
    found.next().unwrap()
}
