//! What the server does for each statement, with many rows in the tables: it goes by an index, and
//! a late page costs what the first one does. Counted in pages and in the planner's units, not in
//! time.
//!
//! With millions of rows: `cargo test --all-features --test plans -- --ignored --nocapture`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod calls;
mod explain;
mod polls;
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use calls::{CALLS, Call, Run, Tag};
use explain::lines::{
    FLEET, LINES, LIST, LIST_OWNED_BY, OWNER, PAGE, Scale, Stored, line_of, text_of, values,
};
use explain::{Access, MODES, Mode, Text};
use futures_util::future::join_all;
use motorpool::{NewUser, PgStore, Result, Store, TxOptions};
use support::inside::Inside;
use support::{Database, with_database};
use tokio_postgres::Client;

/// So many at once make a store do together what it does together.
const CALLERS: usize = 64;

/// How much one page may cost more than another one.
const RATIO: f64 = 1.3;

const SMALL: Scale = Scale {
    users: 20_000,
    cars: 60_000,
    arrays: &[50],
    late: 300,
};

const LARGE: Scale = Scale {
    users: 1_000_000,
    cars: 3_000_000,
    arrays: &[50, 10_000],
    late: 10_000,
};

/// Every index but the one of the primary keys disagrees with the order of the rows.
async fn fill(client: &Client, scale: &Scale) {
    let Scale { users, cars, .. } = scale;
    let sql = format!(
        "TRUNCATE users, cars RESTART IDENTITY;
        INSERT INTO users (username, created_at, role)
            SELECT md5(n::text) || n, date '2020-01-01' + n % 2000,
                (ARRAY['student', 'teacher', 'employee'])[1 + n % 3]
            FROM generate_series(1, {users}) n;
        INSERT INTO cars (model, owner_id, purchase_key)
            SELECT 'Golf',
                CASE WHEN n % {FLEET} = 0 THEN {OWNER} ELSE 1 + n * 7919 % {users} END,
                CASE WHEN n % 2 = 0 THEN gen_random_uuid() END
            FROM generate_series(1::bigint, {cars}) n"
    );
    client.batch_execute(&sql).await.unwrap();
    client.batch_execute("VACUUM ANALYZE").await.unwrap();
}

/// All that a store has prepared once each of its calls was made: alone, many at once, and first in
/// a transaction.
async fn texts(database: &Database, client: &Client) -> BTreeSet<Text> {
    const CONNECTIONS: usize = 2;
    let builder = PgStore::builder(&database.url).unwrap();
    let store = builder.max_connections(CONNECTIONS).build().await.unwrap();
    let owners = ["Anna", "Bert"].map(|name| NewUser::new(name).unwrap());
    let owners = store.users().register_many(&owners).await.unwrap();
    let owners = [owners[0].user().id, owners[1].user().id];
    let tag = async |name: String| Tag::new(client, name, owners, &database.url).await;
    let mut texts = BTreeSet::new();
    for call in CALLS {
        let alone = made(call, &store, tag(call.name.into()).await);
        alone.await.unwrap();
        if matches!(call.run, Run::Method(_)) {
            let names = (0..CALLERS).map(|number| format!("{} {number}", call.name));
            let tags = join_all(names.map(&tag)).await;
            let together = tags.into_iter().map(|tag| made(call, &store, tag));
            for done in join_all(together).await {
                done.unwrap();
            }
        }
        if let Run::Method(run) = call.run {
            let tx = store.begin(TxOptions::new()).await.unwrap();
            let tag = tag(format!("{} first", call.name)).await;
            run(Arc::new(Inside(tx.clone())), tag).await.unwrap();
            tx.rollback().await.unwrap();
        }
        // After each call, because to migrate ends a connection.
        let connections = (0..CONNECTIONS).map(|_| store.pool().get());
        for connection in join_all(connections).await {
            texts.extend(Text::prepared(&connection.unwrap()).await);
        }
    }
    store.close();
    texts
}

async fn made(call: &Call, store: &PgStore, tag: Tag) -> Result<()> {
    match call.run {
        Run::Method(run) => run(Arc::new(store.clone()), tag).await,
        Run::Store(run, _) => run(store.clone(), tag).await,
        Run::Inside(run) => run(store.begin(TxOptions::new()).await?, tag).await,
        Run::End(run) => run(store.begin(TxOptions::new()).await?).await,
    }
}

/// The statement goes by its indexes and by nothing else, whatever its values are.
async fn check(client: &Client, scale: &Scale, stored: &Stored, text: &Text) {
    let (line, sql) = (line_of(text), &text.sql);
    let mut used = BTreeSet::new();
    let lengths = scale.arrays.iter();
    let kinds = lengths.flat_map(|length| MODES.map(|mode| (mode, *length)));
    for (mode, length) in kinds {
        let values = (line.values)(stored, length);
        let plan = text.plan(client, mode, &values).await;
        let at = format!("{mode:?}, arrays of {length}: {sql}\n{plan}");
        let mut full = 0;
        for access in plan.accesses() {
            match access {
                Access::Index(name) => {
                    assert!(line.by.contains(&name.as_str()), "by {name}: {at}");
                    used.insert(name);
                }
                Access::Full(name) => {
                    assert!(line.full, "all of {name}: {at}");
                    full += 1;
                }
            }
        }
        assert_eq!(full, usize::from(line.full), "{at}");
        assert!(!line.full || !plan.sorts(), "sorts all: {at}");
    }
    let by: BTreeSet<String> = line.by.iter().map(ToString::to_string).collect();
    assert_eq!(used, by, "{sql}");
}

/// What pages cost together, in the planner's units and in pages of the tables.
async fn cost(client: &Client, text: &Text, mode: Mode, all: Vec<Vec<String>>) -> [f64; 2] {
    let mut sum = [0.0; 2];
    for values in all {
        let plan = text.run(client, mode, &values).await;
        sum[0] += plan.cost();
        sum[1] += plan.pages() as f64;
    }
    sum
}

/// Late pages cost what the first ones do. Several of each, because whether one begins in the
/// middle of a page of the table is chance.
async fn check_pages(
    client: &Client,
    text: &Text,
    numbers: [i64; 2],
    values: impl Fn(i64) -> Vec<String> + Send + Sync,
) {
    const PAGES: i64 = 10;
    for mode in MODES {
        let pages = |first| (first..first + PAGES).map(&values).collect();
        let early = cost(client, text, mode, pages(numbers[0])).await;
        let late = cost(client, text, mode, pages(numbers[1])).await;
        println!(
            "{PAGES} pages from {numbers:?} on, {mode:?}: cost and pages {early:.1?}, {late:.1?}: {}",
            text.sql
        );
        for (early, late) in early.into_iter().zip(late) {
            let ratio = early.max(late) / early.min(late);
            assert!(ratio < RATIO, "{ratio}, {mode:?}: {}", text.sql);
        }
    }
}

/// The foreign key's own look-up of the cars of a user that is deleted.
async fn check_foreign_key(client: &Client) {
    let run = async |sql| client.batch_execute(sql).await.unwrap();
    let scans = async || -> (i64, i64) {
        let sql = "SELECT seq_scan, idx_scan FROM pg_stat_xact_user_tables WHERE relname = 'cars'";
        let row = client.query_one(sql, &[]).await.unwrap();
        (row.get(0), row.get(1))
    };
    run("BEGIN; INSERT INTO users (username) VALUES ('nobody')").await;
    let before = scans().await;
    run("DELETE FROM users WHERE username = 'nobody'").await;
    let after = scans().await;
    run("ROLLBACK").await;
    let scans = (after.0 - before.0, after.1 - before.1);
    assert_eq!(scans, (0, 1), "of the whole table, and by an index");
}

async fn plans(scale: &Scale) {
    with_database(async |database| {
        let client = database.client().await;
        // In empty tables, where that is over at once.
        let texts = texts(&database, &client).await;
        fill(&client, scale).await;
        let stored = Stored::read(&client, scale).await;
        for text in &texts {
            check(&client, scale, &stored, text).await;
        }
        for line in LINES {
            let found = texts.iter().filter(|text| line.is_of(text)).count();
            assert_eq!(found, 1, "statements with: {}", line.part);
        }
        println!("{} statements", texts.len());

        // As a program asks: from a row on, and one more than the page holds.
        let first = |number, row| match number {
            1 => i64::MIN,
            _ => row,
        };
        let list = text_of(&texts, LIST);
        check_pages(&client, list, [1, scale.late], |number| {
            values![first(number, (number - 1) * PAGE + 1), PAGE + 1]
        })
        .await;
        // Forty pages of the user with the most cars.
        let page = scale.cars / FLEET / 40;
        let list = text_of(&texts, LIST_OWNED_BY);
        check_pages(&client, list, [1, 15], |number| {
            let from = first(number, (number - 1) * page * FLEET + 1);
            values![OWNER, from, page + 1]
        })
        .await;
        check_foreign_key(&client).await;
    })
    .await;
}

#[tokio::test]
async fn statements_go_by_an_index() {
    plans(&SMALL).await;
}

#[tokio::test]
#[ignore = "takes long"]
async fn statements_go_by_an_index_among_millions_of_rows() {
    plans(&LARGE).await;
}
